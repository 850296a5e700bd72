"""What is fuzzed: a target makes cases out of a number, and each case feeds some inputs and judges what came of them.

A case is made of seed, target and number alone, so it can be fed again: `--target NAME --case NUMBER`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from time import process_time

FAILURES_MAX = 5  # of one target; then it is left


@dataclass(frozen=True, slots=True)
class Target:
    """Something that takes what others made. `feed` runs one case of `inputs` inputs; it raises for what is broken."""

    name: str
    feed: Callable[[Random], None]
    inputs: int = 1  # of each case
    weight: float = 1  # share of the inputs of a campaign


@dataclass(slots=True)
class Tally:
    """What has come of a target."""

    target: Target
    cases: int = 0
    seconds: float = 0  # of this process, on a processor
    failures: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.cases * self.target.inputs


def chance_of(seed: int, target: Target, case: int) -> Random:
    """The chance that a case is made of."""
    return Random(f"{seed} {target.name} {case}")


def feed_cases(target: Target, seed: int, cases: range) -> Tally:
    """Feed these cases; each that fails is told with the command that feeds it again."""
    tally = Tally(target)
    begun = process_time()
    for case in cases:
        tally.cases += 1
        try:
            target.feed(chance_of(seed, target, case))
        except Exception:  # noqa: BLE001  whatever a case raises is what was looked for
            again = f"python -m tests.fuzz --seed {seed} --target {target.name} --case {case}"
            tally.failures.append(f"{traceback.format_exc()}feed it again: {again}")
            if len(tally.failures) == FAILURES_MAX:
                break
    tally.seconds = process_time() - begun
    return tally


def shares(targets: Sequence[Target], inputs: int) -> dict[str, int]:
    """How many cases of each target make so many inputs, or a few more."""
    whole = sum(target.weight for target in targets)
    return {target.name: -int(-inputs * target.weight / whole // target.inputs) for target in targets}
