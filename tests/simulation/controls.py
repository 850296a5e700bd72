"""Rules broken on purpose: with any of them the simulator has to fail, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from broker.backoff import Policy
from broker.core import Core, Turn, deletion, edits, endings, grants, reports, sessions, stops, unique
from broker.core.memory import Session
from broker.core.rooms import Group
from broker.core.state import State
from broker.lifecycle import TRANSITIONS, Decision, Event
from broker.loop import Loop
from broker.store import changes, history, jobs
from broker.store.changes import Changes, Copy, Editable
from broker.store.connection import Connection, _prepare
from broker.store.ledger import Ledger
from broker.store.rows import CODES, Candidate, Known
from queuectl.clock import Now
from queuectl.jobs import JobState
from queuectl.messages import Beat, Result
from tests.simulation import cluster, disk
from tests.simulation.plan import Plan, make_plan, plan_amid
from tests.simulation.report import run_seed
from worker.core.slots import Slots


class Control(NamedTuple):
    """A broken rule, and the seeds of which at least one has to find it.

    `amid`: the kinds of faults that bring it to light. There is much of these and of no others; empty: as a seed has
    it. Where it shows seldom, the seeds are many, and begin near to one that finds it.
    """

    seeds: range
    broken: Callable[[], AbstractContextManager[object]]
    amid: tuple[str, ...] = ()

    def find(self) -> int | None:
        """The first seed that sees that the rule is broken."""
        with self.broken():
            return next((seed for seed in self.seeds if self.look(seed)), None)

    def look(self, seed: int) -> str | None:
        """What a seed finds, by the rules as they are now."""
        with patch.object(cluster, "make_plan", self._plan):
            return run_seed(seed).violation

    def _plan(self, seed: int, scheduled: tuple[str, ...]) -> Plan:
        plan = make_plan(seed, scheduled)
        return plan_amid(plan, self.amid) if self.amid else plan


_settle = reports._settle


def _settle_by_job(core: State, turn: Turn, session: Session, result: Result) -> str | None:
    lease = next((each for each in core.leases.values() if each.job == result.job), None)
    if lease is not None:
        result = msgspec.structs.replace(result, lease=lease.lease, attempt=lease.attempt)
    return _settle(core, turn, session, result)


def _send_then_commit(
    self: Loop,
    now: Now,
    workers: Sequence[Any],
    clients: Sequence[Any],
    gone: Sequence[bytes] = (),
    *,
    drained: bool = False,
    with_duties: bool = True,
) -> Turn:
    self._store.begin()
    try:
        turn = self.core.turn(now, workers, clients, gone=gone, drained=drained, with_duties=with_duties)
        self._send(turn)
        self._store.commit()
    except BaseException:
        self._undo(now)
        raise
    return Turn(now)


_on_beat = sessions._HANDLERS[Beat]


def _on_beat_at_once(core: State, turn: Turn, session: Session, beat: Beat) -> None:
    for lease in session.holder.leases.values():
        lease.push = 0
    _on_beat(core, turn, session, beat)


@contextmanager
def _without_keys() -> Iterator[None]:
    """Neither the core nor the database minds unique keys."""

    def prepare(connection: Connection, *, create: bool) -> None:
        _prepare(connection, create=create)
        connection.run("DROP INDEX job_unique")

    with patch.object(disk, "_prepare", prepare), patch.object(Changes, "holding", lambda self, keys: {}):
        yield


_settle_keys = unique.settle


def _settle_and_forget(*about: Any) -> tuple[Any, Any, Any]:
    new, found, refused = _settle_keys(*about)
    return [(place, spec) for place, spec in new if spec.on_conflict != "replace"], found, refused


_grant_group = grants._grant_group


def _grant_whatever_time_it_is(core: State, turn: Turn, group: Group, candidates: list[Candidate]) -> int:
    return _grant_group(core, turn, group, [candidate._replace(until_ms=None) for candidate in candidates])


def _sweep_nothing(core: State, turn: Turn) -> None:
    core.next_until_ms = None


@contextmanager
def _without_time() -> Iterator[None]:
    with (
        patch.object(endings, "sweep", _sweep_nothing),
        patch.object(grants, "_grant_group", _grant_whatever_time_it_is),
    ):
        yield


@contextmanager
def _ending_one_at_a_time() -> Iterator[None]:
    """Of what is overdue at one moment the first job is ended, and the others are leased before it is their turn."""
    with (
        patch.object(endings, "SWEPT_PER_TURN", 1),
        patch.object(grants, "_grant_group", _grant_whatever_time_it_is),
    ):
        yield


_end_waiting = endings.end_waiting


def _cancel_overrun(core: State, turn: Turn, found: Sequence[Any], event: Event, reason: str) -> None:
    _end_waiting(core, turn, found, Event.CANCEL if event is Event.OVERRUN else event, reason)


@contextmanager
def _cancelling_the_dead() -> Iterator[None]:
    with (
        patch.dict(TRANSITIONS, {(JobState.DEAD, Event.CANCEL): JobState.CANCELLED}),
        patch.object(stops, "CANCELLABLE", stops.CANCELLABLE | {JobState.DEAD}),
        patch.object(changes, "END_WAITING", changes.END_WAITING.replace("state = 3", "state IN (3, 4)")),
    ):
        yield


def _respecify(self: Changes, edited: Sequence[Editable], now_ms: int) -> None:
    self._db.run_many(changes.RESPECIFY, [(job.command, job.max_retries, job.timeout_ms, job.seq) for job in edited])


@contextmanager
def _editing_what_runs() -> Iterator[None]:
    """Neither the core nor the store minds that a job runs."""
    with (
        patch.object(edits, "WAITING", unique.WAITING | {JobState.PROCESSING}),
        patch.object(Changes, "edit", _respecify),
    ):
        yield


_copy = Changes.copy


def _copy_without_lineage(self: Changes, copy: Copy) -> None:
    _copy(self, copy._replace(retry_of=""))


_note_end = reports._note_end


def _note_end_twice(*about: Any) -> None:
    _note_end(*about)
    _note_end(*about)


_forgive = Loop._forgive


def _forgive_while_it_goes_on(self: Loop, late_ms: int, turn_ms: int) -> None:
    if not self.core.stopping:
        _forgive(self, late_ms, turn_ms)


_ended = Changes.ended


def _ended_long_ago(self: Changes, state: int, after_seq: int, limit: int) -> list[tuple[Known, int]]:
    return [(job, 0) for job, _ in _ended(self, state, after_seq, limit)]


def _came_first(self: Changes, limit: int) -> list[Known]:
    return [job for job, _ in _ended(self, CODES[JobState.DEAD], 0, limit)]


_ONE_DEED = """
INSERT INTO deed (seq, number, at_ms, action, actor, note, state, attempt)
SELECT ?1, (SELECT coalesce(max(number), 0) + 1 FROM deed WHERE seq = ?1), ?2, ?3, ?4, ?5, ?6, ?7
WHERE NOT EXISTS (SELECT 1 FROM deed WHERE (seq, at_ms, action, actor) = (?1, ?2, ?3, ?4))"""


def _keep_new_replies(self: Ledger, replies: Sequence[tuple[str, str, int, bytes]]) -> None:
    self._db.run_many("INSERT OR IGNORE INTO reply (id, op, at_ms, body) VALUES (?, ?, ?, ?)", replies)


CONTROLS: dict[str, Control] = {
    "a stale result is taken for the run of the moment": Control(
        range(1, 50), lambda: patch.object(reports, "_settle", _settle_by_job)
    ),
    "the reply leaves before the commit": Control(
        range(1, 50), lambda: patch.object(Loop, "_commit", _send_then_commit)
    ),
    "a lease that is on its way is granted again": Control(
        range(1, 50), lambda: patch.dict(sessions._HANDLERS, {Beat: _on_beat_at_once})
    ),
    "a request is carried out as often as it is sent": Control(
        range(1, 50),
        lambda: patch.multiple(Ledger, replies=lambda self, request_ids: {}, keep_replies=_keep_new_replies),
    ),
    "a stall of the broker is blamed on its workers": Control(
        range(1, 50), lambda: patch.object(Core, "forgive", lambda self, stall_ms: None), ("all_paused",)
    ),
    "the last turn of a broker that stops blames its stall on its workers": Control(
        range(5, 105),
        lambda: patch.object(Loop, "_forgive", _forgive_while_it_goes_on),
        ("broker_stopped", "store_stalled"),
    ),
    "what was given back is not said again": Control(
        range(10, 130),
        lambda: patch.object(Slots, "untell", lambda self: self._told.clear()),
        ("worker_stopped_now", "workers_told_to_stop", "message_delayed", "connection_reset"),
    ),
    "a turn that failed stays in memory": Control(
        range(1, 50), lambda: patch.object(Loop, "_undo", lambda self, now: self._store.rollback())
    ),
    "a cancellation is told and not carried out": Control(
        range(1, 50), lambda: patch.object(stops, "end_waiting", lambda *about: None)
    ),
    "that a job is to end is not stored": Control(
        range(1, 50), lambda: patch.object(Changes, "ask_to_end", lambda self, *about: None)
    ),
    "that a job was to end is never forgotten": Control(
        range(1, 50), lambda: patch.object(Changes, "has_ended", lambda self, seqs: None)
    ),
    "a worker is told once only that a job is to end": Control(
        range(10, 130),
        lambda: patch.object(sessions, "stops", SimpleNamespace(remind=lambda *about: None)),
        ("partition_from_broker", "jobs_changed", "broker_killed"),
    ),
    "a job that was told to end goes on where its attempt fails": Control(
        range(1, 50),
        lambda: patch.object(reports, "_unless_cancelled", lambda lease, decision: decision),
        ("jobs_changed", "worker_paused"),
    ),
    "a job that was told to end is cancelled though it succeeded": Control(
        range(1, 50),
        lambda: patch.object(
            reports, "decide_cancelled", lambda decision, attempts: Decision(Event.CANCEL, attempts, decision.losses)
        ),
        ("jobs_changed", "worker_paused"),
    ),
    "a held job is leased when its time has come": Control(
        range(1, 50), lambda: patch.object(jobs, "PROMOTE", jobs.PROMOTE.replace("ready = 2", "ready IN (2, 4)"))
    ),
    "a lost run of a held job goes on": Control(
        range(1, 100),
        lambda: patch.object(changes, "SET_READY", changes.SET_READY.replace("lease = NULL, ", "")),
        ("partition", "worker_paused"),
    ),
    "a lost run of a job goes on after an edit": Control(
        range(1, 100),
        lambda: patch.object(changes, "PLACE", changes.PLACE.replace("lease = NULL, ", "")),
        ("worker_paused",),
    ),
    "an edit is told and not carried out": Control(
        range(1, 50),
        lambda: patch.object(
            changes, "RESPECIFY", changes.RESPECIFY.replace("command = ?", "command = coalesce(command, ?)")
        ),
        ("worker_paused",),
    ),
    "a budget is cut below what was used of it": Control(
        range(5, 100),
        lambda: patch.object(edits, "_spent", lambda core, chosen, max_retries: {}),
        ("command_failed", "command_signalled", "jobs_changed"),
    ),
    "two jobs have one key": Control(range(1, 50), _without_keys),
    "a job is replaced by nothing": Control(
        range(1, 50), lambda: patch.object(unique, "settle", _settle_and_forget), ("jobs_changed",)
    ),
    "what is overdue is leased": Control(range(1, 50), _without_time),
    "what is overdue at one moment is ended one by one, and leased meanwhile": Control(
        range(5, 100), _ending_one_at_a_time
    ),
    "an attempt takes as long as it likes, whatever the deadline of its job": Control(
        range(1, 50), lambda: patch.object(grants, "_longest_run_ms", lambda turn, candidate: candidate.timeout_ms)
    ),
    "what has missed its deadline is cancelled": Control(
        range(1, 50), lambda: patch.object(endings, "end_waiting", _cancel_overrun)
    ),
    "dead jobs are cancelled": Control(range(1, 50), _cancelling_the_dead, ("command_failed",)),
    "jobs that run are edited": Control(range(1, 50), _editing_what_runs, ("jobs_changed",)),
    "a copy forgets which job it runs again": Control(
        range(1, 50), lambda: patch.object(Changes, "copy", _copy_without_lineage)
    ),
    "the feed tells twice that an attempt is over": Control(
        range(1, 50), lambda: patch.object(reports, "_note_end", _note_end_twice)
    ),
    "failures that must not be retried are": Control(
        range(1, 50),
        lambda: patch.object(Policy, "retries", lambda self, code: True),
        ("command_failed", "command_signalled"),
    ),
    "running jobs are purged": Control(range(1, 50), lambda: patch.object(deletion, "TERMINAL", frozenset(JobState))),
    "jobs are deleted before their time": Control(
        range(1, 50), lambda: patch.object(Changes, "ended", _ended_long_ago)
    ),
    "of too many dead jobs those go that were enqueued first": Control(
        range(220, 300), lambda: patch.object(Changes, "died_first", _came_first)
    ),
    "of two deeds of a millisecond one is kept": Control(
        range(1, 100), lambda: patch.object(history, "INSERT_DEED", _ONE_DEED), ("jobs_changed",)
    ),
    "that a worker was told to stop is not stored": Control(
        range(40, 140),
        lambda: patch.object(Ledger, "note_stops", lambda self, stops: None),
        ("workers_told_to_stop", "broker_killed", "connection_reset"),
    ),
    "tags outlive their jobs": Control(range(1, 50), lambda: patch.object(Changes, "untag", lambda self, jobs: None)),
}
