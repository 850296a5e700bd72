"""`python -m tests.bench [figure …] [--runs N] [--quick]`: each figure and its limit in alternating runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench import figures, limits
from tests.bench.stage import dump, machine, wait_quiet

RESULTS = Path("build/bench.json")


class Figure(NamedTuple):
    """A rate of ours, the rate it stands beside, and the share of it that is asked for."""

    title: str
    ours: Callable[[], float]
    limit_title: str
    limit: Callable[[], float]
    reach: float


def _figures(scale: float) -> dict[str, Figure]:
    jobs, bulk, cycles = int(5000 * scale), int(100_000 * scale), int(50_000 * scale)
    return {
        "true": Figure(
            f"{jobs} x true, one worker with 2 slots, jobs/s",
            lambda: figures.run_true(jobs),
            "xargs -P2",
            lambda: limits.xargs(jobs),
            0.5,
        ),
        "bulk": Figure(
            f"bulk enqueue of {bulk} JSON Lines through the CLI, jobs/s",
            lambda: figures.bulk_enqueue(bulk),
            "SQLite FULL, batches of 1000",
            lambda: limits.sqlite_inserts(bulk),
            0.2,
        ),
        "cycles": Figure(
            f"{cycles} lease → result cycles, 8 simulated workers, cycles/s",
            lambda: figures.cycles(cycles),
            "SQLite FULL lease+complete, batches of 100",
            lambda: limits.sqlite_cycles(cycles),
            0.2,
        ),
    }


def _compare(figure: Figure, runs: int) -> dict[str, object]:
    ours, limit = [], []
    for _ in range(runs):
        wait_quiet()
        limit.append(figure.limit())
        wait_quiet()
        ours.append(figure.ours())
    ratios = [one / other for one, other in zip(ours, limit, strict=True)]
    ratio = figures.median(ratios)
    print(f"{figure.title}")
    print(f"    ours   {figures.median(ours):>10,.0f}   ({min(ours):,.0f} - {max(ours):,.0f})")
    print(f"    limit  {figures.median(limit):>10,.0f}   ({min(limit):,.0f} - {max(limit):,.0f})  {figure.limit_title}")
    verdict = "reached" if ratio >= figure.reach else "NOT REACHED"
    print(
        f"    ratio  {ratio:>10.2f}   ({min(ratios):.2f} - {max(ratios):.2f})  asked for {figure.reach}: {verdict}",
        flush=True,
    )
    return {
        "title": figure.title,
        "ours": ours,
        "limit": limit,
        "ratios": ratios,
        "median_ratio": ratio,
        "asked": figure.reach,
    }


def _times(idle_seconds: float) -> dict[str, object]:
    late = figures.retry_lateness_ms()
    print(f"retries later than 2 s and 4 s by, ms                {late[0]:.1f}  {late[1]:.1f}", flush=True)
    latency = figures.latency_ms()
    p50, p99 = figures.percentile(latency, 0.5), figures.percentile(latency, 0.99)
    print(f"acknowledged enqueue → command's first act, ms       p50 {p50:.1f}  p99 {p99:.1f}", flush=True)
    broker, worker = figures.idle_percent(idle_seconds)
    print(
        f"idle for {idle_seconds:.0f} s, percent of a core                  broker {broker:.2f}  worker {worker:.2f}",
        flush=True,
    )
    return {
        "retry_lateness_ms": late,
        "latency_ms": {"p50": p50, "p99": p99},
        "idle_percent": {"broker": broker, "worker": worker},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("figure", nargs="*", help="true, bulk, cycles, times; default: all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, one run")
    options = parser.parse_args()
    known = _figures(0.1 if options.quick else 1.0)
    chosen = options.figure or [*known, "times"]
    results: dict[str, object] = {"machine": machine()}
    for name in chosen:
        if name == "times":
            results[name] = _times(5 if options.quick else 60)
        elif name in known:
            results[name] = _compare(known[name], 1 if options.quick else options.runs)
        else:
            parser.error(f"unknown figure {name!r}")
    dump(RESULTS, results)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
