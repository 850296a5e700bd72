"""What workers report of their leases, and what becomes of the jobs.

A lease ends in one of three ways: its result is recorded, it is given back, or it is lost. Each makes one
move of the job and, if the job had run, one row of history. A report whose lease is not live any more is
stale and changes nothing: so a late worker can never overwrite its successor.
"""

from __future__ import annotations

from typing import Any

from broker.core import feed, outputs
from broker.core.adoption import adopt_to_end
from broker.core.memory import Holder, Lease, Session
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import (
    TRANSITIONS,
    Decision,
    Event,
    code_of,
    decide_cancelled,
    decide_loss,
    decide_outcome,
    decide_return,
)
from broker.store.rows import CODES, DUE_LATER, READY, READY_ALONE, RESTING, STATES, AttemptRow, Completion, Move
from queuectl.ids import lease_text
from queuectl.jobs import TERMINAL, JobState, Outcome
from queuectl.messages import Release, Result, Results, Returned, Verdict
from queuectl.times import rfc3339

RECORDED, STALE = "recorded", "stale"
REPORTABLE = {
    outcome.value: outcome
    for outcome in (
        Outcome.COMPLETED,
        Outcome.EXIT,
        Outcome.SIGNAL,
        Outcome.TIMEOUT,
        Outcome.CANCELLED,
        Outcome.SPAWN_ERROR,
    )
}
HAD_STARTED = frozenset({"stopped", "lost"})  # reasons of a return that say the command had been started
FAULT_PAUSE_MS = 1000  # nothing new for a worker that could not start a command
NO_AHEAD_MS = 1000  # no lease ahead for a worker that gave one back unused
_PROCESSING = CODES[JobState.PROCESSING]
_WAITS_AGAIN = (Event.RETRY, Event.RETURN)
_TERMINAL = frozenset(CODES[state] for state in TERMINAL)
_AFTER = {event: CODES[following] for (state, event), following in TRANSITIONS.items() if state is JobState.PROCESSING}


def on_results(core: State, turn: Turn, session: Session, message: Results) -> None:
    """Results: recorded once, whoever of the worker's home sends them and however often."""
    verdicts = turn.tell(session).verdicts
    for result in message.results:
        if (verdict := _settle(core, turn, session, result)) is not None:
            verdicts.append(Verdict(result.lease, verdict))


def _settle(core: State, turn: Turn, session: Session, result: Result) -> str | None:
    """Its verdict; None: the worker is to say it again later."""
    outcome = REPORTABLE.get(result.outcome)
    lease = core.leases.get(result.lease)
    if lease is None:
        if result.lease in turn.settled:
            return RECORDED
        if not core.may_puzzle(session.by, turn.now):
            return None
        if outcome is not None:  # or the lease would live again, and nothing would ever end it
            lease = adopt_to_end(core, turn, result.lease, result.job, result.attempt, session)
        if lease is None:
            return _late(core, turn, result)
    if not core.trusts(session.by, lease.holder.worker):
        core.denied += 1
        turn.log("warning", "report_denied", job_id=lease.job, lease_id=lease_text(lease.lease), by=session.by.name)
        return STALE
    if outcome is None or (lease.job, lease.attempt) != (result.job, result.attempt):
        core.malformed += 1
        turn.log("warning", "message_malformed", reason="the result does not fit its lease", count=core.malformed)
        return STALE
    session.observe(result.duration_ms)
    _record(core, turn, lease, outcome, result)
    return RECORDED


def _late(core: State, turn: Turn, result: Result) -> str:
    """A result without a live lease: said before, or too late."""
    known = core.store.jobs.known([result.job]).get(result.job)
    ended = core.store.history.ended(known.seq, result.attempt) if known else None
    if ended is not None and ended.lease == result.lease and ended.outcome in REPORTABLE:
        turn.log("debug", "result_repeated", job_id=result.job, attempt=result.attempt)
        return RECORDED
    turn.log(
        "warning",
        "result_stale",
        job_id=result.job,
        attempt=result.attempt,
        lease_id=lease_text(result.lease),
        outcome=result.outcome,
    )
    return STALE


