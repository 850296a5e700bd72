"""When a broker is started in the background unasked, and when not; and brokers and workers that are detached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness_cli import PROGRAM, CommandLine, is_alive, processes_with, until
from tests.harness_process import free_port

pytestmark = pytest.mark.acceptance

ENQUEUE = ("enqueue", "--", "true")


def no_broker_came(q: CommandLine) -> bool:
    return not (q.home.path / "queue.db").exists() and not processes_with(str(q.home.path))


def streams(pid: int) -> list[str]:
    """Where the standard streams of a process lead."""
    return [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)]


def test_first_command_starts_a_broker_and_says_so_once(q: CommandLine) -> None:
    first, second = q.run(*ENQUEUE), q.run(*ENQUEUE)

    pid = q.broker_pid()
    assert first.code == 0
    assert first.stderr.startswith(f"started a broker in the background (pid {pid}, data in {q.home.path});")
    assert "queuectl broker stop" in first.stderr
    assert (second.code, second.stderr) == (0, "")
    assert Path(f"/proc/{pid}/cwd").readlink() == q.home.path
    log = str(q.home.logs / "broker.log")
    assert streams(pid) == ["/dev/null", log, log]
    assert os.getsid(pid) != os.getsid(0)
    assert '"event":"broker_ready"' in Path(log).read_text()
    assert q.json("status")["broker"]["started"] == "auto"


def test_many_first_commands_at_once_start_one_broker(q: CommandLine) -> None:
    racers = [q.start(*ENQUEUE) for _ in range(6)]

    assert [racer.wait() for racer in racers] == [0] * 6
    assert sum("started a broker" in racer.stderr for racer in racers) == 1
    assert q.counts() == {"pending": 6}
    assert len([line for line in processes_with(str(q.home.path)).values() if "broker start" in line]) == 1


@pytest.mark.parametrize(
    ("args", "env", "config"),
    [
        ([*ENQUEUE[:1], "--no-autostart", *ENQUEUE[1:]], {}, ""),
        (ENQUEUE, {"QUEUECTL_AUTOSTART": "off"}, ""),
        (ENQUEUE, {}, "autostart = false\n"),
        (["worker", "start"], {"QUEUECTL_AUTOSTART": "false"}, ""),
        (["broker", "status"], {}, ""),
        (["status", "--endpoint", "tcp://127.0.0.1:{port}"], {}, ""),
        (ENQUEUE, {"QUEUECTL_JOB_ID": "a1"}, ""),
    ],
    ids=["flag", "environment", "file", "worker", "broker", "remote", "from a job"],
)
def test_no_broker_is_started(q: CommandLine, args: list[str], env: dict[str, str], config: str) -> None:
    port = str(free_port())
    if config:
        (q.home.path / "config.toml").write_text(config)

    ran = q.run(*[arg.replace("{port}", port) for arg in args], env={k: v.format(port=port) for k, v in env.items()})

    assert ran.code == 69, ran
    assert "hint: " in ran.stderr
    assert no_broker_came(q)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["enqueue", "--help"], 0),
        (["broker", "stop"], 0),
        (["worker", "stop"], 0),
        (["config", "set", "log-level", "debug"], 0),
        (["enqueue", "{}"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_no_broker_is_needed(q: CommandLine, args: list[str], code: int) -> None:
    assert q.run(*args).code == code
    assert no_broker_came(q)


def test_completion_starts_no_broker(q: CommandLine) -> None:
    env = {"_QUEUECTL_COMPLETE": "bash_complete", "COMP_WORDS": "queuectl sta", "COMP_CWORD": "1"}

    assert "status" in q.run(env=env).stdout
    assert no_broker_came(q)


@pytest.mark.parametrize("how", [[], ["--listen"], ["--detach", "--listen"], ["--detach", "--data-dir"]], ids=" ".join)
def test_no_broker_is_started_where_one_was_started_on_purpose(q: CommandLine, how: list[str], tmp_path: Path) -> None:
    values = {"--listen": [f"tcp://127.0.0.1:{free_port()}", "--insecure-no-auth"], "--data-dir": [str(tmp_path / "d")]}
    args = [word for option in how for word in (option, *values.get(option, []))]
    broker = None if "--detach" in how else q.broker(*args)
    if broker is None:
        q.ok("broker", "start", *args)
    q.ok(*ENQUEUE)
    q.kill_broker()

    refused = q.run(*ENQUEUE)

    assert refused.code == 69
    assert "the last broker here was started explicitly" in refused.stderr
    assert not (q.home.path / "queue.db").exists() or "--data-dir" not in how


def test_log_of_a_background_broker_is_for_programs_whoever_starts_another(q: CommandLine) -> None:
    q.ok(*ENQUEUE)
    refused = q.run("broker", "start", "--detach")
    q.ok(*ENQUEUE)

    assert (refused.code, "a broker of this home runs already" in refused.stderr) == (4, True)
    lines = (q.home.path / "logs" / "broker.log").read_text().splitlines()
    assert {json.loads(line)["service"] for line in lines} == {"queuectl-broker"}


def test_broker_is_started_again_after_one_that_was_detached(q: CommandLine) -> None:
    q.broker().signal(signal.SIGTERM)
    until(lambda: q.run("broker", "status").code == 69)
    detached = q.run("broker", "start", "--detach")
    pid = q.broker_pid()
    assert (detached.code, detached.stdout) == (0, f"Broker started in the background (pid {pid}).\n")
    q.kill_broker()

    again = q.run(*ENQUEUE)

    assert again.code == 0
    assert "started a broker in the background" in again.stderr


def test_worker_that_runs_starts_no_broker(q: CommandLine) -> None:
    worker = q.worker()
    q.ok("broker", "stop")
    worker.await_log("worker_disconnected")

    stopped = q.run("worker", "stop")

    assert (stopped.code, worker.wait()) == (0, 0)
    assert not processes_with(str(q.home.path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_no_broker_is_started_in_a_home_of_somebody_else(q: CommandLine) -> None:
    os.chown(q.home.path, 65534, 65534)

    refused = q.run(*ENQUEUE)

    assert refused.code == 69
    assert "belongs to another user" in refused.stderr
    assert no_broker_came(q)


def test_data_directory_named_from_here_is_meant_from_here(q: CommandLine) -> None:
    env = {"QUEUECTL_DATA_DIR": "data"}
    started = q.run(*ENQUEUE, env=env)

    assert started.code == 0
    assert f"data in {q.cwd / 'data'}" in started.stderr
    assert (q.cwd / "data" / "queue.db").exists()
    assert json.loads(q.run("config", "show", env=env).stdout)["data_dir"] == str(q.cwd / "data")


def test_data_directory_of_the_file_is_the_same_from_everywhere(q: CommandLine, tmp_path: Path) -> None:
    (q.home.path / "config.toml").write_text('data_dir = "db"\n')
    job = q.enqueue("true")
    q.ok("broker", "stop")
    broker = q.broker()  # in the foreground, and from another directory than the one before

    assert q.ok("list", "-q").split() == [job]
    assert json.loads(q.ok("config", "show"))["data_dir"] == str(q.home.path / "db")
    assert broker.is_running()


def test_detached_daemons_outlive_their_command_and_are_ready_when_it_returns(q: CommandLine) -> None:
    told = q.json("broker", "start", "--detach")
    worker = q.json("worker", "start", "--count", "2", "--queue", "mail", "--queue", "default", "--detach")

    [listed] = q.json("worker", "list")
    assert told["pid"] == q.broker_pid()
    assert (listed["id"], listed["pid"], listed["slots"]) == (worker["worker"], worker["pid"], 2)
    assert sorted(listed["queues"]) == ["default", "mail"]
    assert streams(worker["pid"]) == ["/dev/null", *[str(q.home.logs / "worker-1.log")] * 2]
    job = q.enqueue("echo detached")
    q.await_state("completed", job)
    assert q.ok("worker", "start", "--detach").startswith("Started 1 worker in the background (pid ")
    assert len(q.json("worker", "list")) == 2
    assert (q.home.logs / "worker-2.log").exists()
    assert q.ok("worker", "stop") == "Stopped 2 workers.\n"
    assert q.json("worker", "list") == []
    until(lambda: not is_alive(worker["pid"]))


def test_one_worker_of_two_is_stopped_by_its_id(q: CommandLine) -> None:
    first, second = q.worker(), q.worker()
    ids = {each["pid"]: each["id"] for each in q.json("worker", "list")}

    assert q.json("worker", "stop", ids[first.pid]) == {"workers": [ids[first.pid]]}

    assert first.wait() == 0
    assert second.is_running()
    assert [each["id"] for each in q.json("worker", "list")] == [ids[second.pid]]


def test_pipe_that_closes_early_is_no_fault(q: CommandLine) -> None:
    q.enqueue_all([{"command": "true"}] * 2000)
    line = f"{' '.join(PROGRAM)} list --json | head -1; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=q.environment(), cwd=q.cwd, timeout=60, check=True
    )

    assert done.stderr == ""
    assert done.stdout.split() == ["[", "141"]
