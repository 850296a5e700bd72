"""Processes that set up, wait for each other, and then act from one moment on.

A task is a generator function in a module: what it does up to its first `yield` is its set-up, what it yields next is
its result, and what follows is its clearing up. The clock runs between the two. A task may be run by another
interpreter (peers have an environment of their own), so this module needs nothing but the standard library.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0  # a crew that takes longer has failed

Task = Callable[..., Generator[Any, None, None]]


class Told(NamedTuple):
    """What one process said: its result, and when it began and ended (seconds of the monotonic clock)."""

    began: float
    ended: float
    result: Any


class Crew:
    """Some processes with one task, each with arguments of its own."""

    def __init__(self, task: Task, arguments: Sequence[dict[str, Any]], python: str) -> None:
        command = [python, "-m", __name__, task.__module__, task.__name__]
        self._processes = [
            subprocess.Popen(
                [*command, json.dumps(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, bufsize=0
            )
            for each in arguments
        ]

    def set_up(self) -> None:
        """Wait until all are ready."""
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"a process of the benchmark failed to set up: {process.args!r}")

    def go(self) -> None:
        """Let them begin."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")

    def gather(self) -> list[Told]:
        """Wait for what they tell."""
        told = []
        for process in self._processes:
            said, _ = process.communicate(timeout=LIMIT_S)
            if process.returncode:
                raise RuntimeError(f"a process of the benchmark failed: {process.args!r}")
            told.append(Told(**json.loads(said)))
        return told

    def end(self) -> None:
        """End those that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def crew(task: Task, arguments: Sequence[dict[str, Any]], *, python: str = sys.executable) -> Iterator[Crew]:
    """One process for each of `arguments`, all of them ready."""
    processes = Crew(task, arguments, python)
    try:
        processes.set_up()
        yield processes
    finally:
        processes.end()


def together(task: Task, arguments: Sequence[dict[str, Any]], *, python: str = sys.executable) -> list[Told]:
    """Run a task in several processes at once; what each of them told."""
    with crew(task, arguments, python=python) as processes:
        processes.go()
        return processes.gather()


def span_s(told: Sequence[Told]) -> float:
    """Seconds from the first beginning to the last end."""
    return max(each.ended for each in told) - min(each.began for each in told)


def main() -> None:
    """Be one process of a crew."""
    module, name, arguments = sys.argv[1:]
    task = getattr(import_module(module), name)(**json.loads(arguments))
    next(task)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    result = next(task)
    ended = time.monotonic()
    for _ in task:
        pass
    print(json.dumps({"began": began, "ended": ended, "result": result}))


if __name__ == "__main__":
    main()
