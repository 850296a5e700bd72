"""Many jobs, many workers: each job once, in the right order, at its time, in its queue."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness_cli import CommandLine, until

pytestmark = pytest.mark.acceptance


def test_each_of_many_jobs_runs_once_on_two_workers(q: CommandLine) -> None:
    journal = q.journal()
    lines = "".join(
        json.dumps({"id": f"n{n}", "command": journal.note("$QUEUECTL_JOB_ID $QUEUECTL_JOB_WORKER")}) + "\n"
        for n in range(300)
    )
    workers = [q.worker(4), q.worker(4)]
    (q.cwd / "jobs.jsonl").write_text(lines)

    assert q.ok("enqueue", "--file", "jobs.jsonl") == "Enqueued 300 jobs.\n"
    q.await_count("completed", 300)

    ran = [line.split() for line in journal.lines]
    assert Counter(job for job, _ in ran) == Counter(f"n{n}" for n in range(300))
    assert len({boot for _, boot in ran}) == 2
    jobs = q.jobs()
    assert {(job["attempt"], job["losses"]) for job in jobs} == {(1, 0)}
    assert {job["worker"] for job in jobs} == {worker["id"] for worker in q.json("worker", "list")}
    assert sum(len(worker.logged("job_finished")) for worker in workers) == 300


def test_higher_priority_runs_first_and_equals_in_order(q: CommandLine) -> None:
    journal = q.journal()
    for name, priority in (("low", -1), ("first", 0), ("high", 9), ("second", 0), ("higher", 10)):
        q.enqueue(journal.note(name), priority=priority)
    q.worker()
    q.await_count("completed", 5)

    assert journal.lines == ["higher", "high", "first", "second", "low"]


def test_jobs_run_when_their_time_has_come(q: CommandLine) -> None:
    journal = q.journal()
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    delayed = q.enqueue(journal.note("delayed"), delay=2.5)
    at = q.enqueue(journal.note("at"), run_at=soon)
    past = q.enqueue(journal.note("past"), run_at="2020-01-01T00:00:00+02:00")
    far = q.enqueue("true", delay=3600)
    q.worker()
    q.await_state("completed", past)
    assert (q.show(far)["state"], q.show(far)["reason"]) == ("pending", "delayed")
    q.await_state("completed", delayed, at)

    assert sorted(journal.lines) == ["at", "delayed", "past"]
    for job_id in (delayed, at):
        job = q.show(job_id)
        assert job["history"][0]["started_at"] >= job["run_at"] > job["created_at"]
    assert q.show(past)["run_at"] == "2019-12-31T22:00:00.000Z"
    assert q.show(far)["history"] == []


def test_worker_takes_jobs_of_its_queues_only(q: CommandLine) -> None:
    journal = q.journal()
    mail = [q.enqueue(journal.note("mail $QUEUECTL_JOB_QUEUE"), queue="mail") for _ in range(2)]
    other = q.enqueue(journal.note("default $QUEUECTL_JOB_QUEUE"))
    q.worker(2, "--queue", "mail", "--queue", "video")
    q.await_state("completed", *mail)

    assert (q.show(other)["state"], q.show(other)["reason"]) == ("pending", "no_worker")
    assert [job["id"] for job in q.jobs("--queue", "mail")] == mail[::-1]
    assert q.json("worker", "list")[0]["queues"] == ["mail", "video"]
    q.worker()
    q.await_state("completed", other)
    assert journal.lines == ["mail mail", "mail mail", "default default"]


def test_long_job_lets_short_ones_pass_on_the_other_slot(q: CommandLine) -> None:
    gate = q.gate()
    long_job = q.enqueue(gate.wait)
    q.worker(2)
    q.await_state("processing", long_job)
    short = q.enqueue_all([{"command": "true"}] * 30)
    q.await_state("completed", *short)
    assert q.show(long_job)["state"] == "processing"

    second = q.enqueue(gate.wait)
    q.await_state("processing", second)
    waiting = q.enqueue_all([{"command": "true"}] * 5)
    q.worker(1)  # no worker hoards what another could run
    q.await_state("completed", *waiting)
    assert q.counts()["processing"] == 2
    gate.open()
    until(lambda: q.client.status()["jobs"]["completed"] == 37)
