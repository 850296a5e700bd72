"""`run`, `logs -f` and `wait` on real brokers and workers that are killed meanwhile."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from queuectl import Client
from queuectl.following import AttemptEnd, Chunk
from tests.harness_cli import CommandLine, until

BEATS = {"heartbeat": "0.2s", "lease": "1s"}


@pytest.fixture
def fast(q: CommandLine) -> CommandLine:
    """A broker that misses its workers soon."""
    q.broker()
    for key, value in BEATS.items():
        q.ok("config", "set", key, value)
    return q


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -15 $$", 128 + 15), ("exec nosuchcommand", 127)],
)
def test_run_prints_what_the_command_prints_and_exits_as_it_did(fast: CommandLine, command: str, code: int) -> None:
    fast.worker()

    ran = fast.run("run", "--max-retries", "1", "-q", "--", f"echo out; printf err >&2; {command}")

    assert (ran.code, ran.stdout) == (code, "out\n")
    assert ran.stderr.startswith("err")


def test_run_takes_directory_environment_and_input_along(fast: CommandLine) -> None:
    fast.worker()

    plain = fast.run(
        "run", "--stdin", "-", "--env", "A=b", "--", "pwd; echo $A; cat; echo ${HERE-unset}", stdin=b"x\0y\n"
    )
    whole = fast.run("run", "--inherit-env", "--no-cwd", "--", "echo $HERE", env={"HERE": "now"})

    assert plain.stdout.encode() == f"{fast.cwd}\nb\n".encode() + b"x\0y\nunset\n"
    assert whole.stdout == "now\n"


def test_run_over_a_kill_of_the_broker_a_kill_of_the_worker_and_a_retry(fast: CommandLine, tmp_path: Path) -> None:
    worker = fast.worker()
    lines = "for i in 1 2 3 4 5 6 7 8; do echo attempt $QUEUECTL_JOB_ATTEMPT line $i; sleep 0.1; done"
    gate = tmp_path / "gate"
    first = f"[ $QUEUECTL_JOB_ATTEMPT = 1 ] && touch {gate} && sleep 60"
    third = "[ $QUEUECTL_JOB_ATTEMPT = 3 ] && exit 7"
    command = f"{lines}; {first}; {third}; exit 1"
    run = fast.start("run", "--max-retries", "2", "--backoff-base", "0", "--", command)
    until(lambda: "attempt 1 line 3" in run.stdout)
    fast.kill_broker()
    fast.broker()
    until(lambda: gate.exists() and "attempt 1 line 8" in run.stdout)
    worker.kill()
    fast.worker()

    assert run.wait() == 7

    assert run.stdout.splitlines() == [f"attempt {number} line {line}" for number in (1, 2, 3) for line in range(1, 9)]
    assert "attempt 1 of a1: lost" in run.stderr
    assert "attempt 2 of a1: exit 1" in run.stderr


def test_followers_account_for_every_byte_of_a_job_that_prints_more_than_is_kept(fast: CommandLine) -> None:
    fast.worker()
    total = 4_000_000
    job = fast.enqueue(f"head -c {total} /dev/zero | tr '\\0' x; echo end >&2", output_limit=200_000)

    for _ in range(3):
        with Client(home=fast.home) as client:
            reached, shown, gaps = 0, 0, 0
            for piece in client.logs(job, follow=True, stream="stdout"):
                if isinstance(piece, AttemptEnd):
                    assert piece.is_last
                    continue
                assert piece.offset == reached
                reached += len(piece.data) + piece.gap_bytes
                shown, gaps = shown + len(piece.data), gaps + piece.gap_bytes
            assert (reached, shown + gaps) == (total, total)


def test_logs_of_all_attempts_the_last_lines_and_times(fast: CommandLine) -> None:
    fast.worker()
    job = fast.enqueue("echo $QUEUECTL_JOB_ATTEMPT; echo two; echo three; exit 1", max_retries=2, backoff_base=0)
    fast.await_state("dead", job)

    whole = fast.run("logs", job, "--attempt", "all")
    assert whole.stdout == "1\ntwo\nthree\n2\ntwo\nthree\n"
    assert whole.stderr == (
        "--- attempt 1 has ended (exit 1) ---\n--- attempt 2 has ended (exit 1); the job is dead ---\n"
    )
    assert fast.ok("logs", job, "-n", "2") == "two\nthree\n"
    assert fast.ok("logs", job, "-n", "0") == ""
    assert fast.ok("logs", job, "-f", "-n", "1", "--attempt", "1") == "three\n"
    stamped = fast.ok("logs", job, "--timestamps").splitlines()
    assert [line.split()[1] for line in stamped] == ["2", "two", "three"]
    assert all("T" in line.split()[0] for line in stamped)
    objects = [json.loads(line) for line in fast.ok("logs", job, "--json", "--attempt", "all").splitlines()]
    assert {each["attempt"] for each in objects} == {1, 2}
    ends = [(each["attempt"], each["exit_code"], each["is_last"]) for each in objects if "outcome" in each]
    assert (ends, "outcome" in objects[-1]) == ([(1, 1, False), (2, 1, True)], True)
    assert fast.run("logs", job, "--attempt", "nothing").code == 2
    assert fast.run("logs", job, "--attempt", "all", "-n", "1").code == 2


@pytest.mark.parametrize(("how", "state"), [("cancel", "cancelled"), ("detach", "completed")])
def test_ctrl_c_ends_the_job_or_leaves_it(fast: CommandLine, how: str, state: str, tmp_path: Path) -> None:
    fast.worker()
    gate = fast.gate()
    run = fast.start("run", "--on-interrupt", how, "--", f"echo started; {gate.wait}; echo done")
    until(lambda: "started" in run.stdout)

    run.signal(signal.SIGINT)

    assert run.wait() == 130
    gate.open()
    [job] = fast.jobs()
    fast.await_state(state, job["id"])
    assert (f"queuectl logs -f {job['id']}" in run.stderr) is (how == "detach")


def test_follower_of_a_job_ends_when_interrupted(fast: CommandLine) -> None:
    fast.worker()
    gate = fast.gate()
    job = fast.enqueue(f"echo started; {gate.wait}")
    logs = fast.start("logs", "-f", job)
    until(lambda: "started" in logs.stdout)

    logs.signal(signal.SIGINT)

    assert logs.wait() == 130
    assert logs.stderr == ""
    gate.open()


def test_wait_exits_as_the_job_did(fast: CommandLine) -> None:
    fast.worker()
    jobs = [fast.enqueue(command, max_retries=1) for command in ("true", "exit 9", "kill -9 $$")]

    assert [fast.run("wait", job).code for job in jobs] == [0, 9, 137]
    several = fast.run("wait", *jobs)
    assert (several.code, [line.split()[1] for line in several.stdout.splitlines()[1:]]) == (
        1,
        ["completed", "dead", "dead"],
    )
    assert fast.run("wait", jobs[0], jobs[0], "--json").code == 0
    held = fast.enqueue("true", hold=True)
    assert fast.run("wait", held, "--timeout", "0.2s").code == 124
    assert fast.run("wait", held, jobs[0], "--any", "-q").stdout == f"{jobs[0]}\n"
    assert fast.run("wait").code == 2
    assert fast.run("wait", "nosuch").code == 3
    fast.ok("cancel", held)
    assert fast.run("wait", held).code == 125


def test_wait_hears_of_progress_and_outlives_the_broker(fast: CommandLine) -> None:
    fast.worker()
    gate = fast.gate()
    jobs = [fast.enqueue(command, queue="mail") for command in ("true", gate.wait)]
    fast.await_state("completed", jobs[0])
    more = fast.enqueue("true", queue="mail")
    wait = fast.start("wait", "--queue", "mail", "--progress", "--json")
    until(lambda: "2 jobs left" in wait.stderr)
    fast.kill_broker()
    fast.broker()
    gate.open()

    assert wait.wait() == 0
    assert {job["id"] for job in json.loads(wait.stdout)} == {jobs[1], more}
    assert "0 jobs left" in wait.stderr


def test_python_client_runs_a_command(fast: CommandLine) -> None:
    fast.worker()
    heard: list[bytes] = []

    result = fast.client.run(
        "echo out; echo err >&2; exit 4", max_retries=1, on_output=lambda piece: heard.append(piece.data)
    )

    assert (result.state, result.exit_code, result.returncode) == ("dead", 4, 4)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert sorted(heard) == [b"err\n", b"out\n"]
    assert isinstance(next(iter(fast.client.logs(result.id))), Chunk)
