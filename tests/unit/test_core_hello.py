"""Workers come: hello, welcome, refusal, who are you, and sessions that follow one another."""

from __future__ import annotations

import msgpack
import pytest

from broker.core.sessions import SUSPECT_HEARTBEATS, WINDOW_BYTES
from queuectl.messages import Beat, Echo, Held, Output, Refuse, Release, Results, Welcome, Who
from queuectl.wire import encode
from tests.harness import BrokerHarness, held


def test_hello_is_answered_with_welcome(broker: BrokerHarness) -> None:
    welcome = broker.worker("w").hello()

    assert welcome == Welcome(
        session=10**9 + 1,
        version=1,
        broker="broker-1",
        epoch=1,
        heartbeat_ms=2000,
        silence_ms=10_000,
        window_bytes=WINDOW_BYTES,
        worker="host-w-770000",
        keep=[],
        drop=[],
    )


def test_worker_is_named_after_its_host_in_plain_letters(broker: BrokerHarness) -> None:
    welcome = broker.worker("w").hello(host="Büro 1.example.org")

    assert welcome.worker == "B-ro-1-770000"


def test_repeated_hello_keeps_the_session(broker: BrokerHarness) -> None:
    worker = broker.worker()
    first = worker.hello()

    again = worker.hello()

    assert again == first
    assert len(broker.events("session_opened")) == 1


def test_repeated_hello_does_not_take_back_what_is_on_its_way(broker: BrokerHarness) -> None:
    worker = broker.worker()
    [job] = broker.enqueue()
    worker.hello()

    worker.hello()

    assert broker.state(job) == "processing"
    assert worker.grant().job == job


def test_new_session_on_the_same_line_does_not_take_back_what_is_on_its_way(broker: BrokerHarness) -> None:
    worker = broker.worker()
    [job] = broker.enqueue(on_lost="dead")
    worker.hello()
    broker.turn(gone=[worker.route])  # a message to it did not go out
    grant = worker.grant()

    worker.hello()  # said before any of that arrived

    assert broker.state(job) == "processing"
    worker.beat(grant)
    assert worker.take(Echo).drop == []
    assert worker.finish(grant) == "recorded"


def test_what_was_lost_on_the_same_line_goes_back_at_the_first_heartbeat(broker: BrokerHarness) -> None:
    worker = broker.worker()
    [job] = broker.enqueue()
    worker.hello()
    broker.turn(gone=[worker.route])
    broker.outbox.clear()
    worker.hello()

    worker.beat()

    worker.take(Echo)
    again = worker.grant()
    assert (again.job, again.attempt) == (job, 1)


