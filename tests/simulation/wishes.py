"""What people asked of jobs, held against what became of them: each effect is in the commit that stored the reply.

Held jobs are not leased, those that were told to end do so, edits hold for every later lease, nothing is started or
ended at a time that nobody chose, and nothing is deleted that is not over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from broker.core.deletion import KEPT_FOR
from broker.core.endings import EXPIRED
from broker.core.memory import rules_of
from broker.core.unique import REPLACED
from broker.lifecycle import OVERDUE, code_of
from broker.store.rows import STATES
from queuectl.jobs import TERMINAL, JobState, Outcome
from queuectl.messages import Grant

if TYPE_CHECKING:
    from tests.simulation.checks import Row
    from tests.simulation.client import Asked
    from tests.simulation.cluster import Cluster

TIMES = "SELECT expires_ms, deadline_ms FROM spec WHERE seq = ?"
GRANTED = "SELECT updated_at_ms, deadline_ms FROM job JOIN spec USING (seq) WHERE seq = ?"
RULES = "SELECT rules FROM spec WHERE seq = ?"
STOPPING = "SELECT seq FROM cancellation"
DELETED = "SELECT rowid, id, state, finished_at_ms FROM deleted WHERE rowid > ? ORDER BY rowid"
_GRANTED = ("command", "queue", "max_retries")  # what a grant tells of what may be edited
_RUNNING, _CANCELLED = STATES.index(JobState.PROCESSING), STATES.index(JobState.CANCELLED)
_UNHARMED = frozenset({JobState.COMPLETED, JobState.CANCELLED})


class Reply(NamedTuple):
    """A reply as it was stored with its effect."""

    asked: Asked
    data: dict[str, Any]


class Wishes:
    """What is wished of each job now."""

    def __init__(self, cluster: Cluster, fail: Callable[[str], NoReturn]) -> None:
        self._cluster, self._fail = cluster, fail
        self._ask = cluster.broker.connection.ask
        self.stopping: frozenset[int] = frozenset()  # jobs that run and were told to end, as the store had it last
        self._stopping_now = self.stopping
        self.deleted: set[str] = set()  # ids of jobs that were there once
        self._told: set[int] = set()  # those that somebody cancelled since the last look
        self._held: set[int] = set()
        self._grants: dict[int, dict[str, Any]] = {}  # by job: what its next grant has to say
        self._purged: set[str] = set()  # since the last look
        self._last_deleted = 0

    # --- what people said ------------------------------------------------------------------------------

    def on_new(self, row: Row, spec: dict[str, Any]) -> None:
        """A job is there; `spec` is what was asked for."""
        self._grants[row.seq] = {key: spec[key] for key in _GRANTED if key in spec}
        if spec.get("hold"):
            self._held.add(row.seq)

    def hear(self, replies: list[Reply], rows: dict[int, Row], seq_of: dict[str, int], unsure: set[int]) -> None:
        """Replies in the order in which they were stored. `unsure`: jobs whose id was another's a moment ago."""
        self._told = set()
        self._purged = set()
        self._stopping_now = frozenset(seq for (seq,) in self._ask(STOPPING))
        for reply in replies:
            if reply.asked.op in _HEARD and not reply.asked.args.get("dry"):
                names = [name for name in reply.data["ids"] if seq_of.get(name) in rows]
                named = [rows[seq_of[name]] for name in names]
                _HEARD[reply.asked.op](self, reply, [row for row in named if row.seq not in unsure])
                ending = [rows[seq_of[name]] for name in reply.data.get("stopping", ()) if seq_of.get(name) in rows]
                self._on_asked_to_end([row for row in ending if row.seq not in unsure])
                for old, copy in reply.data.get("copies", {}).items():
                    if copy in seq_of:  # either may have been purged in the same turn, and its name be another's
                        is_known = old in seq_of and seq_of[old] not in unsure
                        self._grants[seq_of[copy]] = dict(self._grants[seq_of[old]]) if is_known else {}
        for seq in unsure:
            self._grants[seq] = {}

    def _on_cancelled(self, reply: Reply, jobs: list[Row]) -> None:
        for row in jobs:
            self._told.add(row.seq)
            if row.state != _CANCELLED:
                self._fail(f"{row.id} was cancelled by {reply.asked.id}, as that was told, and is {row}")

    def _on_asked_to_end(self, jobs: list[Row]) -> None:
        for row in jobs:
            self._told.add(row.seq)
            if STATES[row.state] not in _UNHARMED and (row.state != _RUNNING or row.seq not in self._stopping_now):
                self._fail(f"{row.id} is to end, as somebody was told, and the store does not know: {row}")

    def _on_held(self, reply: Reply, jobs: list[Row]) -> None:
        self._held |= {row.seq for row in jobs}

    def _on_released(self, reply: Reply, jobs: list[Row]) -> None:
        self._held -= {row.seq for row in jobs}

    def _on_edited(self, reply: Reply, jobs: list[Row]) -> None:
        was = self._cluster.checks.rows
        for row in jobs:
            if row.state == _RUNNING and row.seq in was and was[row.seq].lease == row.lease:
                self._fail(f"{row.id} was edited by {reply.asked.id} while it ran: {row}")
        changes = {key: value for key, value in reply.asked.args["changes"].items() if key in _GRANTED}
        for row in jobs:
            self._grants[row.seq] |= changes

    def _on_retried(self, reply: Reply, jobs: list[Row]) -> None: ...

    def _on_purged(self, reply: Reply, jobs: list[Row]) -> None:
        self._purged |= set(reply.data["ids"])
        if jobs:
            self._fail(f"{reply.asked.id} was told that these are deleted: {jobs}")

    # --- what became of it ---------------------------------------------------------------------------------

    def on_move(self, before: Row | None, row: Row, rows: dict[int, Row]) -> None:
        """A job is not what it was; None: it was not there."""
        was_leased = before is not None and before.state == _RUNNING and before.lease == row.lease
        if row.state == _RUNNING and not was_leased:
            self._on_leased(before, row)
        if before is not None and before.state == _RUNNING and row.seq in self.stopping:
            self._expect_to_end(before, row)
        if STATES[row.state] in TERMINAL and (before is None or before.state != row.state):
            self._held.discard(row.seq)
            self._expect_cause(before, row, rows)

    def _on_leased(self, before: Row | None, row: Row) -> None:
        if row.seq in self._held:
            self._fail(f"{row.id} is held, and was leased: {before}, {row}")
        if before is not None and before.lease == row.lease:  # it had run all the time
            if (process := self._cluster.processes.by_lease.get(before.lease or 0)) is not None:
                self._expect_as_edited(row.seq, process.grant)
            return
        now_ms = self._cluster.broker.clock().wall_ms
        [(expires_ms, deadline_ms)] = self._ask(TIMES, (row.seq,))
        if row.attempt == 1 and expires_ms is not None and now_ms >= expires_ms:
            self._fail(f"{row.id} was to be started by {expires_ms}, and was leased at {now_ms}")
        if deadline_ms is not None and now_ms >= deadline_ms:
            self._fail(f"{row.id} was to be over by {deadline_ms}, and was leased at {now_ms}")

    def _expect_to_end(self, before: Row, row: Row) -> None:
        if row.state == _RUNNING and row.lease == before.lease and row.seq in self._stopping_now:
            return
        if STATES[row.state] not in _UNHARMED:
            self._fail(f"{row.id} was told to end, and went on from {before} to {row}")

    def _expect_cause(self, before: Row | None, row: Row, rows: dict[int, Row]) -> None:
        """Nobody's job is cancelled, expires or misses its deadline for nothing."""
        [(expires_ms, deadline_ms)] = self._ask(TIMES, (row.seq,))
        assert row.finished_at_ms is not None
        is_waiting = before is None or before.state != _RUNNING
        if row.state != _CANCELLED:
            if row.reason == OVERDUE and is_waiting and not (deadline_ms and deadline_ms <= row.finished_at_ms):
                self._fail(f"{row} has not missed its deadline {deadline_ms}")
        elif row.reason == EXPIRED:
            if row.attempt or expires_ms is None or expires_ms > row.finished_at_ms:
                self._fail(f"{row} has not expired at {expires_ms}")
        elif row.reason == REPLACED:
            if not any(other.unique_key == row.unique_key and other.seq > row.seq for other in rows.values()):
                self._fail(f"{row} is replaced by nothing")
        elif row.seq not in self._told | self.stopping:
            self._fail(f"{row} was cancelled by nobody")

    def on_result(self, row: Row, outcome: str, exit_code: int | None, signal: int | None, *, is_revived: bool) -> None:
        """A worker has told how an attempt ended: what must not be retried is not, unless a person wants it."""
        if outcome == Outcome.COMPLETED and STATES[row.state] is not JobState.COMPLETED:
            self._fail(f"{row.id} was a success, and is {row}")
        [(packed,)] = self._ask(RULES, (row.seq,))
        _, retry_on, no_retry_on = rules_of(packed)
        code = code_of(Outcome(outcome), exit_code, signal)
        is_final = code in no_retry_on or bool(retry_on and code not in retry_on)
        if is_final and outcome != Outcome.COMPLETED and not is_revived and STATES[row.state] not in TERMINAL:
            self._fail(f"{row.id} ended with {code}, must not be retried after that, and is {row}")

    def on_push(self, seq: int, fields: list[Any]) -> None:
        """A lease is on its way to a worker."""
        grant = msgspec.convert(fields, Grant)
        self._expect_as_edited(seq, grant)
        [(granted_ms, deadline_ms)] = self._ask(GRANTED, (seq,))
        if deadline_ms is not None and (
            grant.timeout_ms is None or grant.timeout_ms > max(1, deadline_ms - granted_ms)
        ):
            self._fail(
                f"{grant.job}/{grant.attempt} has until {deadline_ms}, and at {granted_ms} got {grant.timeout_ms}"
            )

    def _expect_as_edited(self, seq: int, grant: Grant) -> None:
        for key, value in self._grants.get(seq, {}).items():
            if getattr(grant, key) != value:
                self._fail(f"{grant.job} was to have {key} {value}, and is run with {getattr(grant, key)}")

    # --- what is deleted ---------------------------------------------------------------------------------------

    def on_looked(self, rows: dict[int, Row]) -> None:
        """All changes since the last look are told."""
        self.stopping = self._stopping_now
        for number, name, code, ended_ms in self._ask(DELETED, (self._last_deleted,)):
            self._last_deleted = number
            self.deleted.add(name)
            state = STATES[code]
            if state not in TERMINAL:
                self._fail(f"{name} was deleted while it was {state}")
            if name not in self._purged and not self._is_retired(state, ended_ms, rows):
                self._fail(f"{name} ({state} at {ended_ms}) was deleted, and nobody wanted that")

    def _is_retired(self, state: JobState, ended_ms: int, rows: dict[int, Row]) -> bool:
        core = self._cluster.broker.core
        if core is None:
            return True  # nobody knows any more what time it was to the broker
        most, kept_s = core.settings["keep_dead_max"], core.settings[KEPT_FOR[state]]
        assert isinstance(kept_s, int | float | None)
        assert isinstance(most, int | None)
        if state is JobState.DEAD and most is not None:
            others_ms = [row.finished_at_ms or 0 for row in rows.values() if STATES[row.state] is JobState.DEAD]
            if len(others_ms) >= most and ended_ms <= min(others_ms):  # who died first goes first
                return True
        now_ms = core.surely_ms(self._cluster.broker.clock()) + self._cluster.broker.late_ms
        return kept_s is not None and ended_ms <= now_ms - round(kept_s * 1000)


_HEARD: dict[str, Callable[[Wishes, Reply, list[Row]], None]] = {
    "cancel": Wishes._on_cancelled,
    "hold": Wishes._on_held,
    "release": Wishes._on_released,
    "edit": Wishes._on_edited,
    "retry": Wishes._on_retried,
    "purge": Wishes._on_purged,
    "dlq_purge": Wishes._on_purged,
}
