"""Jobs on disk: stored, found, leased, moved, listed. Each verb is a few statements whatever the number of jobs.

Costs do not grow with the number of waiting, delayed or finished jobs: every question is a range of an
index (tests/unit/test_query_plans.py holds the plans).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from broker.store.connection import Connection
from broker.store.rows import (
    Candidate,
    Completion,
    EndingRow,
    Known,
    LeaseRow,
    Move,
    NewJob,
    NewSpec,
    expect,
)

# Stores one job; an id in use leaves it out.
INSERT_JOB = """
INSERT INTO job (id, bucket, priority, state, ready, run_at_ms, attempt, attempts, losses, slot, created_at_ms,
                 updated_at_ms, seq)
VALUES (?1, ?2, ?3, 0, ?4, ?5, 0, 0, 0, 0, ?6, ?6, ?7) ON CONFLICT (id) DO NOTHING"""

INSERT_SPEC = """
INSERT INTO spec (seq, command, max_retries, backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit,
                  keep_children, env, cwd, on_lost, enqueued_by, event)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

# Which of the jobs just stored are there?
STORED = "SELECT seq FROM job WHERE seq BETWEEN ? AND ?"

_SPEC_COLUMNS = """command, max_retries, backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit,
       keep_children, env, cwd, on_lost, rules, deadline_ms, stdin, until_ms"""

_CANDIDATE_COLUMNS = f"""priority, run_at_ms, j.seq, j.id, bucket, state, attempt, attempts, losses,
       {_SPEC_COLUMNS}"""

# The next jobs of a queue, in the order in which they are leased.
CANDIDATES = f"""
SELECT {_CANDIDATE_COLUMNS}
FROM job j CROSS JOIN spec s ON s.seq = j.seq
WHERE bucket = ? AND ready = 1 ORDER BY priority DESC, run_at_ms, j.seq LIMIT ? OFFSET ?"""

# The same among jobs that are suspected to kill their workers.
CANDIDATES_ALONE = CANDIDATES.replace("ready = 1", "ready = 3")

# Where do these queues stand?
HEADS = """
SELECT bucket, priority, run_at_ms, seq FROM json_each(?) CROSS JOIN job ON seq =
       (SELECT seq FROM job WHERE bucket = json_each.value AND ready = 1
        ORDER BY priority DESC, run_at_ms, seq LIMIT 1)"""
HEADS_ALONE = HEADS.replace("ready = 1", "ready = 3")

# Jobs of these ids, with all that was asked for.
SPECIFIED = f"""
SELECT {_CANDIDATE_COLUMNS}
FROM json_each(?) CROSS JOIN job j ON j.id = json_each.value CROSS JOIN spec s ON s.seq = j.seq"""

# A job that waits becomes leased.
LEASE = """
UPDATE job SET state = 1, ready = 0, attempt = attempt + 1, lease = ?, worker = ?, slot = ?, reason = NULL,
               updated_at_ms = ?
WHERE seq = ? AND ready IN (1, 3)"""

# A leased job becomes what its report makes of it, if the lease is still the one reported.
MOVE = """
UPDATE job SET state = ?, ready = ?, run_at_ms = ?, attempt = ?, attempts = ?, losses = ?, lease = ?, reason = ?,
               exit_code = ?, signal = ?, updated_at_ms = ?, finished_at_ms = ?
WHERE seq = ? AND lease = ? AND state = ?"""

# A leased job is completed. Nothing is named that does not change: what is not named, no index is looked at for.
COMPLETE = """
UPDATE job SET state = 2, lease = NULL, exit_code = ?, signal = ?, updated_at_ms = ?, finished_at_ms = ?
WHERE seq = ? AND lease = ? AND state = 1"""

# A job whose lease was lost goes on under the same lease: its worker is back and nobody else has it.
ADOPT = """
UPDATE job SET state = 1, ready = 0, losses = max(losses - 1, 0), worker = ?, slot = 1, reason = NULL,
               updated_at_ms = ?
WHERE seq = ? AND lease = ? AND state = 0"""

# Jobs whose time has come, the longest due first.
PROMOTE = """
UPDATE job SET ready = CASE WHEN losses < ? THEN 1 ELSE 3 END
WHERE seq IN (SELECT seq FROM job WHERE ready = 2 AND run_at_ms <= ? ORDER BY run_at_ms LIMIT ?) RETURNING bucket"""

# The next failed jobs in the order of their numbers; and do they wait for their time, or are they held until then?
RETRIES = """
SELECT seq, ready IN (2, 4) AND run_at_ms > ? FROM job WHERE state <> 0 AND state = 3 AND seq > ? AND seq <= ?
ORDER BY seq LIMIT ?"""

# A retry by so much earlier.
HASTEN = "UPDATE job SET run_at_ms = run_at_ms - ? WHERE seq = ?"

# When is the next delayed job due?
NEXT_DUE = "SELECT run_at_ms FROM job WHERE ready = 2 ORDER BY run_at_ms LIMIT 1"

# Which job is the newest?
LAST_SEQ = "SELECT coalesce(max(seq), 0) FROM job"

