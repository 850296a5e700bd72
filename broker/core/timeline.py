"""What has happened to one job, from what is stored of it: whole, even where the feed has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.core import views
from broker.core.asks import CANCELLED
from broker.core.state import State
from broker.store.history import AttemptView, DeedView
from broker.store.rows import STATES, JobRow
from queuectl.jobs import JobState, Outcome

# When, its place among what happened in the same millisecond, the type of event, its fields.
Entry = tuple[int, int, str, dict[str, Any]]

_FIRST, _ENDED, _DONE, _LEASED, _LAST = range(5)  # whoever revives a dead job has it leased in the same turn

_LED_TO = {
    Outcome.COMPLETED.value: "completed",
    Outcome.CANCELLED.value: "cancelled",
}  # what others led to is not stored
_WITHOUT_RESULT = {Outcome.LOST: "lost", Outcome.RELEASED: "requeued"}
_ENDINGS = frozenset({CANCELLED, "replaced"})  # deeds that end a job which waits


def of(core: State, seq: int) -> list[dict[str, Any]]:
    """The events of a job, oldest first; of its attempts and of what people did to it, the latest thousand each."""
    row = core.store.listing.row(seq)
    deeds = core.store.history.deeds(seq)
    entries = [*_beginning(core, row), *_attempts(core, row), *_deeds(core, row, deeds), *_end(row, deeds)]
    entries.sort(key=lambda entry: entry[:2])
    return [views.event(at_ms, kind, {"job_id": row.id, **fields}) for at_ms, _, kind, fields in entries]


def _beginning(core: State, row: JobRow) -> Iterator[Entry]:
    about = {"queue": core.queues[row.bucket], "by": core.actor_name(row.enqueued_by)}
    yield row.created_at_ms, _FIRST, "enqueued", about


def _attempts(core: State, row: JobRow) -> Iterator[Entry]:
    for ended in core.store.history.attempts(row.seq):
        about = {"attempt": ended.attempt, "worker": ended.worker}
        begun_ms = min(max(ended.started_at_ms, row.created_at_ms), ended.finished_at_ms)  # by its worker's clock
        yield begun_ms, _LEASED, "leased", about
        place = _ENDED if begun_ms < ended.finished_at_ms else _LEASED
        yield ended.finished_at_ms, place, *_ended(ended, about)
    for lease in core.leases.values():
        if lease.seq == row.seq:
            about = {"attempt": lease.attempt, "worker": lease.holder.worker.name}
            yield lease.granted_at_ms, _LEASED, "leased", about


def _ended(ended: AttemptView, about: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if ended.outcome in _WITHOUT_RESULT:
        return _WITHOUT_RESULT[Outcome(ended.outcome)], {**about, "reason": ended.note, "state": None}
    shown = views.attempt(ended)
    result = {field: shown[field] for field in ("outcome", "exit_code", "signal", "duration_s")}
    return "finished", {**about, **result, "state": _LED_TO.get(ended.outcome), "run_at": None}


def _deeds(core: State, row: JobRow, deeds: list[DeedView]) -> Iterator[Entry]:
    for deed in deeds:
        was_running = deed.action == CANCELLED and deed.at_ms != row.finished_at_ms  # it was over later
        field = "changes" if deed.action == "edited" else "reason"
        about = {"by": core.actor_name(deed.actor), field: deed.note or None}
        yield deed.at_ms, _DONE, "cancel_asked" if was_running else deed.action, about


def _end(row: JobRow, deeds: list[DeedView]) -> Iterator[Entry]:
    """The end of a job, as far as neither an attempt nor a deed has told it."""
    state = STATES[row.state]
    if row.finished_at_ms is None or state is JobState.COMPLETED:
        return
    if state is JobState.DEAD:
        yield row.finished_at_ms, _LAST, "dead", {"reason": row.reason}
    elif row.reason == Outcome.EXPIRED:
        yield row.finished_at_ms, _LAST, "expired", {}
    elif not any(deed.action in _ENDINGS and deed.at_ms == row.finished_at_ms for deed in deeds):
        said = [deed.note for deed in deeds if deed.action == CANCELLED and deed.note]
        yield row.finished_at_ms, _LAST, "cancelled", {"reason": said[-1] if said else row.reason}
