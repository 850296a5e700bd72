"""Which jobs are meant: slices of a listing, newest first, filtered by what a selection says.

A slice takes no longer than SLICE_S, so that no question holds the loop, however many jobs there are and however long
their commands. It walks along the index of tags if there is one in the question, along that of states, or along the
order of arrival. What is left is looked at row by row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from broker.store.connection import Connection
from broker.store.rows import CODES, DUE_LATER, HELD, RESTING, JobRow, Known
from queuectl import where
from queuectl.jobs import JobState
from queuectl.where import Condition

SLICE_S = 0.01
FIRST_STEP, STEP_MAX = 32, 1024  # jobs looked at before it is seen how long that took: few, then more and more
PAGE_CHARS = 2**20  # of commands, environments and tags in one page; one job more may come on top

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

# Where in the feed does a job begin?
BEGINNING = "SELECT event, created_at_ms FROM job j CROSS JOIN spec s ON s.seq = j.seq WHERE j.seq = ?"

# The newest job before a place: where many were deleted, nothing is looked at.
NEWEST_BEFORE = "SELECT coalesce(max(seq), 0) FROM job WHERE seq < ?"

# Everything about one job.
ROW = f"SELECT {_ROW_COLUMNS} FROM job j {_SPEC} {_REST} WHERE j.seq = ?"

Take = Callable[[tuple[Any, ...]], bool]  # gets a row, and says whether it wants more

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
        self.clock: Callable[[], float] = perf_counter
        connection.define("contains", 2, _has)

    def row(self, seq: int) -> JobRow:
        """Everything about one job that exists."""
        return JobRow(*self._db.query(ROW, (seq,))[0])

    def beginning(self, seq: int) -> tuple[int | None, int]:
        """The row of the feed that tells that a job came, if that was noted, and when it came."""
        [(event, created_at_ms)] = self._db.query(BEGINNING, (seq,))
        return event, created_at_ms

    def page(self, wanted: Filter, *, below_seq: int, limit: int) -> tuple[list[JobRow], int | None]:
        """One slice of a listing, newest first, and where the next one begins (None: that was all)."""
        rows: list[JobRow] = []
        chars = 0

        def take(row: tuple[Any, ...]) -> bool:
            nonlocal chars
            job = JobRow._make(row)
            rows.append(job)
            chars += job.size
            return len(rows) < limit and chars <= PAGE_CHARS

        return rows, self._walk(wanted, _ROW_COLUMNS, below_seq, take)

    def known(self, wanted: Filter, *, below_seq: int, limit: int) -> tuple[list[Known], int | None]:
        """The same with as much as is needed to change a job."""
        rows: list[Known] = []

        def take(row: tuple[Any, ...]) -> bool:
            rows.append(Known._make(row))
            return len(rows) < limit

        return rows, self._walk(wanted, _KNOWN_COLUMNS, below_seq, take)

    def _walk(self, wanted: Filter, columns: str, below_seq: int, take: Take) -> int | None:
        """Hand over rows while `take` wants more and there is time; where to go on (None: that was all)."""
        if wanted.is_plain:
            return self._hand_over(wanted, columns, below_seq, 0, take)
        step, below, now = FIRST_STEP, self._newest(below_seq) + 1, self.clock()
        end = now + SLICE_S
        while below > 1:
            floor = max(1, below - step)
            stopped_at = self._hand_over(wanted, columns, below, floor, take)
            if stopped_at is not None:
                return stopped_at
            below = self._newest(floor) + 1
            before, now = now, self.clock()
            if now + 2 * (now - before) > end:
                break
            step = min(2 * step, STEP_MAX)
        return below if below > 1 else None

    def _hand_over(self, wanted: Filter, columns: str, below_seq: int, floor: int, take: Take) -> int | None:
        """The seq of the row with which `take` had enough; None: these were all."""

        def read(rows: Iterable[tuple[Any, ...]]) -> int | None:
            return next((int(row[0]) for row in rows if not take(row)), None)

        return self._db.query_some(*statement(wanted, columns, below_seq, floor), read)

    def _newest(self, below_seq: int) -> int:
        """The newest job before a place; 0: there is none."""
        [(seq,)] = self._db.query(NEWEST_BEFORE, (below_seq,))
        return int(seq)


def statement(wanted: Filter, columns: str, below_seq: int, floor: int) -> tuple[str, tuple[Any, ...]]:
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
    sql = f"SELECT {columns} FROM {tables} {_SPEC} {_REST} WHERE {' AND '.join(terms)} ORDER BY {order} DESC"
    return sql, tuple(parameters)


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
