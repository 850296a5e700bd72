"""What the broker has not been told yet, on disk: it outlives the worker, its folder tells that the worker is dead.

One folder for each start of a worker, with a lock that is held for life. Records are framed by length and
checksum and only appended; a record torn by a crash ends the file for its reader. A plain write survives the
death of the process; the disk is waited for only where a result stays unanswered for a while.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from queuectl import wire
from queuectl.errors import BadRequest
from queuectl.messages import Piece, Result, Returned

LOG_NAME = "log"
LOCK_NAME = "lock"
SYNC_AFTER_MS = 200
TRUNCATE_BYTES = 1 << 20
_RECORD_BYTES_MAX = 1 << 20
_FRAME = struct.Struct("<II")  # length and CRC-32 of what follows
_OUTPUT_KEY = -1  # stands for all output among the leases that the disk may not have yet
_RESULT, _OUTPUT, _RETURNED, _SETTLED, _ENDED = "result", "output", "returned", "settled", "ended"


class Spool:
    """The spool of this start of the worker."""

    def __init__(self, root: Path, boot: str, *, host: str, brand: int | None = None) -> None:
        """Make the folder. `brand`: the first of the brands of its jobs. Raises OSError where that cannot be done."""
        fresh = root / f".{boot}.new"  # nobody may see the folder before it is locked
        fresh.mkdir(mode=0o700, parents=True)
        self._lock = take_lock(fresh, create=True)
        assert self._lock is not None
        os.write(self._lock, json.dumps({"host": host, "pid": os.getpid(), "brand": brand}).encode())
        self._log = os.open(fresh / LOG_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = fresh.rename(root / boot)
        self._size = 0
        self._outstanding: set[int] = set()
        self._unwritten: list[bytes] = []  # what a full disk refused; it is tried again with the next record
        self._unsynced: dict[int, int] = {}  # what the disk may not have yet, and since when, oldest first

    def add_result(self, result: Result, broker: str, now_ms: int) -> None:
        """Keep a result until it is settled. Raises OSError if it is in memory only, for now."""
        self._outstanding.add(result.lease)
        self._unsynced[result.lease] = now_ms
        self._append([_RESULT, broker, result])

    def add_output(self, pieces: Sequence[Piece], broker: str, now_ms: int) -> None:
        """Keep output that could not be sent. Raises OSError if it is in memory only, for now."""
        self._unsynced.setdefault(_OUTPUT_KEY, now_ms)
        for piece in pieces:
            self._append([_OUTPUT, broker, piece])

    def add_returned(self, returned: Sequence[Returned], broker: str) -> None:
        """Keep leases that were given back and not told, on the disk at once: the worker ends. Raises OSError."""
        self._append([_RETURNED, broker, list(returned)])
        os.fsync(self._log)

    def settle(self, leases: Sequence[int], *, may_truncate: bool) -> None:
        """The broker has answered for these. Raises OSError if that could not be written."""
        self._outstanding.difference_update(leases)
        for lease in leases:
            self._unsynced.pop(lease, None)
        if not self._outstanding:
            self._unwritten.clear()
        if may_truncate and not self._outstanding and self._size > TRUNCATE_BYTES:
            os.ftruncate(self._log, 0)
            self._size = 0
        else:
            self._append([_SETTLED, list(leases)])

    def _append(self, record: list[Any]) -> None:
        body = wire.encode(record)
        self._unwritten.append(_FRAME.pack(len(body), zlib.crc32(body)) + body)
        while self._unwritten:
            self._write(self._unwritten[0])
            del self._unwritten[0]

    def _write(self, frame: bytes) -> None:
        try:
            if os.write(self._log, frame) != len(frame):
                raise OSError("short write")
        except OSError:
            os.ftruncate(self._log, self._size)  # a torn record would hide all that come after it
            raise
        self._size += len(frame)

    def tick(self, now_ms: int) -> None:
        """Wait for the disk, where results have waited for the broker too long. Raises OSError."""
        due_ms = self.next_deadline()
        if due_ms is not None and now_ms >= due_ms:
            self._unsynced.clear()
            os.fsync(self._log)

    def next_deadline(self) -> int | None:
        return next(iter(self._unsynced.values())) + SYNC_AFTER_MS if self._unsynced else None

    def close(self, *, is_tidy: bool, is_quiet: bool) -> None:
        """Let go of the folder, and remove it if nothing is left to tell. Raises OSError.

        `is_quiet`: no process of its jobs is left; else whoever finds the folder has to see to that.
        """
        try:
            if is_tidy and is_quiet:
                shutil.rmtree(self.path, ignore_errors=True)
            else:
                if is_quiet:
                    self._append([_ENDED])
                os.fsync(self._log)
        finally:
            os.close(self._log)
            assert self._lock is not None
            os.close(self._lock)


@dataclass(slots=True)
class Legacy:
    """What a spool holds that was not settled. `has_ended`: the worker itself saw to it that no process was left."""

    results: dict[int, tuple[str, Result]] = field(default_factory=dict)
    pieces: list[tuple[str, Piece]] = field(default_factory=list)
    returned: list[tuple[str, Returned]] = field(default_factory=list)
    has_ended: bool = False
    torn_bytes: int = 0  # at the end of the file, from the first record that is not whole


def take_lock(folder: Path, *, create: bool = False) -> int | None:
    """The locked lock file of a spool folder; None if its worker lives, or if the folder has just gone."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        lock = os.open(folder / LOCK_NAME, flags, 0o600)
    except OSError:
        if create:
            raise
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == (folder / LOCK_NAME).stat().st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


