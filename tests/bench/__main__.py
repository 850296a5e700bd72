"""`python -m tests.bench [figure …]`: each figure beside its limit and its best peer, in the same runs.

A run measures all contenders of a figure one after the other, each on a quiet machine if it can be had; the table shows
medians of the runs and, in brackets, their least and most. Ratios are taken run by run: of all numbers only they mean
something on another machine. build/bench.json keeps every reading; a figure that is measured again replaces its own
entry and no other.

Peers are xargs; the Debian packages beanstalkd, redis-server, parallel and task-spooler; and RQ in an environment of
its own, so that it is no dependency of anything here:

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install redis rq
    BENCH_PEERS=/tmp/peers/bin make bench

What is not installed is skipped, and the table says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench import peers, report
from tests.bench.figures import BY_NAME, FIGURES, Figure
from tests.bench.machine import Patience
from tests.bench.measuring import Readings


def main() -> None:
    """Measure and print."""
    options = _options()
    for peer in peers.missing():
        print(f"not installed, skipped: {peer}", file=sys.stderr)
    names = options.figure or list(BY_NAME)
    path = report.QUICK if options.quick else report.RESULTS
    if not options.show:
        for figure in FIGURES:
            if figure.name in names:
                _measure(path, figure, quick=options.quick, runs=options.runs)
    print(report.markdown(path, names) if options.markdown else report.table(path, names))
    print(f"every reading: {path}", file=sys.stderr)


def _measure(path: Path, figure: Figure, *, quick: bool, runs: int | None) -> None:
    size = figure.quick if quick else figure.size
    wanted = runs or (1 if quick else figure.runs)
    if quick:
        Patience.wait_s = 0
    noisy_before = Patience.in_vain
    readings: list[Readings] = []
    for number in range(wanted):
        print(f"{figure.name}: run {number + 1} of {wanted}", file=sys.stderr, flush=True)
        measured = figure.measure(size)
        readings += measured if isinstance(measured, list) else [measured]
    report.save(path, figure, size, readings, noisy=Patience.in_vain - noisy_before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", nargs="*", help=f"{', '.join(BY_NAME)}; all of them if none is named")
    parser.add_argument("--runs", type=int, help="in the place of those of the table of figures")
    parser.add_argument("--quick", action="store_true", help="small and once: does it all work?")
    parser.add_argument("--show", action="store_true", help="measure nothing, print what is known")
    parser.add_argument("--markdown", action="store_true", help="print it for a page")
    options = parser.parse_args()
    if unknown := set(options.figure) - set(BY_NAME):
        parser.error(f"unknown figure: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
