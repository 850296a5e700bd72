"""Conditions mean what they say, whatever the letters, the kind of the field, and where there is no value."""

from __future__ import annotations

import pytest

from tests.harness import BrokerHarness, patient


def found(broker: BrokerHarness, *where: str) -> list[str]:
    return [job["id"] for job in broker.ask("list", select={"where": where})["jobs"]][::-1]


# --- ~ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("echo Äpfel", "äpfel"),
        ("echo Äpfel", "ÄPFEL"),
        ("echo äpfel", "Äpfel"),
        ("echo Äpfel", "PFEL"),
        ("tar привет", "ПРИВЕТ"),
        ("run ΟΔΟΣ", "οδος"),
        ("run οδος", "ΟΔΟΣ"),
        ("cd Straße", "straße"),
        ("cd STRASSE", "straße"),
        ("a%b_[c]*", "%B_[C]*"),
    ],
)
def test_text_is_contained_whatever_the_case(broker: BrokerHarness, command: str, asked: str) -> None:
    broker.enqueue(command, "sleep 1")

    assert found(broker, f"command~{asked}") == ["a1"]


@pytest.mark.parametrize("field", ["reason", "cwd", "unique", "retry_of", "worker", "last_line"])
def test_text_that_is_not_there_contains_nothing(broker: BrokerHarness, field: str) -> None:
    broker.enqueue("x")

    assert found(broker, f"{field}~ä") == []


# --- reason ------------------------------------------------------------------------------------------------


def reasons(broker: BrokerHarness) -> dict[str, str | None]:
    return {job["id"]: job["reason"] for job in broker.ask("list")["jobs"]}


@pytest.fixture
def stuck(broker: BrokerHarness) -> BrokerHarness:
    """Jobs of every reason there is to wait, and some that do not."""
    worker = broker.worker(slots=9, queues=["default", "busy"])
    worker.hello()
    broker.enqueue("fails", max_retries=2)
    broker.enqueue("dies", max_retries=1)
    broker.enqueue("runs", queue="busy")
    grants = {grant.job: grant for grant in worker.grants()}
    worker.finish(grants["a1"], 1)
    worker.finish(grants["a2"], 1)
    broker.enqueue("held", hold=True, queue="other")
    broker.enqueue("later", delay=60, queue="other")
    broker.enqueue("waits", queue="other")
    broker.enqueue("waits", queue="another")
    return broker


def test_job_is_found_by_the_reason_it_shows(stuck: BrokerHarness) -> None:
    shown = reasons(stuck)

    assert shown == {
        "a1": "backoff", "a2": "exit", "a3": None, "a4": "held", "a5": "delayed", "a6": "no_worker", "a7": "no_worker"
    }  # fmt: skip
    for reason in {reason for reason in shown.values() if reason is not None}:
        assert found(stuck, f"reason={reason}") == sorted(job for job in shown if shown[job] == reason)
    assert found(stuck, "reason=") == ["a3"]
    assert found(stuck, "reason~WORKER", "command=waits") == ["a6", "a7"]
    assert found(stuck, "reason!=no_worker", "command~h") == ["a4"]


def test_that_no_worker_serves_a_job_is_a_matter_of_the_moment(stuck: BrokerHarness) -> None:
    worker = stuck.worker("w2", queues=["other"])
    worker.hello()
    worker.finish(worker.grant())
    stuck.enqueue("waits", queue="another")
    assert found(stuck, "reason=no_worker") == ["a7", "a8"]

    worker.hello(draining=True)
    stuck.enqueue("waits", queue="other")

    assert found(stuck, "reason=no_worker") == ["a7", "a8", "a9"]
    assert stuck.ask("cancel", select={"where": ["reason=no_worker"]})["ids"] == ["a9", "a8", "a7"]


def test_unfinished_jobs_are_found_in_whatever_state_they_are(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=3)
    patient(broker)
    worker.hello()
    broker.enqueue("runs", "failed", "done")
    _, failed, done = worker.grants()
    worker.finish(failed, 1)
    worker.finish(done)
    broker.enqueue("waits", delay=60)

    found = broker.ask("list", select={"state": "unfinished"})["jobs"]
    assert [job["state"] for job in found] == ["pending", "failed", "processing"]
    assert broker.ask("hold", select={"state": "unfinished"}, dry=True)["ids"] == ["a4", "a2"]
    assert broker.refused("purge", select={"state": "unfinished"}).message == "jobs that are not over cannot be purged"
