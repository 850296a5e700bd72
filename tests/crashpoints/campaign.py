"""Cut the power at every moment of a broker's work, and judge what is left."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crashpoints.disk import Disk, Files, Note, Platter
from tests.crashpoints.judge import Expected, Judge, Verdict, timeline
from tests.crashpoints.workload import DATABASE, Work

THOROUGH_EVERY = 10  # of so many states, one gets the whole integrity check
AGAIN_EVERY = 20  # and one is worked on by another build of SQLite, and cut off again

# Rules broken on purpose: each must lose jobs, or the campaign proves nothing.
CONTROLS: dict[str, dict[str, Any]] = {
    "synchronous = NORMAL": {"synchronous": "NORMAL"},
    "synchronous = OFF": {"synchronous": "OFF"},
    "a disk that ignores sync": {"ignores_sync": True},
}

_OLD = Path(__file__).parents[1] / "fixtures" / "queue-0.1.0.db"


@dataclass
class Found:
    """What has been found so far."""

    seeds: int = 0
    states: int = 0
    of_second_cuts: int = 0  # of these, how many came of a power cut after a power cut
    thorough: int = 0
    refused: int = 0  # as the log was taken away
    jobs: int = 0  # that clients were told of, by the end of the work
    jobs_lost: int = 0  # in all states
    faults: list[str] = field(default_factory=list)

    def take(self, verdict: Verdict, where: str) -> None:
        """Count one state."""
        self.states += 1
        self.jobs_lost += verdict.jobs_lost
        self.faults += [f"{where}: {fault}" for fault in verdict.faults]


def start_of(seed: int) -> Files:
    """The files that the broker of a seed begins with: none, or the database of the oldest version."""
    return {} if seed % 2 else {DATABASE: _OLD.read_bytes()}


def cut_power(
    seed: int,
    found: Found,
    *,
    steps: int,
    share: float = 1.0,
    states: int | None = None,
    ignores_sync: bool = False,
    **how: Any,
) -> None:
    """Let the broker of this seed work, and judge what is left after each moment, or a share of them.

    Stops at so many `states` in all.
    """
    disk = Disk(start_of(seed), ignores_sync=ignores_sync)
    work = Work(disk, seed, **how)
    work.run(steps)
    chance = random.Random(seed)
    moments = {moment for moment in _operations(disk) if chance.random() < share}
    found.seeds += 1
    found.jobs += sum(key[0] == "job" for key in work.promises)
    with Judge() as judge:
        for moment, files, expected in survivors(disk, judge.opened(disk.start), chance, moments):
            if states is not None and found.states >= states:
                break
            thorough = found.states % THOROUGH_EVERY == 0
            verdict = judge.judge(files, expected, thorough=thorough)
            found.take(verdict, f"seed {seed}, after operation {moment}")
            found.thorough += thorough
            if found.states % AGAIN_EVERY == 0 and not verdict.faults:
                _cut_again(judge, files, found, chance)


def _operations(disk: Disk) -> list[int]:
    return [moment for moment, op in enumerate(disk.log) if not isinstance(op, Note)]


def survivors(
    disk: Disk, opened: str, chance: random.Random, moments: Container[int]
) -> Iterator[tuple[int, Files, Expected]]:
    """(moment, files, what is to be found in them) for what a power cut may leave after each of these moments.

    `opened` is the digest that the first opening of the database leads to.
    """
    platter = Platter(disk.start)
    for moment, (op, expected) in enumerate(zip(disk.log, timeline(disk.log, opened), strict=True)):
        platter.apply(op)
        if moment not in moments:
            continue
        yield moment, platter.with_nothing_more(), expected
        if not platter.is_settled:
            yield moment, platter.with_everything(), expected
            yield moment, platter.with_some(chance), expected
            yield moment, platter.with_some(chance), expected


def lose_log(seed: int, found: Found, *, steps: int, share: float) -> None:
    """Kill the broker of this seed at a share of its moments and take its log away: no start may pass over that.

    What was promised may not be missing without a word, however often it is started.
    """
    disk = Disk(start_of(seed))
    Work(disk, seed).run(steps)
    chance = random.Random(seed)
    platter = Platter(disk.start)
    found.seeds += 1
    with Judge() as judge:
        for moment, (op, expected) in enumerate(
            zip(disk.log, timeline(disk.log, judge.opened(disk.start)), strict=True)
        ):
            platter.apply(op)
            if isinstance(op, Note) or chance.random() >= share:
                continue
            verdict, refused = judge.judge_without_log(platter.with_everything(), expected)
            found.take(verdict, f"seed {seed}, after operation {moment}, without its log")
            found.refused += refused


def _cut_again(judge: Judge, files: Files, found: Found, chance: random.Random) -> None:
    """Let a broker on APSW's SQLite take up what is left and do one thing, and cut it off at one moment of that."""
    disk = Disk(files)
    work = Work(disk, chance.getrandbits(32))
    work.begin()
    work.do(Work.enqueue_one)
    work.broker.store.abandon()
    moment = chance.choice(_operations(disk))
    for _, left, expected in survivors(disk, judge.opened(files), chance, {moment}):
        found.take(judge.judge(left, expected), f"second cut at {moment}")
        found.of_second_cuts += 1
