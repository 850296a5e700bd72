"""Who may come in from elsewhere, and who has ever done something: keys and actors."""

from __future__ import annotations

import json
from collections.abc import Sequence

from broker.store.connection import Connection
from broker.store.rows import KeyRow

READ_ACTORS = "SELECT name, actor FROM actor"
ADD_ACTOR = "INSERT INTO actor (actor, name) VALUES (?, ?)"
READ_KEYS = """
SELECT key, name, role, queues, public_key, added_at_ms, added_by, revoked_at_ms, revoked_by
FROM access_key ORDER BY key"""
ADD_KEY = """
INSERT INTO access_key (name, role, queues, public_key, added_at_ms, added_by) VALUES (?, ?, ?, ?, ?, ?)
RETURNING key"""
REVOKE_KEY = "UPDATE access_key SET revoked_at_ms = ?, revoked_by = ? WHERE key = ? AND revoked_at_ms IS NULL"


class Keys:
    """The verbs on keys and actors. None of them commits. There are few of both: memory mirrors all of them."""

    def __init__(self, connection: Connection):
        self._db = connection

    def actors(self) -> dict[str, int]:
        """The number of each actor."""
        return dict(self._db.query(READ_ACTORS))

    def add_actor(self, number: int, name: str) -> None:
        """Somebody does something for the first time."""
        self._db.run(ADD_ACTOR, (number, name))

    def all(self) -> list[KeyRow]:
        """All keys there ever were, the oldest first."""
        return [_row(*row) for row in self._db.query(READ_KEYS)]

    def add(
        self, *, name: str, role: str, queues: Sequence[str], public_key: str, now_ms: int, added_by: int
    ) -> KeyRow:
        """A new key."""
        [(key,)] = self._db.query(ADD_KEY, (name, role, json.dumps(queues), public_key, now_ms, added_by))
        return KeyRow(key, name, role, tuple(queues), public_key, now_ms, added_by, None, None)

    def revoke(self, keys: Sequence[int], now_ms: int, revoked_by: int) -> None:
        """These keys let nobody in any more."""
        self._db.run_many(REVOKE_KEY, [(now_ms, revoked_by, key) for key in keys])


def _row(key: int, name: str, role: str, queues: str, *rest: object) -> KeyRow:
    return KeyRow._make((key, name, role, tuple(json.loads(queues)), *rest))
