"""Following output: the reply is held until there is more, or until all is there."""

from __future__ import annotations

from typing import Any

import pytest

from broker.store import StoreRefused
from queuectl.messages import Grant
from tests.harness import BrokerHarness, FakeWorker, request
from tests.unit.test_core_output import working, write


def follow(broker: BrokerHarness, job: str, cursor: list[int] | None = None, **args: Any) -> None:
    """Ask for more output, and get no answer yet."""
    broker.turn(clients=[request("output", id=job, cursor=cursor, wait_ms=1000, **args)])
    assert broker.replies() == []


def with_output(broker: BrokerHarness) -> tuple[FakeWorker, Grant, list[int]]:
    worker, grant = working(broker)
    write(worker, grant, b"hello ")
    reply = broker.ask("output", id=grant.job, wait_ms=1000)
    assert (reply["next"], reply["finished"]) == (None, False)
    cursor: list[int] = reply["cursor"]
    return worker, grant, cursor


def test_follower_is_answered_when_there_is_more(broker: BrokerHarness) -> None:
    worker, grant, cursor = with_output(broker)

    follow(broker, grant.job, cursor)
    write(worker, grant, b"world", offset=6)

    assert broker.answer()["segments"] == [[1, 6, b"world"]]


def test_follower_of_one_stream_does_not_hear_of_the_other(broker: BrokerHarness) -> None:
    worker, grant, cursor = with_output(broker)

    follow(broker, grant.job, cursor, stream=2)
    write(worker, grant, b"world", offset=6)
    assert broker.replies() == []
    write(worker, grant, b"oops", stream=2)

    assert broker.answer()["segments"] == [[2, 0, b"oops"]]


def test_follower_is_answered_at_the_end(broker: BrokerHarness) -> None:
    worker, grant, cursor = with_output(broker)

    follow(broker, grant.job, cursor)
    worker.finish(grant, stdout_bytes=6)

    answer = broker.answer()
    assert (answer["segments"], answer["finished"], answer["totals"]) == ([], True, {"1": 6, "2": 0})


def test_output_is_not_finished_while_its_only_byte_is_on_its_way(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.finish(grant, stdout_bytes=1)

    assert broker.ask("output", id=grant.job)["finished"] is False
    write(worker, grant, b"x")

    assert broker.ask("output", id=grant.job)["finished"] is True


def test_output_is_not_finished_while_some_of_it_is_on_its_way(broker: BrokerHarness) -> None:
    worker, grant, cursor = with_output(broker)

    worker.finish(grant, stdout_bytes=11)
    assert broker.ask("output", id=grant.job)["finished"] is False
    follow(broker, grant.job, cursor)
    write(worker, grant, b"world", offset=6)

    answer = broker.answer()
    assert (answer["segments"], answer["finished"]) == ([[1, 6, b"world"]], True)


def test_output_that_its_worker_took_with_it_is_not_waited_for(broker: BrokerHarness) -> None:
    worker, grant, _ = with_output(broker)

    worker.finish(grant, stdout_bytes=11)
    worker.bye()
    broker.outbox.clear()

    assert broker.ask("output", id=grant.job, wait_ms=1000)["finished"] is True


def test_follower_waits_no_longer_than_it_said(broker: BrokerHarness) -> None:
    _, grant, cursor = with_output(broker)

    follow(broker, grant.job, cursor)
    broker.after(1000)

    answer = broker.answer()
    assert (answer["segments"], answer["cursor"], answer["finished"]) == ([], cursor, False)


def test_follower_of_another_job_is_left_alone(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=2)
    worker.hello()
    _, other = broker.enqueue("echo", "sleep")
    grant, other_grant = worker.grants()

    follow(broker, other)
    write(worker, grant, b"not for you")
    assert broker.replies() == []
    write(worker, other_grant, b"for you")

    assert broker.answer()["segments"] == [[1, 0, b"for you"]]


def test_follower_named_a_job_by_prefix_and_stays_with_it(broker: BrokerHarness) -> None:
    worker, grant = working(broker, id="job-17")

    follow(broker, "job-1")
    broker.enqueue("echo", id="job-18")
    write(worker, grant, b"hello")

    assert broker.answer()["segments"] == [[1, 0, b"hello"]]


def test_follower_of_a_job_that_is_purged_is_told_so(broker: BrokerHarness) -> None:
    worker, grant = working(broker, id="doomed", max_retries=1)
    worker.finish(grant, 1, stdout_bytes=100)

    follow(broker, grant.job)
    broker.turn(clients=[request("dlq_purge", ids=[grant.job])])
    broker.after(1000)

    purged, told = broker.replies()
    assert purged["ok"]["ids"] == ["doomed"]
    assert told["error"]["code"] == "unknown_job"


def test_fault_of_the_store_is_not_the_fault_of_who_waits(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, grant = working(broker)
    follow(broker, grant.job)

    def fail(*_: object) -> None:
        raise StoreRefused("a bug")

    monkeypatch.setattr(broker.store.history, "chunks", fail)
    with pytest.raises(StoreRefused):
        worker.write(grant, b"hello")
    monkeypatch.undo()
    write(worker, grant, b"hello")

    assert broker.answer()["segments"] == [[1, 0, b"hello"]]


def test_follower_of_an_attempt_that_is_lost_hears_of_it_once(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    [job] = broker.enqueue()
    worker.grant()
    broker.turn(clients=[request("output", id=job, wait_ms=60_000)])
    broker.turn(gone=[worker.route])
    assert broker.replies() == []

    broker.after(31_000)

    answer = broker.answer()
    assert (answer["segments"], answer["finished"], answer["outcome"]) == ([], False, "lost")
    assert broker.job(job)["state"] == "pending"
    follow(broker, job)
