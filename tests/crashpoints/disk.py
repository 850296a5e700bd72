"""A disk that remembers what it was told, in which order, and what of it was synced.

`Disk` is what a process sees: files, and faults that a test has planned. `Platter` replays what was logged up to any
moment, and says which files a power cut would leave then: what was synced, and of the rest whatever the chance has it,
in any order, torn at sectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

SECTOR_BYTES = 512

Files = dict[str, bytes]


class Write(NamedTuple):
    """Bytes at an offset of a file; files are numbered, as a name may be used again."""

    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file cut to a size."""

    file: int
    size: int


class Link(NamedTuple):
    """A new file of this name."""

    name: str
    file: int


class Unlink(NamedTuple):
    """A name that is gone."""

    name: str


class Sync(NamedTuple):
    """All of a file is on disk now; `directory`: the names of the directory too."""

    file: int
    directory: bool


class FailedSync(NamedTuple):
    """What waited for this sync is given up: the kernel takes it for written, and no later sync brings it to disk."""

    file: int


class SyncDirectory(NamedTuple):
    """The names of the directory are on disk now."""


class Note(NamedTuple):
    """No operation: the process says where it stands."""

    what: Any


Op = Write | Truncate | Link | Unlink | Sync | FailedSync | SyncDirectory | Note


class File:
    """A file as the process that writes it sees it."""

    def __init__(self, name: str, number: int, data: bytes = b""):
        self.name = name
        self.number = number
        self.data = bytearray(data)


class Fault(Exception):
    """What a test has planned for an operation: `eio`, `full`, or `short` (half of it is done, then `full`)."""

    def __init__(self, operation: str, how: str):
        super().__init__(f"{how} at {operation}")
        self.operation = operation
        self.how = how


