"""Heartbeats: what they renew, what they heal, and what their absence means."""

from __future__ import annotations

from queuectl.messages import Echo, Grant, Push, Who
from queuectl.wire import encode
from tests.harness import BrokerHarness, FakeWorker


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def beat_and_echo(worker: FakeWorker, *held: Grant) -> Echo:
    worker.beat(*held)
    return worker.take(Echo)


def test_beat_is_echoed_with_its_number(broker: BrokerHarness) -> None:
    worker = connected(broker)

    echo = beat_and_echo(worker)

    assert echo == Echo(worker.session, 1, 2000, [])


def test_echo_tells_a_new_heartbeat(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.ask("config_set", key="heartbeat", value=1)

    assert worker.take(Echo) == Echo(worker.session, 0, 1000, [])  # at once, not with the next heartbeat
    assert beat_and_echo(worker).heartbeat_ms == 1000


def test_beats_keep_a_lease_for_as_long_as_they_come(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()

    for _ in range(100):
        broker.clock.advance(29_000)
        beat_and_echo(worker, grant)

    assert broker.state(job) == "processing"


def test_any_message_counts_as_a_sign_of_life(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()
    for _ in range(2):
        broker.clock.advance(29_000)
        worker.write(grant, b"x", offset=0)
    broker.outbox.clear()

    assert broker.state(job) == "processing"


def test_lost_push_heals_at_no_cost(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    [lost] = broker.enqueue()
    broker.take(worker.route, Push)
    [kept] = broker.enqueue()
    seen = worker.grant()
    assert (seen.job, worker.received) == (kept, 2)

    beat_and_echo(worker, seen)

    again = worker.grant()
    assert (again.job, again.attempt) == (lost, 1)
    view = broker.job(lost)
    assert (view["attempts"], view["losses"], view["attempt"]) == (0, 0, 1)
    assert len(broker.history(lost)) == 1


def test_push_that_is_still_on_its_way_is_kept(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()

    beat_and_echo(worker)
    beat_and_echo(worker)

    assert broker.state(job) == "processing"
    assert worker.grant().job == job


def test_worker_that_hears_nothing_for_three_beats_is_asked_who(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    broker.take(worker.route, Push)
    beat_and_echo(worker)
    beat_and_echo(worker)

    worker.beat()

    worker.take(Who)
    assert broker.events("session_closed")[-1]["reason"] == "hears nothing"
    assert broker.state(job) == "processing"
    worker.hello()
    beat_and_echo(worker)
    assert worker.grant().job == job


def test_worker_that_hears_anew_is_not_deaf(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue()
    beat_and_echo(worker)
    beat_and_echo(worker)
    grant = worker.grant()

    beat_and_echo(worker, grant)
    beat_and_echo(worker, grant)

    assert list(broker.core.sessions) == [worker.route]


def test_busy_worker_whose_beats_cross_the_next_push_is_not_deaf(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue(*["true"] * 10)
    grants = worker.grants()
    for _ in range(5):
        first, second = grants
        worker.finish(first)
        crossing = worker.received
        [following] = worker.grants()
        seen, worker.received = worker.received, crossing

        beat_and_echo(worker, second)

        worker.received = seen
        grants = [second, following]

    assert list(broker.core.sessions) == [worker.route]


def test_unknown_lease_in_a_beat_is_to_be_dropped(broker: BrokerHarness) -> None:
    worker, other = connected(broker, "a"), connected(broker, "b")
    broker.enqueue("x", "y")
    mine, theirs = worker.grant(), other.grant()

    echo = beat_and_echo(worker, mine, theirs, Grant(5, "a1", 1, 3, "q", "c", None, None, None, 0, False))

    assert echo.drop == [theirs.lease, 5]


def test_done_lease_in_a_beat_is_kept_and_never_dropped(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()

    worker.beat(done=[grant])
    worker.take(Echo)
    assert broker.state(job) == "processing"
    worker.finish(grant)
    worker.beat(done=[grant])

    assert worker.take(Echo).drop == []


def test_draining_worker_gets_nothing_new(broker: BrokerHarness) -> None:
    worker = connected(broker)
    worker.beat(draining=True)
    worker.take(Echo)
    [job] = broker.enqueue()
    assert worker.grants() == []
    assert broker.job(job)["reason"] == "no_worker"

    worker.beat()

    worker.take(Echo)
    worker.grant()


# --- silence ---------------------------------------------------------------------------------------


def test_lease_of_a_silent_worker_expires_after_a_whole_lease(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.grant()

    broker.after(29_999)
    assert broker.state(job) == "processing"
    broker.after(1000)

    view = broker.job(job)
    assert (view["state"], view["losses"], view["attempts"]) == ("pending", 1, 0)
    [attempt] = broker.history(job)
    assert (attempt["outcome"], attempt["note"]) == ("lost", "its worker was not heard of for 31.0 s")
    assert broker.core.holders == {}


def test_nobody_is_lost_before_all_has_been_heard(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.grant()

    broker.after(40_000, drained=False)
    assert broker.state_of(job) == "processing"
    broker.after(0, drained=True)

    assert broker.state(job) == "pending"


def test_beat_in_the_turn_of_the_sweep_saves_the_lease(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    grant = worker.grant()

    broker.clock.advance(40_000)
    beat_and_echo(worker, grant)

    assert broker.state(job) == "processing"


def test_stall_of_the_broker_is_forgiven_to_all(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.grant()
    broker.turn(clients=[])
    broker.clock.advance(60_000)

    broker.core.forgive(60_000)
    broker.turn()

    assert broker.state(job) == "processing"


def with_shorter_lease(broker: BrokerHarness) -> tuple[FakeWorker, Grant]:
    worker = connected(broker)
    broker.enqueue()
    grant = worker.grant()
    broker.ask("config_set", key="heartbeat", value=1)
    broker.ask("config_set", key="lease", value=5)
    assert len(broker.take_all(worker.route, Echo)) == 2
    return worker, grant


def test_shorter_lease_does_not_surprise_a_worker_that_has_not_heard_of_it(broker: BrokerHarness) -> None:
    worker, grant = with_shorter_lease(broker)

    broker.after(29_000)
    assert broker.state(grant.job) == "processing"
    beat_and_echo(worker, grant)
    broker.after(29_000)
    assert broker.state(grant.job) == "processing"


def test_shorter_lease_holds_from_the_second_heartbeat_on(broker: BrokerHarness) -> None:
    worker, grant = with_shorter_lease(broker)

    beat_and_echo(worker, grant)
    beat_and_echo(worker, grant)
    broker.after(5000)

    assert broker.state(grant.job) == "pending"


def test_hello_that_was_held_up_does_not_end_the_session(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue()
    grant = worker.grant()
    late = worker.hello_message(n=0)

    broker.turn([(b"old-route", encode(late))])

    assert (broker.state(grant.job), worker.finish(grant)) == ("processing", "recorded")


def test_worker_is_suspect_before_it_is_lost(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.after(5999)
    assert broker.ask("status")["workers"][0]["state"] == "idle"

    broker.after(1000)

    assert broker.ask("status")["workers"][0]["state"] == "silent"
    beat_and_echo(worker)
    assert broker.ask("status")["workers"][0]["state"] == "idle"


def test_holder_that_has_nothing_left_is_forgotten(broker: BrokerHarness) -> None:
    worker, heir = connected(broker, "a"), connected(broker, "b")
    broker.enqueue()
    grant = worker.grant()
    broker.turn(gone=[worker.route])
    heir.finish(grant)

    broker.after(1000)

    assert list(broker.core.holders) == [heir.boot]
    assert broker.events("worker_lost") == []


def test_sweep_is_what_wakes_the_loop_while_there_are_workers(broker: BrokerHarness) -> None:
    connected(broker)
    broker.after(1000)

    assert broker.core.wake_ms(broker.clock.now) == 1000
