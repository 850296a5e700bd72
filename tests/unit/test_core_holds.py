"""Holding, releasing and editing jobs that wait."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadJob, BadRequest, QueueFull, WrongState
from tests.harness import BrokerHarness, held, patient


def chosen(broker: BrokerHarness, op: str, *ids: str, **more: Any) -> dict[str, Any]:
    return broker.ask(op, select={"ids": list(ids)}, **more)


def test_held_job_is_not_leased_until_it_is_released(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y")
    assert chosen(broker, "hold", "a1", reason="wait for Ann")["ids"] == ["a1"]
    worker = broker.worker(slots=4)
    worker.hello()

    assert [grant.job for grant in worker.grants()] == ["a2"]
    job = broker.job("a1")
    assert (job["state"], job["reason"], job["held"]) == ("pending", "held", True)
    assert chosen(broker, "release", "a1")["ids"] == ["a1"]

    assert [grant.job for grant in worker.grants()] == ["a1"]
    assert [(event["action"], event["note"]) for event in broker.ask("job", id="a1")["events"]] == [
        ("held", "wait for Ann"),
        ("released", ""),
    ]
    broker.check_invariants()


@pytest.mark.parametrize("deed", ["edit", "edit after a delay", "release"])
def test_ready_job_stays_ready_though_the_clock_was_set_back(broker: BrokerHarness, deed: str) -> None:
    broker.enqueue("x", **({"delay": 5} if "delay" in deed else {"hold": deed == "release"}))
    broker.after(6_000)
    broker.clock.wall_ms -= 3_600_000

    op = deed.split()[0]
    chosen(broker, op, "a1", **({"changes": {"priority": 3}} if op == "edit" else {}))

    worker = broker.worker()
    worker.hello()
    assert worker.grant().job == "a1"


def test_job_may_be_held_from_the_start_and_over_a_restart(broker: BrokerHarness) -> None:
    broker.enqueue("x", hold=True)
    broker.crash()
    worker = broker.worker()
    worker.hello()

    assert worker.grants() == []
    chosen(broker, "release", "a1")
    assert worker.grant().job == "a1"


def test_job_that_waits_for_its_time_waits_for_it_again_when_released(broker: BrokerHarness) -> None:
    broker.enqueue("x", delay=60)
    chosen(broker, "hold", "a1")
    broker.after(61_000)
    assert broker.job("a1")["reason"] == "held"
    broker.enqueue("y", delay=60)
    chosen(broker, "hold", "a2")

    chosen(broker, "release", "a1", "a2")
    patient(broker)

    assert (broker.job("a1")["reason"], broker.job("a2")["reason"]) == ("no_worker", "delayed")
    worker = broker.worker(slots=2)
    worker.hello()
    assert worker.grant().job == "a1"
    broker.after(60_000)
    assert worker.grant().job == "a2"


def test_retry_that_is_held_waits(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    worker.finish(worker.grant(), 1)
    chosen(broker, "hold", "a1")

    broker.after(5_000)

    assert worker.grants() == []
    assert (broker.state("a1"), broker.job("a1")["reason"]) == ("failed", "held")
    chosen(broker, "release", "a1")
    assert worker.grant().attempt == 2


def test_suspect_is_released_to_run_alone(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    for _ in range(2):
        worker.release(worker.grant(), reason="lost")
    worker.release(worker.grant())
    chosen(broker, "hold", "a1")
    chosen(broker, "release", "a1")

    assert "alone" in [reason["code"] for reason in broker.ask("why", id="a1")["reasons"]]
    broker.check_invariants()


def test_what_cannot_be_held_or_released_is_told(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y")
    worker = broker.worker()
    worker.hello()
    worker.grant()
    chosen(broker, "hold", "a2")

    held = chosen(broker, "hold", "a1", "a2")
    released = chosen(broker, "release", "a1")

    assert [each["message"] for each in held["skipped"]] == [
        "job 'a1' is processing: it cannot be held",
        "job 'a2' is held already",
    ]
    assert [each["code"] for each in released["skipped"]] == ["wrong_state"]
    chosen(broker, "release", "a2")
    assert chosen(broker, "release", "a2")["skipped"][0]["message"] == "job 'a2' is not held"


def test_selection_takes_those_that_it_can_be_done_to(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y", "z")
    chosen(broker, "hold", "a2")

    assert broker.ask("hold", select={}, dry=True)["ids"] == ["a3", "a1"]
    assert broker.job("a3")["held"] is False
    assert broker.ask("hold", select={})["ids"] == ["a3", "a1"]
    assert broker.ask("release", select={}, dry=True)["ids"] == ["a3", "a2", "a1"]
    assert broker.ask("release", select={"queue": "default"})["ids"] == ["a3", "a2", "a1"]


# --- editing -----------------------------------------------------------------------------------------


def test_edited_job_is_as_it_was_said_to_be(broker: BrokerHarness) -> None:
    broker.enqueue("x", timeout=5)
    changes = {"command": "y", "queue": "night", "priority": 9, "max_retries": 7, "timeout": 2.5}

    assert chosen(broker, "edit", "a1", changes=changes)["ids"] == ["a1"]

    job = broker.job("a1")
    assert {name: job[name] for name in changes} == changes
    worker = broker.worker(queues=["night"])
    worker.hello()
    grant = worker.grant()
    assert (grant.command, grant.queue, grant.max_retries, grant.timeout_ms) == ("y", "night", 7, 2500)
    [event] = broker.ask("job", id="a1")["events"]
    assert (event["action"], event["by"], event["note"]) == (
        "edited",
        "uid:1000",
        "command, queue, priority, max_retries, timeout",
    )
    broker.check_invariants()


def test_what_is_left_out_of_an_edit_stays(broker: BrokerHarness) -> None:
    broker.enqueue("x", timeout=5, priority=3, max_retries=8)
    before = broker.job("a1")

    chosen(broker, "edit", "a1", changes={"priority": 4})

    after = broker.job("a1")
    assert {name for name in after if after[name] != before[name]} == {"priority"}


def test_timeout_of_nothing_is_none(broker: BrokerHarness) -> None:
    broker.enqueue("x", timeout=5)
    chosen(broker, "edit", "a1", changes={"timeout": 0})

    assert broker.job("a1")["timeout"] is None


def test_order_is_that_of_the_new_priorities(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y", "z")
    chosen(broker, "edit", "a3", changes={"priority": 1})
    worker = broker.worker(slots=3)
    worker.hello()

    assert [grant.job for grant in worker.grants()] == ["a3", "a1", "a2"]


def test_time_may_be_put_off_and_brought_forward(broker: BrokerHarness) -> None:
    patient(broker)
    broker.enqueue("x")
    broker.enqueue("y", delay=3600)

    chosen(broker, "edit", "a1", changes={"delay": 60})
    chosen(broker, "edit", "a2", changes={"run_at": "2027-01-15T07:00:00Z"})

    worker = broker.worker(slots=2)
    worker.hello()
    assert worker.grant().job == "a2"
    assert broker.job("a1")["reason"] == "delayed"
    broker.after(60_000)
    assert worker.grant().job == "a1"


def test_held_job_stays_held_when_it_is_edited(broker: BrokerHarness) -> None:
    broker.enqueue("x", hold=True)
    chosen(broker, "edit", "a1", changes={"delay": 0})

    assert broker.job("a1")["held"]


def test_job_is_not_moved_behind_its_own_end(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("retried", expires=100.0, max_retries=2, backoff=[1000.0])
    worker.finish(worker.grant(), 1)
    broker.enqueue("expires", hold=True, expires=100.0)
    broker.enqueue("ends", hold=True, deadline=100.0)
    broker.enqueue("free", hold=True)
    ids = ["a1", "a2", "a3", "a4"]

    reply = broker.ask("edit", select={"ids": ids}, changes={"delay": 100.0})

    assert reply["ids"] == ["a1", "a4"]
    assert [(each["id"], *(each["details"].keys() - {"id"})) for each in reply["skipped"]] == [
        ("a2", "expires"),
        ("a3", "deadline"),
    ]
    assert broker.ask("edit", select={"ids": ids}, changes={"delay": 99.0})["skipped"] == []


def test_jobs_that_run_are_not_edited(broker: BrokerHarness) -> None:
    broker.enqueue("x")
    worker = broker.worker()
    worker.hello()

    worker.grant()

    assert chosen(broker, "edit", "a1", changes={"priority": 1})["skipped"][0]["code"] == "wrong_state"
    assert isinstance(broker.refused("edit", select={"state": "dead"}, changes={"priority": 1}), WrongState)
    assert broker.ask("edit", select={}, changes={"priority": 1}, dry=True)["ids"] == []


def test_job_that_failed_too_often_for_its_new_budget_is_left_as_it_is(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x", max_retries=5, backoff_base=60)
    worker.finish(worker.grant(), 1)
    broker.enqueue("y", delay=60)

    for dry in (True, False):
        answer = chosen(broker, "edit", "a1", "a2", changes={"max_retries": 1}, dry=dry)
        assert (answer["ids"], [skipped["id"] for skipped in answer["skipped"]]) == (["a2"], ["a1"])

    assert broker.job("a1")["max_retries"] == 5
    assert chosen(broker, "edit", "a1", changes={"max_retries": 2})["ids"] == ["a1"]
    broker.check_invariants()


@pytest.mark.parametrize(
    ("op", "more"), [("hold", {}), ("edit", {"changes": {"command": "another"}})], ids=["held", "edited"]
)
def test_lost_run_does_not_go_on_once_the_job_is_not_what_it_was(
    broker: BrokerHarness, op: str, more: dict[str, Any]
) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    grant = worker.grant()
    broker.after(60_000)
    assert chosen(broker, op, "a1", **more)["ids"] == ["a1"]

    assert worker.hello(held=[held(grant)], draining=True).drop == [grant.lease]
    assert worker.finish(grant) == "stale"

    assert broker.state("a1") == "pending"
    broker.check_invariants()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, BadRequest),
        ({"command": " "}, BadJob),
        ({"queue": "no queue"}, BadJob),
        ({"delay": 1, "run_at": "2027-01-15T07:00:00Z"}, BadJob),
        ({"timeout": -1}, BadJob),
        ({"state": "dead"}, BadRequest),
        ({"priority": "high"}, BadRequest),
    ],
)
def test_nonsense_is_refused(broker: BrokerHarness, changes: dict[str, Any], kind: type[Exception]) -> None:
    broker.enqueue("x")

    assert isinstance(broker.refused("edit", select={"ids": ["a1"]}, changes=changes), kind)
    assert broker.job("a1")["updated_at"] == "2027-01-15T08:00:00.000Z"


def test_edit_makes_no_more_queues_than_there_may_be(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.state.QUEUES_MAX", 1)
    broker.enqueue("x")

    assert isinstance(broker.refused("edit", select={"ids": ["a1"]}, changes={"queue": "new"}), QueueFull)


def test_repeat_of_the_request_that_enqueued_an_edited_job_is_known(broker: BrokerHarness) -> None:
    jobs = [{"command": "x"}]
    broker.ask("enqueue", jobs=jobs, request_id="request-1")
    chosen(broker, "edit", "a1", changes={"command": "y"})

    assert broker.ask("enqueue", jobs=jobs, request_id="request-1")["ids"] == ["a1"]
