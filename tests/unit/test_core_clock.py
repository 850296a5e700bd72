"""The wall clock is set while the broker runs: leases do not care, retries keep their delay, replies are kept."""

from __future__ import annotations

import pytest

from broker.core import wall
from tests.harness import BrokerHarness

HOUR_MS = 3600 * 1000


def failing(broker: BrokerHarness) -> str:
    worker = broker.worker()
    worker.hello()
    [job] = broker.enqueue(max_retries=2, backoff_base=2)
    worker.finish(worker.grant(), 1)
    return job


def is_ready(broker: BrokerHarness, job: str) -> bool:
    return broker.state(job) == "processing"


def test_clock_that_goes_back_does_not_delay_retries(broker: BrokerHarness) -> None:
    job = failing(broker)
    broker.clock.wall_ms -= HOUR_MS

    broker.after(1999)
    assert not is_ready(broker, job)
    broker.after(1)

    assert is_ready(broker, job)
    assert [record.keys["step_ms"] for record in broker.logs if record.event == "clock_stepped"] == [-HOUR_MS]
    broker.outbox.clear()


def test_step_of_the_clock_outlives_the_turn_that_saw_it_and_failed(broker: BrokerHarness) -> None:
    job = failing(broker)
    broker.clock.wall_ms -= HOUR_MS
    broker.fail_next = RuntimeError("the turn fails")
    with pytest.raises(RuntimeError):
        broker.after(0)

    broker.after(2000)

    assert is_ready(broker, job)
    assert [each["step_ms"] for each in broker.events("clock_stepped")] == [-HOUR_MS]
    broker.outbox.clear()


def test_step_of_the_clock_is_no_reason_to_write_where_nothing_can_be_written(broker: BrokerHarness) -> None:
    job = failing(broker)
    due = broker.job(job)["run_at"]
    broker.clock.wall_ms -= HOUR_MS
    broker.core.storage_full = True
    broker.after(0)
    assert broker.job(job)["run_at"] == due
    broker.core.storage_full = False

    broker.after(2000)

    assert is_ready(broker, job)
    broker.outbox.clear()


def test_held_retry_waits_no_longer_either_once_it_is_released(broker: BrokerHarness) -> None:
    job = failing(broker)
    broker.ask("hold", select={"ids": [job]})
    broker.clock.wall_ms -= HOUR_MS
    broker.after(2000)

    broker.ask("release", select={"ids": [job]})

    assert is_ready(broker, job)
    broker.outbox.clear()


def test_many_retries_are_made_earlier_in_steps_each_once(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wall, "HASTENED_PER_TURN", 2)
    worker = broker.worker(slots=5)
    worker.hello()
    jobs = broker.enqueue(*"xxxxx", max_retries=2, backoff=[10.0])
    for grant in worker.grants():
        worker.finish(grant, 1)
    broker.ask("edit", select={"ids": [jobs[4]]}, changes={"delay": 100.0})
    broker.clock.wall_ms -= HOUR_MS
    broker.after(0)
    assert broker.core.wake_ms(broker.clock.now) == 0
    broker.clock.wall_ms -= HOUR_MS
    broker.after(0)
    broker.ask("edit", select={"ids": [jobs[3]]}, changes={"delay": 50.0})
    while broker.core.wake_ms(broker.clock.now) == 0:
        broker.after(0)

    now_ms = broker.clock.wall_ms
    left = dict(broker.store._db.query("SELECT id, run_at_ms FROM job"))
    assert [left[job] - now_ms for job in jobs] == [10_000, 10_000, 10_000, 50_000, 100_000]


def test_retry_that_fails_again_before_its_turn_has_come_keeps_its_new_time(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wall, "HASTENED_PER_TURN", 1)
    worker = broker.worker(slots=3)
    worker.hello()
    broker.enqueue(*"xx", max_retries=2, backoff=[10.0])
    [again] = broker.enqueue(max_retries=2, backoff=[10.0])
    *others, last = worker.grants()
    for grant in others:
        worker.finish(grant, 1)
    broker.clock.wall_ms -= HOUR_MS
    worker.finish(last, 1)
    while broker.core.wake_ms(broker.clock.now) == 0:
        broker.after(0)

    due = dict(broker.store._db.query("SELECT id, run_at_ms FROM job"))[again]
    assert due - broker.clock.wall_ms == 10_000


def test_clock_that_goes_back_leaves_delayed_jobs_to_their_time(broker: BrokerHarness) -> None:
    [job] = broker.enqueue(delay=10.0)
    run_at = broker.ask("job", id=job)["job"]["run_at"]
    broker.clock.wall_ms -= HOUR_MS
    broker.after(0)

    assert broker.ask("job", id=job)["job"]["run_at"] == run_at


def test_clock_that_goes_ahead_does_not_forget_replies(broker: BrokerHarness) -> None:
    first = broker.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])
    broker.clock.wall_ms += 25 * HOUR_MS
    broker.after(120_000)

    assert broker.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}]) == first


def test_reply_is_as_old_as_it_is_though_the_machine_was_started_anew_meanwhile(broker: BrokerHarness) -> None:
    count = "SELECT count(*) FROM reply"
    broker.enqueue()
    broker.clock.advance(23 * HOUR_MS)
    broker.clock.mono_ms = 5000  # counts from when the machine was started
    broker.start()

    broker.after(HOUR_MS // 2)
    assert broker.store._db.query(count) == [(1,)]

    broker.after(HOUR_MS)
    assert broker.store._db.query(count) == [(0,)]