# Which queues have jobs to lease?
ANY_READY = "SELECT 1 FROM job WHERE bucket = ? AND ready = 1 LIMIT 1"
ANY_READY_ALONE = "SELECT 1 FROM job WHERE bucket = ? AND ready = 3 LIMIT 1"

# How many ready jobs of a queue come before one: those of a higher priority, and those of the same that are older.
ABOVE = "SELECT count(*) FROM (SELECT 1 FROM job WHERE bucket = ? AND ready = 1 AND priority > ? LIMIT ?)"
BEFORE = """
SELECT count(*) FROM (SELECT 1 FROM job WHERE bucket = ? AND ready = 1 AND priority = ? AND (run_at_ms, seq) < (?, ?)
                      LIMIT ?)"""

_LEASE_COLUMNS = """j.seq, id, bucket, priority, state, run_at_ms, attempt, attempts, losses, lease, worker, slot,
       updated_at_ms, max_retries, backoff_base, backoff_max, backoff_jitter, output_limit,
       on_lost, rules, deadline_ms, until_ms"""

# All leased jobs, when the broker starts.
LEASED = f"SELECT {_LEASE_COLUMNS} FROM job j CROSS JOIN spec s ON s.seq = j.seq WHERE state <> 0 AND state = 1"

# One job by id, with its lease.
LEASE_OF = f"SELECT {_LEASE_COLUMNS} FROM job j CROSS JOIN spec s ON s.seq = j.seq WHERE id = ? AND lease IS NOT NULL"

_KNOWN_COLUMNS = "seq, job.id, bucket, state, attempt, lease, ready"

# How did these end?
ENDINGS = "SELECT job.id, state, exit_code, signal, reason FROM json_each(?) CROSS JOIN job ON seq = json_each.value"

# What is known of these ids?
KNOWN = f"SELECT {_KNOWN_COLUMNS} FROM json_each(?) CROSS JOIN job ON job.id = json_each.value"

# Which ids start like this?
PREFIXED = f"SELECT {_KNOWN_COLUMNS} FROM job WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"

# Dead jobs, the newest first.
DEAD = f"SELECT {_KNOWN_COLUMNS} FROM job WHERE state <> 0 AND state = 4 AND seq < ? ORDER BY seq DESC LIMIT ?"

# A dead job back to the queue, with a fresh budget.
REVIVE = """
UPDATE job SET state = 0, ready = ?, attempts = 0, losses = 0, run_at_ms = ?, reason = NULL, updated_at_ms = ?,
               finished_at_ms = NULL
WHERE seq = ? AND state = 4"""

# Who has enqueued these?
OWNERS = "SELECT seq, enqueued_by FROM json_each(?) CROSS JOIN spec ON seq = json_each.value"

DELETE_JOB = "DELETE FROM job WHERE seq = ?"
DELETE_SPEC = "DELETE FROM spec WHERE seq = ?"


