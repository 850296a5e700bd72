"""Why a job is not running: each reason that holds now, the jobs before it, and how long that may take."""

from __future__ import annotations

from typing import Any

from broker.core.access import Actor
from broker.core.asks import CANCELLED, RETRIED
from broker.core.find import find
from broker.core.holds import HELD_BACK
from broker.core.memory import Session
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.unique import REPLACED
from broker.lifecycle import ALONE_FROM_LOSSES, LOST, OVERDUE, POISON
from broker.store.history import DeedView
from broker.store.rows import DUE_LATER, HELD, READY, READY_ALONE, STATES, JobRow
from queuectl.jobs import TERMINAL, JobState, Outcome
from queuectl.requests import Why
from queuectl.times import rfc3339

AHEAD_COUNTED = 10_000

Reason = dict[str, Any]


def why(core: State, turn: Turn, by: Actor, args: Why) -> dict[str, Any]:
    """The chain of reasons."""
    row = core.store.listing.row(find(core, args.id, by).seq)
    state = STATES[row.state]
    told: dict[str, Any] = {"id": row.id, "state": state.value, "position": None, "ahead_capped": False}
    told["estimate_s"] = None
    if state in TERMINAL:
        return told | {"reasons": [_over(core, state, row)]}
    if state is JobState.PROCESSING:
        return told | {"reasons": _running(core, turn, row)}
    reasons = [*_of_itself(core, turn, row), *_of_workers(core, turn, core.queues[row.bucket], row)]
    if row.ready in (READY, READY_ALONE):
        ahead = core.store.jobs.ahead_of(row.bucket, row.priority, row.run_at_ms, row.seq, AHEAD_COUNTED + 1)
        is_capped = ahead > AHEAD_COUNTED
        told |= {"position": min(ahead, AHEAD_COUNTED), "ahead_capped": is_capped}
        if ahead:
            count = f"over {AHEAD_COUNTED:,} jobs" if is_capped else "1 job" if ahead == 1 else f"{ahead} jobs"
            reasons.append(_reason("behind", f"{count} of its queue come{'s' * (ahead == 1)} before it"))
        if not is_capped:
            told["estimate_s"] = _estimate_s(core, core.queues[row.bucket], ahead)
    if not reasons:
        reasons.append(_reason("next", "nothing: it is the next to run"))
    return told | {"reasons": reasons}


def _reason(code: str, text: str, **more: Any) -> Reason:
    return {"code": code, "text": text, **more}


def _deed(core: State, row: JobRow, *actions: str) -> DeedView | None:
    """The last time that a person did this to the job."""
    deeds = core.store.history.deeds(row.seq)
    return next((deed for deed in reversed(deeds) if deed.action in actions), None)


def _by(core: State, actor: int | None) -> str:
    return "" if actor is None else f" by {core.actor_name(actor)}"


def _over(core: State, state: JobState, row: JobRow) -> Reason:
    assert row.finished_at_ms is not None
    at = rfc3339(row.finished_at_ms)
    if state is JobState.DEAD:
        return _reason(state.value, f"it is dead since {at}: {_cause_of_death(row)}", at=at)
    if row.reason == Outcome.EXPIRED:
        return _reason(state.value, f"it expired at {at}, before it was started", at=at)
    if state is JobState.COMPLETED:
        return _reason(state.value, f"it completed at {at}", at=at)
    deed = _deed(core, row, CANCELLED, REPLACED)
    who = _by(core, deed.actor if deed is not None else None)
    said = (deed.note if deed is not None else "") or (row.reason if row.reason != state.value else "")
    return _reason(state.value, f"it was cancelled at {at}{who}{f': {said}' if said else ''}", at=at)


def _cause_of_death(row: JobRow) -> str:
    causes = {
        OVERDUE: "its deadline came",
        LOST: "its worker was lost while it may have been running, and it must not run twice (on_lost)",
        POISON: f"it lost its worker {row.losses} times",
    }
    if row.reason not in _FAILURES:
        return causes.get(row.reason or "", row.reason or "")
    final = "the last one it had" if row.attempts >= row.max_retries else "and such an end is not retried"
    return f"{_failure(row)}, {final}"


_FAILURES = {
    Outcome.EXIT: "attempt {row.attempt} ended with exit {row.exit_code}",
    Outcome.SIGNAL: "signal {row.signal} ended attempt {row.attempt}",
    Outcome.TIMEOUT: "attempt {row.attempt} took longer than its timeout",
    Outcome.SPAWN_ERROR: "attempt {row.attempt} could not be started",
}


