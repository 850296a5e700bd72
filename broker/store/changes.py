"""What people change of jobs that are there: held, released, edited, ended before they run, asked to end, deleted.

Whoever calls has looked at the job in the same turn: a row that does not change as told is a broken invariant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker.store.connection import Connection
from broker.store.jobs import _KNOWN_COLUMNS
from broker.store.rows import Known, expect

# A job that waits is over.
END_WAITING = """
UPDATE job SET state = ?, ready = 0, lease = NULL, reason = ?, updated_at_ms = ?, finished_at_ms = ?
WHERE seq = ? AND (state = 0 OR state = 3)"""

# A job that waits is held, or is not any more. A run of it that was lost does not go on behind the back of whoever
# wanted that, should its worker return.
SET_READY = "UPDATE job SET ready = ?, lease = NULL, updated_at_ms = ? WHERE seq = ? AND ready <> 0"

# A job that waits, elsewhere in the order. What a lost worker may still run is not what the job is now.
PLACE = """
UPDATE job SET bucket = ?, priority = ?, run_at_ms = ?, ready = ?, lease = NULL, updated_at_ms = ?
WHERE seq = ? AND ready <> 0"""

# What it is to do.
RESPECIFY = "UPDATE spec SET command = ?, max_retries = ?, timeout_ms = ? WHERE seq = ?"

# A waiting job as far as it may be edited.
EDITABLE = """
SELECT j.seq, j.id, bucket, priority, state, ready, run_at_ms, losses, attempts, created_at_ms,
       command, max_retries, timeout_ms, iif(j.attempt = 0, expires_ms, NULL), deadline_ms
FROM json_each(?) CROSS JOIN job j ON j.seq = json_each.value CROSS JOIN spec s ON s.seq = j.seq"""

# What few jobs have.
ADD_TO_JOB = "UPDATE job SET until_ms = ?, unique_key = ? WHERE seq = ?"
ADD_TO_SPEC = """
UPDATE spec SET rules = ?, tags = ?, expires_ms = ?, deadline_ms = ?, stdin = ?, retry_of = ? WHERE seq = ?"""

# Who has these keys?
HOLDING = """
SELECT unique_key, seq, job.id, bucket, state, attempt, lease, ready
FROM json_each(?) CROSS JOIN job ON unique_key = json_each.value
WHERE unique_key IS NOT NULL AND finished_at_ms IS NULL"""

# Which keys do these jobs have?
KEYS_OF = """
SELECT seq, unique_key FROM json_each(?) CROSS JOIN job ON seq = json_each.value WHERE unique_key IS NOT NULL"""

# Waiting jobs that are to be looked at by now.
OVERDUE = """
SELECT j.seq, id, bucket, state, j.attempt, expires_ms, deadline_ms
FROM (SELECT seq FROM job WHERE until_ms IS NOT NULL AND ready <> 0 AND until_ms <= ? ORDER BY until_ms LIMIT ?) d
CROSS JOIN job j ON j.seq = d.seq CROSS JOIN spec s ON s.seq = d.seq"""

# When is the next one to be?
NEXT_UNTIL = "SELECT until_ms FROM job WHERE until_ms IS NOT NULL AND ready <> 0 ORDER BY until_ms LIMIT 1"

# It need not be looked at before then.
SET_UNTIL = "UPDATE job SET until_ms = ? WHERE seq = ?"

# No time is set for it any more.
FREE_JOB = "UPDATE job SET until_ms = NULL WHERE seq = ? AND until_ms IS NOT NULL"
FREE_SPEC = "UPDATE spec SET expires_ms = NULL, deadline_ms = NULL WHERE seq = ?"

# Jobs that are over, in order of arrival, and since when.
OVER = f"""
SELECT {_KNOWN_COLUMNS}, finished_at_ms FROM job WHERE state <> 0 AND state = ? AND seq > ? ORDER BY seq LIMIT ?"""

# Dead jobs, those that died first before the others.
DIED_FIRST = f"SELECT {_KNOWN_COLUMNS} FROM job WHERE state = 4 ORDER BY finished_at_ms LIMIT ?"

# A new job that does what another one does.
COPY_JOB = """
INSERT INTO job (seq, id, bucket, priority, state, ready, run_at_ms, attempt, attempts, losses, slot, until_ms,
                 created_at_ms, updated_at_ms)
SELECT ?, ?, bucket, priority, 0, ?, ?, 0, 0, 0, 0, ?, ?, ? FROM job WHERE seq = ?"""
COPY_SPEC = """
INSERT INTO spec (seq, command, max_retries, backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit,
                  keep_children, env, cwd, on_lost, rules, tags, stdin, expires_ms, deadline_ms, retry_of, enqueued_by,
                  event)
