"""What is asked of the operating system: is the machine quiet, what do processes use, what machine is it."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import zmq

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY_MAX = 0.12  # share of all cores that others may use while a figure is measured


class Patience:
    """How long to wait for a quiet machine before something is measured all the same, and how often that happened."""

    wait_s = 10.0
    in_vain = 0


class Cpu(NamedTuple):
    """CPU seconds of a process, and of its children that have ended."""

    user: float
    system: float
    children_user: float
    children_system: float

    def since(self, before: Cpu) -> Cpu:
        """What was used since then."""
        return Cpu(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def own(self) -> float:
        return self.user + self.system


def cpu_of(pid: int) -> Cpu:
    """CPU time of one process up to now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return Cpu(*(int(field) / TICKS_PER_S for field in fields[11:15]))


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(below for child in children for below in family_of(child))]


def family_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all that descend from it."""
    return sum(cpu_of(each).own for each in family_of(pid))


def memory_mb(pid: int) -> tuple[float, float]:
    """Memory of a process, in units of 10⁶ bytes: now, and at its highest."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kibibytes = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return kibibytes["VmRSS:"] * 1024 / 1e6, kibibytes["VmHWM:"] * 1024 / 1e6


def wait_quiet() -> None:
    """Wait a while for the machine to have nothing else to do."""
    end = time.monotonic() + Patience.wait_s
    while _busy() > BUSY_MAX:
        if time.monotonic() > end:
            Patience.in_vain += 1
            return


def _busy(seconds: float = 0.3) -> float:
    before = _ticks()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_ticks(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def _ticks() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def commit(root: Path) -> str | None:
    """The commit of the code that is measured, marked if it was changed since; None outside of a repository."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None


def description() -> dict[str, object]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    return {
        "cpus": os.cpu_count(),
        "cpu": model,
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }
