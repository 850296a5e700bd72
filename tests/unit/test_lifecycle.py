"""Every state and every event, and every decision."""

from __future__ import annotations

import itertools

import pytest

from broker.backoff import Policy
from broker.lifecycle import (
    TRANSITIONS,
    Decision,
    Event,
    after,
    decide_loss,
    decide_outcome,
    decide_return,
)
from queuectl.jobs import TERMINAL, JobState, Outcome

ALLOWED = {
    ("pending", "lease"): "processing",
    ("pending", "adopt"): "processing",
    ("pending", "cancel"): "cancelled",
    ("pending", "expire"): "cancelled",
    ("pending", "overrun"): "dead",
    ("failed", "overrun"): "dead",
    ("processing", "complete"): "completed",
    ("processing", "retry"): "failed",
    ("processing", "bury"): "dead",
    ("processing", "return"): "pending",
    ("processing", "cancel"): "cancelled",
    ("failed", "lease"): "processing",
    ("failed", "cancel"): "cancelled",
    ("dead", "revive"): "pending",
}
PAIRS = list(itertools.product(JobState, Event))
POLICY = Policy(max_retries=3, backoff_base=2, backoff_max=3600, backoff_jitter="none")
FAILURES = [Outcome.EXIT, Outcome.SIGNAL, Outcome.TIMEOUT, Outcome.SPAWN_ERROR]


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair in ALLOWED])
def test_allowed_event_leads_to_its_state(state: JobState, event: Event) -> None:
    assert after(state, event) == ALLOWED[state, event]


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair not in ALLOWED])
def test_event_outside_the_table_is_refused(state: JobState, event: Event) -> None:
    with pytest.raises(AssertionError, match=f"a {state} job cannot {event}"):
        after(state, event)


def test_every_state_can_be_reached_and_every_waiting_one_left() -> None:
    assert set(TRANSITIONS.values()) == set(JobState)
    assert {state for state, _ in TRANSITIONS} == set(JobState) - (TERMINAL - {JobState.DEAD})


def test_completed_attempt_completes_the_job() -> None:
    decision = decide_outcome(Outcome.COMPLETED, POLICY, attempts=1, losses=1, chance=0.5)

    assert decision == Decision(Event.COMPLETE, 1, 1)


def test_cancelled_attempt_cancels_the_job_and_counts_nothing() -> None:
    decision = decide_outcome(Outcome.CANCELLED, POLICY, attempts=1, losses=1, chance=0.5)

    assert decision == Decision(Event.CANCEL, 1, 1, reason="cancelled")


@pytest.mark.parametrize("outcome", FAILURES)
@pytest.mark.parametrize(("attempts", "delay_ms"), [(0, 2000), (1, 4000)])
def test_failure_within_the_budget_is_retried(outcome: Outcome, attempts: int, delay_ms: int) -> None:
    decision = decide_outcome(outcome, POLICY, attempts=attempts, losses=0, chance=0.5)

    assert decision == Decision(Event.RETRY, attempts + 1, 0, delay_ms=delay_ms, reason=outcome.value)


@pytest.mark.parametrize("outcome", FAILURES)
def test_failure_that_uses_up_the_budget_buries(outcome: Outcome) -> None:
    decision = decide_outcome(outcome, POLICY, attempts=2, losses=1, chance=0.5)

    assert decision == Decision(Event.BURY, 3, 1, reason=outcome.value)


@pytest.mark.parametrize("max_retries", [0, 1])
def test_budget_of_one_buries_at_once(max_retries: int) -> None:
    policy = Policy(max_retries, 2, 3600, "none")

    decision = decide_outcome(Outcome.EXIT, policy, attempts=0, losses=0, chance=0.5)

    assert (decision.event, decision.attempts) == (Event.BURY, 1)


@pytest.mark.parametrize(("losses", "alone"), [(1, False), (2, True)])
def test_failed_job_stays_suspected_of_its_losses(losses: int, alone: bool) -> None:
    assert decide_outcome(Outcome.EXIT, POLICY, attempts=0, losses=losses, chance=0.5).alone is alone


@pytest.mark.parametrize(("losses", "alone"), [(0, False), (1, True)])
def test_loss_counts_and_the_second_one_isolates(losses: int, alone: bool) -> None:
    decision = decide_loss(POLICY, held_slot=True, attempts=1, losses=losses, max_losses=3)

    assert decision == Decision(Event.RETURN, 1, losses + 1, reason="lost", alone=alone)


def test_last_loss_buries_as_poison() -> None:
    decision = decide_loss(POLICY, held_slot=True, attempts=1, losses=2, max_losses=3)

    assert decision == Decision(Event.BURY, 1, 3, reason="poison")


@pytest.mark.parametrize("losses", [0, 1, 2])
def test_job_that_must_not_run_twice_is_buried_by_its_first_loss(losses: int) -> None:
    policy = Policy(3, 2, 3600, "none", on_lost="dead")

    decision = decide_loss(policy, held_slot=True, attempts=1, losses=losses, max_losses=3)

    assert decision == Decision(Event.BURY, 1, losses + 1, reason="lost")


@pytest.mark.parametrize(("losses", "alone"), [(0, False), (1, False), (2, True)])
def test_lease_that_never_held_a_slot_costs_nothing(losses: int, alone: bool) -> None:
    decision = decide_loss(POLICY, held_slot=False, attempts=1, losses=losses, max_losses=3)

    assert decision == Decision(Event.RETURN, 1, losses, alone=alone)


@pytest.mark.parametrize(("losses", "alone"), [(0, False), (1, False), (2, True)])
def test_return_costs_nothing(losses: int, alone: bool) -> None:
    assert decide_return(attempts=2, losses=losses) == Decision(Event.RETURN, 2, losses, alone=alone)