class Disk:
    """The files of a process and the log of what it did to them. `plan` sees each operation, and may raise Fault."""

    def __init__(self, files: Files | None = None, *, ignores_sync: bool = False):
        self.start = dict(files or {})
        self.files = {name: File(name, number, data) for number, (name, data) in enumerate(self.start.items(), 1)}
        self.log: list[Op] = []
        self.plan: Callable[[str, str], None] = lambda operation, name: None
        self.is_heard = True  # whether what fails is told to anybody: not to one who lets go of the database
        self._ignores_sync = ignores_sync
        self._made = len(self.files)

    def note(self, what: Any) -> None:
        """Write down where the process stands."""
        self.log.append(Note(what))

    @contextmanager
    def without_faults(self) -> Iterator[None]:
        """A test looks for itself: nothing that it does is to fail."""
        plan, self.plan = self.plan, lambda operation, name: None
        try:
            yield
        finally:
            self.plan = plan

    def open(self, name: str, *, create: bool) -> File:
        """The file of this name. Raises FileNotFoundError."""
        self.plan("open", name)
        if name not in self.files:
            if not create:
                raise FileNotFoundError(name)
            self._made += 1
            self.files[name] = File(name, self._made)
            self.log.append(Link(name, self._made))
        return self.files[name]

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        self.plan("access", name)
        return name in self.files

    def delete(self, name: str, *, sync_directory: bool) -> None:
        """Take the name away. Raises FileNotFoundError."""
        self.plan("delete", name)
        if name not in self.files:
            raise FileNotFoundError(name)
        del self.files[name]
        self.log.append(Unlink(name))
        if sync_directory and not self._ignores_sync:
            self.log.append(SyncDirectory())

    def read(self, file: File, offset: int, amount: int) -> bytes:
        """Bytes of a file, fewer at its end."""
        self.plan("read", file.name)
        return bytes(file.data[offset : offset + amount])

    def size(self, file: File) -> int:
        """Bytes in a file."""
        self.plan("size", file.name)
        return len(file.data)

    def write(self, file: File, offset: int, data: bytes) -> None:
        """Write, as far as processes can see."""
        try:
            self.plan("write", file.name)
        except Fault as fault:
            if fault.how == "short":
                self._write(file, offset, data[: len(data) // 2])
            raise
        self._write(file, offset, data)

    def _write(self, file: File, offset: int, data: bytes) -> None:
        self.log.append(Write(file.number, offset, data))
        _put(file.data, offset, data)

    def truncate(self, file: File, size: int) -> None:
        """Cut a file to a size."""
        self.plan("truncate", file.name)
        self.log.append(Truncate(file.number, size))
        del file.data[size:]

    def sync(self, file: File, *, directory: bool) -> None:
        """Bring a file to the disk, and the names in its directory if wanted."""
        try:
            self.plan("sync", file.name)
        except Fault:
            self.log.append(FailedSync(file.number))
            raise
        if not self._ignores_sync:
            self.log.append(Sync(file.number, directory))


def _put(data: bytearray, offset: int, new: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(new)] = new


class Platter:
    """What is on disk for certain at one moment of a log, and what waits for a sync."""

    def __init__(self, start: Files):
        self._names = {name: number for number, name in enumerate(start, 1)}
        self._synced = {number: bytearray(start[name]) for name, number in self._names.items()}
        self._seen = {number: bytearray(data) for number, data in self._synced.items()}  # by processes
        self._waiting: list[Write | Truncate] = []
        self._renamed: list[Link | Unlink] = []

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for a sync."""
        return not self._waiting and not self._renamed

    def apply(self, op: Op) -> None:
        """One operation more."""
        match op:
            case Write() | Truncate():
                self._waiting.append(op)
                _carry_out(self._seen, [op])
            case Link():
                self._synced[op.file], self._seen[op.file] = bytearray(), bytearray()
                self._renamed.append(op)
            case Unlink():
                self._renamed.append(op)
            case Sync():
                _carry_out(self._synced, (waiting for waiting in self._waiting if waiting.file == op.file))
                self._forget(op.file)
                if op.directory:
                    self._sync_names()
            case FailedSync():
                self._forget(op.file)
            case SyncDirectory():
                self._sync_names()
            case Note():
                pass

    def _forget(self, file: int) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting.file != file]

    def _sync_names(self) -> None:
        self._names = _renamed(self._names, self._renamed)
        self._renamed = []

    def with_nothing_more(self) -> Files:
        """The files after a power cut that lost all that was not synced."""
        return {name: bytes(self._synced[number]) for name, number in self._names.items()}

    def with_everything(self) -> Files:
        """The files after the end of the process alone."""
        names = _renamed(self._names, self._renamed)
        return {name: bytes(self._seen[number]) for name, number in names.items()}

    def with_some(self, chance: random.Random) -> Files:
        """The files after a power cut that found some of the writes done, in any order, some of them in part."""
        share = chance.choice((0.1, 0.5, 0.9))
        torn = chance.random() < 0.5
        kept: list[Write | Truncate] = []
        for op in self._waiting:
            parts = _sectors(op) if torn and isinstance(op, Write) else [op]
            kept += [part for part in parts if chance.random() < share]
        touched = {number: bytearray(self._synced[number]) for number in {op.file for op in kept}}
        _carry_out(touched, kept)
        names = _renamed(self._names, self._renamed[: chance.randint(0, len(self._renamed))])
        return {name: bytes(touched.get(number, self._synced[number])) for name, number in names.items()}


def _carry_out(data: dict[int, bytearray], ops: Iterable[Write | Truncate]) -> None:
    for op in ops:
        if isinstance(op, Write):
            _put(data[op.file], op.offset, op.data)
        else:
            del data[op.file][op.size :]


def _renamed(names: dict[str, int], ops: Sequence[Link | Unlink]) -> dict[str, int]:
    names = dict(names)
    for op in ops:
        if isinstance(op, Link):
            names[op.name] = op.file
        else:
            names.pop(op.name, None)
    return names


def _sectors(op: Write) -> Iterable[Write]:
    """The parts of a write that lie in one sector each."""
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(op.file, start, op.data[start - op.offset : stop - op.offset])
        start = stop
