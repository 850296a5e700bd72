"""What was done to the processes of a campaign, when and to whom: the log against which losses are explained."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Sort(StrEnum):
    """What a fault does, as far as losses are concerned."""

    BROKER_AWAY = "broker_away"  # costs no lease
    BROKER_FROZEN = "broker_frozen"  # its workers may turn away, and come back too late
    KILL = "kill"  # of a worker; one of its processes is left, which cleans up at once
    KILL_WHOLE = "kill_whole"  # who cleans up has to come first
    SILENCE = "silence"  # a worker is not heard, or does not hear, and runs on
    FORCED_STOP = "forced_stop"  # a worker gives back what runs
    STOP = "stop"  # a worker finishes what runs
    STALL = "stall"  # nobody did it: the machine stood still


SORTS: dict[str, Sort] = {
    "kill_broker": Sort.BROKER_AWAY,
    "kill_starting_broker": Sort.BROKER_AWAY,
    "restart_broker": Sort.BROKER_AWAY,
    "pause_broker": Sort.BROKER_FROZEN,
    "kill_worker": Sort.KILL,
    "kill_guardian": Sort.KILL,
    "kill_both": Sort.KILL_WHOLE,
    "kill_all_three": Sort.KILL_WHOLE,
    "kill_beside_frozen_guardian": Sort.KILL_WHOLE,
    "pause_worker": Sort.SILENCE,
    "pause_machine": Sort.SILENCE,
    "cut_to_broker": Sort.SILENCE,
    "cut_to_worker": Sort.SILENCE,
    "cut_both": Sort.SILENCE,
    "hold": Sort.SILENCE,
    "reset": Sort.SILENCE,
    "kill_last_guard": Sort.STOP,
    "stop_worker": Sort.STOP,
    "stop_worker_by_force": Sort.FORCED_STOP,
    "stall": Sort.STALL,
}
KILLS = frozenset({Sort.KILL, Sort.KILL_WHOLE})
STOPS = frozenset({Sort.STOP, Sort.FORCED_STOP})


@dataclass(slots=True)
class Fault:
    """One fault. Times are seconds since 1970; `pid` is the process that the user started."""

    kind: str
    target: str
    pid: int
    began_s: float
    ended_s: float = float("inf")

    @property
    def sort(self) -> Sort:
        return SORTS[self.kind]


class FaultLog:
    """All faults of a campaign, in memory and, one JSON object a line, in a file."""

    def __init__(self, path: Path):
        self.faults: list[Fault] = []
        self._path = path
        self._lock = threading.Lock()

    @contextmanager
    def during(self, kind: str, target: str, pid: int = 0) -> Iterator[Fault]:
        """Log a fault that lasts while the block does."""
        fault = Fault(kind, target, pid, time.time())
        with self._lock:
            self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.ended_s = time.time()
            self._write(fault)

    def _write(self, fault: Fault) -> None:
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(asdict(fault)) + "\n")

    def note(self, kind: str, target: str, *, began_s: float, ended_s: float) -> None:
        """Log a fault that is over."""
        fault = Fault(kind, target, 0, began_s, ended_s)
        with self._lock:
            self.faults.append(fault)
        self._write(fault)
