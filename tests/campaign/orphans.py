"""Looks for processes of jobs that outlived their worker, and for moments in which the machine stood still."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from queuectl.home import Home
from tests.campaign.faults import FaultLog

JOB_MARK = b"QUEUECTL_JOB_ID="
LOOK_EVERY_S = 0.5
STARTED_MARGIN_S = 0.05  # the kernel counts in hundredths
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class JobProcess:
    """A living process of a job. `started_s` is seconds since the machine started."""

    pid: int
    home: str
    started_s: float
    line: str


def job_processes(place: Path) -> list[JobProcess]:
    """All processes of jobs whose worker has its home in this place."""
    found = []
    mark = b"QUEUECTL_HOME=" + os.fsencode(place) + b"/"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                words = (entry / "environ").read_bytes().split(b"\0")
                homes = [word for word in words if word.startswith(mark)]
                if homes and any(word.startswith(JOB_MARK) for word in words):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] not in "ZX":
                        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        home = os.fsdecode(homes[0].partition(b"=")[2])
                        found.append(JobProcess(int(entry.name), home, int(fields[19]) / _TICKS_PER_S, line))
    return found


class Orphans:
    """After each death of a worker, waits for the processes of its jobs to be gone.

    `limit_s` is generous: what counts is that they go, and `longest_s` says how long it took, within LOOK_EVERY_S.
    """

    limit_s = 60.0

    def __init__(self, place: Path):
        self._place = place
        self._expected: list[tuple[str, float, float]] = []  # home, those started before, and since when
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="orphans", daemon=True)
        self.checked = 0
        self.longest_s = 0.0
        self.left: list[JobProcess] = []

    @staticmethod
    def now_s() -> float:
        """Seconds since the machine started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def expect_end(self, home: Home, started_before_s: float | None = None) -> None:
        """From now on, what was started for this home before that moment (this one, if none is given) has to go."""
        now_s = self.now_s()
        with self._lock:
            self._expected.append((str(home.path), started_before_s or now_s, now_s))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait until all is settled, and end."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_EVERY_S) or self._expected:
            if self._expected:
                self._look()
            if self._end.is_set():
                threading.Event().wait(LOOK_EVERY_S)

    def _look(self) -> None:
        with self._lock:
            expected = list(self._expected)
        alive = job_processes(self._place)
        now_s = self.now_s()
        for entry in expected:
            home, before_s, since_s = entry
            left = [each for each in alive if each.home == home and each.started_s < before_s - STARTED_MARGIN_S]
            if left and now_s - since_s < self.limit_s:
                continue
            self.left += left
            self.checked += 1
            self.longest_s = max(self.longest_s, now_s - since_s)
            with self._lock:
                self._expected.remove(entry)


class StallWatch:
    """Logs when this machine ran nothing, or wrote nothing to its disk, for a while: such silence nobody has caused."""

    def __init__(self, place: Path, log: FaultLog, limit_s: float):
        self._path = place / "stall"
        self._log = log
        self._limit_s = limit_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = self._limit_s / 4
        with self._path.open("wb") as file:
            began_s = time.time()
            while not self._end.wait(pause_s):
                file.write(b".")
                file.flush()
                os.fsync(file.fileno())
                now_s = time.time()
                if now_s - began_s > self._limit_s:
                    self._log.note("stall", "all", began_s=began_s, ended_s=now_s)
                began_s = now_s
