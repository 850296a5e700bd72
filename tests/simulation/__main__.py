"""`python -m tests.simulation --seeds N --from S`: run simulated clusters, and say what broke, if anything did."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.report import LINES_SHOWN, Outcome, Sum, run_seed

CHUNK = 20


def main() -> int:
    """Run the seeds. 0: no promise was broken."""
    options = _options()
    seeds = range(options.first, options.first + options.seeds)
    begun = time.monotonic()
    told = begun
    found = Sum()
    for outcome in _run(seeds, options.jobs, is_readable=options.trace):
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
    if (thin := found.thin_cells()) and not options.trace:
        print(f"\n{len(thin)} cells were met fewer than 100 times: {'; '.join(thin[:20])}")
    return 1 if found.violations else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes to share them")
    parser.add_argument(
        "--trace", action="store_true", help="show the events of a single seed, or the last of a failed one"
    )
    return parser.parse_args()


def _run(seeds: range, jobs: int, *, is_readable: bool) -> Iterator[Outcome]:
    if jobs == 1:
        yield from (run_seed(seed, is_readable=is_readable) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_seed, seeds, chunksize=CHUNK)


def _tell(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}: {outcome.violation}")
    if outcome.trace:
        print("\n".join(line[:300] for line in outcome.trace[-LINES_SHOWN:]))
    print(f"replay it: python -m tests.simulation --seeds 1 --from {outcome.seed} --trace\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