class Holder(NamedTuple):
    """Who held a spool folder: its machine, empty if that is not known, and the first brand of its jobs."""

    host: str = ""
    brand: int | None = None


def holder_of(lock: int) -> Holder:
    """What a dead worker has written into its lock file."""
    try:
        told = json.loads(os.pread(lock, 4096, 0))
        brand = told.get("brand")
        return Holder(str(told["host"]), brand if isinstance(brand, int) else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Holder()


def read_spool(folder: Path) -> Legacy:
    """What a dead worker's spool holds. Ends at the first record that is torn."""
    legacy = Legacy()
    try:
        content = (folder / LOG_NAME).read_bytes()
    except FileNotFoundError:
        return legacy
    legacy.torn_bytes = len(content)
    for record, end in _records(content):
        _take_in(legacy, record)
        legacy.torn_bytes = len(content) - end
    return legacy


def _records(content: bytes) -> Iterator[tuple[list[Any], int]]:
    """The whole records, each with where it ends."""
    start = 0
    while start + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, start)
        body = content[start + _FRAME.size : start + _FRAME.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        start += _FRAME.size + length
        try:
            yield wire.unpack(body, bytes_max=_RECORD_BYTES_MAX), start
        except BadRequest:  # zeros are a frame of nothing that fits its checksum: so a file may end after a power cut
            return


def _take_in(legacy: Legacy, record: Iterable[Any]) -> None:
    try:
        match record:
            case [kind, str(broker), data] if kind == _RESULT:
                result = wire.convert(data, Result)
                legacy.results[result.lease] = (broker, result)
            case [kind, str(broker), data] if kind == _OUTPUT:
                legacy.pieces.append((broker, wire.convert(data, Piece)))
            case [kind, str(broker), [*given_back]] if kind == _RETURNED:
                legacy.returned += [(broker, wire.convert(data, Returned)) for data in given_back]
            case [kind, [*leases]] if kind == _SETTLED:
                for lease in wire.convert(leases, list[int]):
                    legacy.results.pop(lease, None)
            case [kind] if kind == _ENDED:
                legacy.has_ended = True
            case _:
                pass  # of a newer version: the lease runs out, which is safe
    except BadRequest:
        pass  # the same
