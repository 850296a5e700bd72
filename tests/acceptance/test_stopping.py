"""Ends that are wanted: workers told to stop, once or twice, at once or in time; commands cut by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal

import pytest

from tests.harness_cli import CommandLine, Running, until

pytestmark = pytest.mark.acceptance


def check_given_back(q: CommandLine, job_id: str) -> None:
    """The job waits again, and it has cost nothing; another worker completes it."""
    job = q.show(job_id)
    assert (job["state"], job["attempts"], job["losses"]) == ("pending", 0, 0)
    assert [attempt["outcome"] for attempt in job["history"]] == ["released"]


def held_job(q: CommandLine) -> str:
    """A job that waits on its first attempt only."""
    gate = q.gate()
    return q.enqueue(f"[ $QUEUECTL_JOB_ATTEMPT -gt 1 ] || {gate.wait}")


# --- workers ------------------------------------------------------------------------------------------------


def test_stop_where_nothing_runs(q: CommandLine) -> None:
    for args in (["worker", "stop"], ["worker", "stop", "--all"], ["worker", "stop", "--now"]):
        ran = q.run(*args)
        assert (ran.code, ran.stdout, ran.stderr) == (0, "", "No worker is running.\n")
    assert q.json("worker", "stop") == {"workers": []}
    named = q.run("worker", "stop", "w1")
    assert named.code == 69
    assert "only a broker knows workers by their ids" in named.stderr


def test_stop_now_gives_jobs_back_at_no_cost(q: CommandLine) -> None:
    job = held_job(q)
    worker = q.worker()
    q.await_state("processing", job)

    assert q.run("worker", "stop", "--now").code == 0
    assert worker.wait() == 0

    check_given_back(q, job)
    q.worker()
    q.await_state("completed", job)
    assert q.show(job)["attempt"] == 2


def test_job_that_must_not_run_twice_is_dead_when_it_was_stopped(q: CommandLine) -> None:
    gate, journal = q.gate(), q.journal()
    job, waiting = (q.enqueue(f"{journal.note('started')}; {gate.wait}", on_lost="dead") for _ in range(2))
    worker = q.worker()
    until(lambda: journal.lines == ["started"], "the job to start")

    assert q.run("worker", "stop", "--now").code == 0
    assert worker.wait() == 0

    found = q.show(job)
    assert (found["state"], found["reason"], found["attempts"]) == ("dead", "lost", 0)
    assert [attempt["outcome"] for attempt in found["history"]] == ["lost"]
    assert q.show(waiting)["state"] == "pending"


def test_stop_now_without_a_broker_ends_the_jobs(q: CommandLine) -> None:
    job = held_job(q)
    worker = q.worker()
    q.await_state("processing", job)
    q.ok("broker", "stop")
    worker.await_log("worker_disconnected")

    assert q.run("worker", "stop", "--now").code == 0
    assert worker.wait() == 0
    q.ok("broker", "start", "--detach")
    assert q.counts() == {"processing": 1}
    q.worker()

    q.await_state("completed", job)
    assert q.show(job)["attempts"] == 0
    assert q.show(job)["losses"] == 0


def test_stop_now_without_a_broker_ends_the_jobs_of_a_worker_in_the_background(q: CommandLine) -> None:
    gate, journal = q.gate(), q.journal()
    q.ok("worker", "start", "--detach")
    job = q.enqueue(f"{journal.note('started')}; {gate.wait}")
    until(lambda: journal.lines == ["started"], "the job to start")
    q.ok("broker", "stop")

    assert q.run("worker", "stop", "--now").code == 0

    q.ok("broker", "start", "--detach")
    gate.open()
    q.worker()
    q.await_state("completed", job)


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)], ids=str)
def test_second_signal_gives_jobs_back_at_no_cost(q: CommandLine, signals: tuple[int, int]) -> None:
    job = held_job(q)
    worker = q.worker()
    q.await_state("processing", job)

    worker.signal(signals[0])
    worker.await_log("worker_draining")
    assert worker.is_running()
    assert q.show(job)["state"] == "processing"
    worker.signal(signals[1])

    assert worker.wait() == 0
    check_given_back(q, job)


def test_one_ctrl_c_finishes_what_runs_and_takes_nothing_new(q: CommandLine) -> None:
    gate = q.gate()
    running = q.enqueue(gate.wait)
    worker = q.worker()
    q.await_state("processing", running)
    waiting = q.enqueue("true")

    worker.press_ctrl_c()
    worker.await_log("worker_draining")
    assert q.json("worker", "list")[0]["state"] == "draining"
    gate.open()

    assert worker.wait() == 0
    assert q.show(running)["state"] == "completed"
    assert q.show(waiting)["history"] == []


def test_wait_for_the_end_of_workers_is_bounded(q: CommandLine) -> None:
    gate = q.gate()
    job = q.enqueue(gate.wait)
    worker = q.worker()
    q.await_state("processing", job)

    plain = q.run("worker", "stop", "--timeout", "300ms")
    coded = q.run("worker", "stop", "--timeout", "0.3", "--json")

    assert (plain.code, plain.stdout) == (124, "")
    assert "not all workers have ended after 0.3 s" in plain.stderr
    assert "queuectl worker stop --now" in plain.stderr
    assert (coded.code, coded.json["error"]["code"]) == (124, "wait_timed_out")
    assert worker.is_running()
    gate.open()
    assert worker.wait() == 0
    assert q.show(job)["state"] == "completed"


# --- many jobs, cut -------------------------------------------------------------------------------------------


def lines(count: int) -> list[str]:
    return [json.dumps({"command": f"echo {number}"}) + "\n" for number in range(1, count + 1)]


def commands(q: CommandLine) -> list[str]:
    return sorted((job["command"] for job in q.jobs()), key=lambda text: int(text.split()[1]))


def resume_command(cut: Running) -> list[str]:
    """The arguments of the command that the interrupted one tells to resume with."""
    match = re.search(r"^Resume, .*: queuectl (enqueue .*)$", cut.stderr, re.MULTILINE)
    assert match is not None, cut.stderr
    return shlex.split(match[1])


def test_interrupted_lines_from_stdin_are_resumed_without_doubles(q: CommandLine) -> None:
    every = lines(3500)
    q.ok("status")
    cut = q.start("enqueue", "-")
    cut.feed("".join(every[:2500]))
    q.await_count("pending", 2000)
    cut.press_ctrl_c()

    assert cut.wait() == 130
    assert re.search("Stopped: [12]000 jobs enqueued, every line before [12]001 is dealt with", cut.stderr)
    assert "Traceback" not in cut.stderr
    assert q.run(*resume_command(cut), stdin="".join(every)).code == 0
    assert commands(q) == [f"echo {number}" for number in range(1, 3501)]


def test_interrupted_file_is_enqueued_again_without_doubles(q: CommandLine) -> None:
    path = q.cwd / "jobs.jsonl"
    path.write_text("".join(lines(20_000)))
    q.ok("status")
    pid = q.broker_pid()
    cut = q.start("enqueue", "--file", "jobs.jsonl")
    until(lambda: q.client.status()["jobs"]["pending"] >= 3000)
    os.kill(pid, signal.SIGSTOP)  # the broker may store what is under way, and nobody gets to know it
    try:
        cut.press_ctrl_c()
        assert cut.wait() == 130
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "--from-line" in cut.stderr

    again = q.run("enqueue", "--file", "jobs.jsonl")

    told = re.fullmatch(r"Enqueued (\d+) jobs; (\d+) had been enqueued before\.\n", again.stdout)
    assert told is not None
    assert (again.code, int(told[1]) + int(told[2])) == (0, 20_000)
    assert q.counts() == {"pending": 20_000}
    assert q.run(*resume_command(cut)).code == 0
    assert commands(q) == [f"echo {number}" for number in range(1, 20_001)]


def test_interrupted_with_json_is_one_value(q: CommandLine) -> None:
    q.ok("status")
    cut = q.start("enqueue", "-", "--json")
    cut.feed("".join(lines(2500)))
    q.await_count("pending", 2000)
    cut.press_ctrl_c()

    assert cut.wait() == 130
    assert json.loads(cut.stdout)["error"]["code"] == "interrupted"


def test_second_signal_while_the_broker_is_away_costs_the_jobs_nothing(q: CommandLine) -> None:
    gate = q.gate()
    jobs = q.enqueue_all([{"command": f"[ $QUEUECTL_JOB_ATTEMPT -gt 1 ] || {gate.wait}"}] * 3)
    worker = q.worker(3)
    q.await_count("processing", 3)
    q.kill_broker()

    worker.signal(signal.SIGTERM)
    worker.await_log("worker_draining")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    q.ok("broker", "start", "--detach")
    q.worker(3)
    q.await_state("completed", *jobs)

    assert {(job["attempt"], job["attempts"], job["losses"]) for job in q.jobs()} == {(2, 0, 0)}
    assert [each["outcome"] for each in q.show(jobs[0])["history"]] == ["released", "completed"]
