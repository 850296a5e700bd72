"""A turn that fails has not happened: not on disk, not in memory, not for anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.store import StoreFull, StoreRefused
from queuectl.messages import Beat, ByeOk, Echo, Output, Push, Results, Stop, Who
from queuectl.wire import encode
from tests.harness import BrokerHarness, FakeWorker, held, piece, request, result


class Injected(Exception):
    """What goes wrong at the commit."""


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def fails(broker: BrokerHarness, act: Callable[[], object], error: BaseException | None = None) -> None:
    """The act's turn fails at its commit; nothing is heard of it, and nothing is left of it."""
    broker.fail_next = error or Injected()
    with pytest.raises(type(broker.fail_next)):
        act()
    broker.assert_quiet()
    broker.check_invariants()


@pytest.mark.parametrize("error", [StoreRefused("x"), StoreFull("x"), Injected(), KeyboardInterrupt()])
def test_nothing_of_a_failed_enqueue_is_left(broker: BrokerHarness, error: BaseException) -> None:
    worker = connected(broker)

    fails(broker, lambda: broker.enqueue(queue="new"), error)

    assert broker.ask("status")["jobs"]["total"] == 0
    assert broker.core.buckets == {}
    assert broker.enqueue() == ["a1"]
    worker.grant()


def test_failed_request_may_be_repeated_with_success(broker: BrokerHarness) -> None:
    args: dict[str, Any] = {"request_id": "request-1", "jobs": [{"command": "x"}]}
    fails(broker, lambda: broker.ask("enqueue", **args))

    broker.turn(clients=[request("enqueue", **args)])

    [reply] = broker.replies()
    assert "repeated" not in reply
    assert reply["ok"]["ids"] == ["a1"]


