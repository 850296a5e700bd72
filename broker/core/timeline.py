"""What has happened to one job, from what is stored of it: whole, even where the feed has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.core import views
from broker.core.asks import CANCELLED
from broker.core.state import State
from broker.store.history import AttemptView, DeedView
from broker.store.rows import CODES, STATES, JobRow
from queuectl.jobs import JobState, Outcome
from queuectl.times import rfc3339

# When, its place among what happened in the same millisecond, the type of event, its fields.
Entry = tuple[int, tuple[int, int], str, dict[str, Any]]

# A place is the number of runs started by then, and one of these.
_LEASED, _DONE_WHILE_IT_RAN, _ENDED, _DONE, _LAST, _DONE_AFTERWARDS = range(6)
_FIRST = (-1, 0)
# For good: whoever runs them again has a copy.
_OVER = frozenset(CODES[state] for state in (JobState.COMPLETED, JobState.CANCELLED))
_RUNNING, _DEAD = CODES[JobState.PROCESSING], CODES[JobState.DEAD]

_LED_TO = {
    Outcome.COMPLETED.value: "completed",
    Outcome.CANCELLED.value: "cancelled",
}  # what others led to is not stored
_WITHOUT_RESULT = {Outcome.LOST: "lost", Outcome.RELEASED: "requeued"}
_ENDINGS = frozenset({CANCELLED, "replaced"})  # deeds that end a job which waits


def of(core: State, seq: int) -> list[dict[str, Any]]:
    """The events of a job, oldest first; of its attempts and of what people did to it, the latest thousand each."""
    row = core.store.listing.row(seq)
    ended = core.store.history.attempts(seq)
    deeds = [_dated(row, ended, deed) for deed in core.store.history.deeds(seq)]
    entries = [*_beginning(core, row), *_attempts(core, row, ended), *_deaths(ended, deeds)]
    entries += [*_deeds(core, deeds), *_end(row, deeds)]
    entries.sort(key=lambda entry: entry[:2])
    return [views.event(at_ms, kind, {"job_id": row.id, **fields}) for at_ms, _, kind, fields in entries]


def _beginning(core: State, row: JobRow) -> Iterator[Entry]:
    about = {"queue": core.queues[row.bucket], "by": core.actor_name(row.enqueued_by)}
    yield row.created_at_ms, _FIRST, "enqueued", about


def _attempts(core: State, row: JobRow, attempts: list[AttemptView]) -> Iterator[Entry]:
    for ended in attempts:
        about = {"attempt": ended.attempt, "worker": ended.worker}
        begun_ms = min(max(ended.started_at_ms, row.created_at_ms), ended.finished_at_ms)  # by its worker's clock
        yield begun_ms, (ended.attempt, _LEASED), "leased", about
        yield ended.finished_at_ms, (ended.attempt, _ENDED), *_ended(row, ended, about)
    for lease in core.leases.values():
        if lease.seq == row.seq:
            about = {"attempt": lease.attempt, "worker": lease.holder.worker.name}
            yield lease.granted_at_ms, (lease.attempt, _LEASED), "leased", about


def _ended(row: JobRow, ended: AttemptView, about: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if ended.outcome in _WITHOUT_RESULT:
        return _WITHOUT_RESULT[Outcome(ended.outcome)], {**about, "reason": ended.note, "state": None}
    shown = views.attempt(ended)
    result = {field: shown[field] for field in ("outcome", "exit_code", "signal", "duration_s")}
    if ended.attempt == row.attempt and STATES[row.state] is JobState.FAILED:
        return "finished", {**about, **result, "state": "failed", "run_at": rfc3339(row.run_at_ms)}
    return "finished", {**about, **result, "state": _LED_TO.get(ended.outcome), "run_at": None}


def _deaths(attempts: list[AttemptView], deeds: list[DeedView]) -> Iterator[Entry]:
    """The ends from which somebody has brought a job back: they came with those of the attempts."""
    endings = {ended.attempt: ended for ended in attempts}
    for deed in deeds:
        if deed.state == _DEAD and deed.attempt in endings:
            ended = endings[deed.attempt]
            yield ended.finished_at_ms, (ended.attempt, _ENDED), "dead", {"reason": ended.outcome}


def _dated(row: JobRow, attempts: list[AttemptView], deed: DeedView) -> DeedView:
    """A deed with where its job stood then: of an old one that is told by the time, as far as it can be."""
    if deed.state is not None:
        return deed
    asked = deed.action == CANCELLED and deed.at_ms != row.finished_at_ms  # it was over later
    over = max((ended.attempt for ended in attempts if ended.finished_at_ms <= deed.at_ms), default=0)
    return deed._replace(state=_RUNNING if asked else CODES[JobState.PENDING], attempt=over + asked)


def _deeds(core: State, deeds: list[DeedView]) -> Iterator[Entry]:
    before: tuple[int, tuple[int, int]] = (0, _FIRST)
    for deed in deeds:
        field = "changes" if deed.action == "edited" else "reason"
        about = {"by": core.actor_name(deed.actor), field: deed.note or None}
        place = _place(deed)
        if deed.at_ms == before[0]:  # a lease that is given back is as if it had not been
            place = max(place, before[1])
        before = deed.at_ms, place
        yield deed.at_ms, place, "cancel_asked" if _was_asked(deed) else deed.action, about


def _place(deed: DeedView) -> tuple[int, int]:
    assert deed.attempt is not None
    if deed.state in _OVER:
        return deed.attempt, _DONE_AFTERWARDS
    return deed.attempt, _DONE_WHILE_IT_RAN if deed.state == _RUNNING else _DONE


def _was_asked(deed: DeedView) -> bool:
    """Whether a cancellation was of a job that ran, and was over later."""
    return deed.action == CANCELLED and deed.state == _RUNNING


def _end(row: JobRow, deeds: list[DeedView]) -> Iterator[Entry]:
    """The end of a job, as far as neither an attempt nor a deed has told it."""
    state = STATES[row.state]
    if row.finished_at_ms is None or state is JobState.COMPLETED:
        return
    place = (row.attempt, _LAST)
    if state is JobState.DEAD:
        yield row.finished_at_ms, place, "dead", {"reason": row.reason}
    elif row.reason == Outcome.EXPIRED:
        yield row.finished_at_ms, place, "expired", {}
    elif not any(deed.action in _ENDINGS and not _was_asked(deed) for deed in deeds):
        said = [deed.note for deed in deeds if deed.action == CANCELLED and deed.note]
        yield row.finished_at_ms, place, "cancelled", {"reason": said[-1] if said else row.reason}
