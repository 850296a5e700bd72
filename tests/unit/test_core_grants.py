"""Who gets which job, in which order, and how many."""

from __future__ import annotations

import pytest

from broker.core.grants import GRANTS_PER_TURN
from broker.core.memory import AHEAD_MAX, Session
from queuectl.messages import ByeOk, Echo, Push
from tests.harness import BrokerHarness, FakeWorker, request


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def granted(worker: FakeWorker) -> list[str]:
    return [grant.job for grant in worker.grants()]


def warmed_up(broker: BrokerHarness, duration_ms: int, *, slots: int = 1) -> FakeWorker:
    """A worker whose one job so far took so long."""
    worker = connected(broker, slots=slots)
    broker.enqueue()
    worker.finish(worker.grant(), duration_ms=duration_ms)
    return worker


# --- order -------------------------------------------------------------------------------------------


def test_order_is_priority_then_due_time_then_arrival_over_all_queues(broker: BrokerHarness) -> None:
    [low] = broker.enqueue(priority=-1)
    [late] = broker.enqueue(queue="b", delay=2)
    [early] = broker.enqueue(queue="a", delay=1)
    [first] = broker.enqueue(queue="b")
    [second] = broker.enqueue(queue="a")
    [third] = broker.enqueue(queue="b")
    [high] = broker.enqueue(queue="a", priority=5, delay=3)
    broker.clock.advance(3000)

    worker = connected(broker, slots=10)

    assert granted(worker) == [high, first, second, third, early, late, low]


