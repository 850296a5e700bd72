"""What /proc says about processes: who is whose child, who carries which job's mark. Facts only, no decisions."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LEASE_MARK = b"QUEUECTL_JOB_LEASE="
BOOT_MARK = b"QUEUECTL_JOB_WORKER="
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_WORD_BYTES_MAX = 16  # of a number in a list, and of what follows it
_LIST_BYTES = 4096  # read at once: room for more would cost more to make than the list to read


class Stat(NamedTuple):
    """Of /proc/PID/stat. `started` counts clock ticks since the machine's start."""

    is_zombie: bool
    parent: int
    group: int
    session: int
    started: int


def become_subreaper() -> bool:
    """From now on orphans among our descendants become our children. Whether the kernel agreed."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def retitle(title: str) -> None:
    """Show another command line in `ps`. Where the kernel does not tell where it stands, nothing happens."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (_PROC / "self" / "stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc(5)
        if 0 < start < end:
            room = end - start
            ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def rename(name: str) -> None:
    """Take another name, of at most 15 bytes, for `ps`, `pkill` and `killall`."""
    with contextlib.suppress(OSError):
        (_PROC / "self" / "comm").write_text(name)


def find_stat(pid: int) -> Stat | None:
    """The state of a process, or None if there is none of this number."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name stands in brackets and may itself contain brackets and blanks.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(fields[0] in (b"Z", b"X"), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def find_mark(pid: int, mark: bytes) -> str | None:
    """The value of a variable in the environment that a process was started with; None if it cannot be told."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    for entry in environment.split(b"\0"):
        if entry.startswith(mark):
            return entry[len(mark) :].decode("ascii", "replace")
    return None


def all_pids() -> Iterator[int]:
    """The number of every process that /proc shows."""
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            yield int(entry.name)


class OwnChildren:
    """The direct children of this process, zombies included, read in a few microseconds."""

    def __init__(self) -> None:
        try:
            # Orphans are given to the first thread, which is also the one that starts all commands.
            self._fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # a kernel without CONFIG_PROC_CHILDREN

    def read(self) -> list[int]:
        if self._fd < 0:
            return children_of(os.getpid())
        listed = os.pread(self._fd, _LIST_BYTES, 0)
        room = _LIST_BYTES
        while len(listed) > room - _WORD_BYTES_MAX:
            room *= 4
            listed = os.pread(self._fd, room, 0)
        return [int(word) for word in listed.split()]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    found: list[int] = []
    try:
        for thread in (_PROC / str(pid) / "task").iterdir():
            found += map(int, (thread / "children").read_bytes().split())
    except FileNotFoundError:
        if find_stat(pid) is not None and not (_PROC / "self/task" / str(os.getpid()) / "children").exists():
            return [other for other in all_pids() if (stat := find_stat(other)) is not None and stat.parent == pid]
    except OSError:
        pass
    return found


def descendants_of(pid: int) -> list[int]:
    """All processes below this one."""
    found: list[int] = []
    seen = {pid}
    pending = [pid]
    while pending:
        for child in children_of(pending.pop()):
            if child not in seen:
                seen.add(child)
                found.append(child)
                pending.append(child)
    return found


def send_signal(pid: int, number: int, started_max: int | None = None) -> None:
    """Signal one process, through a handle: its number cannot pass to another between the look and the blow.

    `started_max`: not if it is younger, for then it is another process that took over the number.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        stat = find_stat(pid)
        if stat is not None and not stat.is_zombie and (started_max is None or stat.started <= started_max):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
