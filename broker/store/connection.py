"""The one connection to the database: opening, migrating, transactions, and what its errors mean.

One process, one connection, one thread (SQLite's howtocorrupt and WAL pages say why). `synchronous=FULL`:
when `commit` returns, the transaction is on disk. EXCLUSIVE locking keeps everybody else out and needs no
shared memory file. Any error voids the whole transaction: after a full disk SQLite may have rolled back by
itself, and a statement after that would commit alone.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from broker.store.schema import APPLICATION_ID, SCHEMA_VERSION, migrate
from queuectl.errors import DatabaseRefused, QueuectlError, StorageFailed

T = TypeVar("T")

CHECKPOINT_BYTES = 8 * 2**20  # a WAL larger than this is copied into the database file between two turns
REUSED_BYTES = CHECKPOINT_BYTES - 2**16  # of it stay: to write over a file syncs twice as fast as to lengthen it

_PRAGMAS = (
    "synchronous = FULL",
    "wal_autocheckpoint = 0",  # the loop does it, after the replies are sent
    f"journal_size_limit = {REUSED_BYTES}",  # a WAL begun anew must not look as if it were due again
    "cache_size = -32768",
    "mmap_size = 0",  # an I/O error must be an error, not SIGBUS
    "temp_store = MEMORY",
    "trusted_schema = OFF",
    "cell_size_check = ON",
)

_IN_USE = "SELECT 1 FROM meta WHERE key = 'clean' AND value = 0"
_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE


class DatabaseMissing(DatabaseRefused):
    """There is no database where one is to be."""


class StoreFull(QueuectlError):
    """The disk of the database is full."""

    code = "store_full"
    retryable = True


class StoreRefused(QueuectlError):
    """A statement broke a rule of the schema: a bug, and only the batch with the offender is void."""

    code = "store_refused"


# Errors of one statement, by SQLite's code and by the driver's class; every other one may mean anything of the disk.
_OF_A_STATEMENT = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_MISUSE,
    }
)
_OF_THE_DRIVER = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)

OF_THE_STORE = (StoreFull, StoreRefused, StorageFailed)  # the turn is void: never the fault of one request


class Connection:
    """A thin port to SQLite; tests may put another one under the same SQL.

    Raises DatabaseRefused where what was written last is lost with its log, before SQLite touches anything.
    """

    def __init__(self, path: Path | str):
        self.path = str(path)
        self._is_due = False  # a transaction, with the next statement
        self._has_grown = False  # the log, perhaps, since it was last found short or was copied
        self._file = os.path.realpath(path)  # SQLite puts the log beside the file itself, not beside a link to it
        if (log := self._missing_log()) is not None:
            raise DatabaseRefused(
                f"{path} was not closed, and what was written last is missing: it was in {log.name}",
                hint=f"put it back; or, if another program opened the database and took it in: touch {quote(str(log))}",
            )
        self._db = self._connect(self.path)

    def _connect(self, path: str, **how: Any) -> sqlite3.Connection:
        return self._guard(
            lambda: sqlite3.Connection(path, isolation_level=None, cached_statements=256, timeout=0, **how)
        )

    def close(self) -> None:
        """Copy the WAL into the file and let go of the database."""
        self._guard(lambda: self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        self._db.close()

    def abandon(self) -> None:
        """Let go without touching the disk again, as a crash would.

        Before Python 3.12 SQLite takes the log in and deletes it: an empty one takes its place, or it would be missed.
        """
        had_log = self._bytes_of("-wal") is not None
        self._let_go()
        if had_log:
            self._replace_log()

    def _missing_log(self) -> Path | None:
        """The log, if it is gone and the database was not closed: what was written last is lost. Raises StorageFailed.

        Asked before SQLite has the database open, whose first statement would create a log: hence a look at the file
        alone, which creates nothing and recovers nothing. An empty log is not a missing one: SQLite leaves none of
        its own beside a database that is in use, for the log has content before the file says so. Somebody put it
        there who knew that the file holds everything: `abandon`, or an operator. Nor has a database with a rollback
        journal lost a log: it was not in WAL mode, and SQLite recovers it.
        """
        if not self._bytes_of("") or self._bytes_of("-wal") is not None or self._bytes_of("-journal") is not None:
            return None
        try:
            in_use = self._ask_file_alone(_IN_USE)
        except StoreRefused:  # there is no such table: it is new, or not one of queuectl
            return None
        return Path(f"{self._file}-wal") if in_use else None

    def _bytes_of(self, suffix: str) -> int | None:
        """Size of the database's file with this suffix; None if there is none."""
        try:
            info = os.stat(f"{self._file}{suffix}")  # noqa: PTH116  a Path takes long, and each turn that writes asks
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def _ask_file_alone(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connect(_file_alone(self._file), uri=True)) as db:
            return self._guard(lambda: db.execute(sql).fetchall())

    def _let_go(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it is closed already
            if self.wal_bytes() and (configure := getattr(self._db, "setconfig", None)) is not None:
                configure(_NO_CHECKPOINT_ON_CLOSE, True)
        self._db.close()

    def _replace_log(self) -> None:
        with suppress(OSError, *OF_THE_STORE):
            if (log := self._missing_log()) is not None:
                self._touch(log)

    def _touch(self, file: Path) -> None:
        file.touch()

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Let statements call this function; the same arguments always give the same."""
        self._db.create_function(name, arguments, function, deterministic=True)

    def begin(self) -> None:
        """Begin a transaction; in fact its first statement does, so that a turn without any costs nothing."""
        self._is_due = True

    def commit(self) -> None:
        """Make the transaction durable. After StorageFailed the disk may have lost it: say nothing and stop."""
        if self._is_due:
            self._is_due = False
            return
        if not self._db.in_transaction:
            raise StorageFailed("the transaction was gone before its commit")
        self._guard(lambda: self._db.execute("COMMIT"))

    def rollback(self) -> None:
        """Void the transaction; nothing happens if SQLite has done so already."""
        self._is_due = False
        if self._db.in_transaction:
            self._guard(lambda: self._db.execute("ROLLBACK"))

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        return self._do(lambda: self._db.execute(sql, parameters).rowcount)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each row; the number of rows changed in all."""
        return self._do(lambda: self._db.executemany(sql, rows).rowcount)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question; no cursor stays open, it would pin the WAL."""
        return self._do(lambda: self._db.execute(sql, parameters).fetchall())

    def query_some(self, sql: str, parameters: Sequence[Any], read: Callable[[Iterator[tuple[Any, ...]]], T]) -> T:
        """What `read` makes of the rows; those that it leaves are not read at all."""
        return self._do(lambda: _read(self._db.execute(sql, parameters), read))

    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        return self._bytes_of("-wal") or 0

    def checkpoint(self) -> None:
        """Copy the WAL into the database file, so that the next transaction starts it anew."""
        self._guard(lambda: self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
        self._has_grown = False

    def has_long_wal(self) -> bool:
        """Whether the write-ahead log is long enough to be copied, as far as it may have grown."""
        if self._has_grown and self.wal_bytes() < CHECKPOINT_BYTES:
            self._has_grown = False
        return self._has_grown

    def _do(self, act: Callable[[], T]) -> T:
        """One statement. Only the first begins what is due: after SQLite has rolled back, none must commit alone."""
        if self._is_due:
            self._is_due = False
            self._guard(lambda: self._db.execute("BEGIN IMMEDIATE"))
            self._has_grown = True
        return self._guard(act)

    def _guard(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.Error as error:
            raise _meaning(error) from error


def _read(cursor: sqlite3.Cursor, read: Callable[[Iterator[tuple[Any, ...]]], T]) -> T:
    with closing(cursor):
        return read(cursor)


def _meaning(error: sqlite3.Error) -> QueuectlError:
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    own = sqlite3.SQLITE_MISUSE if isinstance(error, _OF_THE_DRIVER) else sqlite3.SQLITE_INTERNAL
    return meaning(getattr(error, "sqlite_errorcode", own), f"{name}: {error}")


def meaning(code: int, said: str) -> QueuectlError:
    """What an error with this code of SQLite, plain or extended, means for the turn."""
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(said)
    if primary in _OF_A_STATEMENT:
        return StoreRefused(said)
    return StorageFailed(said)


def open_connection(
    path: Path | str, *, create: bool, connect: Callable[[Path | str], Connection] = Connection
) -> Connection:
    """Open and, where it is new, make the database. Raises DatabaseRefused for a foreign, newer or damaged one.

    Without `create` raises DatabaseMissing where there is none, or one with nothing in it.
    """
    if not create and not Path(path).exists():
        raise DatabaseMissing(f"{path} is missing")
    try:
        connection = connect(path)
    except StorageFailed as error:
        raise unusable(path, error) from error
    try:
        _prepare(connection, create=create)
    except (StorageFailed, StoreRefused) as error:
        connection.abandon()
        raise unusable(path, error) from error
    except BaseException:
        connection.abandon()
        raise
    return connection


def _file_alone(file: str) -> str:
    """The address under which SQLite looks at a database's file and at nothing beside it, and creates nothing."""
    return f"{Path(file).as_uri()}?mode=ro&immutable=1"


def broker_of(path: Path) -> str | None:
    """Whose database the file is, whatever its log says; None where the file alone does not tell.

    The log of one database, read into the file of another, makes nonsense of both.
    """
    try:
        with closing(sqlite3.connect(_file_alone(os.path.realpath(path)), uri=True)) as db:
            rows = db.execute("SELECT value FROM meta WHERE key = 'broker'").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if rows else None


def unusable(path: Path | str, error: QueuectlError) -> DatabaseRefused:
    """What the broker says of a database that the store fails on while it starts."""
    return DatabaseRefused(
        f"{path} cannot be used: {error.message}",
        hint="if no other program has it open and its disk is well, restore it from a backup",
    )


def _prepare(connection: Connection, *, create: bool) -> None:
    connection.query("PRAGMA locking_mode = EXCLUSIVE")  # before the first access, or SQLite makes a -shm file
    fresh = connection.query("PRAGMA schema_version") == [(0,)]
    if fresh and not create:
        raise DatabaseMissing(f"{connection.path} is empty")
    if fresh:
        connection.query("PRAGMA auto_vacuum = INCREMENTAL")
    else:
        _refuse_foreign(connection)  # before anything is changed in it
    for pragma in _PRAGMAS:
        connection.query(f"PRAGMA {pragma}")
    if connection.path != ":memory:" and connection.query("PRAGMA journal_mode = WAL") != [("wal",)]:
        raise DatabaseRefused(f"{connection.path}: the file system does not take a write-ahead log")
    migrate(connection)


def _refuse_foreign(connection: Connection) -> None:
    [(application,)] = connection.query("PRAGMA application_id")
    [(version,)] = connection.query("PRAGMA user_version")
    if application != APPLICATION_ID:
        raise DatabaseRefused(f"{connection.path} is a database, but not one of queuectl")
    if version > SCHEMA_VERSION:
        raise DatabaseRefused(
            f"{connection.path} was written by a newer queuectl (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="run the newer version, or point data_dir at another directory",
        )