def test_one_queue_is_not_asked_where_it_stands(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = connected(broker, queues=["mine"])
    broker.enqueue(queue="other")
    broker.enqueue(queue="mine")
    worker.finish(worker.grant())  # from here on it is known that nothing there has to run alone
    monkeypatch.delattr("broker.store.jobs.Jobs.heads")

    [job] = broker.enqueue(queue="mine")

    assert granted(worker) == [job]


def test_worker_gets_only_its_queues(broker: BrokerHarness) -> None:
    broker.enqueue(queue="other", priority=9)
    [mine] = broker.enqueue(queue="mine")
    [also] = broker.enqueue(queue="also")

    worker = connected(broker, slots=5, queues=["mine", "also", "none-yet"])

    assert granted(worker) == [mine, also]
    assert broker.ask("list", queue="other")["jobs"][0]["reason"] == "no_worker"


def test_queue_that_comes_later_is_served(broker: BrokerHarness) -> None:
    worker = connected(broker, queues=["later"])

    [job] = broker.enqueue(queue="later")

    assert granted(worker) == [job]


def test_grant_carries_all_that_the_worker_needs(broker: BrokerHarness) -> None:
    worker = connected(broker)
    fields = {"timeout": 1.5, "env": {"A": "b"}, "cwd": "/srv", "keep_children": True, "output_limit": 100}
    broker.enqueue("make it", id="x", queue="q", max_retries=5, **fields)

    grant = worker.grant()

    assert (grant.job, grant.attempt, grant.max_retries, grant.queue) == ("x", 1, 5, "q")
    assert (grant.command, grant.env, grant.cwd) == ("make it", {"A": "b"}, "/srv")
    assert (grant.timeout_ms, grant.output_limit, grant.keep_children) == (1500, 100, True)


def test_job_is_granted_in_the_turn_that_stores_it(broker: BrokerHarness) -> None:
    worker = connected(broker)

    broker.enqueue()

    worker.grant()


# --- how many ------------------------------------------------------------------------------------------


def test_worker_gets_no_more_than_its_slots(broker: BrokerHarness) -> None:
    broker.enqueue(*["true"] * 5)

    worker = connected(broker, slots=3)

    assert len(worker.grants()) == 3


def test_worker_without_slots_gets_nothing(broker: BrokerHarness) -> None:
    broker.enqueue()

    assert granted(connected(broker, slots=0)) == []


def test_credit_is_absolute_and_counts_leases_from_before(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue("a", "b", "c")
    first, _ = worker.grants()

    worker.finish(first, duration_ms=5000)

    assert len(worker.grants()) == 1
    worker.finish(first)
    assert worker.grants() == []


@pytest.mark.parametrize(
    ("run_ms", "slots", "room"),
    [(None, 2, 2), (5000, 2, 2), (100, 2, 2), (99, 2, 2), (25, 2, 5), (10, 2, 10), (1, 2, 82), (0, 4, 4 + AHEAD_MAX)],
)
def test_leases_ahead_only_keep_short_jobs_flowing(
    broker: BrokerHarness, run_ms: int | None, slots: int, room: int
) -> None:
    worker = connected(broker, slots=slots)
    session = broker.core.sessions[worker.route]
    if run_ms is not None:
        session.observe(run_ms)

    assert session.room(0) == room


def test_average_of_durations_follows_slowly(broker: BrokerHarness) -> None:
    worker = connected(broker)
    session: Session = broker.core.sessions[worker.route]

    for duration_ms in (100, 200, 200):
        session.observe(duration_ms)

    assert session.run_ms == pytest.approx(136)


def test_short_jobs_are_leased_ahead(broker: BrokerHarness) -> None:
    worker = warmed_up(broker, 20)

    broker.enqueue(*["true"] * 5)

    assert len(worker.grants()) == 3


def test_long_jobs_are_never_leased_ahead(broker: BrokerHarness) -> None:
    worker = warmed_up(broker, 5000)

    broker.enqueue("a", "b")

    assert len(worker.grants()) == 1


def test_free_slot_anywhere_comes_before_a_lease_ahead(broker: BrokerHarness) -> None:
    fast = warmed_up(broker, 1)
    slow = connected(broker, "slow", slots=2)

    broker.enqueue("a", "b", "c")

    assert (len(fast.grants()), len(slow.grants())) == (1, 2)


def test_jobs_go_to_the_least_busy_worker(broker: BrokerHarness) -> None:
    one, two = connected(broker, "one", slots=4), connected(broker, "two", slots=4)
    broker.enqueue(*["true"] * 4)
    assert (len(one.grants()), len(two.grants())) == (2, 2)
    three = connected(broker, "three", slots=4)

    broker.enqueue("a", "b")

    assert (len(one.grants()), len(two.grants()), len(three.grants())) == (0, 0, 2)


def test_share_follows_the_number_of_slots(broker: BrokerHarness) -> None:
    small, large = connected(broker, "small", slots=1), connected(broker, "large", slots=3)

    broker.enqueue("a", "b", "c", "d", "e")

    assert (len(small.grants()), len(large.grants())) == (1, 3)


def test_workers_of_different_queues_are_served_in_one_turn(broker: BrokerHarness) -> None:
    a, b, both = (connected(broker, "a", queues=["a"]), connected(broker, "b", queues=["b"]), connected(broker, "ab"))

    jobs = [{"command": "true", "queue": queue} for queue in ("a", "b", "a")]
    first, second, third = broker.ask("enqueue", jobs=jobs)["ids"]

    assert (granted(a), granted(b), granted(both)) == ([first], [second], [third])


def test_more_than_a_turn_may_lease_follows_in_the_next_one(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=GRANTS_PER_TURN + 10)
    broker.enqueue(*["true"] * (GRANTS_PER_TURN + 5))
    assert len(worker.grants()) == GRANTS_PER_TURN
    assert broker.core.wake_ms(broker.clock.now) == 0

    broker.turn()

    assert len(worker.grants()) == 5
    assert broker.core.wake_ms(broker.clock.now) != 0


def test_large_jobs_are_pushed_in_several_messages(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=20)
    for _ in range(10):
        broker.enqueue(*["x" * 100_000] * 2, env={"A": "y" * 100_000})

    pushes = broker.take_all(worker.route, Push)

    assert [push.seq for push in pushes] == list(range(1, len(pushes) + 1))
    assert sum(len(push.grants) for push in pushes) == 20


def test_a_turn_with_many_large_jobs_splits_its_push(broker: BrokerHarness) -> None:
    broker.enqueue(*["x" * 100_000] * 12)

    worker = connected(broker, slots=20)

    pushes = broker.take_all(worker.route, Push)
    assert [len(push.grants) for push in pushes] == [5, 5, 2]
    assert {lease.push for lease in broker.core.leases.values()} == {1, 2, 3}


# --- not now ---------------------------------------------------------------------------------------------


def test_stopping_broker_grants_nothing(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue(delay=1)
    broker.clock.advance(1000)

    broker.ask("shutdown")

    assert worker.grants() == []


def test_full_disk_grants_and_promotes_nothing_and_answers_heartbeats(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(delay=1)
    broker.core.storage_full = True
    broker.clock.advance(1000)

    worker.beat()

    worker.take(Echo)
    assert worker.grants() == []
    broker.core.storage_full = False
    broker.turn()
    assert granted(worker) == [job]


def test_lease_is_logged_only_where_somebody_reads_it(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue()
    broker.core.verbose = False
    broker.enqueue()

    assert len(worker.grants()) == 2
    assert len(broker.events("job_leased")) == 1


def test_empty_queue_is_not_asked_again(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue()
    assert len(worker.grants()) == 1
    assert broker.core.ready == set()  # there was room for one more, and no more came

    broker.enqueue()
    assert len(worker.grants()) == 1
    assert broker.core.ready == {1}  # the room was full, so nobody knows

    broker.enqueue(queue="other")
    assert broker.core.ready == {1, 2}
    second = connected(broker, "second", slots=2)
    assert len(second.grants()) == 1
    assert broker.core.ready == set()


def test_what_workers_say_is_awaited_where_something_depends_on_it(broker: BrokerHarness) -> None:
    worker = connected(broker)
    assert not broker.core.is_awaited()
    broker.enqueue("first", "second", "third")
    first = worker.grant()
    assert broker.core.is_awaited()  # the others wait for room

    worker.finish(first)
    worker.finish(worker.grant())
    last = worker.grant()
    connected(broker, "another")
    assert not broker.core.is_awaited()
    worker.write(last, b"some output")
    assert broker.core.is_awaited()  # there may be more of it
    broker.turn()
    assert not broker.core.is_awaited()
    broker.turn(clients=[request("wait", empty=True, timeout_ms=1000)])
    assert broker.core.is_awaited()
    broker.outbox.clear()


def test_delayed_job_is_granted_when_it_is_due(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(delay=2.5)
    assert broker.job(job)["reason"] == "delayed"
    assert broker.core.wake_ms(broker.clock.now) is not None

    broker.after(2499)
    assert granted(worker) == []
    broker.after(1)

    assert granted(worker) == [job]


def test_wake_up_is_for_the_next_delayed_job(broker: BrokerHarness) -> None:
    broker.enqueue(delay=10)
    broker.enqueue(delay=5)
    broker.enqueue(delay=7)

    assert broker.core.wake_ms(broker.clock.now) == 5000
    broker.after(5000)
    assert broker.core.wake_ms(broker.clock.now) == 2000


def test_promotion_goes_in_batches(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.core.PROMOTED_PER_TURN", 2)
    broker.enqueue(*["true"] * 3, delay=1)
    broker.clock.advance(1000)
    worker = connected(broker, slots=5)
    assert len(worker.grants()) == 2
    assert broker.core.wake_ms(broker.clock.now) == 0

    broker.turn()

    assert len(worker.grants()) == 1


def test_only_queues_of_promoted_jobs_are_looked_at(broker: BrokerHarness) -> None:
    broker.enqueue(queue="now")
    broker.enqueue(queue="later", delay=1)
    worker = connected(broker)
    worker.finish(worker.grant())
    worker.bye()
    worker.take(ByeOk)
    broker.core.ready.clear()

    broker.after(1000)

    assert {broker.core.queues[bucket] for bucket in broker.core.ready} == {"later"}


def test_ready_queues_are_found_again_after_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    [now] = broker.enqueue()
    [later] = broker.enqueue(delay=1)
    broker.crash()
    worker = connected(broker, slots=2)
    assert granted(worker) == [now]

    broker.after(1000)

    assert granted(worker) == [later]


def test_pause_that_ends_wakes_the_loop_only_if_jobs_wait(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.turn()
    session = broker.core.sessions[worker.route]
    session.paused_until_ms = broker.clock.mono_ms + 10
    broker.core.rooms.touch(session)
    assert broker.core.wake_ms(broker.clock.now) != 10

    broker.enqueue()

    assert broker.core.wake_ms(broker.clock.now) == 10
    broker.after(10)
    worker.grant()
