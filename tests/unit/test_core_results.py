"""Results: recorded once, retried as promised, and never over a successor."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.messages import Bye, ByeOk, Echo, Grant, Recorded, Results
from tests.harness import BrokerHarness, FakeWorker, held, result


def working(broker: BrokerHarness, **job: object) -> tuple[FakeWorker, Grant]:
    """A worker with one job in its one slot."""
    worker = broker.worker()
    worker.hello()
    broker.enqueue(**job)
    return worker, worker.grant()


def test_completed_job(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    verdict = worker.finish(grant, 0, stdout_bytes=0, last_line="done", note="left 1 process")

    assert verdict == "recorded"
    view = broker.job(grant.job)
    assert (view["state"], view["reason"], view["exit_code"], view["attempts"]) == ("completed", None, 0, 0)
    assert view["finished_at"] == view["updated_at"]
    [attempt] = broker.history(grant.job)
    assert attempt == {
        "attempt": 1,
        "worker": "host-w-770000",
        "started_at": "2027-01-15T07:59:59.000Z",
        "finished_at": "2027-01-15T08:00:00.000Z",
        "duration_s": 1.0,
        "outcome": "completed",
        "exit_code": 0,
        "signal": None,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "last_line": "done",
        "note": "left 1 process",
        "lease": f"{grant.lease:016x}",
    }


@pytest.mark.parametrize(
    ("outcome", "exit_code", "signal"),
    [("exit", 3, None), ("signal", None, 9), ("timeout", None, 15), ("spawn_error", None, None)],
)
def test_failed_attempt_waits_for_its_retry(
    broker: BrokerHarness, outcome: str, exit_code: int | None, signal: int | None
) -> None:
    worker, grant = working(broker)

    worker.finish(grant, exit_code, outcome=outcome, signal=signal)

    view = broker.job(grant.job)
    assert (view["state"], view["reason"], view["attempts"]) == ("failed", "backoff", 1)
    assert (view["exit_code"], view["signal"]) == (exit_code, signal)
    assert broker.history(grant.job)[0]["outcome"] == outcome


@pytest.mark.parametrize(("outcome", "line"), [("spawn_error", "no such directory"), ("exit", "")])
def test_note_stands_for_the_output_of_what_could_not_be_started(
    broker: BrokerHarness, outcome: str, line: str
) -> None:
    worker, grant = working(broker)

    worker.finish(grant, 1, outcome=outcome, note="no such directory")

    assert broker.history(grant.job)[0]["last_line"] == line
    assert broker.job(grant.job)["last_line"] == line


def test_cancelled_attempt_cancels_the_job(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.finish(grant, None, outcome="cancelled", signal=15)

    assert broker.job(grant.job)["state"] == "cancelled"
    assert broker.job(grant.job)["reason"] == "cancelled"


def test_failing_job_runs_after_2_s_after_4_s_and_is_dead(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    for delay_ms, attempts in [(2000, 1), (4000, 2)]:
        worker.finish(grant, 1)
        assert broker.job(grant.job)["attempts"] == attempts
        assert broker.core.wake_ms(broker.clock.now) is not None
        broker.after(delay_ms - 1)
        assert worker.grants() == []
        broker.after(1)
        grant = worker.grant()
        assert grant.attempt == attempts + 1
    worker.finish(grant, 1)

    view = broker.job(grant.job)
    assert (view["state"], view["reason"], view["attempts"], view["attempt"]) == ("dead", "exit", 3, 3)
    assert view["finished_at"] is not None
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["exit"] * 3
    broker.after(3_600_000, drained=False)
    assert worker.grants() == []
    assert broker.events("job_dead") == [{"job_id": grant.job, "attempts": 3, "reason": "exit"}]


def test_policy_of_the_job_decides(broker: BrokerHarness) -> None:
    worker, grant = working(broker, max_retries=2, backoff_base=10, backoff_max=5)

    worker.finish(grant, 1)
    broker.after(4999)
    assert worker.grants() == []
    broker.after(1)
    worker.finish(worker.grant(), 1)

    assert broker.state(grant.job) == "dead"


def test_retry_without_delay_runs_in_the_same_turn(broker: BrokerHarness) -> None:
    worker, grant = working(broker, backoff_base=0)

    worker.finish(grant, 1)

    assert worker.grant().attempt == 2


def test_retry_spreads_where_jitter_was_asked_for(broker: BrokerHarness) -> None:
    broker.chance.seed(1)
    worker, grant = working(broker, backoff_jitter="equal", backoff_base=1000)
    worker.finish(grant, 1)

    view = broker.job(grant.job)

    assert "2027-01-15T08:08:20" < view["run_at"] < "2027-01-15T08:16:40"


def test_job_of_no_budget_gets_one_attempt(broker: BrokerHarness) -> None:
    worker, grant = working(broker, max_retries=0)

    worker.finish(grant, 1)

    assert broker.job(grant.job)["state"] == "dead"


# --- once and only once ------------------------------------------------------------------------------


def test_stale_result_is_refused(broker: BrokerHarness) -> None:
    late, grant = working(broker)
    broker.after(31_000)
    successor = broker.worker("s")
    successor.hello()
    current = successor.grant()
    assert (current.job, current.attempt) == (grant.job, 2)
    late.hello()

    verdict = late.finish(grant, 0)

    assert verdict == "stale"
    assert broker.state(grant.job) == "processing"
    assert broker.events("result_stale")[0]["lease_id"] == f"{grant.lease:016x}"
    assert successor.finish(current, 7) == "recorded"
    assert broker.job(grant.job)["exit_code"] == 7
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["lost", "exit"]


def test_stale_result_is_refused_after_its_successor_has_ended(broker: BrokerHarness) -> None:
    late, grant = working(broker)
    broker.after(31_000)
    successor = broker.worker("s")
    successor.hello()
    successor.finish(successor.grant(), 0)
    late.hello()

    assert late.finish(grant, 1) == "stale"
    assert broker.state(grant.job) == "completed"


def test_repeated_result_is_recorded_once(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.finish(grant, 1)

    assert worker.finish(grant, 1) == "recorded"
    assert broker.job(grant.job)["attempts"] == 1
    assert len(broker.history(grant.job)) == 1


def test_result_that_comes_twice_in_a_turn_is_recorded_once(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.tell(Results(worker.session, [result(grant), result(grant)]), Results(worker.session, [result(grant)]))

    assert [verdict.verdict for verdict in worker.take(Recorded).verdicts] == ["recorded"] * 3
    assert len(broker.history(grant.job)) == 1


def test_repeated_result_is_known_after_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    worker.finish(grant, 1)
    broker.crash()
    worker.hello()

    assert worker.finish(grant, 1) == "recorded"
    assert broker.job(grant.job)["attempts"] == 1


def test_result_reported_before_a_crash_counts_only_if_it_was_committed(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    broker.fail_next = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        worker.finish(grant)
    broker.crash()
    worker.hello(held=[])

    assert broker.state(grant.job) == "processing"
    assert worker.finish(grant) == "stale"  # this worker did not name it in HELLO: it was given to it anew
    again = worker.grant()
    assert again.attempt == 1


def test_result_of_a_purged_job_is_stale(broker: BrokerHarness) -> None:
    worker, grant = working(broker, max_retries=1)
    worker.finish(grant, 1)
    broker.ask("dlq_purge", ids=[grant.job])

    assert worker.finish(grant, 1) == "stale"


@pytest.mark.parametrize(
    "changes", [{"outcome": "released"}, {"outcome": "nonsense"}, {"job": "other"}, {"attempt": 2}]
)
def test_result_that_does_not_fit_its_lease_changes_nothing(broker: BrokerHarness, changes: dict[str, Any]) -> None:
    worker, grant = working(broker)

    assert worker.finish(grant, **changes) == "stale"
    assert broker.state(grant.job) == "processing"
    assert broker.core.malformed == 1


def test_results_of_many_jobs_get_one_answer_each(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=3)
    worker.hello()
    broker.enqueue("a", "b", "c")
    grants = worker.grants()

    verdicts = worker.report(*(result(grant) for grant in grants))

    assert verdicts == ["recorded"] * 3
    assert broker.ask("status")["jobs"]["completed"] == 3


def test_start_that_the_worker_does_not_know_is_reckoned(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.finish(grant, started_at_ms=0, duration_ms=2000)

    assert broker.history(grant.job)[0]["started_at"] == "2027-01-15T07:59:58.000Z"


def test_absurd_duration_does_not_spoil_the_history(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.finish(grant, started_at_ms=0, duration_ms=2**63 - 1)

    [entry] = broker.history(grant.job)
    assert entry["started_at"] == "1970-01-01T00:00:00.000Z"


# --- late results of lost leases -----------------------------------------------------------------------


def test_late_result_of_a_lease_that_nobody_took_is_recorded(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(31_000)
    assert broker.job(grant.job)["losses"] == 1
    worker.tell(worker.hello_message(draining=True))
    broker.outbox.clear()
    worker.session = next(iter(broker.core.sessions.values())).number

    assert worker.finish(grant) == "recorded"

    view = broker.job(grant.job)
    assert (view["state"], view["losses"], view["attempt"]) == ("completed", 0, 1)
    assert [entry["outcome"] for entry in broker.history(grant.job)] == ["completed"]


def test_result_announced_by_hello_keeps_its_job_from_others(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(31_000)

    welcome = worker.hello(held=[held(grant, done=True)])

    assert welcome.keep == [grant.lease]
    assert worker.grants() == []
    assert worker.finish(grant) == "recorded"


def test_late_result_cannot_raise_the_dead(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="max_losses", value=1)
    worker, grant = working(broker)
    broker.after(31_000)
    worker.hello()

    assert worker.finish(grant) == "stale"
    assert broker.job(grant.job)["reason"] == "poison"


def test_late_result_that_does_not_fit_is_not_recorded(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(31_000)
    worker.tell(worker.hello_message(draining=True))
    broker.outbox.clear()
    worker.session = next(iter(broker.core.sessions.values())).number

    assert worker.finish(grant, attempt=2) == "stale"
    assert worker.finish(grant, job="nobody") == "stale"
    assert broker.state(grant.job) == "pending"


def test_result_of_a_dead_boot_is_taken_from_another_boot_of_its_home(broker: BrokerHarness) -> None:
    dead, grant = working(broker)
    heir = broker.worker("h")
    heir.host = dead.host
    heir.hello()

    assert heir.finish(grant) == "recorded"

    assert broker.state(grant.job) == "completed"
    assert broker.history(grant.job)[0]["worker"] == "host-w-770000"
    dead.beat(grant)
    assert dead.take(Echo).drop == [grant.lease]


def test_verdict_for_a_session_that_ends_in_the_same_turn_is_said_to_the_next_one(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.tell(Results(worker.session, [result(grant)]), Bye(worker.session))
    worker.take(ByeOk)
    broker.assert_quiet()
    worker.hello(held=[held(grant, done=True)])

    assert worker.finish(grant) == "recorded"