def _record(core: State, turn: Turn, lease: Lease, outcome: Outcome, result: Result) -> None:
    decision = decide_outcome(
        outcome,
        lease.policy,
        attempts=lease.attempts,
        losses=lease.losses,
        chance=core.chance.random(),
        code=code_of(outcome, result.exit_code, result.signal),
        left_ms=None if lease.deadline_ms is None else lease.deadline_ms - turn.now.wall_ms,
    )
    if lease.cancel is not None:
        decision = _unless_cancelled(lease, decision)
    turn.settled.add(lease.lease)
    turn.ended.append(_heard(turn, lease, outcome, result))
    if result.stdout_bytes or result.stderr_bytes:
        lease.output.totals = (result.stdout_bytes, result.stderr_bytes)
        if not lease.output.is_complete():
            outputs.expect_more(core, lease.lease, lease.output, lease.holder.worker.boot)
    _note_end(turn, lease, decision, result)
    _end(core, turn, lease, decision, result.exit_code, result.signal)
    turn.log(
        "info" if outcome is Outcome.COMPLETED else "warning",
        "job_finished",
        job_id=lease.job,
        attempt=lease.attempt,
        lease_id=lease_text(lease.lease),
        worker_id=lease.holder.worker.name,
        queue=core.queues[lease.bucket],
        outcome=result.outcome,
        exit_code=result.exit_code,
        signal=result.signal,
        duration_ms=result.duration_ms,
        state=STATES[_AFTER[decision.event]],
        run_at=rfc3339(turn.now.wall_ms + decision.delay_ms) if decision.event is Event.RETRY else None,
    )


def _note_end(turn: Turn, lease: Lease, decision: Decision, result: Result) -> None:
    state, worker = _AFTER[decision.event], lease.holder.worker.worker
    told: tuple[Any, ...] = (result.outcome, result.exit_code, result.signal, result.duration_ms, state)
    if decision.event is Event.RETRY:
        told = (*told, turn.now.wall_ms + decision.delay_ms)
    turn.note(feed.FINISHED, lease.job, lease.attempt, worker, *told)


def _heard(turn: Turn, lease: Lease, outcome: Outcome, result: Result) -> AttemptRow:
    """History of an attempt as its worker tells it."""
    return AttemptRow(
        lease.seq,
        lease.attempt,
        lease.lease,
        lease.holder.worker.worker,
        result.started_at_ms or max(0, turn.now.wall_ms - result.duration_ms),
        turn.now.wall_ms,
        result.duration_ms,
        result.outcome,
        result.exit_code,
        result.signal,
        result.stdout_bytes,
        result.stderr_bytes,
        result.last_line or (result.note if outcome is Outcome.SPAWN_ERROR else ""),
        result.note,
    )


# --- returns and losses ----------------------------------------------------------------------------


def on_release(core: State, turn: Turn, session: Session, message: Release) -> None:
    """Leases that a worker gives back: its own, and what a dead boot of its home had not told."""
    for returned in message.leases:
        lease = core.leases.get(returned.lease)
        if lease is None or not may_speak_for(session.holder, lease.holder):
            continue
        if not core.trusts(session.by, lease.holder.worker):
            core.denied += 1
            continue
        if lease.holder is session.holder:
            _mind(turn, session, returned)
        if returned.reason == "lost":
            lose(core, turn, lease, "its worker was killed", held_slot=True)
        else:
            give_back(core, turn, lease, returned.reason)


def may_speak_for(teller: Holder, holder: Holder) -> bool:
    """Whether what one boot says of another's leases counts: the same boot, or a silent one of the same home."""
    if teller is holder:
        return True
    same_home = (teller.worker.host, teller.worker.home) == (holder.worker.host, holder.worker.home)
    return same_home and holder.session is None


def _mind(turn: Turn, session: Session, returned: Returned) -> None:
    """What a return says about the worker."""
    if returned.reason == "worker_fault":
        session.paused_until_ms = turn.now.mono_ms + FAULT_PAUSE_MS
    elif returned.reason == "busy":
        session.no_ahead_until_ms = turn.now.mono_ms + NO_AHEAD_MS
        session.run_ms = None
    elif returned.reason in ("draining", "stopped"):
        session.draining = True  # its next heartbeat says so too; until then it would get the same job again


def give_back(core: State, turn: Turn, lease: Lease, reason: str) -> None:
    """The job is pending again and nothing is counted; the number of a run that never started is used again.

    A run that had started and must not be repeated is lost with its worker instead.
    """
    leased = (lease.job, lease.attempt, lease.holder.worker.worker)
    had_started = reason in HAD_STARTED or outputs.has_begun(core, lease.output)
    if had_started and lease.policy.on_lost == "dead":
        lose(core, turn, lease, f"its worker ended it ({reason})", held_slot=True)
        return
    if had_started:
        turn.ended.append(_unheard(turn, lease, Outcome.RELEASED, reason))
    else:
        lease.attempt -= 1
    turn.log("info", "job_requeued", job_id=lease.job, attempt=lease.attempt, reason=reason)
    decision = _unless_cancelled(lease, decide_return(attempts=lease.attempts, losses=lease.losses))
    turn.note(feed.REQUEUED, *leased, reason, _AFTER[decision.event])
    _end(core, turn, lease, decision, None, None)


