"""Takes over what dead workers of this home left: ends their processes, and has their results told.

A worker is dead when nobody holds the lock of its spool folder. The locks taken here are held until the
broker knows of the deaths, so that of several workers that start at once only one does this.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from worker.brand import find_brand, is_of
from worker.core.identity import Adopted
from worker.proc import BOOT_MARK, all_pids, find_mark, find_stat, send_signal
from worker.spool import holder_of, read_spool, take_lock

SWEEP_S_MAX = 5.0  # a process that hangs in the kernel cannot be waited for; it runs no command any more
_CLEAN_PASSES = 2  # one pass may overlook what forks while it looks
_DOUBT_S_MAX = 1.0  # where others start and end processes all the time, no pass would ever be sure
_PAUSE_S = 0.005  # for the killed to die; what hops on meanwhile is found all the same
_BOOT = re.compile(r"[0-9a-f]{32}")


class Dead(NamedTuple):
    """A dead worker, as its jobs are marked: by its boot in their environment, and by brands from this one on."""

    boot: str
    brand: int | None


class Adoption:
    """The spools of dead workers, locked."""

    def __init__(self, root: Path, *, host: str, own_boot: str) -> None:
        self._root = root
        self._locks: dict[str, int] = {}
        self._host = host
        self._own_boot = own_boot
        self.torn: dict[str, int] = {}  # boots whose spool ends in so many bytes that are no record

    def take(self, on_swept: Callable[[int], object]) -> list[Adopted]:
        """Lock and read what dead workers left, after ending what still runs of them. Call it before HELLO."""
        found = []
        for folder in self._folders():
            lock = take_lock(folder)
            if lock is not None:
                self._locks[folder.name] = lock
                holder = holder_of(lock)
                found.append((Dead(folder.name, holder.brand), holder.host == self._host, read_spool(folder)))
        self.torn = {dead.boot: legacy.torn_bytes for dead, _, legacy in found if legacy.torn_bytes}
        is_gone = sweep([dead for dead, is_local, legacy in found if is_local and not legacy.has_ended], on_swept)
        return [
            Adopted(
                dead.boot,
                list(legacy.results.values()),
                legacy.pieces,
                legacy.returned,
                is_gone=legacy.has_ended or (is_local and is_gone),
            )
            for dead, is_local, legacy in found
        ]

    def _folders(self) -> list[Path]:
        return [folder for folder in _folders(self._root) if folder.name != self._own_boot]

    def forget(self, boots: Sequence[str]) -> None:
        """The broker knows: remove these spools."""
        for boot in boots:
            shutil.rmtree(self._root / boot, ignore_errors=True)
            os.close(self._locks.pop(boot))

    def close(self) -> None:
        """Leave what the broker does not know yet to a later worker."""
        for lock in self._locks.values():
            os.close(lock)
        self._locks.clear()


def end_dead(root: Path, *, host: str, on_swept: Callable[[int], object]) -> bool:
    """End what still runs of dead workers, and leave the rest to an adoption. Whether there is anything to adopt."""
    adoption = Adoption(root, host=host, own_boot="")
    try:
        return bool(adoption.take(on_swept))
    except OSError:  # whoever adopts it will see it too, and tell of it
        return True
    finally:
        adoption.close()


def _folders(root: Path) -> list[Path]:
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if _BOOT.fullmatch(entry.name)]


def sweep(dead: Collection[Dead], on_swept: Callable[[int], object]) -> bool:
    """Kill every process that was started for these dead workers. Whether none is left."""
    if not dead:
        return True
    began = found_at = time.monotonic()
    clean = 0
    told: set[int] = set()
    while clean < _CLEAN_PASSES:
        found, is_sure = _kill_each(dead)
        for pid in found - told:
            told.add(pid)
            on_swept(pid)
        now = time.monotonic()
        if found:
            clean, found_at = 0, now
            if now > began + SWEEP_S_MAX:
                return False
            time.sleep(_PAUSE_S)
        elif is_sure or now > found_at + _DOUBT_S_MAX:
            clean += 1
    return True


def _kill_each(dead: Collection[Dead]) -> tuple[set[int], bool]:
    """One pass: which processes were found and killed, and whether none went away unseen, perhaps leaving a child.

    The youngest come first: what hops from process to process is gone from the first of its numbers in a moment.
    """
    found, is_sure = set(), True
    for pid in sorted(all_pids(), reverse=True):
        stat = find_stat(pid)
        if stat is None:
            is_sure = False
        elif not stat.is_zombie and _was_started_for(pid, dead):
            send_signal(pid, signal.SIGKILL, stat.started)
            found.add(pid)
    return found, is_sure


def _was_started_for(pid: int, dead: Collection[Dead]) -> bool:
    mark, brand = find_mark(pid, BOOT_MARK), find_brand(pid)
    return any(mark == worker.boot or is_of(brand, worker.brand) for worker in dead)
