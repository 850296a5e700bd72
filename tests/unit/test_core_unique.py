"""Unique keys: of all jobs that wait or run, one has it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.access import SUBMIT
from queuectl.errors import UniqueKeyTaken
from tests.harness import BrokerHarness, request


def put(broker: BrokerHarness, *jobs: dict[str, Any], **how: Any) -> dict[str, Any]:
    return broker.ask("enqueue", jobs=[{"command": "x", "unique": "k", **job} for job in jobs], **how)


def test_second_of_a_key_is_the_first(broker: BrokerHarness) -> None:
    assert put(broker, {}) == {"ids": ["a1"], "errors": []}
    assert put(broker, {}) == {"ids": ["a1"], "errors": [], "found": [0]}
    assert put(broker, {"unique": "other"})["ids"] == ["a2"]

    assert broker.ask("status")["jobs"]["pending"] == 2
    assert [entry["job_id"] for entry in broker.events("job_enqueued")] == ["a1", "a2"]


def test_key_is_free_when_its_job_is_over(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    put(broker, {})
    grant = worker.grant()
    assert put(broker, {})["ids"] == ["a1"]
    worker.finish(grant)

    assert put(broker, {})["ids"] == ["a2"]
    assert worker.grant().job == "a2"


@pytest.mark.parametrize("state", ["pending", "processing", "failed"])
def test_conflict_may_be_an_error(broker: BrokerHarness, state: str) -> None:
    worker = broker.worker()
    put(broker, {})
    if state != "pending":
        worker.hello()
        grant = worker.grant()
        if state == "failed":
            worker.finish(grant, 1)

    [error] = put(broker, {"on_conflict": "error"})["errors"]

    assert (error["code"], error["index"], error["details"]["id"]) == ("unique_key_taken", 0, "a1")
    assert error["message"] == f"job 'a1' has the unique key 'k' already; it is {state}"


def test_one_that_waits_may_be_replaced(broker: BrokerHarness) -> None:
    put(broker, {"command": "old"})

    assert put(broker, {"command": "new", "on_conflict": "replace"}) == {"ids": ["a2"], "errors": []}

    old, new = broker.job("a1"), broker.job("a2")
    assert (old["state"], old["reason"]) == ("cancelled", "replaced")
    assert (new["state"], new["command"], new["unique"]) == ("pending", "new", "k")
    assert [event["action"] for event in broker.ask("job", id="a1")["events"]] == ["replaced"]
    broker.check_invariants()


def test_one_that_runs_is_not_replaced(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    put(broker, {})
    worker.grant()

    reply = put(broker, {"on_conflict": "replace"})

    assert (reply["ids"], [error["code"] for error in reply["errors"]]) == ([None], ["unique_key_taken"])


@pytest.mark.parametrize("other", [{"unique": "j"}, {"unique": None}, None], ids=["beside", "without key", "before"])
def test_none_is_replaced_by_one_that_cannot_be_stored(broker: BrokerHarness, other: dict[str, Any] | None) -> None:
    put(broker, {})
    before = [] if other is None else [{"id": "mine", **other}]
    if other is None:
        broker.enqueue("y", id="mine")

    reply = put(broker, *before, {"on_conflict": "replace", "id": "mine"})

    assert [error["code"] for error in reply["errors"]] == ["job_exists"]
    assert broker.state("a1") == "pending"
    broker.check_invariants()


def test_same_key_many_times_in_a_request(broker: BrokerHarness) -> None:
    reply = put(
        broker, {}, {"unique": None}, {}, {"unique": "j"}, {"on_conflict": "replace"}, {"on_conflict": "error"}, {}
    )

    assert reply["ids"] == ["a1", "a2", "a1", "a3", "a4", None, "a4"]
    assert (reply["found"], [error["index"] for error in reply["errors"]]) == ([2, 6], [5])
    assert [broker.state(job) for job in ("a1", "a2", "a3", "a4")] == ["cancelled", "pending", "pending", "pending"]
    broker.check_invariants()


def test_requests_of_one_turn_are_stored_in_their_order(broker: BrokerHarness) -> None:
    jobs = [{"command": "x"}, {"command": "x", "unique": "k"}, {"command": "x"}, {"command": "x", "unique": "k"}]

    broker.turn(clients=[request("enqueue", jobs=[job]) for job in jobs])

    assert [reply["ok"]["ids"] for reply in broker.replies()] == [["a1"], ["a2"], ["a3"], ["a2"]]


def test_id_that_is_in_use_is_refused_beside_a_key(broker: BrokerHarness) -> None:
    broker.enqueue("x", id="mine")

    reply = put(broker, {"id": "mine"}, {"unique": "j", "command": " "})

    assert [error["code"] for error in reply["errors"]] == ["job_exists", "bad_job"]
    assert "found" not in put(broker, {})


def test_repeat_of_the_request_gets_the_same_answer(broker: BrokerHarness) -> None:
    first = put(broker, {"on_conflict": "replace"}, request_id="request-1")
    put(broker, {}, request_id="request-2")

    assert put(broker, {"on_conflict": "replace"}, request_id="request-1") == first
    assert put(broker, {}, request_id="request-2")["ids"] == ["a1"]


def test_key_of_somebody_else_s_job_is_taken_and_no_more_is_told(broker: BrokerHarness) -> None:
    desk = broker.key("desk", SUBMIT)
    put(broker, {})

    [error] = put(broker, {}, user=desk)["errors"]

    assert (error["code"], error["message"]) == (UniqueKeyTaken.code, "the unique key 'k' is in use")
    assert "details" not in error


def test_keys_hold_over_a_restart(broker: BrokerHarness) -> None:
    put(broker, {})
    broker.crash()

    assert put(broker, {})["ids"] == ["a1"]
