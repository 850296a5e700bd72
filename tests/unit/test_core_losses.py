"""Leases that end without a result: lost, given back, adopted again."""

from __future__ import annotations

import pytest

from broker.core.reports import FAULT_PAUSE_MS, NO_AHEAD_MS
from queuectl.messages import ByeOk, Gone, Grant, Results, Took, Welcome
from tests.harness import BrokerHarness, FakeWorker, held, result

LEASE_MS = 31_000  # longer than a lease, the sweep included


def working(broker: BrokerHarness, name: str = "w", **job: object) -> tuple[FakeWorker, Grant]:
    worker = broker.worker(name)
    worker.hello()
    broker.enqueue(**job)
    return worker, worker.grant()


def quick_worker(broker: BrokerHarness) -> FakeWorker:
    """A worker with one slot whose jobs are known to be so short that it is given leases ahead."""
    worker = broker.worker()
    worker.hello()
    broker.enqueue()
    worker.finish(worker.grant(), duration_ms=10)
    return worker


def lose(broker: BrokerHarness, times: int, *commands: str) -> list[str]:
    """Jobs whose workers were lost so many times."""
    jobs = broker.enqueue(*commands)
    for number in range(times):
        worker = broker.worker(f"doomed-{number}", slots=len(jobs))
        worker.hello()
        worker.grants()
        broker.after(LEASE_MS)
    return jobs


# --- jobs that must not run twice ----------------------------------------------------------------------


def test_lost_job_that_must_not_run_twice_is_dead(broker: BrokerHarness) -> None:
    worker, grant = working(broker, on_lost="dead")

    broker.after(LEASE_MS)

    view = broker.job(grant.job)
    assert (view["state"], view["reason"], view["losses"]) == ("dead", "lost", 1)
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["lost"]
    worker.hello(held=[held(grant)])
    assert worker.finish(grant) == "stale"
    assert broker.state(grant.job) == "dead"


@pytest.mark.parametrize(("reason", "state"), [("stopped", "dead"), ("lost", "dead"), ("draining", "pending")])
def test_job_that_must_not_run_twice_is_given_back_only_before_it_started(
    broker: BrokerHarness, reason: str, state: str
) -> None:
    worker, grant = working(broker, on_lost="dead")

    worker.release(grant, reason=reason)

    assert broker.state(grant.job) == state


def test_job_that_must_not_run_twice_and_has_written_is_not_given_back(broker: BrokerHarness) -> None:
    worker, grant = working(broker, on_lost="dead")
    worker.write(grant, b"begun")
    worker.take(Took)

    worker.release(grant, reason="draining")

    assert (broker.state(grant.job), broker.job(grant.job)["reason"]) == ("dead", "lost")


def test_job_that_must_not_run_twice_is_never_leased_ahead(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)

    ordinary, once, last = [broker.enqueue("x", on_lost=word)[0] for word in ("retry", "dead", "retry")]

    assert [grant.job for grant in worker.grants()] == [ordinary, last]
    assert broker.state(once) == "pending"


def test_buried_loss_can_be_revived_by_a_person_and_is_remembered_over_restarts(broker: BrokerHarness) -> None:
    _, grant = working(broker, on_lost="dead")
    broker.crash()
    broker.after(LEASE_MS)
    broker.after(LEASE_MS)
    assert broker.state(grant.job) == "dead"

    broker.ask("dlq_retry", ids=[grant.job])

    again = broker.worker("again")
    again.hello()
    assert (again.grant().attempt, broker.job(grant.job)["on_lost"]) == (2, "dead")


# --- losses ------------------------------------------------------------------------------------------


def test_lost_job_is_pending_at_once_and_the_loss_is_no_failure(broker: BrokerHarness) -> None:
    _, grant = working(broker)
    successor = broker.worker("s")
    for _ in range(16):
        broker.clock.advance(2000)
        successor.hello()

    broker.turn()

    again = successor.grant()
    assert (again.job, again.attempt) == (grant.job, 2)
    view = broker.job(grant.job)
    assert (view["losses"], view["attempts"], view["attempt"]) == (1, 0, 2)