SELECT ?, command, max_retries, backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit,
       keep_children, env, cwd, on_lost, rules, tags, stdin, ?, ?, ?, ?, ? FROM spec WHERE seq = ?"""

# What few jobs have, as it was asked for: times from when the job was enqueued.
PARTICULARS = """
SELECT j.seq, unique_key, tags, retry_of, expires_ms - created_at_ms, deadline_ms - created_at_ms
FROM json_each(?) CROSS JOIN job j ON j.seq = json_each.value CROSS JOIN spec s ON s.seq = j.seq"""

ADD_CANCELLATION = """
INSERT INTO cancellation VALUES (?, ?, ?, ?) ON CONFLICT (seq) DO UPDATE
SET signal = excluded.signal, grace_ms = excluded.grace_ms, reason = excluded.reason"""
DROP_CANCELLATION = "DELETE FROM cancellation WHERE seq = ?"
CANCELLATIONS = "SELECT seq, signal, grace_ms, reason FROM cancellation"

ADD_TAG = "INSERT INTO tag (key, value, seq) VALUES (?, ?, ?)"

# The tags of these jobs.
TAGS_OF = "SELECT seq, tags FROM json_each(?) CROSS JOIN spec ON seq = json_each.value WHERE tags IS NOT NULL"
DROP_TAG = "DELETE FROM tag WHERE key = ? AND value = ? AND seq = ?"


class Editable(NamedTuple):
    """A waiting job as far as it may be edited."""

    seq: int
    id: str
    bucket: int
    priority: int
    state: int
    ready: int
    run_at_ms: int
    losses: int
    attempts: int
    created_at_ms: int
    command: str
    max_retries: int
    timeout_ms: int | None
    expires_ms: int | None  # None, too, once it was started
    deadline_ms: int | None


class Overdue(NamedTuple):
    """A waiting job whose time may be over."""

    seq: int
    id: str
    bucket: int
    state: int
    attempt: int
    expires_ms: int | None
    deadline_ms: int | None


class Extras(NamedTuple):
    """What few jobs have."""

    seq: int
    until_ms: int | None
    unique_key: str | None
    rules: bytes | None
    tags: bytes | None
    expires_ms: int | None
    deadline_ms: int | None
    stdin: bytes | None
    retry_of: str | None


class Particulars(NamedTuple):
    """What was asked for of what few jobs have; times in ms from the enqueue."""

    seq: int
    unique_key: str | None
    tags: bytes | None
    retry_of: str | None
    expires_in_ms: int | None
    deadline_in_ms: int | None


class Copy(NamedTuple):
    """A new job that does what another one does."""

    of_seq: int
    seq: int
    id: str
    ready: int
    run_at_ms: int
    until_ms: int | None
    now_ms: int
    expires_ms: int | None
    deadline_ms: int | None
    retry_of: str
    enqueued_by: int
    event: int


class Changes:
    """The verbs on jobs that people change. None of them commits."""

    def __init__(self, connection: Connection):
        self._db = connection

    def add_extras(self, rows: Sequence[Extras]) -> None:
        """New jobs have this, too. That a unique key is free was looked up before."""
        expect(self._db.run_many(ADD_TO_JOB, [(*row[1:3], row.seq) for row in rows]), len(rows), "add_extras")
        self._db.run_many(ADD_TO_SPEC, [(*row[3:], row.seq) for row in rows])

    def particulars(self, seqs: Iterable[int]) -> dict[int, Particulars]:
        """What these jobs have of what few have."""
        rows = self._db.query(PARTICULARS, (json.dumps(list(seqs)),))
        return {row[0]: Particulars(*row) for row in rows}

    def end_waiting(self, endings: Sequence[tuple[int, str, int, int, int]]) -> None:
        """Waiting jobs are over: (state, reason, now_ms, now_ms, seq) each."""
        expect(self._db.run_many(END_WAITING, endings), len(endings), "end_waiting")

    def set_ready(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Waiting jobs are held, or may be leased: (ready, now_ms, seq) each."""
        expect(self._db.run_many(SET_READY, rows), len(rows), "set_ready")

    def edit(self, jobs: Sequence[Editable], now_ms: int) -> None:
        """Waiting jobs as they are to be from now on."""
        places = [(job.bucket, job.priority, job.run_at_ms, job.ready, now_ms, job.seq) for job in jobs]
        expect(self._db.run_many(PLACE, places), len(jobs), "edit")
        self._db.run_many(RESPECIFY, [(job.command, job.max_retries, job.timeout_ms, job.seq) for job in jobs])

    def editable(self, seqs: Iterable[int]) -> list[Editable]:
        """These jobs as far as they may be edited."""
        return [Editable(*row) for row in self._db.query(EDITABLE, (json.dumps(list(seqs)),))]

    def copy(self, copy: Copy) -> None:
        """Store a job that does what another one does, without its unique key and its tags."""
        now_ms = copy.now_ms
        job = (copy.seq, copy.id, copy.ready, copy.run_at_ms, copy.until_ms, now_ms, now_ms, copy.of_seq)
        spec = (copy.seq, copy.expires_ms, copy.deadline_ms, copy.retry_of, copy.enqueued_by, copy.event, copy.of_seq)
        expect(self._db.run(COPY_JOB, job) + self._db.run(COPY_SPEC, spec), 2, "copy")

    def ended(self, state: int, after_seq: int, limit: int) -> list[tuple[Known, int]]:
        """Jobs that are over, in order of arrival, and since when."""
        return [(Known(*row), since_ms) for *row, since_ms in self._db.query(OVER, (state, after_seq, limit))]

    def died_first(self, limit: int) -> list[Known]:
        """So many of the dead jobs, in the order in which they died."""
        return [Known(*row) for row in self._db.query(DIED_FIRST, (limit,))]

    # --- jobs that nobody else is to be like ---

    def holding(self, keys: Iterable[str]) -> dict[str, Known]:
        """The job that has each of these unique keys now."""
        return {key: Known(*row) for key, *row in self._db.query(HOLDING, (json.dumps(list(keys)),))}

    def keys_of(self, seqs: Iterable[int]) -> dict[int, str]:
        """The unique keys of these jobs, as far as they have one."""
        return dict(self._db.query(KEYS_OF, (json.dumps(list(seqs)),)))

    # --- time ---

    def overdue(self, now_ms: int, limit: int) -> list[Overdue]:
        """Waiting jobs that are to be looked at by now, the longest overdue first."""
        return [Overdue(*row) for row in self._db.query(OVERDUE, (now_ms, limit))]

    def next_until_ms(self) -> int | None:
        """When the next waiting job is to be looked at."""
        rows = self._db.query(NEXT_UNTIL)
        return rows[0][0] if rows else None

    def set_free(self, seqs: Sequence[int]) -> None:
        """No time is set for these jobs any more."""
        keys = [(seq,) for seq in seqs]
        self._db.run_many(FREE_JOB, keys)
        self._db.run_many(FREE_SPEC, keys)

    def set_until(self, rows: Sequence[tuple[int | None, int]]) -> None:
        """When jobs are to be looked at: (instant, seq) each."""
        self._db.run_many(SET_UNTIL, rows)

    # --- running jobs that are to end ---

    def ask_to_end(self, seq: int, signal: int, grace_ms: int, reason: str) -> None:
        """A running job is to end; what was said before is forgotten."""
        self._db.run(ADD_CANCELLATION, (seq, signal, grace_ms, reason))

    def has_ended(self, seqs: Sequence[int]) -> None:
        """Nothing is left to be ended."""
        self._db.run_many(DROP_CANCELLATION, [(seq,) for seq in seqs])

    def cancellations(self) -> dict[int, tuple[int, int, str]]:
        """Signal, grace in ms and reason, for each running job that is to end."""
        return {seq: (signal, grace_ms, reason) for seq, signal, grace_ms, reason in self._db.query(CANCELLATIONS)}

    # --- tags ---

    def tag(self, jobs: Sequence[tuple[int, Mapping[str, str]]]) -> None:
        """Jobs are found by these."""
        self._db.run_many(ADD_TAG, _tag_rows(jobs))

    def untag(self, jobs: Sequence[tuple[int, Mapping[str, str]]]) -> None:
        """They are not any more."""
        self._db.run_many(DROP_TAG, _tag_rows(jobs))

    def tags_of(self, seqs: Iterable[int]) -> dict[int, bytes]:
        """The tags of these jobs, as far as they have any, as msgpack."""
        return dict(self._db.query(TAGS_OF, (json.dumps(list(seqs)),)))


def _tag_rows(jobs: Iterable[tuple[int, Mapping[str, str]]]) -> list[tuple[str, str, int]]:
    return [(key, value, seq) for seq, tags in jobs for key, given in tags.items() for value in (given, "")]
