"""The broker's own books: facts about itself, settings, queues, workers, tallies, and the replies it gave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from broker.store.connection import Connection
from broker.store.rows import StopRow, WorkerRow

READ_META = "SELECT key, value FROM meta"
WRITE_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
READ_SETTINGS = "SELECT key, value FROM setting"
WRITE_SETTING = "INSERT INTO setting VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
DELETE_SETTING = "DELETE FROM setting WHERE key = ?"
READ_BUCKETS = "SELECT queue, bucket FROM bucket"
ADD_BUCKET = "INSERT INTO bucket (bucket, queue) VALUES (?, ?)"
READ_TALLIES = "SELECT bucket, state, jobs FROM tally"
WRITE_TALLY = "INSERT INTO tally VALUES (?, ?, ?) ON CONFLICT (bucket, state) DO UPDATE SET jobs = excluded.jobs"

# Has this request been answered before?
REPLY = "SELECT id, op, body FROM reply WHERE id = ?"

# Which of these have been?
REPLIES = "SELECT reply.id, op, body FROM json_each(?) CROSS JOIN reply ON reply.id = json_each.value"
ADD_REPLY = "INSERT INTO reply (id, op, at_ms, body) VALUES (?, ?, ?, ?)"

# Forget the oldest replies: rows are in order of arrival.
FORGET_REPLIES = """
DELETE FROM reply
WHERE reply IN (SELECT reply FROM (SELECT reply, at_ms FROM reply ORDER BY reply LIMIT ?) WHERE at_ms < ?)"""

WORKER_OF = "SELECT worker, boot, name, host, home, pid, slots, software, actor FROM worker WHERE boot = ?"
WORKERS = """
SELECT worker, boot, name, host, home, pid, slots, software, actor
FROM json_each(?) CROSS JOIN worker ON worker = json_each.value"""
ADD_WORKER = """
INSERT INTO worker (boot, name, host, home, pid, slots, software, first_seen_ms, actor)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING worker"""
READ_STOPS = "SELECT worker, at_once, at_ms FROM stop"
ADD_STOP = """
INSERT INTO stop VALUES (?, ?, ?) ON CONFLICT (worker) DO UPDATE
SET at_once = excluded.at_once, at_ms = excluded.at_ms"""
DROP_STOP = "DELETE FROM stop WHERE worker = ?"


class StoredReply(NamedTuple):
    """A reply given before."""

    op: str
    body: bytes


class Ledger:
    """The verbs on the broker's books. None of them commits."""

    def __init__(self, connection: Connection):
        self._db = connection

    def facts(self) -> dict[str, Any]:
        """What the broker knows of itself."""
        return dict(self._db.query(READ_META))

    def note(self, facts: Mapping[str, Any]) -> None:
        """Write facts down."""
        self._db.run_many(WRITE_META, list(facts.items()))

    def settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {key: json.loads(value) for key, value in self._db.query(READ_SETTINGS)}

    def set_setting(self, key: str, value: Any) -> None:
        """Change a setting."""
        self._db.run(WRITE_SETTING, (key, json.dumps(value)))

    def unset_setting(self, key: str) -> None:
        """Back to the default."""
        self._db.run(DELETE_SETTING, (key,))

    def buckets(self) -> dict[str, int]:
        """The number of each queue."""
        return dict(self._db.query(READ_BUCKETS))

    def add_bucket(self, bucket: int, queue: str) -> None:
        """A queue named for the first time."""
        self._db.run(ADD_BUCKET, (bucket, queue))

    def tallies(self) -> dict[tuple[int, int], int]:
        """Number of jobs by (bucket, state)."""
        return {(bucket, state): jobs for bucket, state, jobs in self._db.query(READ_TALLIES)}

    def write_tallies(self, tallies: Iterable[tuple[int, int, int]]) -> None:
        """(bucket, state, jobs) of those that changed."""
        self._db.run_many(WRITE_TALLY, tallies)

    def replies(self, request_ids: Sequence[str]) -> dict[str, StoredReply]:
        """The replies given to these requests before."""
        one = len(request_ids) == 1  # mostly; to read a list costs several times as much
        rows = self._db.query(REPLY, request_ids) if one else self._db.query(REPLIES, (json.dumps(request_ids),))
        return {request_id: StoredReply(op, body) for request_id, op, body in rows}

    def keep_replies(self, replies: Sequence[tuple[str, str, int, bytes]]) -> None:
        """(request id, op, now_ms, body): kept in the transaction of the effect."""
        self._db.run_many(ADD_REPLY, replies)

    def forget_replies(self, before_ms: int, limit: int) -> int:
        """Forget replies older than this, at most so many; how many went."""
        return self._db.run(FORGET_REPLIES, (limit, before_ms))

    def worker_of(self, boot: str) -> WorkerRow | None:
        """The worker of this boot."""
        rows = self._db.query(WORKER_OF, (boot,))
        return WorkerRow(*rows[0]) if rows else None

    def workers(self, numbers: Iterable[int | None]) -> list[WorkerRow]:
        """Workers by number."""
        return [WorkerRow(*row) for row in self._db.query(WORKERS, (json.dumps(list(numbers)),))]

    def add_worker(
        self,
        *,
        boot: str,
        name: str,
        host: str,
        home: str,
        pid: int,
        slots: int,
        software: str,
        now_ms: int,
        actor: int,
    ) -> WorkerRow:
        """A worker that says hello for the first time."""
        [(number,)] = self._db.query(ADD_WORKER, (boot, name, host, home, pid, slots, software, now_ms, actor))
        return WorkerRow(number, boot, name, host, home, pid, slots, software, actor)

    def stops(self) -> list[StopRow]:
        """Which workers were told to stop, and how."""
        return [StopRow(*row) for row in self._db.query(READ_STOPS)]

    def note_stops(self, stops: Iterable[StopRow]) -> None:
        """Workers are told to stop, or once more."""
        self._db.run_many(ADD_STOP, list(stops))

    def forget_stops(self, workers: Iterable[int]) -> None:
        """These have ended."""
        self._db.run_many(DROP_STOP, [(worker,) for worker in workers])
