"""Jobs whose time is over: those that expire before they start, and those that a deadline overtakes."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.messages import Echo
from tests.harness import BrokerHarness, FakeWorker, patient


@pytest.fixture
def worker(broker: BrokerHarness) -> FakeWorker:
    patient(broker)
    return broker.worker(slots=9)


def stands(broker: BrokerHarness, job: str) -> tuple[Any, Any]:
    view = broker.job(job)
    return view["state"], view["reason"]


LATER = [
    pytest.param({}, id="ready"),
    pytest.param({"op": "edit", "changes": {"delay": 3600}}, id="delayed"),
    pytest.param({"op": "hold"}, id="held"),
]


@pytest.mark.parametrize("limit", ["expires", "deadline"])
@pytest.mark.parametrize("start", [{"delay": 60}, {"run_at": "2027-01-15T08:01:00Z"}], ids=str)
def test_job_whose_time_is_over_before_it_may_start_is_refused(
    broker: BrokerHarness, limit: str, start: dict[str, Any]
) -> None:
    jobs = [{"command": "x", **start, limit: seconds} for seconds in (60, 60.5)]

    reply = broker.ask("enqueue", jobs=jobs)

    assert reply["ids"] == [None, "a1"]
    [error] = reply["errors"]
    [(name, value)] = start.items()
    assert error["message"] == (
        f"{limit}: is over before the job may start ({limit} 60 s, {name} {value}{' s' if name == 'delay' else ''})"
    )
    assert "it counts from the enqueue" in error["hint"]


@pytest.mark.parametrize("later", LATER)
def test_job_that_was_not_started_in_time_is_cancelled(broker: BrokerHarness, later: dict[str, Any]) -> None:
    broker.enqueue("x", expires=10)
    if later:
        broker.ask(**later, select={"ids": ["a1"]})
    assert broker.core.wake_ms(broker.clock.now) == 10_000
    broker.after(9_999)
    assert stands(broker, "a1")[0] == "pending"

    broker.after(1)

    assert stands(broker, "a1") == ("cancelled", "expired")
    assert broker.job("a1")["expires_at"] == "2027-01-15T08:00:10.000Z"
    assert broker.core.next_until_ms is None
    assert [entry["job_id"] for entry in broker.events("job_expired")] == ["a1"]


def test_job_that_was_started_in_time_does_not_expire(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", expires=10)
    worker.hello()
    worker.finish(worker.grant(), 1)

    broker.after(1_000)
    broker.after(60_000)

    assert worker.grant().attempt == 2
    assert stands(broker, "a1")[0] == "processing"


def test_lease_that_came_back_unstarted_has_not_started_the_job(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", expires=10)
    worker.hello()
    grant = worker.grant()
    broker.after(11_000)
    assert stands(broker, "a1")[0] == "processing"

    worker.release(grant)

    broker.after(0)
    assert stands(broker, "a1") == ("cancelled", "expired")


@pytest.mark.parametrize("later", LATER)
def test_waiting_job_whose_deadline_has_come_is_dead(broker: BrokerHarness, later: dict[str, Any]) -> None:
    broker.enqueue("x", deadline=10)
    if later:
        broker.ask(**later, select={"ids": ["a1"]})
    broker.after(10_000)

    assert stands(broker, "a1") == ("dead", "deadline")
    assert broker.ask("status")["jobs"]["dead"] == 1
    broker.check_invariants()


def test_attempt_may_run_until_the_deadline_and_no_longer(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", deadline=10, timeout=60)
    broker.enqueue("y", deadline=60, timeout=5)
    broker.after(4_000)
    worker.hello()

    assert [grant.timeout_ms for grant in worker.grants()] == [6_000, 5_000]


def test_attempt_that_the_deadline_has_ended_is_the_last(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", deadline=10)
    worker.hello()
    grant = worker.grant()
    broker.after(10_000)

    worker.finish(grant, None, outcome="timeout", signal=15)

    assert stands(broker, "a1") == ("dead", "deadline")
    assert broker.job("a1")["attempts"] == 1


def test_retry_that_could_not_begin_in_time_does_not_happen(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", deadline=10, backoff="fixed", backoff_base=8)
    worker.hello()
    worker.finish(worker.grant(), 1)
    assert stands(broker, "a1") == ("failed", "backoff")
    broker.after(8_000)

    worker.finish(worker.grant(), 1)

    assert stands(broker, "a1") == ("dead", "deadline")


def test_retry_that_waits_when_the_deadline_comes_is_dead(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", deadline=10)
    worker.hello()
    worker.finish(worker.grant(), 1)
    broker.ask("hold", select={"ids": ["a1"]})
    broker.after(10_000)

    assert stands(broker, "a1") == ("dead", "deadline")
    broker.check_invariants()


def test_budget_that_is_used_up_is_told_as_such(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", deadline=1, max_retries=1)
    worker.hello()
    worker.finish(worker.grant(), 1)

    assert stands(broker, "a1") == ("dead", "exit")


def test_what_is_due_outlives_a_restart(broker: BrokerHarness) -> None:
    broker.enqueue("x", expires=10)
    broker.enqueue("y", deadline=20)
    broker.crash()
    broker.after(15_000)

    assert [stands(broker, job)[0] for job in ("a1", "a2")] == ["cancelled", "pending"]
    broker.after(15_000)
    assert stands(broker, "a2")[0] == "dead"


def test_many_are_ended_some_in_each_turn(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.endings.SWEPT_PER_TURN", 2)
    broker.enqueue(*["x"] * 5, expires=10)

    broker.after(10_000)
    assert broker.ask("status")["jobs"]["pending"] == 3  # the turn that asks ends some, too
    broker.after(0)
    assert broker.ask("status")["jobs"]["pending"] == 0


def test_job_that_is_lost_after_its_deadline_is_not_leased_again(broker: BrokerHarness) -> None:
    first = broker.worker("first")
    first.hello()
    broker.enqueue("x", deadline=10)
    grant = first.grant()
    second = broker.worker("second")
    second.hello()
    for _ in range(16):
        broker.after(2_000)
        second.beat()

    assert [echo.drop for echo in broker.take_all(second.route, Echo)] == [[]] * 16
    assert second.grants() == []
    assert stands(broker, grant.job) == ("dead", "deadline")
    broker.check_invariants()


def test_what_is_overdue_is_not_leased_however_much_there_is(
    broker: BrokerHarness, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.core.endings.SWEPT_PER_TURN", 1)
    broker.enqueue("x", "y", expires=10)
    broker.enqueue("z", deadline=10)
    broker.enqueue("on time")
    broker.clock.advance(10_000)

    worker.hello()

    assert [grant.command for grant in worker.grants()] == ["on time"]


# --- rules of retries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "end", "state"),
    [
        ({}, {"exit_code": 1}, "failed"),
        ({"retry_on": [75]}, {"exit_code": 75}, "failed"),
        ({"retry_on": [75]}, {"exit_code": 1}, "dead"),
        ({"no_retry_on": [1, 2]}, {"exit_code": 2}, "dead"),
        ({"no_retry_on": [1, 2]}, {"exit_code": 3}, "failed"),
        ({"retry_on": [137]}, {"exit_code": None, "signal": 9, "outcome": "signal"}, "failed"),
        ({"no_retry_on": [137]}, {"exit_code": None, "signal": 9, "outcome": "signal"}, "dead"),
        ({"no_retry_on": [124]}, {"exit_code": None, "signal": 15, "outcome": "timeout"}, "dead"),
        ({"retry_on": [1]}, {"exit_code": None, "outcome": "spawn_error"}, "dead"),
        ({"no_retry_on": [1]}, {"exit_code": None, "outcome": "spawn_error"}, "failed"),
    ],
)
def test_rules_say_which_failures_are_retried(
    broker: BrokerHarness, worker: FakeWorker, rules: dict[str, Any], end: dict[str, Any], state: str
) -> None:
    broker.enqueue("x", **rules)
    worker.hello()
    worker.finish(worker.grant(), **end)

    assert broker.state("a1") == state
    view = broker.job("a1")
    assert {name: view[name] for name in rules} == rules


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ("exp", [2, 4, 8, 16]),
        ("linear", [2, 4, 6, 8]),
        ("fixed", [2, 2, 2, 2]),
        ([5, 1, 7.5], [5, 1, 7.5, 7.5]),
    ],
)
def test_backoff_is_as_it_was_chosen(
    broker: BrokerHarness, worker: FakeWorker, backoff: str | list[float], delays: list[float]
) -> None:
    broker.enqueue("x", backoff=backoff, max_retries=9)
    worker.hello()
    seen = []
    for delay in delays:
        before_ms = broker.clock.wall_ms
        worker.finish(worker.grant(), 1)
        assert broker.core.next_due_ms is not None
        seen.append((broker.core.next_due_ms - before_ms) / 1000)
        broker.after(round(delay * 1000))
    worker.grant()

    assert seen == delays
    assert broker.job("a1")["backoff"] == backoff
