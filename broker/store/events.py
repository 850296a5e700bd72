"""The feed on disk: one row a turn in which something happened. What stands in a row, the core knows."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from broker.store.connection import Connection

APPEND = "INSERT INTO event (event, at_ms, body) VALUES (?, ?, ?)"
NEWEST = "SELECT coalesce(max(event), 0) FROM event"

# Which rows come next, and how large are they?
SIZES = "SELECT event, length(body) FROM event WHERE event >= ? ORDER BY event LIMIT ?"
PAGE = "SELECT event, at_ms, body FROM event WHERE event BETWEEN ? AND ? ORDER BY event"

# Forget the oldest rows, and never the newest one.
FORGET_EVENTS = """
DELETE FROM event
WHERE event IN (SELECT event FROM (SELECT event, at_ms FROM event ORDER BY event LIMIT ?) WHERE at_ms < ?)
AND event < ?"""


class EventRow(NamedTuple):
    """What happened in one turn."""

    event: int
    at_ms: int
    body: bytes


class Events:
    """The verbs on the feed. None of them commits."""

    def __init__(self, connection: Connection):
        self._db = connection

    def append(self, event: int, at_ms: int, body: bytes) -> None:
        """Write down what happened in a turn, under the number after the newest one."""
        self._db.run(APPEND, (event, at_ms, body))

    def newest(self) -> int:
        """The number of the newest row; 0 if there is none."""
        [(event,)] = self._db.query(NEWEST)
        return int(event)

    def page(self, from_event: int, *, rows_max: int, bytes_max: int) -> list[EventRow]:
        """The rows from a number on, as many as may be looked at in one go; at least one, if there is one."""
        sizes = self._db.query(SIZES, (from_event, rows_max))
        if not sizes:
            return []
        fitting = sum(total <= bytes_max for total in accumulate(size for _, size in sizes))
        last = sizes[max(fitting - 1, 0)][0]
        return [EventRow(*row) for row in self._db.query(PAGE, (from_event, last))]

    def forget(self, before_ms: int, newest: int, limit: int) -> int:
        """Forget rows older than this, at most so many; how many went. Never the newest: no number is used twice."""
        return self._db.run(FORGET_EVENTS, (limit, before_ms, newest))
