"""Held replies."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadRequest, TooManyRequests, UnknownJob
from queuectl.messages import ByeOk, Stop
from tests.harness import BrokerHarness, FakeWorker, request


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def wait(broker: BrokerHarness, **args: Any) -> None:
    """Ask, and get no answer yet."""
    broker.turn(clients=[request("wait", **args)])
    assert broker.replies() == []


def test_wait_for_jobs_is_answered_when_all_have_ended(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    jobs = broker.enqueue("a", "b", max_retries=1)
    first, second = worker.grants()

    wait(broker, jobs=jobs)
    worker.finish(first, 0)
    broker.assert_quiet()
    worker.finish(second, 1)

    answer = broker.answer()
    assert (answer["done"], answer["jobs_left"], answer["counts"]["dead"]) == (True, 0, 1)


def test_wait_for_ended_jobs_is_answered_at_once(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.finish(worker.grant())

    assert broker.ask("wait", jobs=[job])["done"] is True
    assert broker.ask("wait", jobs=[])["done"] is True


def test_retry_does_not_end_the_wait(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    wait(broker, jobs=[job], timeout_ms=1000)

    worker.finish(worker.grant(), 1)
    assert broker.replies() == []
    broker.after(1000)

    answer = broker.answer()
    assert (answer["done"], answer["jobs_left"]) == (False, 1)


def test_wait_for_an_empty_queue(broker: BrokerHarness) -> None:
    assert broker.ask("wait", empty=True)["done"] is True
    worker = connected(broker)
    broker.enqueue(backoff_base=0, max_retries=2)

    wait(broker, empty=True)
    worker.finish(worker.grant(), 1)
    grant = worker.grant()
    broker.assert_quiet()
    worker.finish(grant, 1)

    assert broker.answer()["done"] is True


def test_wait_for_workers_to_be_gone(broker: BrokerHarness) -> None:
    one, _ = connected(broker, "a"), connected(broker, "b")
    [name] = broker.ask("worker_stop", workers=["host-a"])["workers"]
    one.take(Stop)

    wait(broker, workers=[name])
    one.bye()

    one.take(ByeOk)
    assert broker.answer()["done"] is True


def test_wait_is_over_after_its_time(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    wait(broker, jobs=[job], timeout_ms=500)
    assert broker.core.wake_ms(broker.clock.now) == 500
    broker.after(499)
    broker.assert_quiet()

    broker.after(1)

    assert broker.answer()["done"] is False


def test_wait_of_no_time_is_a_question(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()

    assert broker.ask("wait", jobs=[job], timeout_ms=0)["done"] is False


def test_stall_of_the_broker_does_not_shorten_a_wait(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    wait(broker, jobs=[job], timeout_ms=1000)

    broker.clock.advance(5000)
    broker.core.forgive(5000)
    broker.turn()
    broker.assert_quiet()
    broker.after(1000)

    assert broker.answer()["done"] is False


def test_stopping_broker_answers_those_who_wait(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    wait(broker, jobs=[job])

    broker.turn(clients=[request("shutdown")])

    shutdown, waited = sorted(broker.replies(), key=lambda reply: "done" in reply["ok"])
    assert shutdown["ok"]["pid"] == 4711
    assert waited["ok"]["done"] is False


@pytest.mark.parametrize(
    "args", [{}, {"jobs": [], "empty": True}, {"empty": True, "workers": []}, {"timeout_ms": 60_001}]
)
def test_wait_for_exactly_one_thing(broker: BrokerHarness, args: dict[str, Any]) -> None:
    assert isinstance(broker.refused("wait", **args), BadRequest)


def test_wait_for_an_unknown_job_is_refused(broker: BrokerHarness) -> None:
    assert isinstance(broker.refused("wait", jobs=["nobody"]), UnknownJob)


def test_too_many_who_wait_are_refused(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.requests.WAITERS_MAX", 1)
    [job] = broker.enqueue()
    wait(broker, jobs=[job], timeout_ms=10)

    error = broker.refused("wait", jobs=[job])

    assert isinstance(error, TooManyRequests)
    assert error.retryable
    broker.after(10)
    broker.answer()


def test_many_wait_for_one(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    for _ in range(3):
        wait(broker, jobs=[job])

    worker.finish(worker.grant())

    assert [reply["ok"]["done"] for reply in broker.replies()] == [True] * 3
