"""The store: every SQL statement of the program. It is the truth; the core's memory only mirrors it.

Verbs work on sets and never commit: one turn of the loop is one transaction. Nothing outside this room
knows that it is SQLite.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from broker.store.changes import Changes
from broker.store.connection import (
    OF_THE_STORE,
    Connection,
    DatabaseMissing,
    StoreFull,
    StoreRefused,
    broker_of,
    open_connection,
    unusable,
)
from broker.store.events import Events
from broker.store.history import History
from broker.store.jobs import Jobs
from broker.store.keys import Keys
from broker.store.ledger import Ledger
from broker.store.listing import Listing
from queuectl.errors import StorageFailed

__all__ = [
    "OF_THE_STORE",
    "DatabaseMissing",
    "Store",
    "StoreFull",
    "StoreRefused",
    "broker_of",
    "open_store",
    "unusable",
]


class Store:
    """Jobs, their history, the broker's books and keys, over one connection and within one transaction at a time."""

    def __init__(self, connection: Connection):
        self._db = connection
        self.jobs = Jobs(connection)
        self.changes = Changes(connection)
        self.listing = Listing(connection)
        self.history = History(connection)
        self.ledger = Ledger(connection)
        self.keys = Keys(connection)
        self.events = Events(connection)

    def begin(self) -> None:
        """Begin the transaction of a turn."""
        self._db.begin()

    def commit(self) -> None:
        """Make the turn durable; only then may anybody hear of it."""
        self._db.commit()

    def rollback(self) -> None:
        """Void the turn."""
        self._db.rollback()

    def tidy(self) -> bool:
        """Between turns: copy a long write-ahead log into the database file. True if it did."""
        if not self._db.has_long_wal():
            return False
        self.write_through()
        return True

    def write_through(self) -> None:
        """Between turns: copy the write-ahead log into the database file."""
        self._db.checkpoint()

    def check(self) -> list[str]:
        """What SQLite's quick check finds wrong; empty if all is well."""
        try:
            found = [str(row[0]) for row in self._db.query("PRAGMA quick_check")]
        except StorageFailed as error:  # so damaged that the check could not go on
            return [error.message]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close for good."""
        self._db.close()

    def abandon(self) -> None:
        """Let go as a crash would, without another write."""
        self._db.abandon()


def open_store(
    path: Path | str, *, create: bool = True, connect: Callable[[Path | str], Connection] = Connection
) -> Store:
    """Open the database, making it where it is new. Raises DatabaseRefused; DatabaseMissing without `create`."""
    return Store(open_connection(path, create=create, connect=connect))
