"""`python -m tests.simulation --seeds N --from S`: run simulated clusters, and say what broke, if anything did."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import active_children
from tempfile import TemporaryDirectory

from tests.command_line import leave_signals_to_parent, run, whole
from tests.simulation.report import LINES_SHOWN, Outcome, Sum, memory, run_seed

CHUNK = 20


def main() -> int:
    """Run the seeds. 0: no promise was broken."""
    options = _options()
    seeds = range(options.first, options.first + options.seeds)
    begun = time.monotonic()
    told = begun
    found = Sum()
    with closing(_run(seeds, options.jobs, is_readable=options.trace)) as outcomes:
        for outcome in outcomes:
            found.add(outcome)
            if outcome.violation is not None:
                _tell(outcome)
            if options.trace and options.seeds == 1:
                print("\n".join(outcome.trace))
                print(f"hash of all events: {outcome.digest}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"… {found.seeds} of {len(seeds)}, {len(found.violations)} violations", file=sys.stderr)
    print("\n".join(found.lines(time.monotonic() - begun)))
    for line in () if options.trace else found.thin_lines():
        print(line)
    print(f"\n{found.verdict()}")
    return 1 if found.violations else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=whole(1), default=1000, metavar="N", help="how many [%(default)s]")
    parser.add_argument(
        "--from", dest="first", type=whole(0), default=1, metavar="SEED", help="the first of them [%(default)s]"
    )
    parser.add_argument("--jobs", type=whole(1), default=1, metavar="N", help="processes that share them [%(default)s]")
    parser.add_argument(
        "--trace", action="store_true", help="show the events of a single seed, or the last of a failed one"
    )
    return parser.parse_args()


def _run(seeds: range, jobs: int, *, is_readable: bool) -> Generator[Outcome]:
    with TemporaryDirectory(prefix="simulation-", dir=memory(), ignore_cleanup_errors=True) as place:
        one = partial(run_seed, is_readable=is_readable, place=place)
        if jobs == 1:
            yield from map(one, seeds)
            return
        with ProcessPoolExecutor(jobs, initializer=leave_signals_to_parent) as pool:
            parts = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
            waiting = deque(pool.submit(_run_all, one, part) for part in parts)
            try:
                while waiting:
                    yield from waiting.popleft().result()
            except BaseException:
                for child in active_children():  # or the pool waits for seeds that nobody wants any more
                    child.terminate()
                raise


def _run_all(one: Callable[[int], Outcome], seeds: range) -> list[Outcome]:
    return [one(seed) for seed in seeds]


def _tell(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}: {outcome.violation}")
    if outcome.trace:
        print("\n".join(line[:300] for line in outcome.trace[-LINES_SHOWN:]))
    print(f"replay it: python -m tests.simulation --seeds 1 --from {outcome.seed} --trace\n", flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