def test_repeated_hello_may_say_that_the_worker_drains(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()

    worker.hello(draining=True)
    broker.enqueue()

    assert worker.grants() == []


@pytest.mark.parametrize(("low", "high"), [(0, 0), (2, 3)])
def test_worker_without_a_common_version_is_refused_for_good(broker: BrokerHarness, low: int, high: int) -> None:
    worker = broker.worker()

    worker.tell(worker.hello_message(version_min=low, version_max=high))

    refusal = worker.take(Refuse)
    assert (refusal.code, refusal.retry_ms) == ("version_mismatch", 0)
    assert refusal.text == f"this broker speaks version 1, not {low} to {high}"


def test_worker_with_a_common_version_among_others_is_welcome(broker: BrokerHarness) -> None:
    assert broker.worker().hello(version_min=0, version_max=9).version == 1


def test_jobs_of_another_broker_come_first(broker: BrokerHarness) -> None:
    worker = broker.worker()

    worker.tell(worker.hello_message(held=[Held(1, "a1", 1, False), Held(2, "a2", 1, True)], broker="elsewhere"))

    refusal = worker.take(Refuse)
    assert (refusal.code, refusal.retry_ms) == ("other_broker", 5000)
    assert refusal.text.startswith("1 jobs of another broker")


def test_results_for_another_broker_alone_do_not_keep_a_worker_out(broker: BrokerHarness) -> None:
    welcome = broker.worker().hello(held=[Held(2, "a2", 1, True)], broker="elsewhere")

    assert welcome.keep == [2]


@pytest.mark.parametrize("kind", [Beat(7, 1, 0, [], [], False), Results(7, []), Release(7, []), Output(7, [])])
def test_unknown_route_is_asked_who_it_is(broker: BrokerHarness, kind: object) -> None:
    worker = broker.worker()

    worker.tell(kind)

    worker.take(Who)


def test_message_of_an_older_session_is_asked_who(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()

    worker.session -= 1
    worker.beat()

    worker.take(Who)


def test_who_is_asked_at_most_once_a_second(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.beat()
    worker.take(Who)

    broker.clock.advance(999)
    worker.beat()
    broker.assert_quiet()
    broker.clock.advance(1)
    worker.beat()

    worker.take(Who)


def test_strangers_without_end_do_not_fill_the_memory(broker: BrokerHarness) -> None:
    beat = encode(Beat(7, 1, 0, [], [], False))

    broker.turn([(b"%d" % number, beat) for number in range(10_002)])

    assert len(broker.core.asked_who) <= 10_001
    assert len(broker.outbox) == 10_002
    broker.outbox.clear()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"hello",
        msgpack.packb({"a": 1}),
        msgpack.packb(["nonsense"]),
        msgpack.packb(["beat", "x"]),
        b"\x00" * 2**21,
    ],
    ids=["empty", "not msgpack", "trailing bytes", "a map", "unknown kind", "wrong fields", "too large"],
)
def test_malformed_message_is_counted_and_dropped(broker: BrokerHarness, body: bytes) -> None:
    broker.turn([(b"w", body)])

    assert broker.core.malformed == 1
    assert len(broker.events("message_malformed")) == 1


def test_new_route_of_a_boot_supersedes_the_old_one(broker: BrokerHarness) -> None:
    worker = broker.worker()
    old = worker.hello().session

    worker.route = b"w2"
    new = worker.hello().session

    assert new != old
    assert list(broker.core.sessions) == [b"w2"]
    assert broker.events("session_closed") == [{"worker_id": "host-w-770000", "reason": "superseded"}]


def test_superseded_session_is_asked_who(broker: BrokerHarness) -> None:
    worker = broker.worker()
    old = worker.hello().session
    worker.route = b"w2"
    worker.hello()

    worker.route, worker.session = b"w", old
    worker.beat()

    worker.take(Who)


def test_worker_that_connected_anew_is_still_watched(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    worker.route = b"w2"
    worker.hello()
    [job] = broker.enqueue()
    worker.grant()

    broker.after(30_000)

    assert broker.state(job) == "pending"


def test_other_boot_on_the_same_route_takes_it_over(broker: BrokerHarness) -> None:
    first, second = broker.worker("a"), broker.worker("b")
    first.hello()

    second.route = first.route
    second.hello()

    assert [session.holder.worker.boot for session in broker.core.sessions.values()] == [second.boot]
    assert list(broker.core.holders) == [second.boot]


def test_hello_on_a_new_route_gives_back_what_was_lost_on_the_old_one(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=2)
    worker.hello()
    kept, lost = broker.enqueue("a", "b")
    grants = worker.grants()

    worker.route = b"w2"
    welcome = worker.hello(held=[held(grants[0])])

    assert (welcome.keep, welcome.drop) == ([grants[0].lease], [])
    again = worker.grant()
    assert (again.job, again.attempt) == (lost, 1)
    assert again.lease != grants[1].lease
    assert broker.history(lost)[0]["attempt"] == 1
    assert broker.state(kept) == "processing"


def test_hello_with_an_unknown_running_lease_is_told_to_drop_it(broker: BrokerHarness) -> None:
    welcome = broker.worker().hello(held=[Held(99, "a1", 1, False)])

    assert (welcome.keep, welcome.drop) == ([], [99])


def test_hello_with_a_running_lease_of_another_boot_is_told_to_drop_it(broker: BrokerHarness) -> None:
    worker, other = broker.worker("a"), broker.worker("b")
    worker.hello()
    broker.enqueue()
    grant = worker.grant()

    welcome = other.hello(held=[held(grant)])

    assert welcome.drop == [grant.lease]


def test_connection_that_ended_leaves_the_leases_with_the_boot(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    [job] = broker.enqueue()
    worker.grant()

    broker.turn(gone=[b"w", b"nobody"])

    assert broker.core.sessions == {}
    assert broker.state(job) == "processing"
    [view] = broker.ask("status")["workers"]
    assert (view["state"], view["busy"]) == ("away", 1)


def test_connection_of_an_idle_worker_that_ended_leaves_nothing(broker: BrokerHarness) -> None:
    broker.worker().hello()

    broker.turn(gone=[b"w"])

    assert broker.core.holders == {}
    assert broker.core.wake_ms(broker.clock.now) is None


def test_worker_that_is_back_keeps_its_name_and_its_row(broker: BrokerHarness) -> None:
    worker = broker.worker()
    first = worker.hello()
    broker.turn(gone=[b"w"])

    second = worker.hello()

    assert second.worker == first.worker
    assert second.session > first.session


def test_welcome_tells_the_heartbeat_that_is_set(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="heartbeat", value="500ms")

    welcome = broker.worker().hello()

    assert (welcome.heartbeat_ms, welcome.silence_ms) == (500, 2500)


def test_sessions_of_a_later_epoch_have_greater_numbers(broker: BrokerHarness) -> None:
    worker = broker.worker()
    before = worker.hello()
    broker.crash()

    after = worker.hello()

    assert (before.epoch, after.epoch) == (1, 2)
    assert after.session > before.session
    assert after.broker == before.broker


def test_silent_worker_gets_nothing_new_until_it_is_heard(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.after(2000 * SUSPECT_HEARTBEATS)
    broker.enqueue()
    assert worker.grants() == []

    worker.beat()

    worker.take(Echo)
    worker.grant()