def test_third_loss_is_poison(broker: BrokerHarness) -> None:
    [job] = lose(broker, 3)

    view = broker.job(job)

    assert (view["state"], view["reason"], view["losses"], view["attempts"]) == ("dead", "poison", 3, 0)
    assert [entry["outcome"] for entry in broker.history(job)] == ["lost"] * 3


def test_max_losses_is_a_setting(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="max_losses", value=1)

    [job] = lose(broker, 1)

    assert broker.job(job)["reason"] == "poison"


def test_revived_job_has_a_fresh_budget_of_losses_too(broker: BrokerHarness) -> None:
    [job] = lose(broker, 3)

    broker.ask("dlq_retry", ids=[job])

    view = broker.job(job)
    assert (view["state"], view["losses"], view["attempt"]) == ("pending", 0, 3)


def test_lease_ahead_of_the_slots_is_not_charged_and_its_number_not_used_again(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    first, second, third = broker.enqueue("a", "b", "c")
    assert [grant.job for grant in worker.grants()] == [first, second, third]

    broker.after(LEASE_MS)

    views = [broker.job(job) for job in (first, second, third)]
    assert [(view["losses"], view["attempt"]) for view in views] == [(1, 1), (0, 1), (0, 1)]
    assert [entry["outcome"] for entry in broker.history(second)] == ["released"]


@pytest.mark.parametrize("outcome", ["lost", "released", "an outcome of the future"])
def test_late_result_that_says_nothing_brings_no_lost_lease_back(broker: BrokerHarness, outcome: str) -> None:
    _, grant = working(broker)
    broker.after(30_000)
    assert broker.state(grant.job) == "pending"
    teller = broker.worker("teller", slots=0)
    teller.hello()

    assert teller.finish(grant, outcome=outcome) == "stale"

    assert broker.state(grant.job) == "pending"


def test_late_result_of_a_lease_ahead_that_was_lost_is_not_said_to_be_recorded(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    broker.enqueue("a", "b")
    running, ahead = worker.grants()
    broker.after(LEASE_MS)
    broker.outbox.clear()

    worker.hello(held=[held(running, done=True), held(ahead, done=True)])

    assert worker.finish(ahead) == "stale"
    assert [entry["outcome"] for entry in broker.history(ahead.job)] == ["released"]


def test_lease_ahead_that_moved_up_into_a_slot_is_charged(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    broker.enqueue("a", "b")
    first, second = worker.grants()
    worker.beat(first, second, draining=True)
    worker.finish(first)
    broker.outbox.clear()

    broker.after(LEASE_MS)

    assert broker.job(second.job)["losses"] == 1


def test_lost_lease_that_ran_ahead_is_charged_in_order_of_grants_after_a_restart(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    [later] = broker.enqueue(delay=5)
    broker.after(1000)
    [sooner] = broker.enqueue()
    broker.after(4000)
    assert [grant.job for grant in worker.grants()] == [sooner, later]
    broker.crash()

    broker.after(LEASE_MS + 15_000)

    assert (broker.job(sooner)["losses"], broker.job(later)["losses"]) == (1, 0)


def test_lease_ahead_that_has_written_output_is_charged(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    broker.enqueue("a", "b")
    _, second = worker.grants()
    worker.write(second, b"x")
    broker.outbox.clear()

    broker.after(LEASE_MS)

    assert broker.job(second.job)["losses"] == 1


# --- alone ---------------------------------------------------------------------------------------------


def test_suspected_job_shares_its_worker_with_no_other_such_job(broker: BrokerHarness) -> None:
    suspects = lose(broker, 2, "a", "b")
    [plain] = broker.enqueue()
    worker = broker.worker(slots=3)
    worker.hello()

    granted = [grant.job for grant in worker.grants()]

    assert granted == [suspects[0], plain]


def test_suspected_jobs_go_to_different_workers(broker: BrokerHarness) -> None:
    suspects = lose(broker, 2, "a", "b")
    first, second = broker.worker("x", slots=2), broker.worker("y", slots=2)

    first.tell(first.hello_message())
    second.tell(second.hello_message())

    for worker, job in zip((first, second), suspects, strict=True):
        worker.session = worker.take(Welcome).session
        assert [grant.job for grant in worker.grants()] == [job]


def test_suspected_job_follows_when_the_other_has_ended(broker: BrokerHarness) -> None:
    suspects = lose(broker, 2, "a", "b")
    worker = broker.worker(slots=2)
    worker.hello()

    worker.finish(worker.grant())

    assert worker.grant().job == suspects[1]


def test_suspected_job_stays_alone_over_a_retry(broker: BrokerHarness) -> None:
    suspects = lose(broker, 2, "a", "b")
    worker = broker.worker(slots=2)
    worker.hello()
    worker.finish(worker.grant(), 1)
    second = worker.grant()
    assert second.job == suspects[1]

    broker.clock.advance(2000)
    worker.beat(second)

    assert worker.grants() == []
    worker.finish(second)
    assert worker.grant().job == suspects[0]
    broker.outbox.clear()


def test_many_suspected_retries_do_not_hold_up_plain_jobs(broker: BrokerHarness) -> None:
    lose(broker, 2, *["x"] * 6)
    for _ in range(6):
        worker = broker.worker("once", slots=1)
        worker.hello()
        worker.finish(worker.grant(), 1)
        broker.outbox.clear()
        worker.bye()
        worker.take(ByeOk)
    broker.after(2000)
    [plain] = broker.enqueue()
    worker = broker.worker(slots=2)
    worker.hello()

    assert plain in [grant.job for grant in worker.grants()]


# --- gone ------------------------------------------------------------------------------------------------


def test_dead_boot_of_the_same_home_loses_its_leases_at_once(broker: BrokerHarness) -> None:
    dead, grant = working(broker)
    heir = broker.worker("h")
    heir.host = dead.host
    heir.hello()

    heir.gone(dead.boot, "f" * 32, heir.boot)

    assert heir.grant().attempt == 2
    assert broker.job(grant.job)["losses"] == 1
    assert broker.history(grant.job)[0]["note"] == "its worker died"
    assert list(broker.core.holders) == [heir.boot]


@pytest.mark.parametrize(("host", "home"), [("host-w", "/elsewhere"), ("host-x", "/h")])
def test_nobody_speaks_for_another_home(broker: BrokerHarness, host: str, home: str) -> None:
    dead, grant = working(broker)
    stranger = broker.worker("h", home=home)
    stranger.host = host
    stranger.hello()

    stranger.gone(dead.boot)

    assert broker.state(grant.job) == "processing"


def test_results_before_gone_are_recorded(broker: BrokerHarness) -> None:
    dead, grant = working(broker)
    heir = broker.worker("h")
    heir.host = dead.host
    heir.hello()

    assert heir.finish(grant) == "recorded"
    heir.gone(dead.boot)

    assert broker.state(grant.job) == "completed"


# --- given back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["draining", "busy", "worker_fault", "a reason of the future"])
def test_lease_given_back_unstarted_costs_nothing_and_leaves_no_trace(broker: BrokerHarness, reason: str) -> None:
    worker, grant = working(broker)
    worker.beat(grant, draining=True)

    worker.release(grant, reason=reason)

    broker.outbox.clear()
    view = broker.job(grant.job)
    assert (view["state"], view["attempt"], view["attempts"], view["losses"]) == ("pending", 0, 0, 0)
    assert broker.history(grant.job) == []
    assert broker.events("job_requeued")[0]["reason"] == reason


def test_job_that_was_stopped_keeps_the_attempt_in_its_history(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.clock.advance(5000)

    worker.release(grant, reason="stopped")

    view = broker.job(grant.job)
    assert (view["state"], view["attempt"], view["attempts"], view["losses"]) == ("pending", 1, 0, 0)
    [entry] = broker.history(grant.job)
    assert (entry["outcome"], entry["note"], entry["duration_s"]) == ("released", "stopped", 5.0)


def test_job_whose_guardian_reports_it_lost_counts_the_loss(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.beat(grant, draining=True)

    worker.release(grant, reason="lost")

    broker.outbox.clear()
    assert broker.job(grant.job)["losses"] == 1


@pytest.mark.parametrize("reason", ["draining", "stopped"])
def test_worker_that_gives_back_because_it_ends_does_not_get_it_again(broker: BrokerHarness, reason: str) -> None:
    worker, grant = working(broker)

    worker.release(grant, reason=reason)

    broker.assert_quiet()
    assert broker.state(grant.job) == "pending"


def test_worker_at_fault_pauses(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.release(grant, reason="worker_fault")

    assert worker.grants() == []
    assert broker.core.wake_ms(broker.clock.now) == FAULT_PAUSE_MS
    broker.after(FAULT_PAUSE_MS)
    assert worker.grant().job == grant.job


def test_worker_that_gives_back_as_busy_gets_nothing_ahead_for_a_while(broker: BrokerHarness) -> None:
    worker = quick_worker(broker)
    broker.enqueue("a", "b")
    running, ahead = worker.grants()

    worker.release(ahead, reason="busy")

    assert worker.grants() == []
    broker.after(NO_AHEAD_MS)
    assert worker.grants() == []
    worker.finish(running, duration_ms=10)
    assert worker.grant().job == ahead.job


def test_worker_that_gave_back_as_busy_gets_nothing_ahead_though_its_jobs_are_short_again(
    broker: BrokerHarness,
) -> None:
    worker = quick_worker(broker)
    broker.enqueue("a", "b", "c", "d")
    running, *ahead = worker.grants()
    worker.release(*ahead, reason="busy")

    worker.finish(running, duration_ms=10)
    assert worker.grant().job == ahead[0].job

    broker.after(NO_AHEAD_MS)
    assert len(worker.grants()) == 2


def test_lease_of_another_cannot_be_given_back(broker: BrokerHarness) -> None:
    _, grant = working(broker)
    other = broker.worker("o")
    other.hello()

    other.release(grant)

    assert broker.state(grant.job) == "processing"


def test_lease_of_a_dead_boot_is_given_back_by_the_next_of_its_home(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    following = broker.worker("next")
    following.host = worker.host
    following.hello()
    broker.turn(gone=[worker.route])

    following.release(grant, reason="stopped")

    job = broker.ask("job", id=grant.job)["job"]
    assert (job["losses"], job["attempts"]) == (0, 0)
    assert following.grant().job == grant.job


def test_release_may_come_twice(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.release(grant, reason="draining")

    worker.release(grant, reason="draining")

    assert broker.state(grant.job) == "pending"


def test_release_of_a_retry_goes_back_in_front(broker: BrokerHarness) -> None:
    worker, grant = working(broker, backoff_base=0)
    worker.finish(grant, 1)
    again = worker.grant()
    worker.release(again, reason="draining")

    view = broker.job(grant.job)

    assert (view["state"], view["attempts"], view["attempt"]) == ("pending", 1, 1)


def test_output_of_a_lease_given_back_stays_apart_from_the_next_attempt(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.write(grant, b"hello\n")
    broker.outbox.clear()

    worker.release(grant, reason="busy")
    again = worker.grant()
    worker.write(again, b"world\n")

    broker.outbox.clear()
    assert again.attempt == 2
    assert broker.ask("output", id=grant.job)["segments"] == [[1, 0, b"world\n"]]
    assert broker.ask("output", id=grant.job, attempt=1)["segments"] == [[1, 0, b"hello\n"]]


def test_the_same_when_the_broker_has_crashed_between(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    worker.write(grant, b"hello\n")
    broker.crash()

    worker.hello(held=[])
    again = worker.grant()
    worker.write(again, b"world\n")

    broker.outbox.clear()
    assert again.attempt == 2


# --- bye -------------------------------------------------------------------------------------------------


def test_bye_lets_the_worker_go(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()

    worker.bye()

    assert worker.take(ByeOk).session == worker.session
    assert (broker.core.sessions, broker.core.holders) == ({}, {})


def test_bye_gives_back_what_is_still_held(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.bye()

    worker.take(ByeOk)
    assert broker.job(grant.job)["state"] == "pending"


# --- adoption --------------------------------------------------------------------------------------------


def test_running_lease_is_adopted_after_it_expired(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(LEASE_MS)
    assert broker.history(grant.job)[0]["outcome"] == "lost"

    welcome = worker.hello(held=[held(grant)])

    assert (welcome.keep, welcome.drop) == ([grant.lease], [])
    view = broker.job(grant.job)
    assert (view["state"], view["losses"], view["worker"]) == ("processing", 0, "host-w-770000")
    assert [entry["outcome"] for entry in broker.history(grant.job)] == [None]
    assert worker.finish(grant) == "recorded"


def test_late_result_of_a_lost_lease_is_that_of_the_worker_that_had_it(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    others = [broker.worker(name, slots=0) for name in ("first", "second")]
    broker.after(30_000)
    others[0].hello()
    worker.slots = 0
    worker.hello(draining=True)
    others[1].hello()

    assert others[0].finish(grant) == "recorded"

    [attempt] = broker.history(grant.job)
    assert (attempt["outcome"], attempt["worker"]) == ("completed", "host-w-770000")


def test_lease_given_back_as_lost_is_not_adopted_for_a_hello_said_before(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.hello(held=[held(grant)], draining=True)
    worker.release(grant, reason="lost")

    welcome = worker.hello(held=[held(grant)], draining=True)

    assert (welcome.keep, welcome.drop) == ([], [grant.lease])
    view = broker.job(grant.job)
    assert (view["state"], view["attempt"], view["losses"]) == ("pending", 1, 1)
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["lost"]


def test_lease_that_another_has_taken_is_not_adopted(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(LEASE_MS)
    other = broker.worker("o")
    other.hello()
    other.grant()

    assert worker.hello(held=[held(grant)]).drop == [grant.lease]


def test_lease_is_adopted_and_lost_again_and_counts_once_each_time(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(LEASE_MS)
    worker.hello(held=[held(grant)])

    broker.after(LEASE_MS)

    assert broker.job(grant.job)["losses"] == 1
    assert len(broker.history(grant.job)) == 1


def test_restart_of_the_broker_kills_no_job(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    broker.crash()
    assert broker.state_of(grant.job) == "processing"
    broker.after(40_000)

    welcome = worker.hello(held=[held(grant)])

    assert welcome.keep == [grant.lease]
    worker.beat(grant)
    broker.outbox.clear()
    assert worker.finish(grant) == "recorded"
    assert broker.job(grant.job)["losses"] == 0


def test_leases_that_nobody_claims_after_a_restart_expire(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    _, grant = working(broker)
    broker.crash()

    broker.after(30_000 + 15_000 - 1)
    assert broker.state(grant.job) == "processing"
    broker.after(1000)

    assert broker.job(grant.job)["losses"] == 1


def test_loss_survives_a_crash_and_can_still_be_adopted(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    broker.after(LEASE_MS)
    broker.crash()

    assert worker.hello(held=[held(grant)]).keep == [grant.lease]


def test_result_in_the_turn_of_the_loss_is_recorded(broker: BrokerHarness) -> None:
    dead, grant = working(broker)
    heir = broker.worker("h", slots=0)
    heir.host = dead.host
    heir.hello()

    heir.tell(Gone(heir.session, [dead.boot]), Results(heir.session, [result(grant)]))

    broker.outbox.clear()
    assert broker.state(grant.job) == "completed"
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["completed"]
