"""`queuectl dev`: broker and workers in one foreground command, and nothing left of them when it ends."""

from __future__ import annotations

import json
import signal
import tempfile
from pathlib import Path

import pytest

from tests.harness_cli import CommandLine, Running, processes_with, until

pytestmark = pytest.mark.acceptance


def write_jobs(q: CommandLine, *commands: str) -> str:
    path = q.cwd / "jobs.jsonl"
    path.write_text("".join(json.dumps({"command": command, "max_retries": 1}) + "\n" for command in commands))
    return str(path)


def await_dev(q: CommandLine, dev: Running) -> None:
    """Wait until its worker runs."""
    dev.await_log("worker_connected")
    assert len(q.client.status()["workers"]) == 1


def nothing_left(q: CommandLine) -> bool:
    return not processes_with(str(q.home.path))


@pytest.mark.parametrize(
    ("last", "code", "summary"), [("true", 0, "3 completed"), ("exit 3", 1, "2 completed, 1 dead")], ids=["0", "1"]
)
def test_runs_a_file_until_nothing_is_left(q: CommandLine, last: str, code: int, summary: str) -> None:
    ran = q.run("dev", "--until-empty", "--jobs", write_jobs(q, "true", "echo out", last))

    assert (ran.code, ran.stdout) == (code, summary + "\n")
    assert nothing_left(q)
    assert len(q.jobs()) == 3


def test_nothing_to_do_is_done(q: CommandLine) -> None:
    assert q.run("dev", "--until-empty").code == 0
    assert q.run("dev", "--until-empty", "--json").json == {"completed": 0, "dead": 0, "cancelled": 0}


def test_line_that_cannot_be_a_job_is_named(q: CommandLine) -> None:
    path = q.cwd / "jobs.jsonl"
    path.write_text('{"command":"true"}\n{"comand":"true"}\n')

    ran = q.run("dev", "--until-empty", "--jobs", str(path))

    assert (ran.code, ran.stdout) == (2, "1 completed\n")
    assert "line 2: unknown field 'comand'" in ran.stderr


def test_does_not_start_beside_a_broker(q: CommandLine) -> None:
    q.ok("status")
    pid = q.broker_pid()

    plain, coded = q.run("dev", "--until-empty"), q.run("dev", "--json")

    assert (plain.code, plain.stdout) == (4, "")
    assert "a broker runs at ipc://" in plain.stderr
    assert "queuectl broker stop" in plain.stderr
    assert (coded.code, coded.json["error"]["code"]) == (4, "broker_running")
    assert q.broker_pid() == pid


def test_temporary_home_goes_away(q: CommandLine) -> None:
    before = set(Path(tempfile.gettempdir()).glob("queuectl-*"))

    in_it = f'test "$QUEUECTL_HOME" != {q.home.path} && test -f "$QUEUECTL_HOME/queue.db"'
    ran = q.run("dev", "--temp", "--until-empty", "--jobs", write_jobs(q, 'echo "$PWD" > where', in_it))

    assert (ran.code, ran.stdout) == (0, "2 completed\n")
    assert set(Path(tempfile.gettempdir()).glob("queuectl-*")) <= before
    assert not (q.home.path / "queue.db").exists()
    assert nothing_left(q)


def test_one_ctrl_c_finishes_what_runs(q: CommandLine) -> None:
    gate = q.gate()
    dev = q.start("dev", "--workers", "1")
    await_dev(q, dev)
    running, waiting = q.enqueue(gate.wait), q.enqueue("true")
    q.await_state("processing", running)

    dev.press_ctrl_c()
    dev.await_log("worker_draining")
    assert dev.is_running()
    gate.open()

    assert dev.wait() == 0
    assert nothing_left(q)
    assert "Traceback" not in dev.stderr
    assert q.show(running)["state"] == "completed"
    assert q.show(waiting)["state"] == "pending"


def test_two_ctrl_c_give_back_what_runs(q: CommandLine) -> None:
    gate = q.gate()
    dev = q.start("dev")
    await_dev(q, dev)
    job = q.enqueue(gate.wait)
    q.await_state("processing", job)

    dev.press_ctrl_c()
    dev.await_log("worker_draining")
    dev.press_ctrl_c()

    assert dev.wait() == 0
    assert nothing_left(q)
    assert "Traceback" not in dev.stderr
    shown = q.show(job)
    assert (shown["state"], shown["attempts"], shown["losses"]) == ("pending", 0, 0)


def test_ctrl_c_before_the_queue_is_empty(q: CommandLine) -> None:
    gate = q.gate()
    dev = q.start("dev", "--until-empty", "--jobs", write_jobs(q, gate.wait, "true"))
    await_dev(q, dev)
    q.await_count("processing", 1)

    dev.press_ctrl_c()
    dev.await_log("worker_draining")
    gate.open()

    assert dev.wait() == 130
    assert nothing_left(q)


def test_sigterm_ends_it_in_order(q: CommandLine) -> None:
    dev = q.start("dev")
    await_dev(q, dev)

    dev.signal(signal.SIGTERM)

    assert dev.wait() == 0
    assert nothing_left(q)


def test_death_of_its_broker_ends_it(q: CommandLine) -> None:
    dev = q.start("dev")
    await_dev(q, dev)
    q.kill_broker()

    assert dev.wait() == 1
    assert "the broker ended by itself" in dev.stderr
    until(lambda: nothing_left(q))
