"""More programs that run commands, none of them with a durable queue: they only stand beside ours."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.bench import limits, peers
from tests.bench.measuring import OURS, Readings, take_turns
from tests.bench.stage import scratch
from tests.bench.throughput import XARGS, run_true


def others(jobs: int) -> Readings:
    """Jobs per second of `sh -c true`, two at once."""
    return take_turns(
        {
            XARGS: lambda: limits.xargs_rate(jobs),
            "task-spooler": lambda: _task_spooler_rate(jobs),
            "GNU parallel": lambda: _parallel_rate(jobs),
            OURS: lambda: run_true(jobs),
        }
    )


def _parallel_rate(jobs: int) -> float:
    parallel = peers.program("parallel")
    with scratch() as home:
        (home / ".parallel").mkdir()
        (home / ".parallel" / "will-cite").touch()
        numbers = "\n".join(map(str, range(jobs))).encode()
        return _timed([parallel, "-j2", "-n0", "true"], jobs, home, {"SHELL": "/bin/sh"}, numbers)


def _task_spooler_rate(jobs: int) -> float:
    """`tsp -n` for each job, then `tsp -w` for the last two: one slot may be done before the other."""
    tsp = peers.program("tsp")
    with scratch() as directory:
        settings = {"TS_SOCKET": str(directory / "socket"), "TS_SLOTS": "2", "TS_MAXFINISHED": str(jobs)}
        script = (
            f"i=0; while [ $i -lt {jobs} ]; do {tsp} -n sh -c true; i=$((i+1)); done; {tsp} -w; {tsp} -w {jobs - 2}"
        )
        try:
            return _timed(["sh", "-c", script], jobs, directory, settings)
        finally:
            subprocess.run([tsp, "-K"], env={**os.environ, **settings}, check=False)


def _timed(command: list[str], jobs: int, home: Path, settings: dict[str, str], lines: bytes = b"") -> float:
    began = time.perf_counter()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), **settings}
    subprocess.run(command, env=environment, input=lines, stdout=subprocess.DEVNULL, check=True)
    return jobs / (time.perf_counter() - began)
