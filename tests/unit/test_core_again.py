"""Running jobs again: retries now, dead ones with a fresh budget, copies of those that are over."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import UniqueKeyTaken, UnknownJob
from queuectl.messages import Grant
from tests.harness import BrokerHarness, FakeWorker, patient


@pytest.fixture
def worker(broker: BrokerHarness) -> FakeWorker:
    patient(broker)
    worker = broker.worker(slots=9)
    worker.hello()
    return worker


def retry(broker: BrokerHarness, *ids: str, **more: Any) -> dict[str, Any]:
    return broker.ask("retry", select={"ids": list(ids)}, **more)


def dead(broker: BrokerHarness, worker: FakeWorker, **fields: Any) -> str:
    """A job that is dead."""
    [job] = broker.enqueue(**{"max_retries": 1, **fields})
    worker.finish(worker.grant(), 1)
    return job


def test_retry_that_waits_comes_now(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    worker.finish(worker.grant(), 1)

    reply = retry(broker, "a1")

    assert (reply["ids"], reply["copies"]) == (["a1"], {})
    assert worker.grant().attempt == 2
    assert broker.job("a1")["attempts"] == 1
    assert broker.job("a1")["retried_by"] == "uid:1000"
    broker.check_invariants()


def test_retry_may_be_put_off(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    worker.finish(worker.grant(), 1)
    lost = dead(broker, worker)

    retry(broker, "a1", lost, delay=60)

    assert worker.grants() == []
    assert [broker.job(job)["reason"] for job in ("a1", lost)] == ["backoff", "delayed"]
    broker.after(60_000)
    assert {grant.job for grant in worker.grants()} == {"a1", lost}


def test_dead_job_gets_a_fresh_budget(broker: BrokerHarness, worker: FakeWorker) -> None:
    job = dead(broker, worker, deadline=60)
    broker.after(120_000)

    retry(broker, job)

    assert worker.grant().attempt == 2
    view = broker.job(job)
    assert (view["state"], view["attempts"], view["deadline_at"]) == ("processing", 0, None)
    broker.check_invariants()


@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_of_one_that_is_over_there_is_a_copy(broker: BrokerHarness, worker: FakeWorker, end: str) -> None:
    fields: dict[str, Any] = {
        "tags": {"run": "7"},
        "env": {"A": "b"},
        "priority": 3,
        "stdin": b"input",
        "retry_on": [75],
        "expires": 600,
        "deadline": 3600,
        "unique": "one",
    }
    broker.enqueue("x", **fields)
    grant = worker.grant()
    if end == "completed":
        worker.finish(grant)
    else:
        broker.ask("cancel", select={"ids": ["a1"]})
        worker.finish(grant, None, outcome="cancelled", signal=15)
    broker.after(60_000)
    broker.outbox.clear()

    reply = retry(broker, "a1")

    assert reply["copies"] == {"a1": "a2"}
    copy, old = broker.job("a2"), broker.job("a1")
    grant = _only(worker.grants())
    assert (grant.job, grant.stdin, grant.env) == ("a2", b"input", {"A": "b"})
    assert (copy["retry_of"], copy["tags"], copy["priority"], copy["retry_on"]) == ("a1", {"run": "7"}, 3, [75])
    assert (copy["unique"], copy["attempt"]) == (None, 1)
    assert copy["deadline_at"] == "2027-01-15T09:01:00.000Z"
    assert old["state"] == end
    assert [job["id"] for job in broker.ask("list", select={"tags": ["run=7"]})["jobs"]] == ["a2", "a1"]
    broker.check_invariants()


def _only(grants: list[Grant]) -> Grant:
    [grant] = grants
    return grant


def test_copy_may_be_put_off_and_passes_over_names_that_are_taken(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    worker.finish(worker.grant())
    broker.enqueue("y", id="a3", queue="elsewhere")
    worker.grants()

    reply = retry(broker, "a1", delay=5)

    assert reply["copies"] == {"a1": "a4"}
    assert broker.job("a4")["reason"] == "delayed"
    broker.after(5000)
    assert worker.grant().job == "a4"


def test_what_cannot_run_again_is_told(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", "y")
    first, second = worker.grants()
    worker.finish(first, 1)
    broker.ask("hold", select={"ids": [first.job]})

    reply = retry(broker, first.job, second.job)

    assert [each["message"] for each in reply["skipped"]] == [
        f"job '{second.job}' is processing: it cannot be retried",
        f"job '{first.job}' is held",
    ]


def test_key_of_a_dead_job_that_another_has_is_in_the_way(broker: BrokerHarness, worker: FakeWorker) -> None:
    first = dead(broker, worker, unique="one")
    second = dead(broker, worker, unique="one")

    assert [each["code"] for each in retry(broker, first, second)["skipped"]] == ["unique_key_taken"]
    worker.finish(worker.grant(), 1)
    [third] = broker.enqueue("z", unique="one")

    skipped = retry(broker, first)["skipped"]
    assert f"its unique key 'one' is in use; job '{third}' has it" in skipped[0]["message"]
    assert isinstance(broker.refused("dlq_retry", ids=[first]), UniqueKeyTaken)
    assert broker.ask("dlq_retry", all=True)["ids"] == []
    worker.grant()
    broker.check_invariants()


def test_dry_run_copies_nothing(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    worker.finish(worker.grant())
    dead(broker, worker)

    assert broker.ask("retry", select={}, dry=True)["ids"] == ["a2", "a1"]
    assert worker.grants() == []
    assert len(broker.ask("list")["jobs"]) == 2


# --- many, one after the other; held; exported -----------------------------------------------------------


def test_many_may_be_spread_over_time(broker: BrokerHarness, worker: FakeWorker) -> None:
    lost = [dead(broker, worker) for _ in range(3)]
    broker.enqueue("x")
    worker.finish(worker.grant())

    retry(broker, *lost, "a4", delay=1, interval=2)

    assert worker.grants() == []
    seen: list[str] = []
    for _ in range(4):
        broker.after(1000 if not seen else 2000)
        seen.append(worker.grant().job)
    assert seen == [*lost, "a5"]


def test_they_may_be_held_until_they_are_released(broker: BrokerHarness, worker: FakeWorker) -> None:
    lost = dead(broker, worker)
    broker.enqueue("x", "y")
    first, second = worker.grants()
    worker.finish(first)
    worker.finish(second, 1)

    copy = retry(broker, lost, first.job, second.job, hold=True)["copies"][first.job]
    broker.after(5000)

    held = [lost, second.job, copy]
    assert worker.grants() == []
    assert [broker.job(job)["held"] for job in held] == [True] * 3
    assert broker.job(lost)["attempts"] == 0
    broker.ask("release", select={"ids": held})
    assert {grant.job for grant in worker.grants()} == set(held)


def test_exported_job_can_be_handed_over_again(broker: BrokerHarness, worker: FakeWorker) -> None:
    fields: dict[str, Any] = {
        "priority": 3,
        "queue": "mail",
        "env": {"SECRET": "s"},
        "cwd": "/srv",
        "stdin": b"\xff",
        "tags": {"a": "b"},
        "backoff": [1, 2],
        "retry_on": [75],
        "no_retry_on": [2],
        "timeout": 2.5,
        "on_lost": "dead",
        "keep_children": True,
        "backoff_jitter": "full",
        "max_retries": 1,
    }
    lost = dead(broker, worker, **fields)

    [exported] = broker.ask("export", select={"state": "dead"})["jobs"]

    assert {name: exported[name] for name in fields} == fields
    assert (exported["command"], exported["retry_of"]) == ("true", lost)
    [again] = broker.ask("enqueue", jobs=[exported])["ids"]
    worker.grant()
    before, after = broker.job(lost), broker.job(again)
    assert after["retry_of"] == lost
    assert {name for name in fields if name != "stdin" and before[name] != after[name]} == set()


def test_export_goes_in_slices_and_by_id(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.export.BYTES_PER_SLICE", 10)
    ids = broker.enqueue(*["x" * 6] * 5)

    assert len(broker.ask("export", select={})["jobs"]) == 2
    for select in ({}, {"ids": ids}):
        told: list[str] = []
        cursor = None
        while not told or cursor is not None:
            reply = broker.ask("export", select=select, cursor=cursor)
            told += [job["retry_of"] for job in reply["jobs"]]
            cursor = reply["next"]
        assert told == ids[::-1]
    assert broker.ask("export", select={"queue": "nosuch"}) == {"jobs": [], "next": None}
    assert isinstance(broker.refused("export", select={"ids": ["nosuch"]}), UnknownJob)
