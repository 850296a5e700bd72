"""`python -m tests.fuzz [--inputs N] [--seed S] [--target NAME [--case NUMBER]]`: nonsense for all who read.

Exits 1 if anything was broken by it, and says how to feed the same again.
"""

from __future__ import annotations

import argparse
import sys

from tests.command_line import run, whole
from tests.fuzz.target import Tally, feed_cases, shares
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run a campaign, or one case."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=whole(1), default=100_000, metavar="N", help="of all targets together [%(default)s]"
    )
    parser.add_argument(
        "--seed", type=whole(0), default=1, metavar="S", help="what the inputs are made of [%(default)s]"
    )
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="only this one [all]")
    parser.add_argument("--case", type=whole(0), metavar="NUMBER", help="only this case of the target [all]")
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.target in (None, target.name)]
    if options.case is not None and options.target is None:
        parser.error("--case needs --target")
    cases = shares(chosen, options.inputs)
    tallies = []
    for target in chosen:
        which = range(cases[target.name]) if options.case is None else range(options.case, options.case + 1)
        tallies.append(feed_cases(target, options.seed, which))
        _tell(tallies[-1])
    inputs, seconds = sum(tally.inputs for tally in tallies), sum(tally.seconds for tally in tallies)
    failures = sum(len(tally.failures) for tally in tallies)
    print(f"{'in all':<12}{inputs:>10} inputs  {failures:>4} failures  {seconds:>8.1f} s  seed {options.seed}")
    return 1 if failures else 0


def _tell(tally: Tally) -> None:
    for failure in tally.failures:
        print(failure, file=sys.stderr)
    print(
        f"{tally.target.name:<12}{tally.inputs:>10} inputs  {len(tally.failures):>4} failures  {tally.seconds:>8.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run(main))
