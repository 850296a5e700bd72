"""Who runs here: the locked files of living workers and of the broker, readable without zmq."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from queuectl.home import Home

Pid = Annotated[int, Meta(gt=0)]  # 0 and less mean groups of processes, or all
_UNREADABLE = (OSError, ValueError, msgspec.MsgspecError, RecursionError)  # not one of ours, or one of a newer version


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A living worker of this home. `pid` is the process that people know and signal."""

    boot: str
    pid: Pid
    slots: int
    started_at_ms: int


class _LocalBroker(msgspec.Struct):
    pid: Pid


class PidFile:
    """The file of one worker; it tells the truth for as long as its lock is held."""

    def __init__(self, home: Home, worker: LocalWorker) -> None:
        """Write and lock it. Raises OSError."""
        folder = _folder(home)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{worker.boot}.json"
        fresh = folder / f".{worker.boot}.new"  # nobody may see the file before it is locked
        self._lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, json.dumps(asdict(worker)).encode())
        fresh.rename(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._lock)


def local_workers(home: Home) -> list[LocalWorker]:
    """The living workers of this home on this machine, oldest first. Files of dead ones are removed."""
    try:
        paths = sorted(_folder(home).glob("*.json"))
    except OSError:
        return []
    found = [worker for path in paths if (worker := _find_worker(path)) is not None]
    return sorted(found, key=lambda worker: worker.started_at_ms)


def _find_worker(path: Path) -> LocalWorker | None:
    try:
        told = _told_by_holder(path)
        if told is None:
            path.unlink(missing_ok=True)  # never locked again: each start of a worker has a name of its own
            return None
        return msgspec.json.decode(told, type=LocalWorker)
    except _UNREADABLE:
        return None


def local_broker(home: Home) -> int | None:
    """The pid of the broker of this home, whether or not it answers; None if none runs."""
    with contextlib.suppress(*_UNREADABLE):
        return msgspec.json.decode(_told_by_holder(home.run / "broker.lock") or b"", type=_LocalBroker).pid
    return None


def _told_by_holder(path: Path) -> bytes | None:
    """What stands in a file that a living process has locked; None if nobody has, empty if that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 4096, 0)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return None


def _folder(home: Home) -> Path:
    return home.run / "workers"
