"""Cancelling: jobs that wait are over at once, jobs that run when their worker says so, and success comes first."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.access import SUBMIT
from queuectl.errors import BadRequest, WrongState
from queuectl.messages import Cancel, Echo, Grant, Welcome
from tests.harness import BrokerHarness, FakeWorker, held, request


def cancel(broker: BrokerHarness, *ids: str, **how: Any) -> dict[str, Any]:
    return broker.ask("cancel", select={"ids": list(ids)}, **how)


def running(broker: BrokerHarness, **fields: Any) -> tuple[FakeWorker, Grant]:
    """A worker and the job that it runs, `a1`."""
    broker.enqueue(**fields)
    worker = broker.worker()
    worker.hello()
    return worker, worker.grant()


def test_waiting_job_is_over_at_once(broker: BrokerHarness) -> None:
    first, second = broker.enqueue("x", "y")

    reply = cancel(broker, first, reason="not needed")

    assert (reply["ids"], reply["stopping"], reply["skipped"]) == ([first], [], [])
    job = broker.job(first)
    assert (job["state"], job["reason"], job["cancelled_by"], job["cancel_reason"]) == (
        "cancelled",
        "cancelled",
        "uid:1000",
        "not needed",
    )
    assert job["finished_at"] == "2027-01-15T08:00:00.000Z"
    assert broker.state(second) == "pending"
    assert broker.ask("status")["jobs"]["cancelled"] == 1
    broker.check_invariants()


def test_job_that_waits_for_its_retry_is_over_at_once(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    worker.finish(grant, 1)

    assert cancel(broker, "a1")["ids"] == ["a1"]
    broker.after(10_000)

    assert broker.state("a1") == "cancelled"
    assert worker.grants() == []


def test_worker_is_told_to_end_a_running_job_and_its_word_ends_it(broker: BrokerHarness) -> None:
    worker, grant = running(broker)

    reply = cancel(broker, "a1", signal=2, grace_ms=500)

    assert (reply["ids"], reply["stopping"]) == ([], ["a1"])
    assert worker.take(Cancel) == Cancel(worker.session, [grant.lease], 500, 2)
    job = broker.job("a1")
    assert (job["state"], job["cancelling"], job["cancelled_by"]) == ("processing", True, "uid:1000")
    assert worker.finish(grant, None, outcome="cancelled", signal=2) == "recorded"
    job = broker.job("a1")
    assert (job["state"], job["cancelling"], job["attempts"]) == ("cancelled", False, 0)
    assert [entry["outcome"] for entry in broker.history("a1")] == ["cancelled"]
    broker.check_invariants()


def test_success_that_came_first_stays(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    cancel(broker, "a1")

    worker.finish(grant)

    assert broker.state("a1") == "completed"
    assert broker.store.changes.cancellations() == {}
    worker.take(Cancel)
    assert "'a1' is completed: it cannot be cancelled" in cancel(broker, "a1")["skipped"][0]["message"]


@pytest.mark.parametrize("end", ["exit", "given back", "given back unstarted", "lost", "expired"])
def test_whatever_else_ends_the_attempt_ends_the_job(broker: BrokerHarness, end: str) -> None:
    worker, grant = running(broker)
    cancel(broker, "a1")
    worker.take(Cancel)

    if end == "exit":
        worker.finish(grant, 1)
    elif end.startswith("given back"):
        worker.release(grant, reason="busy" if "unstarted" in end else "stopped")
    elif end == "lost":
        worker.release(grant, reason="lost")
    else:
        broker.after(40_000)

    assert broker.state("a1") == "cancelled"
    assert broker.store.changes.cancellations() == {}
    broker.check_invariants()


def test_heartbeat_that_names_the_job_brings_the_cancel_again(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    cancel(broker, "a1")
    worker.take(Cancel)

    worker.beat(grant)

    worker.take(Echo)
    assert worker.take(Cancel).leases == [grant.lease]


def test_cancel_outlives_the_broker_and_reaches_a_worker_that_was_away(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    worker.beat(grant)
    worker.take(Echo)
    broker.turn(gone=[worker.route])
    cancel(broker, "a1", signal=9, grace_ms=0, reason="why not")
    broker.crash()

    worker.route = b"again"
    broker.users[b"again"] = "uid:1000"
    worker.tell(worker.hello_message(held=[held(grant)]))

    welcome = worker.take(Welcome)
    assert worker.take(Cancel) == Cancel(welcome.session, [grant.lease], 0, 9)
    assert broker.job("a1")["cancelling"]


def test_second_cancel_says_how_instead_of_the_first(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    cancel(broker, "a1")
    cancel(broker, "a1", signal=9, grace_ms=0)

    assert [(each.signal, each.leases) for each in broker.take_all(worker.route, Cancel)] == [
        (15, [grant.lease]),
        (9, [grant.lease]),
    ]
    assert list(broker.store.changes.cancellations().values()) == [(9, 0, "")]


def test_failed_turn_has_cancelled_nothing(broker: BrokerHarness) -> None:
    running(broker)
    broker.enqueue("y")
    broker.fail_next = RuntimeError("no")

    with pytest.raises(RuntimeError):
        cancel(broker, "a1", "a2")

    assert (broker.state("a1"), broker.state("a2")) == ("processing", "pending")
    assert not broker.job("a1")["cancelling"]
    broker.check_invariants()


def test_dry_run_tells_the_same_and_changes_nothing(broker: BrokerHarness) -> None:
    worker, _ = running(broker)
    broker.enqueue("y")

    reply = broker.ask("cancel", select={}, dry=True)

    assert (reply["ids"], reply["stopping"]) == (["a2"], ["a1"])
    assert (broker.state("a1"), broker.state("a2")) == ("processing", "pending")
    assert broker.take_all(worker.route, Cancel) == []


def test_named_jobs_that_cannot_be_cancelled_are_told(broker: BrokerHarness) -> None:
    worker, grant = running(broker)
    worker.finish(grant)

    reply = cancel(broker, "a1", "nosuch")

    assert [(each["id"], each["code"]) for each in reply["skipped"]] == [
        ("a1", "wrong_state"),
        ("nosuch", "unknown_job"),
    ]


def test_selection_goes_in_slices_and_leaves_the_others(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.selection.CHANGED_PER_SLICE", 2)
    broker.enqueue(*["x"] * 5, queue="mail", tags={"run": "7"})
    broker.enqueue(*["y"] * 3)

    done, cursor = [], None
    while True:
        reply = broker.ask("cancel", select={"queue": "mail", "tags": ["run=7"]}, cursor=cursor)
        done += reply["ids"]
        cursor = reply["next"]
        if cursor is None:
            break

    assert done == ["a5", "a4", "a3", "a2", "a1"]
    assert broker.ask("status")["jobs"]["pending"] == 3


def test_state_in_which_nothing_can_be_cancelled_is_refused(broker: BrokerHarness) -> None:
    assert isinstance(broker.refused("cancel", select={"state": "completed"}), WrongState)
    assert isinstance(broker.refused("cancel", select={"ids": ["a1"], "queue": "x"}), BadRequest)
    assert broker.ask("cancel", select={"queue": "nosuch"})["ids"] == []


def test_submitter_cancels_its_own_jobs_and_no_others(broker: BrokerHarness) -> None:
    desk = broker.key("desk", SUBMIT)
    broker.enqueue("x")
    broker.enqueue("y", user=desk)

    reply = broker.ask("cancel", select={"ids": ["a1", "a2"]}, user=desk)

    assert (reply["ids"], [each["code"] for each in reply["skipped"]]) == (["a2"], ["unknown_job"])
    assert broker.job("a2")["cancelled_by"] == "desk"
    broker.enqueue("z", user=desk)
    assert broker.ask("cancel", select={}, user=desk)["ids"] == ["a3"]
    assert broker.state("a1") == "pending"


def test_waiting_client_hears_of_the_end(broker: BrokerHarness) -> None:
    broker.enqueue("x")
    broker.turn(clients=[_wait("a1")])
    assert broker.replies() == []

    broker.turn(clients=[_cancel("a1")])

    replies = [reply["ok"] for reply in broker.replies()]
    assert any(reply.get("done") for reply in replies)


def _wait(job: str) -> bytes:
    return request("wait", jobs=[job], timeout_ms=60_000)


def _cancel(job: str) -> bytes:
    return request("cancel", select={"ids": [job]})
