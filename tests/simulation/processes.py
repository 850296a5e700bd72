"""The commands that run, as they truly do: what the workers believe and the broker records is held against this."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from queuectl.clock import Now
from queuectl.messages import STDOUT, Grant
from tests.simulation.clock import Timeline
from tests.simulation.tape import Tape
from worker.children import Children, Listener

SIGTERM, SIGKILL = 15, 9
CHILDREN_FD = 1001
DEATH_MS = 20  # the longest that a killed process takes to be gone


class Fate(NamedTuple):
    """What a command will do if it is let."""

    duration_ms: int
    exit_code: int | None
    signal: int | None = None
    is_stubborn: bool = False  # it heeds no signal but SIGKILL
    output_bytes: int = 0
    fault: str | None = None  # why it does not even start: spawn_error, worker_fault
    farewell: int | None = None  # the code with which it ends on a signal that it may handle
    is_endless: bool = False  # only a signal ends it


@dataclass(slots=True)
class Process:
    """One command, from its start to its end."""

    grant: Grant
    boot: str
    fate: Fate
    started_ms: int
    ended_ms: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    kill_at_ms: int | None = None  # on its worker's clock
    is_told: bool = False  # its worker has asked it to end, or killed it
    on_end: Callable[[Process], None] | None = None  # its worker, while that lives


@dataclass
class Processes:
    """All commands that were ever started."""

    timeline: Timeline
    tape: Tape
    chance: random.Random
    decide: Callable[[Grant], Fate]
    on_start: Callable[[Process], None]
    by_lease: dict[int, Process] = field(default_factory=dict)
    by_job: dict[str, list[Process]] = field(default_factory=dict)

    def start(self, grant: Grant, boot: str, fate: Fate) -> Process:
        """Run a command until its time, or somebody, ends it."""
        process = Process(grant, boot, fate, self.timeline.now_ms)
        self.tape.note(boot[:6], "started", (grant.job, grant.attempt, grant.lease))
        self.on_start(process)
        self.by_lease[grant.lease] = process
        self.by_job.setdefault(grant.job, []).append(process)
        if not fate.is_endless:
            self.timeline.after(fate.duration_ms, self._end, process, fate.exit_code, fate.signal)
        return process

    def kill(self, process: Process, number: int) -> None:
        """A signal; all but SIGKILL may be ignored, or handled."""
        process.is_told = True
        farewell = None if number == SIGKILL else process.fate.farewell
        if number == SIGKILL or not process.fate.is_stubborn:
            ended_by = number if farewell is None else None
            self.timeline.after(self.chance.randrange(DEATH_MS), self._end, process, farewell, ended_by)

    def _end(self, process: Process, exit_code: int | None, number: int | None) -> None:
        if process.ended_ms is None:
            process.ended_ms = self.timeline.now_ms
            process.exit_code, process.signal = exit_code, number
            self.tape.note(process.boot[:6], "ended", (process.grant.job, exit_code, number))
            if process.on_end is not None:
                process.on_end(process)

    def kill_boots(self, boots: Collection[str]) -> None:
        """End at once whatever runs for these starts of a worker."""
        for process in self.by_lease.values():
            if process.boot in boots and process.ended_ms is None:
                self._end(process, None, SIGKILL)

    def running(self) -> list[Process]:
        """What runs now."""
        return [process for process in self.by_lease.values() if process.ended_ms is None]


class _Tree:
    """What the loop asks about everything below the worker."""

    def __init__(self, children: SimulatedChildren) -> None:
        self._children = children

    @property
    def is_quiet(self) -> bool:
        return not self._children.running

    def end_all(self, now_ms: int, *, hard: bool) -> None:
        for process in self._children.running.values():
            self._children.processes.kill(process, SIGKILL if hard else SIGTERM)

    def look(self, now_ms: int) -> None: ...


class SimulatedChildren(Children):
    """The commands of one worker, as its loop sees them."""

    def __init__(self, processes: Processes, boot: str, on_news: Callable[[], None]) -> None:
        self.processes = processes
        self._boot, self._on_news = boot, on_news
        self.running: dict[int, Process] = {}
        self.ended: list[Process] = []
        self.tree = _Tree(self)  # type: ignore[assignment]  # as much of a Tree as the loop uses

    def fileno(self) -> int:
        return CHILDREN_FD

    def start(self, grant: Grant, slot: int, listener: Listener, now: Now) -> None:
        fate = self.processes.decide(grant)
        if fate.fault == "spawn_error":
            listener.on_spawn_error(grant.lease, "simulated", now)
        elif fate.fault == "worker_fault":
            listener.on_worker_fault(grant.lease, "simulated", now)
        else:
            process = self.running[grant.lease] = self.processes.start(grant, self._boot, fate)
            process.on_end = self._on_end

    def _on_end(self, process: Process) -> None:
        self.ended.append(process)
        self._on_news()

    def turn(self, ready: Mapping[int, int], listener: Listener, now: Now) -> None:
        ended, self.ended = self.ended, []
        for process in ended:
            lease = process.grant.lease
            del self.running[lease]
            if process.fate.output_bytes:
                listener.on_output(lease, STDOUT, b"x" * process.fate.output_bytes)
            listener.on_exit(lease, exit_code=process.exit_code, signal=process.signal, note="", now=now)

    def kill(self, lease: int, *, hard: bool, kill_at_ms: int, now: Now, number: int | None = SIGTERM) -> None:
        process = self.running.get(lease)
        if process is None:
            return
        if hard:
            kill_at_ms = now.mono_ms
        if process.kill_at_ms is None or kill_at_ms < process.kill_at_ms:
            process.kill_at_ms = kill_at_ms
        if not hard and number is not None:
            self.processes.kill(process, number)

    def tick(self, now: Now) -> None:
        for process in self.running.values():
            if process.kill_at_ms is not None and process.kill_at_ms <= now.mono_ms:
                process.kill_at_ms = now.mono_ms + 100
                self.processes.kill(process, SIGKILL)

    def next_deadline(self) -> int | None:
        due: Mapping[int, int] = {n: p.kill_at_ms for n, p in self.running.items() if p.kill_at_ms is not None}
        return min(due.values(), default=None)

    def next_watch(self) -> int | None:
        return None

    def close(self) -> None:
        for process in self.running.values():
            process.on_end = None
