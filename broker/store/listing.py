"""Which jobs are meant: slices of a listing, newest first, filtered by what a selection says.

A slice walks over SLICE_ROWS jobs at most, so that no question holds the loop: along the index of tags if there is
one in the question, along that of states, or along the order of arrival. What is left is looked at row by row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.store.connection import Connection
from broker.store.rows import CODES, DUE_LATER, HELD, RESTING, JobRow, Known
from queuectl import where
from queuectl.jobs import JobState
from queuectl.where import Condition

SLICE_ROWS = 10_000  # rows looked at in one slice of a listing: some 10 ms where each must be read

# The reason that is shown. It takes the buckets that no worker serves: nothing here knows of workers.
_REASON = f"""CASE WHEN ready = {HELD} THEN 'held'
     WHEN ready = {DUE_LATER} THEN CASE state WHEN {CODES[JobState.FAILED]} THEN 'backoff' ELSE 'delayed' END
     WHEN ready <> {RESTING} AND bucket IN (SELECT value FROM json_each(?)) THEN 'no_worker'
     ELSE coalesce(j.reason, '') END"""

# What may stand in a condition: the field, and how it is said here.
COLUMNS: dict[str, str] = {
    "id": "id",
    "reason": _REASON,
    "priority": "priority",
    "attempt": "j.attempt",
    "attempts": "attempts",
    "losses": "losses",
    "exit_code": "j.exit_code",
    "signal": "j.signal",
    "run_at": "run_at_ms",
    "created_at": "created_at_ms",
    "updated_at": "updated_at_ms",
    "finished_at": "j.finished_at_ms",
    "unique": "coalesce(unique_key, '')",
    "command": "command",
    "cwd": "coalesce(cwd, '')",
    "max_retries": "max_retries",
    "retry_of": "coalesce(retry_of, '')",
    "worker": "coalesce(w.name, '')",
    "last_line": "coalesce(a.last_line, '')",
}
_OPERATORS = {"!=": "IS NOT"}  # those that SQLite writes otherwise: its own != is never true of NULL

_SPEC = "CROSS JOIN spec s ON s.seq = j.seq"
_REST = """LEFT JOIN worker w ON w.worker = j.worker
     LEFT JOIN attempt a ON a.seq = j.seq AND a.attempt = j.attempt LEFT JOIN cancellation c ON c.seq = j.seq"""

_ROW_COLUMNS = """j.seq, id, bucket, priority, state, ready, run_at_ms, j.attempt, attempts, losses, j.reason,
       j.exit_code, j.signal, created_at_ms, updated_at_ms, j.finished_at_ms, w.name, command, max_retries,
       backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit, keep_children, env, cwd, on_lost,
       enqueued_by, rules, tags, expires_ms, deadline_ms, retry_of, length(stdin), unique_key, c.seq, a.last_line"""

# Everything about one job.
ROW = f"SELECT {_ROW_COLUMNS} FROM job j {_SPEC} {_REST} WHERE j.seq = ?"

_KNOWN_COLUMNS = "j.seq, j.id, bucket, state, j.attempt, j.lease, ready"


@dataclass(frozen=True, slots=True)
class Filter:
    """What the jobs of a listing have in common."""

    states: frozenset[int] | None = None  # codes; None: any
    bucket: int | None = None
    owner: int | None = None  # the actor that enqueued them
    tags: tuple[tuple[str, str], ...] = ()  # key and value; "": any value
    conditions: tuple[Condition, ...] = ()
    since_ms: int | None = None  # created then or later
    held: bool | None = None
    unserved: frozenset[int] = frozenset()  # buckets whose jobs wait for a worker to come, where a reason is asked for

    @property
    def state(self) -> int | None:
        """The one state along whose index a slice may go; waiting jobs are not in it: most jobs wait."""
        if self.states is not None and len(self.states) == 1:
            [state] = self.states
            return state or None
        return None

    @property
    def is_plain(self) -> bool:
        """Whether the index alone says which jobs they are."""
        rest = (self.bucket, self.owner, self.since_ms, self.held)
        return self.state is not None and not self.tags and not self.conditions and rest == (None,) * 4


class Listing:
    """The questions that select jobs."""

    def __init__(self, connection: Connection):
        self._db = connection
        connection.define("contains", 2, _has)

    def row(self, seq: int) -> JobRow:
        """Everything about one job that exists."""
        return JobRow(*self._db.query(ROW, (seq,))[0])

    def page(self, wanted: Filter, *, below_seq: int, limit: int) -> tuple[list[JobRow], int | None]:
        """One slice of a listing, newest first, and where the next one begins (None: that was all)."""
        return self._slice(wanted, _ROW_COLUMNS, JobRow._make, below_seq, limit)

    def known(self, wanted: Filter, *, below_seq: int, limit: int) -> tuple[list[Known], int | None]:
        """The same with as much as is needed to change a job."""
        return self._slice(wanted, _KNOWN_COLUMNS, Known._make, below_seq, limit)

    def _slice(
        self, wanted: Filter, columns: str, make: Callable[[Any], Any], below_seq: int, limit: int
    ) -> tuple[list[Any], int | None]:
        floor = 0 if wanted.is_plain else max(0, below_seq - SLICE_ROWS)
        sql, parameters = statement(wanted, columns, below_seq, floor, limit)
        rows = [make(row) for row in self._db.query(sql, parameters)]
        if len(rows) == limit:
            return rows, rows[-1].seq
        return rows, floor if floor > 0 else None


def statement(wanted: Filter, columns: str, below_seq: int, floor: int, limit: int) -> tuple[str, tuple[Any, ...]]:
    """The question, and what goes into it. The order of the joins is that of the costs."""
    tables, terms = "job j", ["j.seq < ?", "j.seq >= ?"]
    parameters: list[Any] = [below_seq, floor]
    if wanted.tags:
        tables = "tag t CROSS JOIN job j ON j.seq = t.seq"
        terms, parameters = ["t.key = ?", "t.value = ?", "t.seq < ?", "t.seq >= ?"], [*wanted.tags[0], below_seq, floor]
    for text, values in _terms(wanted):
        terms.append(text)
        parameters += values
    order = "t.seq" if wanted.tags else "j.seq"
    sql = f"SELECT {columns} FROM {tables} {_SPEC} {_REST} WHERE {' AND '.join(terms)} ORDER BY {order} DESC LIMIT ?"
    return sql, (*parameters, limit)


def _terms(wanted: Filter) -> list[tuple[str, list[Any]]]:
    terms: list[tuple[str, list[Any]]] = []
    if wanted.state is not None and not wanted.tags:
        terms.append(("state <> 0 AND state = ?", [wanted.state]))
    elif wanted.states is not None:
        terms.append((f"state IN ({', '.join('?' * len(wanted.states))})", sorted(wanted.states)))
    simple = (
        ("bucket = ?", wanted.bucket),
        ("enqueued_by = ?", wanted.owner),
        ("created_at_ms >= ?", wanted.since_ms),
        (f"(ready = {HELD}) = ?", wanted.held),
    )
    terms += [(text, [value]) for text, value in simple if value is not None]
    has_tag = "EXISTS (SELECT 1 FROM tag o WHERE o.key = ? AND o.value = ? AND o.seq = j.seq)"
    terms += [(has_tag, [*tag]) for tag in wanted.tags[1:]]
    terms += [_condition(condition, wanted.unserved) for condition in wanted.conditions]
    return terms


def _condition(condition: Condition, unserved: frozenset[int]) -> tuple[str, list[Any]]:
    column = COLUMNS[condition.field]
    of_column = [json.dumps(sorted(unserved))] if column is _REASON else []
    if condition.op == where.CONTAINS:
        text, value = _contains(column, str(condition.value))
    else:
        text, value = f"{column} {_OPERATORS.get(condition.op, condition.op)} ?", condition.value
    return text, [*of_column, value]


def _contains(column: str, text: str) -> tuple[str, int | str]:
    if text.isascii():  # SQLite lowers these letters and no others, and faster than Python
        return f"instr(lower({column}), ?) > 0", text.lower()
    return f"contains({column}, ?)", text.casefold()


def _has(text: str, folded: str) -> bool:
    return folded in text.casefold()
