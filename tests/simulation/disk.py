"""The broker's disk: the real store on a database in memory, and what befalls it.

The database outlives the broker that used it. A crash voids what was not committed and nothing else: what a
torn write-ahead log does to a file is another room's business (tests/crashpoints).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from broker.disk import Disk
from broker.store import Store, StoreFull, StoreRefused
from broker.store.connection import Connection, _prepare
from queuectl.errors import StorageFailed

T = TypeVar("T")
STEP_S = 0.003  # that each step of a listing seems to take: two of them are a slice


class Crash(BaseException):
    """The broker is killed at this very moment."""


Blow = Callable[[], BaseException | None]

BEFORE_COMMIT: dict[str, Blow] = {
    "broker_killed_before_commit": Crash,
    "store_refused": lambda: StoreRefused("simulated"),
    "store_failed": lambda: StorageFailed("simulated"),
    "store_full_once": lambda: StoreFull("simulated"),
}
AFTER_COMMIT: dict[str, Blow] = {
    "broker_killed_after_commit": Crash,
    "broker_killed_between_sends": lambda: None,  # not yet
    "store_failed_late": lambda: StorageFailed("simulated: it is on disk all the same"),
    "store_stalled": lambda: None,  # it takes long, that is all
}


# Each job that is deleted is remembered as it was. What it was between two commits, nothing else could tell.
_WATCH = """
CREATE TEMP TABLE deleted (id TEXT, state INTEGER, finished_at_ms INTEGER);
CREATE TEMP TRIGGER watch AFTER DELETE ON main.job
BEGIN INSERT INTO deleted VALUES (old.id, old.state, old.finished_at_ms); END;"""


class SimulatedConnection(Connection):
    """SQLite in memory. What is `armed` strikes the next turn that writes, at its n-th statement or its commit."""

    def __init__(self) -> None:
        self.armed: str | None = None
        self.statements_left = 0
        self.is_full = False
        self.on_strike: Callable[[str], None] = lambda kind: None
        self._is_turning = False
        self._written = 0
        super().__init__(":memory:")
        _prepare(self, create=True)
        self._db.executescript(_WATCH)

    def begin(self) -> None:
        super().begin()
        self._written = self._db.total_changes
        self._is_turning = True

    def commit(self) -> None:
        self._is_turning = False
        is_writing = self._db.total_changes != self._written
        if is_writing:
            self._strike(BEFORE_COMMIT)
            if self.is_full:
                raise StoreFull("simulated")
        super().commit()
        if is_writing:
            self._strike(AFTER_COMMIT)

    def rollback(self) -> None:
        self._is_turning = False
        super().rollback()

    def _guard(self, act: Callable[[], T]) -> T:
        result = super()._guard(act)
        if self.statements_left and self._is_turning and self._db.total_changes != self._written:
            self.statements_left -= 1
            if not self.statements_left:
                self._strike(BEFORE_COMMIT)
        return result

    def _strike(self, table: dict[str, Blow]) -> None:
        if self.armed in table:
            kind, self.armed, self.statements_left = self.armed, None, 0
            self.on_strike(kind)
            if (error := table[kind]()) is not None:
                raise error

    def power_off(self) -> None:
        """What was not committed is gone."""
        self._is_turning = False
        self._db.rollback()

    def ask(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """A question of the checks; nothing befalls it."""
        rows: list[tuple[Any, ...]] = self._db.execute(sql, parameters).fetchall()
        return rows

    @property
    def changes(self) -> int:
        """Rows written so far."""
        changes: int = self._db.total_changes
        return changes


class SimulatedStore(Store):
    """The store, between two turns on a full disk now and then."""

    def __init__(self, connection: SimulatedConnection) -> None:
        super().__init__(connection)
        self._simulated = connection
        self.listing.clock = count(0, STEP_S).__next__

    def tidy(self) -> bool:
        if self._simulated.is_full:
            raise StoreFull("simulated")
        return False

    def close(self) -> None:
        pass


class SimulatedDisk(Disk):
    """How much room there is."""

    def __init__(self, connection: SimulatedConnection) -> None:
        super().__init__(Path())
        self._connection = connection
        self.is_short = False

    def has_database(self) -> bool:
        return True

    def free_bytes(self) -> tuple[int, int]:
        return (0 if self.is_short else 2**40), 2**40

    def is_low(self, min_free: int | None) -> bool:
        return self.is_short or self._connection.is_full