def lose(core: State, turn: Turn, lease: Lease, why: str, *, held_slot: bool) -> None:
    """The worker of this lease is lost: the job is pending again, or dead if that must not, or not again, happen.

    Nobody knows whether a lease ahead of the slots had started: it costs nothing, but its number is used up.
    """
    max_losses = core.settings["max_losses"]
    assert isinstance(max_losses, int)
    held_slot = held_slot or outputs.has_begun(core, lease.output)
    decision = _unless_cancelled(
        lease,
        decide_loss(
            lease.policy, held_slot=held_slot, attempts=lease.attempts, losses=lease.losses, max_losses=max_losses
        ),
    )
    turn.ended.append(_unheard(turn, lease, Outcome.LOST if held_slot else Outcome.RELEASED, why))
    turn.note(feed.LOST, lease.job, lease.attempt, lease.holder.worker.worker, why, _AFTER[decision.event])
    turn.log(
        "warning",
        "lease_expired",
        job_id=lease.job,
        attempt=lease.attempt,
        lease_id=lease_text(lease.lease),
        worker_id=lease.holder.worker.name,
        reason=why,
        losses=decision.losses,
    )
    _end(core, turn, lease, decision, None, None)


def _unheard(turn: Turn, lease: Lease, outcome: Outcome, note: str) -> AttemptRow:
    """History of an attempt that ended without a result."""
    return AttemptRow(
        seq=lease.seq,
        attempt=lease.attempt,
        lease=lease.lease,
        worker=lease.holder.worker.worker,
        started_at_ms=lease.granted_at_ms,
        finished_at_ms=turn.now.wall_ms,
        duration_ms=max(0, turn.now.wall_ms - lease.granted_at_ms),
        outcome=outcome.value,
        exit_code=None,
        signal=None,
        stdout_bytes=None,
        stderr_bytes=None,
        last_line="",
        note=note,
    )


def _unless_cancelled(lease: Lease, decision: Decision) -> Decision:
    return decision if lease.cancel is None else decide_cancelled(decision, attempts=lease.attempts)


# --- the move ----------------------------------------------------------------------------------------


def _end(core: State, turn: Turn, lease: Lease, decision: Decision, exit_code: int | None, signal: int | None) -> None:
    """The lease is over: the job moves on as decided."""
    state = _AFTER[decision.event]
    if decision.event is Event.COMPLETE:
        now_ms = turn.now.wall_ms
        turn.completions.append(Completion(exit_code, signal, now_ms, now_ms, lease.seq, lease.lease))
    else:
        turn.moves.append(_move(core, turn, lease, decision, exit_code, signal))
    core.tally.move(lease.bucket, _PROCESSING, state)
    core.move(lease)
    del core.leases[lease.lease]
    lease.holder.leases.pop(lease.lease, None)
    core.has_changed(lease.holder)
    turn.written.add(lease.seq)
    if lease.cancel is not None:
        core.store.changes.has_ended([lease.seq])
    if state in _TERMINAL:
        turn.over.add(lease.seq)
    if decision.event is Event.CANCEL:
        said = lease.cancel.reason if lease.cancel is not None else ""
        turn.note(feed.CANCELLED, lease.job, None, said or decision.reason)
    if decision.event is Event.BURY:
        turn.note(feed.DEAD, lease.job, decision.reason)
        turn.log("warning", "job_dead", job_id=lease.job, attempts=decision.attempts, reason=decision.reason)


def _move(core: State, turn: Turn, lease: Lease, decision: Decision, exit_code: int | None, signal: int | None) -> Move:
    state, now_ms = _AFTER[decision.event], turn.now.wall_ms
    run_at_ms = now_ms + decision.delay_ms if decision.event is Event.RETRY else lease.run_at_ms
    return Move(
        state=state,
        ready=_readiness(core, lease, decision, run_at_ms),
        run_at_ms=run_at_ms,
        attempt=lease.attempt,
        attempts=decision.attempts,
        losses=decision.losses,
        keep_lease=lease.lease if decision.event is Event.RETURN and decision.reason == "lost" else None,
        reason=decision.reason,
        exit_code=exit_code,
        signal=signal,
        now_ms=now_ms,
        finished_at_ms=now_ms if state in _TERMINAL else None,
        seq=lease.seq,
        lease=lease.lease,
        from_state=_PROCESSING,
    )


def _readiness(core: State, lease: Lease, decision: Decision, run_at_ms: int) -> int:
    if decision.event in _WAITS_AGAIN:
        core.look_by(lease.until_ms)
    if decision.event is Event.RETRY and decision.delay_ms > 0:
        core.wait_until(run_at_ms)
        return DUE_LATER
    if decision.event in _WAITS_AGAIN:
        core.ready.add(lease.bucket)
        if decision.alone:
            core.suspects.add(lease.bucket)
        return READY_ALONE if decision.alone else READY
    return RESTING
