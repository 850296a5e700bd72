"""The way that the commands are made for: set, enqueue, work, look, bury, retry, stop; from an empty home."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.harness_cli import CommandLine, until

pytestmark = pytest.mark.acceptance

KEYS = {
    "job": "id command state reason queue priority attempts losses max_retries backoff_base exit_code run_at "
    "created_at updated_at worker",
    "attempt": "attempt worker started_at finished_at outcome exit_code signal stdout stderr",
    "broker": "pid version uptime_s endpoints database",
    "worker": "id host pid slots busy state last_seen_s",
    "jobs": "pending processing completed failed dead cancelled total",
}


def has(value: dict[str, Any], keys: str) -> bool:
    """Whether this has all the keys that are promised of its kind."""
    return set(KEYS[keys].split()) <= set(value)


def instant(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_three_jobs_two_completed_one_dead(q: CommandLine) -> None:
    gate = q.gate()
    q.ok("config", "set", "backoff-base", "0.3")
    q.ok("enqueue", '{"id":"job-1","command":"echo Hello World"}')
    q.ok("enqueue", '{"id":"job-2","command":"echo it is broken >&2; exit 1"}')
    q.ok("enqueue", json.dumps({"id": "job-3", "command": f"{gate.wait}; echo done"}))

    worker = q.worker(3)
    q.await_state("dead", "job-2")
    stop = q.start("worker", "stop")
    worker.await_log("worker_draining")
    assert q.show("job-3")["state"] == "processing"
    assert stop.is_running()
    gate.open()

    assert stop.wait() == 0
    assert stop.stdout == "Stopped 1 worker.\n"
    assert worker.wait() == 0
    assert q.counts() == {"completed": 2, "dead": 1}
    assert [job["id"] for job in q.json("dlq", "list")] == ["job-2"]
    assert "it is broken" in q.ok("dlq", "list")
    assert q.ok("dlq", "retry", "job-2") == "Job job-2 moved back to queue as 'pending'.\n"
    job = q.show("job-2")
    assert (job["state"], job["attempts"], len(job["history"])) == ("pending", 0, 3)


def test_documented_commands_word_for_word(q: CommandLine) -> None:
    assert q.run("--version").stdout.startswith("queuectl ")
    assert not (q.home.path / "queue.db").exists()
    first = q.run("config", "set", "backoff-base", "2")
    assert (first.stdout, first.code) == ("Set backoff_base = 2\n", 0)
    assert "started a broker in the background" in first.stderr
    assert q.run("enqueue", '{"id":"job-1","command":"echo Hello World"}').stdout == "Job enqueued with ID: job-1\n"
    failing = q.run("enqueue", '{"id":"fail-job", "command":"command_not_found"}')
    assert (failing.stdout, failing.code) == ("Job enqueued with ID: fail-job\n", 0)
    made_up = q.ok("enqueue", '{"command":"sleep 1 && echo done > job2.txt"}')
    assert made_up.startswith("Job enqueued with ID: ")
    long_job = made_up.removeprefix("Job enqueued with ID: ").strip()
    worker = q.worker(3)
    until(lambda: q.client.get("fail-job")["reason"] == "backoff", "a wait for the retry")
    assert q.show("fail-job")["state"] == "failed"
    q.await_state("dead", "fail-job")
    q.await_state("completed", "job-1", long_job)

    check_three_attempts(q.show("fail-job"))
    assert (q.cwd / "job2.txt").read_text() == "done\n"
    assert "completed     2" in q.ok("status")
    assert "dead          1" in q.ok("status")
    listed = q.ok("list", "--state", "completed")
    assert "echo Hello World" in listed
    assert long_job in listed
    assert "fail-job" not in listed
    dead = q.ok("dlq", "list")
    assert "fail-job" in dead
    assert "command_not_found" in dead
    assert q.ok("dlq", "retry", "fail-job") == "Job fail-job moved back to queue as 'pending'.\n"
    assert q.run("worker", "stop").code == 0
    assert worker.wait() == 0


def check_three_attempts(job: dict[str, Any]) -> None:
    """The second attempt began at least 2 s after the first one's end, the third 4 s after the second one's."""
    assert (job["attempts"], job["max_retries"], job["backoff_base"], job["exit_code"]) == (3, 3, 2, 127)
    history = job["history"]
    assert [(attempt["attempt"], attempt["outcome"]) for attempt in history] == [(n, "exit") for n in (1, 2, 3)]
    assert all("command_not_found" in attempt["stderr"] for attempt in history)
    waits = [instant(after["started_at"]) - instant(before["finished_at"]) for before, after in pairwise(history)]
    slack = timedelta(milliseconds=1)  # instants are cut to milliseconds
    assert all(wait >= timedelta(seconds=s) - slack for wait, s in zip(waits, (2, 4), strict=True)), waits


def test_json_shapes(q: CommandLine) -> None:
    assert q.json("list") == []
    assert q.json("dlq", "list") == []
    q.enqueue("echo out; echo err >&2; exit 3", id="dies", max_retries=1)
    q.enqueue("true", id="waits", delay=600)
    worker = q.worker(2)
    q.await_state("dead", "dies")

    for listing in (["list"], ["list", "--state", "dead"], ["dlq", "list"]):
        jobs = q.json(*listing)
        assert isinstance(jobs, list)
        assert all(has(job, "job") for job in jobs)
        assert "dies" in [job["id"] for job in jobs]
    shown = q.show("dies")
    assert has(shown, "job")
    [attempt] = shown["history"]
    assert has(attempt, "attempt")
    assert (attempt["attempt"], attempt["outcome"], attempt["exit_code"], attempt["signal"]) == (1, "exit", 3, None)
    assert (attempt["stdout"], attempt["stderr"]) == ("out\n", "err\n")
    assert instant(attempt["started_at"]) <= instant(attempt["finished_at"])
    waiting = q.show("waits")
    assert (waiting["state"], waiting["reason"], waiting["history"]) == ("pending", "delayed", [])

    status = q.json("status")
    assert has(status["broker"], "broker")
    [seen] = status["workers"]
    assert has(seen, "worker")
    assert (seen["pid"], seen["slots"], seen["busy"]) == (worker.pid, 2, 0)
    assert has(status["jobs"], "jobs")
    assert status["jobs"]["total"] == 2
    settings = json.loads(q.ok("config", "show"))
    assert (settings["data_dir"], settings["max_retries"], settings["backoff_base"]) == (str(q.home.path), 3, 2)


def test_output_of_one_stream(q: CommandLine) -> None:
    job = q.enqueue("echo out; echo err >&2; echo more")
    q.worker()
    q.await_state("completed", job)

    assert q.ok("logs", job, "--stdout") == "out\nmore\n"
    assert q.ok("logs", job, "--stderr") == "err\n"


def test_quiet_prints_ids_only(q: CommandLine) -> None:
    assert q.ok("enqueue", "-q", "--id", "x", "--", "false") == "x\n"
    assert q.ok("list", "-q") == "x\n"
    assert q.run("dlq", "list", "-q").stdout == ""


def test_settings_hold_for_new_jobs_only(q: CommandLine) -> None:
    before = q.enqueue("true")
    changed = q.run("config", "set", "max_retries", "5")
    after = q.enqueue("true")

    assert changed.stdout == "Set max_retries = 5\n"
    assert "from now on" in changed.stderr
    assert [q.show(job_id)["max_retries"] for job_id in (before, after)] == [3, 5]
    assert q.ok("config", "get", "max-retries") == "5\n"


def test_retried_job_gets_a_fresh_budget(q: CommandLine) -> None:
    q.enqueue("test -e mended", id="mend", max_retries=2, backoff_base=0)
    q.worker()
    q.await_state("dead", "mend")
    (q.cwd / "mended").touch()
    q.ok("dlq", "retry", "mend")
    q.await_state("completed", "mend")

    job = q.show("mend")
    assert (job["attempts"], [attempt["attempt"] for attempt in job["history"]]) == (0, [1, 2, 3])
