"""While the broker is away jobs end, workers stop, and what they have to tell waits on disk."""

from __future__ import annotations

import pytest

from tests.harness_cli import CommandLine, until

pytestmark = pytest.mark.acceptance

LINES = 20_000  # about 100 kB of output a job


def check_recorded(q: CommandLine, jobs: list[str]) -> None:
    """All completed on the first attempt, at no cost, with all of their output."""
    q.await_state("completed", *jobs)
    for job_id in jobs:
        job = q.show(job_id)
        assert (job["attempt"], job["attempts"], job["losses"]) == (1, 0, 0)
        [attempt] = job["history"]
        assert attempt["outcome"] == "completed"
        assert q.ok("logs", job_id) == "".join(f"{number}\n" for number in range(1, LINES + 1)) + f"end of {job_id}\n"


def test_jobs_that_end_meanwhile_are_recorded_later(q: CommandLine) -> None:
    gate = q.gate()
    jobs = q.enqueue_all([{"command": f"{gate.wait}; seq {LINES}; echo end of $QUEUECTL_JOB_ID"}] * 4)
    worker = q.worker(4)
    q.await_count("processing", 4)

    q.kill_broker()
    gate.open()
    worker.await_log("job_finished", 4)
    assert q.run("status", "--no-autostart").code == 69
    q.ok("broker", "start", "--detach")

    check_recorded(q, jobs)
    assert worker.is_running()


def test_worker_stopped_meanwhile_leaves_its_results_to_the_next(q: CommandLine) -> None:
    gate = q.gate()
    jobs = q.enqueue_all([{"command": f"{gate.wait}; seq {LINES}; echo end of $QUEUECTL_JOB_ID"}] * 3)
    worker = q.worker(3)
    q.await_count("processing", 3)
    q.ok("broker", "stop")

    stop = q.start("worker", "stop")
    worker.await_log("worker_draining")
    gate.open()
    assert worker.wait() == 0
    assert (stop.wait(), stop.stdout) == (0, "Stopped 1 worker.\n")
    assert "No broker runs; signalled 1 worker here" in stop.stderr
    assert q.run("broker", "status").code == 69
    q.ok("broker", "start", "--detach")
    assert q.counts() == {"processing": 3}
    q.worker()

    check_recorded(q, jobs)


def test_worker_keeps_its_job_while_the_broker_is_away_longer_than_a_lease(q: CommandLine) -> None:
    q.ok("config", "set", "heartbeat", "0.1")
    q.ok("config", "set", "lease", "0.5")
    gate, journal = q.gate(), q.journal()
    job = q.enqueue(f"{journal.note('start')}; {gate.wait}; {journal.note('end')}")
    worker = q.worker()
    until(lambda: journal.lines)

    q.ok("broker", "stop")
    worker.await_log("worker_disconnected")
    assert q.run("worker", "stop", "--timeout", "1.5").code == 124  # three leases
    assert journal.lines == ["start"]
    q.ok("broker", "start", "--detach")
    gate.open()
    q.await_state("completed", job)

    assert worker.wait() == 0
    assert (q.show(job)["attempt"], q.show(job)["losses"], journal.lines) == (1, 0, ["start", "end"])


def test_stopped_broker_says_how_many_jobs_go_on(q: CommandLine) -> None:
    gate = q.gate()
    jobs = q.enqueue_all([{"command": gate.wait}] * 2)
    worker = q.worker(2)
    q.await_count("processing", 2)

    stopped = q.run("broker", "stop")

    assert (stopped.code, stopped.stdout) == (0, "Broker stopped.\n")
    assert "Workers hold 2 jobs and go on" in stopped.stderr
    assert worker.is_running()
    again = q.run("broker", "stop")
    assert (again.code, again.stdout) == (0, "")
    assert "No broker runs" in again.stderr
    gate.open()
    q.ok("status")  # starts one
    q.await_state("completed", *jobs)
