"""The life of a job: every change of state, in one table, and the decisions that choose among them.

This is the only file that says how a job may go from one state to another. The drawing in
ARCHITECTURE.md is checked against TRANSITIONS. Decisions are values: they never act, and time and
randomness are arguments.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from broker.backoff import Policy, backoff_ms
from queuectl.jobs import JobState, Outcome


class Event(StrEnum):
    """What can happen to a job."""

    LEASE = "lease"  # a worker gets it
    COMPLETE = "complete"  # its command exited 0
    RETRY = "retry"  # its attempt failed, and the budget has room
    BURY = "bury"  # attempts or losses are used up
    RETURN = "return"  # its lease was lost or given back
    ADOPT = "adopt"  # the lost worker is back, and nobody else has the job
    REVIVE = "revive"  # dlq retry
    CANCEL = "cancel"  # a person stops it
    EXPIRE = "expire"  # it was to be started by then, and was not
    OVERRUN = "overrun"  # its deadline has come while it waits

    __hash__ = str.__hash__  # tables are asked for each run of a job, and that of Enum is written in Python


_P, _R, _C, _F, _D, _X = (
    JobState.PENDING,
    JobState.PROCESSING,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.DEAD,
    JobState.CANCELLED,
)

TRANSITIONS: dict[tuple[JobState, Event], JobState] = {
    (_P, Event.LEASE): _R,
    (_P, Event.ADOPT): _R,
    (_P, Event.CANCEL): _X,
    (_R, Event.COMPLETE): _C,
    (_R, Event.RETRY): _F,
    (_R, Event.BURY): _D,
    (_R, Event.RETURN): _P,
    (_R, Event.CANCEL): _X,
    (_F, Event.LEASE): _R,
    (_F, Event.CANCEL): _X,
    (_P, Event.EXPIRE): _X,
    (_P, Event.OVERRUN): _D,
    (_F, Event.OVERRUN): _D,
    (_D, Event.REVIVE): _P,
}


def after(state: JobState, event: Event) -> JobState:
    """The state that an event leads to. A move that is not in the table is a bug: AssertionError."""
    following = TRANSITIONS.get((state, event))
    assert following is not None, f"a {state} job cannot {event}"
    return following


class Decision(NamedTuple):
    """What becomes of a job whose attempt is over."""

    event: Event
    attempts: int
    losses: int
    delay_ms: int = 0  # until the next run, for RETRY
    reason: str | None = None
    alone: bool = False  # to run beside no other suspected job


ALONE_FROM_LOSSES = 2


OVERDUE = "deadline"  # reasons of a job that is dead: its deadline has come,
LOST = "lost"  # it lost its worker and must not run twice,
POISON = "poison"  # it lost its worker too often
TIMEOUT_CODE = 124  # as timeout(1) has it
SIGNAL_CODE = 128  # and the number of the signal, as a shell has it


def code_of(outcome: Outcome, exit_code: int | None, signal: int | None) -> int | None:
    """The number by which rules of retries know the end of an attempt; None if the command was not started."""
    if outcome is Outcome.TIMEOUT:
        return TIMEOUT_CODE
    return exit_code if signal is None else SIGNAL_CODE + signal


def decide_outcome(
    outcome: Outcome,
    policy: Policy,
    *,
    attempts: int,
    losses: int,
    chance: float,
    code: int | None = None,
    left_ms: int | None = None,
) -> Decision:
    """What becomes of a job whose worker reported this outcome. `chance` is a random number in [0, 1).

    `left_ms` is the time until its deadline, if it has one: a retry that could not begin by then does not happen.
    """
    if outcome is Outcome.COMPLETED:
        return Decision(Event.COMPLETE, attempts, losses)
    if outcome is Outcome.CANCELLED:
        return Decision(Event.CANCEL, attempts, losses, reason=outcome.value)
    attempts += 1
    delay_ms = backoff_ms(attempts, policy, chance)
    has_time = left_ms is None or left_ms > delay_ms
    may_retry = attempts < policy.max_retries and policy.retries(code)
    if may_retry and has_time:
        alone = losses >= ALONE_FROM_LOSSES
        return Decision(Event.RETRY, attempts, losses, delay_ms=delay_ms, reason=outcome.value, alone=alone)
    is_over = left_ms is not None and left_ms <= 0
    return Decision(Event.BURY, attempts, losses, reason=OVERDUE if may_retry or is_over else outcome.value)


def decide_loss(policy: Policy, *, held_slot: bool, attempts: int, losses: int, max_losses: int) -> Decision:
    """What becomes of a job whose worker is lost. A lease that never held a slot costs nothing."""
    if not held_slot:
        return Decision(Event.RETURN, attempts, losses, alone=losses >= ALONE_FROM_LOSSES)
    losses += 1
    if policy.on_lost == "dead":
        return Decision(Event.BURY, attempts, losses, reason=LOST)
    if losses >= max_losses:
        return Decision(Event.BURY, attempts, losses, reason=POISON)
    return Decision(Event.RETURN, attempts, losses, reason=LOST, alone=losses >= ALONE_FROM_LOSSES)


def decide_cancelled(decision: Decision, *, attempts: int) -> Decision:
    """What becomes of a job that was to be cancelled, whatever else ended its attempt: only success comes before."""
    if decision.event is Event.COMPLETE:
        return decision
    return Decision(Event.CANCEL, attempts, decision.losses, reason="cancelled")


def decide_return(*, attempts: int, losses: int) -> Decision:
    """What becomes of a job that was given back: nothing is counted."""
    return Decision(Event.RETURN, attempts, losses, alone=losses >= ALONE_FROM_LOSSES)
