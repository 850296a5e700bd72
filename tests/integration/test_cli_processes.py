"""Brokers and workers started, found, raced for and stopped from the command line: real processes throughout."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuectl.home import Home
from queuectl.pidfiles import local_workers
from queuectl.probe import somebody_listens
from tests.harness_client import Ran, run_cli, scripted_broker, worker_view
from tests.harness_process import free_port

TIMEOUT_S = 60


def cli(*args: str, stdin: str = "") -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *args], input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def place(home: Path) -> Iterator[Home]:
    """A home whose broker and workers are ended when the test is."""
    place = Home(home)
    yield place
    for worker in local_workers(place):
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    cli("worker", "stop", "--now", "--timeout", "20")
    cli("broker", "stop", "--timeout", "20")


def listens(place: Home) -> bool:
    return somebody_listens(place.client_endpoint)


# --- autostart -------------------------------------------------------------------------------------


def test_first_command_starts_a_broker_and_says_so(place: Home) -> None:
    first = cli("enqueue", '{"id":"job-1","command":"echo Hello World"}')
    second = cli("list", "--state", "pending")

    assert first.out == "Job enqueued with ID: job-1\n"
    assert first.err.startswith("started a broker in the background (pid ")
    assert first.err.endswith(f"data in {place.path}); stop it with: queuectl broker stop\n")
    assert second.err == ""
    assert "job-1" in second.out
    assert (place.run / "last_start").read_text() == "auto"


def test_racing_commands_share_one_broker(place: Home) -> None:
    line = [sys.executable, "-m", "cli", "enqueue", "-q", "--", "echo"]
    racers = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [racer.communicate(timeout=TIMEOUT_S) for racer in racers]

    assert [racer.returncode for racer in racers] == [0] * 4, told
    assert sum("started a broker" in err for _, err in told) == 1
    assert sorted(out.strip() for out, _ in told) == cli("list", "-q").out.split()[::-1]


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_autostart_can_be_forbidden(place: Home, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("QUEUECTL_AUTOSTART", "false")
    if how == "file":
        cli("config", "set", "autostart", "false")

    ran = cli("list", *(["--no-autostart"] if how == "flag" else []))

    assert (ran.code, ran.out) == (69, "")
    assert f"no broker runs at {place.client_endpoint}, and none was started: autostart is off" in ran.err
    assert "queuectl broker start" in ran.err


def test_broker_that_was_started_explicitly_is_not_started_unasked(place: Home) -> None:
    place.prepare()
    (place.run / "last_start").write_text("explicit")

    ran = cli("worker", "start")

    assert ran.code == 69
    assert "started explicitly" in ran.err
    assert not listens(place)


@pytest.mark.parametrize("args", [["broker", "status"], ["worker", "stop"], ["broker", "stop"]], ids=" ".join)
def test_these_never_start_a_broker(place: Home, args: list[str]) -> None:
    ran = cli(*args)

    assert ran.code == (69 if args[-1] == "status" else 0)
    assert not listens(place)


def test_reason_why_a_broker_does_not_start_is_told(place: Home) -> None:
    place.prepare()
    (place.path / "queue.db").write_text("not a database, but long enough to be taken for one" * 100)

    ran = cli("list")

    assert ran.code == 1
    assert "queue.db" in ran.err
    assert "Traceback" not in ran.err


# --- broker ----------------------------------------------------------------------------------------


def test_broker_is_started_and_stopped(place: Home) -> None:
    started = cli("broker", "start", "--detach", "--json")
    again = cli("broker", "start", "--detach")
    status = cli("broker", "status", "--json").json
    stopped = cli("broker", "stop")

    assert started.json["pid"] == status["pid"]
    assert (again.code, again.out) == (4, "")
    assert "runs already" in again.err
    assert (place.run / "last_start").read_text() == "detached"
    assert (stopped.code, stopped.out) == (0, "Broker stopped.\n")
    with (place.run / "broker.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of before the command returned
    assert cli("broker", "stop").err == f"No broker runs at {place.client_endpoint}.\n"


def test_broker_in_the_foreground_ends_on_a_signal(place: Home) -> None:
    line = [sys.executable, "-m", "cli", "broker", "start", "--log-format", "json"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while json.loads(process.stderr.readline())["event"] != "broker_ready":
            pass
        assert cli("broker", "start").code == 4
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0
    assert (place.run / "last_start").read_text() == "explicit"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--listen", "tcp://0.0.0.0:7710"], 2),
        (["--advertise", "queue.example"], 2),
        (["--listen", "tcp://0.0.0.0:7710", "--insecure-no-auth"], 5),
        (["--listen", "127.0.0.1:7710", "--insecure-no-auth"], 2),
        (["--insecure-no-auth"], 2),
    ],
)
@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "detached"])
def test_open_doors_are_refused(place: Home, args: list[str], code: int, detach: list[str]) -> None:
    ran = cli("broker", "start", *args, *detach)

    assert ran.code == code
    assert not listens(place)


def test_broker_says_where_others_find_it(place: Home) -> None:
    port = free_port()
    listen = ["--listen", f"tcp://0.0.0.0:{port}", "--advertise", "queue.example,10.0.0.1"]
    told = cli("broker", "start", "--detach", "--json", *listen).json
    status = cli("broker", "status")

    assert told["advertised"] == [f"tcp://queue.example:{port}", f"tcp://10.0.0.1:{port}"]
    assert told["fingerprint"].startswith("SHA256:")
    assert f"tcp://queue.example:{port}, tcp://10.0.0.1:{port}" in status.out
    assert "Turned away" not in status.out
    assert (place.run / "last_start").read_text() == "explicit"


def test_terminal_sees_the_key_of_the_broker(place: Home) -> None:
    ran = run_cli("broker", "start", "--detach", "--listen", f"tcp://127.0.0.1:{free_port()}", tty=True)

    assert "Others find it at tcp://127.0.0.1:" in ran.err
    assert "Its key is SHA256:" in ran.err


def test_address_from_the_configuration_counts_as_a_start_on_purpose(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("QUEUECTL_LISTEN", f"tcp://127.0.0.1:{port}")

    told = cli("broker", "start", "--detach", "--json").json

    assert told["advertised"] == [f"tcp://127.0.0.1:{port}"]
    assert (place.run / "last_start").read_text() == "explicit"


def test_suggested_stop_is_for_this_broker(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_ENDPOINT", "tcp://127.0.0.1:9")

    ran = run_cli("broker", "start", "--detach", tty=True)

    assert "hint: stop it with: queuectl broker stop --context local" in ran.err
    assert run_cli("broker", "stop", "--context", "local").out == "Broker stopped.\n"


def test_broken_context_does_not_keep_the_broker_of_this_machine_from_starting(place: Home) -> None:
    place.config_file.write_text('context = "gone"\n')

    assert cli("broker", "start", "--detach").code == 0
    assert listens(place)
    assert cli("broker", "stop", "--context", "local").code == 0


# --- worker ----------------------------------------------------------------------------------------


def test_worker_in_the_background_runs_jobs_and_is_stopped_through_the_broker(place: Home) -> None:
    job_id = cli("enqueue", "-q", "--", "echo hello; exit 3").out.strip()
    cli("config", "set", "max-retries", "1")
    started = cli("worker", "start", "--count", "2", "--detach", "--json")
    [worker] = cli("worker", "list", "--json").json
    stopped = cli("worker", "stop")

    assert worker["slots"] == 2
    assert worker["pid"] == started.json["pid"]
    assert stopped.out == "Stopped 1 worker.\n"
    assert worker["id"] in stopped.err
    assert local_workers(place) == []
    assert cli("logs", job_id).out == "hello\n"


def test_workers_are_stopped_by_signal_where_no_broker_runs(place: Home) -> None:
    cli("worker", "start", "--detach")
    cli("broker", "stop")

    ran = cli("worker", "stop", "--json")

    assert ran.code == 0
    assert len(ran.json["workers"]) == 1
    assert local_workers(place) == []
    assert not listens(place)


def test_worker_by_name_needs_a_broker(place: Home) -> None:
    assert cli("worker", "stop", "some-worker").code == 69


def test_worker_that_is_too_slow_times_out(home: Path) -> None:
    with scripted_broker(home) as broker:
        broker.on("worker_stop", {"workers": ["host-1"], "held": 2})
        broker.on("wait", {"done": False})

        ran = run_cli("worker", "stop", "--timeout", "1ms")

        assert ran.code == 124
        assert "host-1" in ran.err
        assert "--now" in ran.err


def test_worker_stop_passes_names_on(home: Path) -> None:
    with scripted_broker(home) as broker:
        broker.on("worker_stop", {"workers": ["host-1"]})
        broker.on("wait", {"done": True})

        assert run_cli("worker", "stop", "host-1", "--now", "-q").out == "host-1\n"
        assert broker.only("worker_stop").args == {"workers": ["host-1"], "now": True}
        assert broker.only("wait").args["workers"] == ["host-1"]
        assert run_cli("worker", "stop", "host-1", "--all").code == 2


def test_worker_list(home: Path) -> None:
    with scripted_broker(home) as broker:
        broker.on("status", {"broker": {}, "workers": [worker_view(id="evil\x1b")], "jobs": {}})
        assert "evil\\x1b  active" in run_cli("worker", "list").out
        assert run_cli("worker", "list", "-q").out == "evil\\x1b\n"

        broker.on("status", {"broker": {}, "workers": [], "jobs": {}})
        assert run_cli("worker", "list").err == "No worker is connected.\n"
        assert run_cli("worker", "list", "--json").json == []


# --- dev -------------------------------------------------------------------------------------------


def test_dev_until_empty_tells_how_jobs_ended(place: Home, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"command":"true"}\n{"command":"false","max_retries":1}\n')

    ran = cli("dev", "--temp", "--jobs", str(file), "--until-empty")

    assert (ran.code, ran.out) == (1, "1 completed, 1 dead\n")
    assert not listens(place)

    file.write_text('{"command":"true"}\n')
    again = cli("dev", "--jobs", str(file), "--until-empty", "--json")
    assert (again.code, again.json) == (0, {"completed": 1, "dead": 0, "cancelled": 0})


def test_dev_beside_a_running_broker_is_refused(place: Home) -> None:
    cli("broker", "start", "--detach")

    ran = cli("dev")

    assert ran.code == 4
    assert listens(place)


def test_dev_ends_its_children_on_a_signal(place: Home) -> None:
    line = [sys.executable, "-m", "cli", "dev", "--log-format", "json"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while json.loads(process.stderr.readline())["event"] != "worker_connected":
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0
    assert not listens(place)
    assert local_workers(place) == []