class Jobs:
    """The verbs on jobs. None of them commits."""

    def __init__(self, connection: Connection):
        self._db = connection

    def enqueue(self, jobs: Sequence[NewJob], specs: Sequence[NewSpec]) -> set[int]:
        """Store jobs of consecutive seq; the seqs of those left out because their id is in use."""
        refused: set[int] = set()
        if self._db.run_many(INSERT_JOB, jobs) != len(jobs):
            present = {seq for (seq,) in self._db.query(STORED, (specs[0][0], specs[-1][0]))}
            refused = {spec[0] for spec in specs} - present
            specs = [spec for spec in specs if spec[0] not in refused]
        self._db.run_many(INSERT_SPEC, specs)
        return refused

    def heads(self, buckets: Iterable[int], *, alone: bool = False) -> dict[int, tuple[int, int, int]]:
        """Priority, due time and seq of the next job of each of these queues that has one."""
        rows = self._db.query(HEADS_ALONE if alone else HEADS, (json.dumps(list(buckets)),))
        return {bucket: (priority, run_at_ms, seq) for bucket, priority, run_at_ms, seq in rows}

    def candidates(
        self, bucket: int, limit: int, *, bytes_max: float = inf, offset: int = 0, alone: bool = False
    ) -> list[Candidate]:
        """The next jobs of a queue in leasing order: priority (higher first), due time, arrival.

        With the one that makes them more than `bytes_max` they end.
        """
        sql = CANDIDATES_ALONE if alone else CANDIDATES
        return self._candidates(sql, (bucket, limit, offset), bytes_max)

    def specified(self, ids: Iterable[str], *, bytes_max: float = inf) -> dict[str, Candidate]:
        """What was asked for where jobs of these ids were stored, as far as they are there, in the same order.

        With the one that makes them more than `bytes_max` they end.
        """
        return {row.id: row for row in self._candidates(SPECIFIED, (json.dumps(list(ids)),), bytes_max)}

    def _candidates(self, sql: str, parameters: Sequence[Any], bytes_max: float) -> list[Candidate]:
        def read(rows: Iterable[tuple[Any, ...]]) -> list[Candidate]:
            found: list[Candidate] = []
            left = bytes_max
            for job in map(Candidate._make, rows):
                found.append(job)
                left -= job.size
                if left <= 0:
                    break
            return found

        return self._db.query_some(sql, parameters, read)

    def lease(self, grants: Sequence[tuple[int, int, int, int, int]]) -> None:
        """Lease jobs that are ready: (lease, worker, slot, now_ms, seq) each."""
        expect(self._db.run_many(LEASE, grants), len(grants), "lease")

    def move(self, moves: Sequence[Move]) -> None:
        """Move leased jobs on. A row whose lease is not the one named is a broken invariant: StoreRefused."""
        expect(self._db.run_many(MOVE, moves), len(moves), "move")

    def complete(self, completions: Sequence[Completion]) -> None:
        """Jobs whose command exited 0. A row whose lease is not the one named is a broken invariant: StoreRefused."""
        expect(self._db.run_many(COMPLETE, completions), len(completions), "complete")

    def adopt(self, seq: int, lease: int, worker: int, now_ms: int) -> bool:
        """Give a lost lease back to its worker; False if the job has gone on without it."""
        return self._db.run(ADOPT, (worker, now_ms, seq, lease)) == 1

    def promote_due(self, now_ms: int, limit: int, *, alone_from_losses: int) -> set[int]:
        """Make jobs ready whose time has come; the queues they are in."""
        return {bucket for (bucket,) in self._db.query(PROMOTE, (alone_from_losses, now_ms, limit))}

    def retries(self, after: int, last: int, limit: int, *, now_ms: int) -> list[tuple[int, bool]]:
        """The failed jobs after this one, up to the last, at most so many: (seq, whether its time is yet to come)."""
        return [(seq, bool(waits)) for seq, waits in self._db.query(RETRIES, (now_ms, after, last, limit))]

    def hasten(self, by_ms: int, seqs: Iterable[int]) -> None:
        """These retries are due by so much earlier."""
        self._db.run_many(HASTEN, [(by_ms, seq) for seq in seqs])

    def next_due_ms(self) -> int | None:
        """When the next delayed job is due."""
        rows = self._db.query(NEXT_DUE)
        return rows[0][0] if rows else None

    def last_seq(self) -> int:
        """The number of the newest job that is there; 0 if there is none."""
        return int(self._db.query(LAST_SEQ)[0][0])

    def any_ready(self, bucket: int) -> bool:
        """Whether a queue has a job to lease."""
        return bool(self._db.query(ANY_READY, (bucket,)) or self._db.query(ANY_READY_ALONE, (bucket,)))

    def ahead_of(self, bucket: int, priority: int, run_at_ms: int, seq: int, limit: int) -> int:
        """How many ready jobs of a queue come before this one, counted up to the limit."""
        [(above,)] = self._db.query(ABOVE, (bucket, priority, limit))
        [(before,)] = self._db.query(BEFORE, (bucket, priority, run_at_ms, seq, limit - above))
        return int(above + before)

    def leased(self) -> list[LeaseRow]:
        """All leased jobs."""
        return [LeaseRow(*row) for row in self._db.query(LEASED)]

    def lease_of(self, job_id: str) -> LeaseRow | None:
        """The job of this id, if it has a lease or lost one that nobody took since."""
        rows = self._db.query(LEASE_OF, (job_id,))
        return LeaseRow(*rows[0]) if rows else None

    def known(self, ids: Iterable[str]) -> dict[str, Known]:
        """What is known of these ids."""
        return {row[1]: Known(*row) for row in self._db.query(KNOWN, (json.dumps(list(ids)),))}

    def endings(self, seqs: Iterable[int]) -> list[EndingRow]:
        """How these jobs have ended, or where they stand, in this order; those that were deleted are left out."""
        return [EndingRow(*row) for row in self._db.query(ENDINGS, (json.dumps(list(seqs)),))]

    def prefixed(self, prefix: str, limit: int) -> list[Known]:
        """Jobs whose id starts so."""
        return [Known(*row) for row in self._db.query(PREFIXED, (prefix, prefix + "\x7f", limit))]

    def owners(self, seqs: Iterable[int]) -> dict[int, int | None]:
        """Who has enqueued these jobs."""
        return dict(self._db.query(OWNERS, (json.dumps(list(seqs)),)))

    def dead(self, below_seq: int, limit: int) -> list[Known]:
        """Dead jobs, newest first."""
        return [Known(*row) for row in self._db.query(DEAD, (below_seq, limit))]

    def revive(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """Dead jobs back to pending with a fresh budget; the history stays: (ready, run_at_ms, now_ms, seq) each."""
        expect(self._db.run_many(REVIVE, rows), len(rows), "revive")

    def delete(self, seqs: Sequence[int]) -> None:
        """Delete jobs; their attempts and output are deleted by History."""
        keys = [(seq,) for seq in seqs]
        expect(self._db.run_many(DELETE_JOB, keys), len(seqs), "delete")
        self._db.run_many(DELETE_SPEC, keys)
