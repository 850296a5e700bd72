"""Jobs that are over are kept as long as the settings say, and then they go, in small steps."""

from __future__ import annotations

import pytest

from broker.core import deletion
from queuectl.messages import ByeOk, Took
from tests.harness import BrokerHarness, FakeWorker

DAY_MS = 86_400_000


@pytest.fixture
def worker(broker: BrokerHarness) -> FakeWorker:
    worker = broker.worker(slots=500)
    worker.hello()
    return worker


def run(broker: BrokerHarness, worker: FakeWorker, *exits: int, **fields: object) -> list[str]:
    """Jobs that end so."""
    ids = broker.enqueue(*["x"] * len(exits), **{"max_retries": 1, **fields})
    for grant, code in zip(worker.grants(), exits, strict=True):
        worker.finish(grant, code)
    return ids


def there(broker: BrokerHarness) -> list[str]:
    return [job["id"] for job in broker.ask("list", limit=500)["jobs"]][::-1]


def walk(broker: BrokerHarness, steps: int = 8) -> None:
    """As many steps as it takes to look at everything once, and a rest before."""
    broker.after(deletion.REST_MS)
    for _ in range(steps):
        broker.after(deletion.STEP_MS)


def test_jobs_go_when_they_were_kept_long_enough(broker: BrokerHarness, worker: FakeWorker) -> None:
    done, lost = run(broker, worker, 0, 1)
    worker.bye()
    worker.take(ByeOk)
    [gone] = broker.enqueue("x")
    broker.ask("cancel", select={"ids": [gone]})
    [waiting] = broker.enqueue("x", queue="later")
    broker.clock.advance(6 * DAY_MS)
    walk(broker)
    assert there(broker) == [done, lost, gone, waiting]

    broker.clock.advance(DAY_MS)
    walk(broker)
    assert there(broker) == [lost, waiting]

    broker.clock.advance(180 * DAY_MS)
    walk(broker)
    assert there(broker) == [waiting]
    assert broker.ask("status")["jobs"] == {
        "pending": 1,
        "processing": 0,
        "completed": 0,
        "failed": 0,
        "dead": 0,
        "cancelled": 0,
        "total": 1,
    }
    assert [(each["state"], each["count"]) for each in broker.events("jobs_retired")] == [
        ("completed", 1),
        ("cancelled", 1),
        ("dead", 1),
    ]
    broker.check_invariants()


def test_setting_holds_for_what_is_there(broker: BrokerHarness, worker: FakeWorker) -> None:
    run(broker, worker, 0, 0)
    broker.ask("config_set", key="keep_completed", value="1h")
    walk(broker)
    assert len(there(broker)) == 2

    broker.clock.advance(3_600_000)
    walk(broker)

    assert there(broker) == []


def test_without_a_limit_they_stay(broker: BrokerHarness, worker: FakeWorker) -> None:
    for key in ("keep_completed", "keep_dead", "keep_dead_max"):
        broker.ask("config_set", key=key, value="none")
    run(broker, worker, 0, 1)
    broker.clock.advance(2000 * DAY_MS)
    walk(broker)

    assert len(there(broker)) == 2


@pytest.mark.parametrize("was_ahead", [False, True], ids=["set ahead", "set back to the right time"])
def test_a_clock_that_is_set_makes_no_job_older(broker: BrokerHarness, worker: FakeWorker, was_ahead: bool) -> None:
    run(broker, worker, 0, 1)
    broker.clock.wall_ms += 365 * DAY_MS
    if was_ahead:
        broker.crash()
        broker.clock.wall_ms -= 365 * DAY_MS
    walk(broker)

    assert len(there(broker)) == 2


def test_no_more_dead_jobs_are_kept_than_wanted_and_the_oldest_go(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.ask("config_set", key="keep_dead_max", value=2)
    ids = run(broker, worker, 1, 1, 1, 1, 1)
    walk(broker)

    assert there(broker) == ids[-2:]


def test_of_dead_jobs_those_go_that_died_first(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.ask("config_set", key="keep_dead_max", value=2)
    ids = broker.enqueue(*"xxxxx", max_retries=1)
    grants = worker.grants()
    for place in (3, 0, 4, 2, 1):
        broker.clock.advance(1)
        worker.finish(grants[place], 1)
    walk(broker)

    assert there(broker) == [ids[1], ids[2]]


def test_many_go_in_small_steps(broker: BrokerHarness, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "DELETED_PER_STEP", 3)
    monkeypatch.setattr(deletion, "LOOKED_AT_PER_STEP", 4)
    ids = run(broker, worker, *[0] * 9)
    late = ids[0]
    broker.clock.advance(8 * DAY_MS)
    broker.store._db.run("UPDATE job SET finished_at_ms = ? WHERE id = ?", (broker.clock.wall_ms, late))

    left = []
    broker.after(0)
    left.append(len(there(broker)))
    for _ in range(3):
        broker.after(deletion.STEP_MS)
        left.append(len(there(broker)))

    assert left == [6, 3, 1, 1]
    assert there(broker) == [late]
    assert broker.core.wake_ms(broker.clock.now) is not None
    broker.check_invariants()


def test_tags_output_and_history_of_a_deleted_job_go(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", tags={"a": "b"})
    grant = worker.grant()
    worker.write(grant, b"output")
    worker.finish(grant, stdout_bytes=6)
    assert worker.take(Took).taken

    assert broker.ask("purge", select={"tags": ["a"]}, dry=True)["ids"] == ["a1"]
    assert there(broker) == ["a1"]
    assert broker.ask("purge", select={"tags": ["a"]})["ids"] == ["a1"]
    broker.after(100)
    broker.after(100)

    for table in ("job", "spec", "tag", "attempt", "output", "deed", "doomed"):
        assert broker.store._db.query(f"SELECT count(*) FROM {table}") == [(0,)], table
    assert broker.enqueue("y") == ["a2"]
    worker.grant()
    assert broker.ask("purge", select={"ids": ["a2"]})["skipped"][0]["code"] == "wrong_state"


def test_who_comes_from_a_version_that_kept_all_has_a_day_to_object(broker: BrokerHarness, worker: FakeWorker) -> None:
    ids = run(broker, worker, 0)
    worker.bye()
    worker.take(ByeOk)
    broker.store._db.run("DELETE FROM meta WHERE key = 'retire_from_ms'")
    broker.clock.advance(30 * DAY_MS)
    broker.crash()
    for left_ms in (deletion.STEP_MS, 1):
        broker.after(DAY_MS // 2 - left_ms)
    assert there(broker) == ids
    broker.crash()  # and it is a day from the first start, not from each

    broker.after(60_000)
    walk(broker)

    assert there(broker) == []