def test_result_of_a_failed_turn_is_not_recorded(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()

    fails(broker, lambda: worker.finish(grant))

    assert broker.state(job) == "processing"
    assert worker.finish(grant) == "recorded"


def test_lease_of_a_failed_turn_is_granted_again(broker: BrokerHarness) -> None:
    broker.core.disk_low = False
    worker = connected(broker)
    fails(broker, lambda: broker.enqueue())

    [job] = broker.enqueue()

    grant = worker.grant()
    assert (grant.job, grant.attempt) == (job, 1)


def test_worker_whose_hello_failed_says_it_again(broker: BrokerHarness) -> None:
    worker = broker.worker()
    [job] = broker.enqueue()
    fails(broker, worker.hello)
    assert (broker.core.sessions, broker.core.holders) == ({}, {})

    worker.hello()

    assert worker.grant().job == job


def test_session_that_a_failed_turn_superseded_goes_on(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue()
    grant = worker.grant()
    worker.route = b"w2"
    fails(broker, worker.hello)

    worker.route = b"w"
    worker.beat(grant)

    assert worker.take(Echo).drop == []


def test_session_that_a_failed_turn_closed_is_still_there(broker: BrokerHarness) -> None:
    worker = connected(broker)
    fails(broker, worker.bye)

    worker.bye()

    worker.take(ByeOk)


def test_worker_that_a_failed_turn_lost_is_lost_in_the_next(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.grant()
    broker.clock.advance(31_000)
    fails(broker, broker.turn)
    assert broker.state_of(job) == "processing"

    broker.after(1000)

    assert broker.job(job)["losses"] == 1


def test_lease_whose_return_failed_heals_with_the_next_beat(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    fails(broker, lambda: worker.release(grant, reason="busy"))

    worker.beat()

    worker.take(Echo)
    assert worker.grant().job == job


def miss(broker: BrokerHarness, worker: FakeWorker, *, is_its_fault: bool = True) -> None:
    broker.core.miss(worker.route, broker.clock.now, is_its_fault=is_its_fault)


def miss_in_sessions(broker: BrokerHarness, worker: FakeWorker, count: int, *, is_its_fault: bool = True) -> None:
    """A message that fails in each of so many sessions, a second apart; the last one goes on."""
    for number in range(count):
        if number:
            broker.turn(gone=[worker.route])
            broker.clock.advance(1000)
            worker.hello()
        miss(broker, worker, is_its_fault=is_its_fault)
        miss(broker, worker, is_its_fault=is_its_fault)


@pytest.mark.parametrize(
    ("sessions", "is_its_fault", "is_heard"), [(3, True, False), (4, True, True), (9, True, True), (9, False, False)]
)
def test_message_that_fails_in_every_session_does_not_silence_its_worker(
    broker: BrokerHarness, sessions: int, is_its_fault: bool, is_heard: bool
) -> None:
    worker = connected(broker)

    miss_in_sessions(broker, worker, sessions, is_its_fault=is_its_fault)

    [job] = broker.enqueue()
    assert len(worker.grants()) == is_heard
    worker.beat(draining=True)
    assert worker.take(Echo).n == (worker.beats if is_heard else 0)
    assert broker.state(job) == "pending"


def test_misses_long_apart_are_not_in_a_row(broker: BrokerHarness) -> None:
    worker = connected(broker)
    miss_in_sessions(broker, worker, 3)
    broker.turn(gone=[worker.route])
    broker.clock.advance(10_000)
    worker.hello()

    miss(broker, worker)

    worker.beat()
    assert worker.take(Echo).n == 0


def test_what_rests_on_a_message_that_could_not_be_taken_is_not_acted_on(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(on_lost="dead")
    grant = worker.grant()
    fails(broker, lambda: worker.release(grant, reason="stopped"))
    miss(broker, worker)

    worker.beat()
    worker.bye()

    assert [echo.n for echo in broker.take_all(worker.route, Echo)] == [0, 0]
    assert broker.state(job) == "processing"
    broker.turn(gone=[worker.route])
    worker.hello(held=[held(grant)])
    worker.release(grant, reason="stopped")
    assert broker.state(job) == "dead"


def test_worker_whose_message_could_not_be_taken_lives_all_the_same(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    miss(broker, worker)
    broker.core.miss(b"unknown", broker.clock.now, is_its_fault=True)
    broker.after(20_000)
    worker.beat(grant)
    worker.take(Echo)

    broker.after(20_000)

    assert broker.state(job) == "processing"


def test_push_before_a_failed_turn_is_still_on_its_way(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    [job] = broker.enqueue()
    push = broker.take(worker.route, Push)
    fails(broker, lambda: broker.enqueue("next"))

    worker.beat()

    worker.take(Echo)
    assert broker.state(job) == "processing"
    worker.received = push.seq
    worker.beat(push.grants[0])
    worker.take(Echo)


def test_push_before_a_failed_turn_that_ended_its_lease_is_still_on_its_way(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    fails(broker, lambda: worker.finish(grant))

    worker.tell(Beat(worker.session, 1, 0, [], [], draining=False))  # said before the push had arrived

    worker.take(Echo)
    assert broker.state(job) == "processing"
    assert worker.finish(grant) == "recorded"


def test_push_before_a_failed_turn_that_began_a_session_is_still_on_its_way(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    again = broker.worker()
    again.route = b"elsewhere"
    fails(broker, lambda: again.hello(held=[held(grant)], n=2))

    worker.tell(Beat(worker.session, 1, 0, [], [], draining=False))

    worker.take(Echo)
    assert broker.state(job) == "processing"


def test_output_of_a_failed_turn_is_taken_when_it_comes_again(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    worker.write(grant, b"hello ")
    broker.outbox.clear()
    fails(broker, lambda: worker.write(grant, b"world", offset=6))

    worker.write(grant, b"world", offset=6)

    broker.outbox.clear()
    assert b"".join(data for _, _, data in broker.ask("output", id=job)["segments"]) == b"hello world"


def test_output_after_a_failed_result_is_kept_once(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    fails(broker, lambda: worker.tell(Results(worker.session, [result(grant, stdout_bytes=5)])))

    worker.finish(grant, stdout_bytes=5)
    worker.write(grant, b"hello")
    worker.write(grant, b"hello")

    broker.outbox.clear()
    assert broker.core.output_bytes == 5
    assert broker.state(job) == "completed"


def test_wait_that_a_failed_turn_answered_is_answered(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    broker.turn(clients=[request("wait", jobs=[job])])
    fails(broker, lambda: worker.finish(grant))

    worker.finish(grant)

    assert broker.answer()["done"] is True


def test_wait_is_not_over_because_of_a_turn_that_failed(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    jobs = broker.enqueue("a", "b")
    first, second = worker.grants()
    broker.turn(clients=[request("wait", jobs=jobs)])
    fails(broker, lambda: worker.finish(first))

    worker.finish(second)
    broker.assert_quiet()
    worker.finish(first)

    assert broker.answer()["done"] is True


def test_wait_asked_in_a_failed_turn_is_answered_once(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    body = request("wait", jobs=[job], timeout_ms=10)
    fails(broker, lambda: broker.turn(clients=[body]))
    broker.turn(clients=[body])

    broker.after(10)

    assert len(broker.replies()) == 1


def test_setting_of_a_failed_turn_is_not_in_force(broker: BrokerHarness) -> None:
    fails(broker, lambda: broker.ask("config_set", key="max_retries", value=9))

    assert broker.ask("config_show")["settings"]["max_retries"] == 3


def test_shutdown_of_a_failed_turn_has_not_begun(broker: BrokerHarness) -> None:
    fails(broker, lambda: broker.ask("shutdown"))

    assert broker.core.stopping is False


def test_purge_of_a_failed_turn_has_deleted_nothing(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(max_retries=1)
    grant = worker.grant()
    worker.write(grant, b"hello")
    broker.outbox.clear()
    worker.finish(grant, 1, stdout_bytes=5)
    fails(broker, lambda: broker.ask("dlq_purge", ids=[job]))

    assert broker.state(job) == "dead"
    assert broker.core.output_bytes == 5


def test_promotion_of_a_failed_turn_is_done_again(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(delay=1)
    broker.clock.advance(1000)
    fails(broker, broker.turn)

    broker.turn()

    assert worker.grant().job == job


def test_loss_and_adoption_in_a_failed_turn(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    broker.after(31_000)
    fails(broker, lambda: worker.hello(held=[held(grant)]))
    assert broker.state_of(job) == "pending"

    assert worker.hello(held=[held(grant)]).keep == [grant.lease]
    assert broker.job(job)["losses"] == 0


def test_broken_rule_of_the_store_voids_the_turn(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    broker.core.leases[grant.lease].seq += 1  # memory is wrong, the store notices

    with pytest.raises(StoreRefused, match="complete: 1 rows were to change, 0 did"):
        worker.tell(Results(worker.session, [result(grant)]))

    assert broker.state(job) == "processing"
    assert worker.finish(grant) == "recorded"


def test_stop_that_was_told_in_a_failed_turn_was_not_told(broker: BrokerHarness) -> None:
    worker = connected(broker)
    fails(broker, lambda: broker.ask("worker_stop"))

    broker.enqueue()
    worker.grant()
    broker.ask("worker_stop")

    worker.take(Stop)


def test_all_at_once(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue("a", "b", backoff_base=0)
    first, second = worker.grants()
    stranger = broker.worker("s")
    messages = [
        (worker.route, encode(Output(worker.session, [piece(first, b"x")]))),
        (worker.route, encode(Results(worker.session, [result(first, 1)]))),
        (worker.route, encode(Beat(worker.session, 1, worker.received, [second.lease], [first.lease], False))),
        (stranger.route, encode(Beat(7, 1, 0, [], [], False))),
    ]
    clients = [request("enqueue", jobs=[{"command": "c"}]), request("status")]
    fails(broker, lambda: broker.turn(messages, clients))

    broker.clock.advance(1000)
    broker.turn(messages, clients)

    assert worker.take(Echo).n == 1
    broker.take(stranger.route, Who)
    broker.outbox.clear()
    assert broker.job(first.job)["attempts"] == 1
