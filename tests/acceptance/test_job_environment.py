"""What a job finds where it runs: variables, directory, mask, stdin; and who gets to see its secrets."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.harness_cli import CommandLine, is_alive, until

pytestmark = pytest.mark.acceptance

OF_THE_WORKER = {
    "GREETING": "from the worker",
    "QUEUECTL_LOG_LEVEL": "debug",
    "QUEUECTL_CREDENTIALS": "/nowhere",
    "QUEUECTL_JOB_ID": "of an outer job",
    "QUEUECTL_JOB_STALE": "of an outer job",
    "NOTIFY_SOCKET": "/nowhere/notify",
    "WATCHDOG_USEC": "1000000",
    "INVOCATION_ID": "0123",
    "JOURNAL_STREAM": "1:2",
    "LISTEN_FDS": "1",
    "CREDENTIALS_DIRECTORY": "/nowhere",
}


def environment(q: CommandLine, job_id: str) -> dict[str, str]:
    """What `env -0` printed."""
    return dict(entry.split("=", 1) for entry in q.ok("logs", job_id).split("\0") if entry)


def test_variables(q: CommandLine) -> None:
    job = q.enqueue("env -0", max_retries=5, queue="mail", env={"MINE": "of the job", "GREETING": "from the job"})
    plain = q.enqueue("env -0")
    worker = q.start("worker", "start", "--endpoint", "local", env=OF_THE_WORKER)
    q.await_state("completed", job, plain)

    found = environment(q, job)
    [attempt] = q.show(job)["history"]
    told = {name: value for name, value in found.items() if name.startswith("QUEUECTL_")}
    assert told.pop("QUEUECTL_JOB_WORKER") == q.json("worker", "list")[0]["boot"]
    assert told == {
        "QUEUECTL_HOME": str(q.home.path),
        "QUEUECTL_JOB_ID": job,
        "QUEUECTL_JOB_ATTEMPT": "1",
        "QUEUECTL_JOB_MAX_RETRIES": "5",
        "QUEUECTL_JOB_QUEUE": "mail",
        "QUEUECTL_JOB_SLOT": told["QUEUECTL_JOB_SLOT"],
        "QUEUECTL_JOB_LEASE": attempt["lease"],
    }
    assert told["QUEUECTL_JOB_SLOT"].isdigit()
    assert (found["MINE"], found["GREETING"]) == ("of the job", "from the job")
    assert found["HOME"] == q.environment()["HOME"]
    kept = {"GREETING", "QUEUECTL_JOB_ID"}
    assert set(OF_THE_WORKER) & set(environment(q, plain)) == kept
    assert environment(q, plain)["GREETING"] == "from the worker"
    assert worker.is_running()


def test_attempts_are_numbered(q: CommandLine) -> None:
    job = q.enqueue("echo $QUEUECTL_JOB_ATTEMPT of $QUEUECTL_JOB_MAX_RETRIES; exit 1", max_retries=2, backoff_base=0)
    q.worker()
    q.await_state("dead", job)

    assert [attempt["stdout"] for attempt in q.show(job)["history"]] == ["1 of 2\n", "2 of 2\n"]


def test_directory_mask_and_stdin(q: CommandLine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    here = q.enqueue("pwd; umask; wc -c; readlink /proc/self/fd/0; touch file; ls /proc/$$/fd | wc -l")
    there = q.enqueue("pwd", cwd=str(elsewhere))
    missing = q.enqueue("pwd", cwd="/no/such/directory", max_retries=1)
    q.worker(before="umask 0027")
    q.await_state("completed", here, there)
    q.await_state("dead", missing)

    pwd, umask, size, stdin, descriptors = q.ok("logs", here).split()
    assert (pwd, int(umask, 8), int(size), stdin) == (str(q.cwd), 0o027, 0, "/dev/null")
    assert int(descriptors) == 3  # nothing of the worker is inherited
    assert (q.cwd / "file").stat().st_mode & 0o777 == 0o640
    assert q.ok("logs", there) == f"{elsewhere}\n"
    job = q.show(missing)
    assert (job["reason"], job["history"][0]["outcome"]) == ("spawn_error", "spawn_error")
    assert "/no/such/directory" in job["history"][0]["note"]


def test_command_runs_where_the_worker_was_started_not_where_it_was_enqueued(q: CommandLine) -> None:
    relative = q.ok("enqueue", "-q", "--cwd", ".", "--", "pwd").strip()
    q.worker()
    q.await_state("completed", relative)

    assert q.show(relative)["cwd"] == str(q.cwd)


def test_values_of_variables_are_shown_to_nobody(q: CommandLine) -> None:
    secret = "s3cr3t-4711"
    q.broker()
    job = q.enqueue('test "$TOKEN" = s3cr3t-"4711"', env={"TOKEN": secret})
    worker = q.worker()
    q.await_state("completed", job)

    assert q.show(job)["env"] == ["TOKEN"]
    assert "TOKEN" in q.ok("show", job)
    for told in (["show", job], ["show", job, "--json"], ["list"], ["list", "--json"], ["status", "--json"]):
        assert secret not in q.ok(*told)
    assert secret not in worker.stderr
    assert all(secret.encode() not in log.read_bytes() for log in q.home.logs.iterdir())


def test_what_a_job_leaves_running_is_ended_unless_it_is_to_stay(q: CommandLine) -> None:
    ended = q.enqueue("sleep 600 & echo $!")
    kept = q.enqueue("sleep 600 > /dev/null 2>&1 & echo $!", keep_children=True)
    worker = q.worker(2)
    q.await_state("completed", ended, kept)
    gone, stays = (int(q.ok("logs", job_id)) for job_id in (ended, kept))

    try:
        until(lambda: not is_alive(gone))
        assert q.show(ended)["history"][0]["note"] == "left 1 process running; it was ended"
        q.ok("worker", "stop")
        assert worker.wait() == 0
        assert is_alive(stays)
    finally:
        os.kill(stays, signal.SIGKILL)


def test_timeout_takes_the_whole_tree(q: CommandLine) -> None:
    journal = q.journal()
    job = q.enqueue(f"setsid sleep 600 & {journal.note('$!')}; wait", timeout=0.5, max_retries=1)
    q.worker()
    q.await_state("dead", job)

    shown = q.show(job)
    assert (shown["reason"], shown["history"][0]["outcome"]) == ("timeout", "timeout")
    assert not is_alive(int(journal.lines[0]))