def _failure(row: JobRow) -> str:
    words = next((words for outcome, words in _FAILURES.items() if outcome == row.reason), None)
    return words.format(row=row) if words is not None else f"attempt {row.attempt} failed ({row.reason})"


def _running(core: State, turn: Turn, row: JobRow) -> list[Reason]:
    lease = next(lease for lease in core.leases.values() if lease.seq == row.seq)
    worker, session = lease.holder.worker.name, lease.holder.session
    reasons = []
    if lease.slot:
        reasons.append(_reason("running", f"it runs: attempt {lease.attempt}, on worker {worker}"))
    else:
        reasons.append(_reason("queued_at_worker", f"worker {worker} has it, and starts it with its next free slot"))
    if session is None or session.silent:
        silent_s = (turn.now.mono_ms - lease.holder.heard_ms) / 1000
        text = (
            f"its worker was not heard of for {silent_s:.0f} s; after {core.lease_ms / 1000:g} s another gets the job"
        )
        reasons.append(_reason("worker_away", text))
    if lease.cancel is not None:
        reasons.append(_reason("cancelling", "it was told to end, and has not yet"))
    return reasons


def _held(core: State, row: JobRow) -> Reason:
    deed = _deed(core, row, HELD_BACK, RETRIED)
    if deed is None:  # since it was enqueued
        at, who, note = rfc3339(row.created_at_ms), _by(core, row.enqueued_by), ""
    else:
        at, who, note = rfc3339(deed.at_ms), _by(core, deed.actor), deed.note
    said = f": {note}" if note else ""
    return _reason("held", f"it is held since {at}{who}{said}; release it: queuectl release {row.id}", at=at)


def _of_itself(core: State, turn: Turn, row: JobRow) -> list[Reason]:
    """What the job itself waits for."""
    reasons = []
    if row.ready == HELD:
        reasons.append(_held(core, row))
        if row.run_at_ms > turn.now.wall_ms:
            until = rfc3339(row.run_at_ms)
            reasons.append(_reason("delayed", f"it does not start before {until}", until=until))
    elif row.ready == DUE_LATER and STATES[row.state] is JobState.FAILED:
        until = rfc3339(row.run_at_ms)
        text = f"{_failure(row)}, and the next comes at {until}"
        reasons.append(_reason("backoff", text, until=until))
    elif row.ready == DUE_LATER:
        until = rfc3339(row.run_at_ms)
        reasons.append(_reason("delayed", f"it starts at {until}", until=until))
    if row.losses >= ALONE_FROM_LOSSES:
        text = f"{row.losses} workers were lost with it: it shares its worker with no other such job"
        reasons.append(_reason("alone", text))
    return reasons


def _of_workers(core: State, turn: Turn, queue: str, row: JobRow) -> list[Reason]:
    """What workers there are for it, if none of them has room."""
    serving = [session for session in core.sessions.values() if session.serves(queue)]
    working = [session for session in serving if session.is_working and not session.silent]
    if not core.sessions:
        return [_reason("no_worker", "no worker is connected; start one: queuectl worker start")]
    if not serving:
        return [
            _reason(
                "no_worker", f"no worker serves the queue '{queue}'; start one: queuectl worker start --queue {queue}"
            )
        ]
    if not working:
        return [_reason("no_worker", f"all workers of its queue are stopping or silent ({len(serving)})")]
    reasons = []
    if core.storage_full:
        reasons.append(_reason("storage_full", "the broker's disk is full: nothing can be leased"))
    if not any(session.room(turn.now.mono_ms) > 0 for session in working):
        slots, busy = sum(session.slots for session in working), _busy(working)
        reasons.append(_reason("workers_busy", f"all slots of the workers of its queue are taken ({busy} of {slots})"))
    elif row.losses >= ALONE_FROM_LOSSES and all(session.has_suspect for session in working):
        reasons.append(_reason("workers_busy", "each worker of its queue runs another such job"))
    return reasons


def _busy(sessions: list[Session]) -> int:
    return sum(min(len(session.holder.leases), session.slots) for session in sessions)


def _estimate_s(core: State, queue: str, ahead: int) -> float | None:
    """Seconds until a slot is free for it, from how long jobs took lately; None: nobody knows."""
    serving = [session for session in core.sessions.values() if session.serves(queue) and session.is_working]
    known = [session for session in serving if session.run_ms is not None]
    slots = sum(session.slots for session in serving)
    if not known or not slots:
        return None
    if _busy(serving) < slots and not ahead:
        return 0.0
    run_ms = sum((session.run_ms or 0.0) * session.slots for session in known) / sum(session.slots for session in known)
    return round(run_ms * (ahead + 1) / slots / 1000, 3)
