"""SQLite on such a disk: a file system for APSW, and the connection of the store over it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import apsw

from broker.store.connection import CHECKPOINT_BYTES, REUSED_BYTES, Connection, meaning
from queuectl.errors import StorageFailed
from tests.crashpoints.contents import digest
from tests.crashpoints.disk import Disk, Fault, File

T = TypeVar("T")

LOG_BYTES = 48 * 1024  # where the store's log is long: in proportion to a database of a few jobs
LOG_REUSED_BYTES = LOG_BYTES * REUSED_BYTES // CHECKPOINT_BYTES

_SYNCS_DIRECTORY = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL  # as SQLite does it, with the first sync
_names = itertools.count(1)

# What SQLite's own file system for Unix answers when an operation fails so.
_CODES = {
    ("read", "eio"): apsw.SQLITE_IOERR_READ,
    ("write", "eio"): apsw.SQLITE_IOERR_WRITE,
    ("write", "full"): apsw.SQLITE_FULL,
    ("write", "short"): apsw.SQLITE_FULL,
    ("sync", "eio"): apsw.SQLITE_IOERR_FSYNC,
    ("truncate", "eio"): apsw.SQLITE_IOERR_TRUNCATE,
    ("size", "eio"): apsw.SQLITE_IOERR_FSTAT,
    ("delete", "eio"): apsw.SQLITE_IOERR_DELETE,
    ("access", "eio"): apsw.SQLITE_IOERR_ACCESS,
    ("open", "eio"): apsw.SQLITE_CANTOPEN,
    ("open", "full"): apsw.SQLITE_CANTOPEN,
}
WAYS = {operation: [how for at, how in _CODES if at == operation] for operation, _ in _CODES}  # how each can fail


@contextmanager
def _answering() -> Iterator[None]:
    """Faults as SQLite is to see them."""
    try:
        yield
    except Fault as fault:
        raise apsw.exception_for(_CODES[fault.operation, fault.how]) from fault


class _OpenFile:
    """One open file. What SQLite may rely on is what its own file system for Unix says."""

    def __init__(self, disk: Disk, file: File, *, syncs_directory: bool):
        self._disk = disk
        self._file = file
        self._syncs_directory = syncs_directory

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        with _answering():
            return self._disk.read(self._file, offset, amount)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with _answering():
            self._disk.write(self._file, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        with _answering():
            self._disk.truncate(self._file, size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        with _answering():
            self._disk.sync(self._file, directory=self._syncs_directory)
        self._syncs_directory = False

    def xFileSize(self) -> int:  # noqa: N802
        with _answering():
            return self._disk.size(self._file)

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        pass


class DiskVfs(apsw.VFS):
    """A file system whose files are those of a Disk."""

    def __init__(self, disk: Disk):
        self.name = f"disk-{next(_names)}"
        super().__init__(self.name, "")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        is_new = path not in self._disk.files
        with _answering():
            file = self._disk.open(path, create=bool(flags[0] & apsw.SQLITE_OPEN_CREATE))
        flags[1] = flags[0]
        return _OpenFile(self._disk, file, syncs_directory=is_new and bool(flags[0] & _SYNCS_DIRECTORY))

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        try:
            with _answering():
                self._disk.delete(name, sync_directory=sync_directory)
        except FileNotFoundError as error:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT) from error

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        with _answering():
            return self._disk.exists(name)

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def forget(self) -> None:
        """Nobody opens it any more."""
        if self.name in apsw.vfs_names():
            self.unregister()

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """SQLite has been told of the fault; nobody else needs to be."""
        return True


class Failed(NamedTuple):
    """Noted in the log of the disk: the store was told so much of its disk that it has to stop."""

    said: str


class Committing(NamedTuple):
    """Noted: a COMMIT begins, after which all of the database is as this digest says."""

    digest: str


class Committed(NamedTuple):
    """Noted: it has returned."""


class RolledBack(NamedTuple):
    """Noted: the transaction is void."""


class ApswConnection(Connection):
    """The store's port to SQLite over APSW. A log is long at LOG_BYTES."""

    _db: Any

    def __init__(self, path: Path | str, disk: Disk, *, synchronous: str = "FULL", keeps_log: bool = True):
        self.disk = disk
        self._vfs = DiskVfs(disk)
        self._adapted = {  # pragmas of the store that are other ones here
            "PRAGMA synchronous = FULL": f"PRAGMA synchronous = {synchronous}",
            f"PRAGMA journal_size_limit = {REUSED_BYTES}": f"PRAGMA journal_size_limit = {LOG_REUSED_BYTES}",
        }
        self._keeps_log = keeps_log  # when abandoned; where it cannot be told to, SQLite empties the log
        super().__init__(path)

    def _connect(self, path: str, **how: Any) -> Any:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | (apsw.SQLITE_OPEN_URI if how else 0)
        return self._guard(lambda: apsw.Connection(path, flags, self._vfs.name, statementcachesize=256))

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        self._db.create_scalar_function(name, function, arguments, deterministic=True)

    def commit(self) -> None:
        if self.in_transaction:
            with self.disk.without_faults():
                self.disk.note(Committing(digest(self)))
        super().commit()
        self.disk.note(Committed())

    def rollback(self) -> None:
        super().rollback()
        self.disk.note(RolledBack())

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        def act() -> int:
            self._db.execute(sql, parameters).fetchall()
            return int(self._db.changes())

        return self._do(act)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        def act() -> int:
            before = self._db.total_changes()
            self._db.executemany(sql, rows).fetchall()
            return int(self._db.total_changes() - before)

        return self._do(act)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return super().query(self._adapted.get(sql, sql), parameters)

    def wal_bytes(self) -> int:
        return super().wal_bytes() * CHECKPOINT_BYTES // LOG_BYTES

    def close(self) -> None:
        with suppress(apsw.Error):  # a log that cannot be deleted: SQLite says nothing of it
            super().close()
        self._vfs.forget()

    def abandon(self) -> None:
        super().abandon()
        self._vfs.forget()

    def _let_go(self) -> None:  # the log stays, or is emptied, as with the standard library's SQLite
        self.disk.is_heard = False
        with suppress(apsw.Error):
            if self._keeps_log and self.wal_bytes():
                self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._db.close()
        self.disk.is_heard = True

    def _bytes_of(self, suffix: str) -> int | None:
        file = self.disk.files.get(self._file + suffix)
        return None if file is None else len(file.data)

    def _replace_log(self) -> None:
        with self.disk.without_faults():
            super()._replace_log()

    def _touch(self, file: Path) -> None:
        self.disk.sync(self.disk.open(str(file), create=True), directory=True)

    def _guard(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except apsw.Error as error:
            code = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
            meant = meaning(code, f"{type(error).__name__} {code}: {error}")
            if isinstance(meant, StorageFailed):
                self.disk.note(Failed(meant.message))
            raise meant from error
