"""Every error leaves through one door: a message, a hint, an exit code, and no traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuectl import link
from queuectl.errors import BY_CODE, NotAllowed, QueuectlError
from tests.harness_client import ScriptedBroker, Silence, job_view, run_cli, scripted_broker, status_view

CONTRACT = {0, 1, 2, 3, 4, 5, 69, 74, 75, 124, 130}


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


@pytest.mark.parametrize("cls", BY_CODE.values(), ids=list(BY_CODE))
def test_error_of_the_broker_keeps_code_message_and_hint(broker: ScriptedBroker, cls: type[QueuectlError]) -> None:
    broker.on("status", cls("it went wrong\x1b[2J", hint="mend it"))

    plain, as_json = run_cli("status"), run_cli("status", "--json")

    assert plain.code == as_json.code == cls.exit_code
    assert plain.code in CONTRACT
    assert (plain.out, as_json.err) == ("", "")
    assert plain.err == "error: it went wrong\\x1b[2J\nhint: mend it\n"
    assert as_json.json["error"]["code"] == cls.code
    assert as_json.json["error"]["hint"] == "mend it"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lst"], "Did you mean 'list'"),
        (["dlq", "rety"], "Did you mean 'retry'"),
        (["list", "--queu", "dead"], "Did you mean one of: '--debug', '--queue'"),
        (["show"], "Missing argument 'ID'"),
        (["list", "--limit", "0"], "0 is not in the range x>=1"),
        (["worker", "start", "--count", "0"], "0 is not in the range"),
        (["worker", "start", "--count", "two"], "'two' is not a valid whole number"),
        (["edit", "a1", "--priority", "high"], "'high' is not a valid whole number"),
        (["worker", "stop", ""], "an id is empty"),
        (["worker", "stop", "x" * 257], "no id has more than 256 characters"),
    ],
)
def test_usage_errors_go_through_the_same_door(home: Path, args: list[str], message: str) -> None:
    plain, as_json = run_cli(*args), run_cli(*args, "--json")

    assert plain.code == as_json.code == 2
    assert plain.err.startswith("error: ")
    assert message in plain.err
    assert "--help" in plain.err
    assert as_json.json["error"]["code"] == "usage"


def test_bug_shows_no_traceback_unless_asked(broker: ScriptedBroker) -> None:
    broker.on("status", {"nothing": "of use"})

    plain, debug = run_cli("status"), run_cli("status", "--debug")

    assert plain.code == debug.code == 1
    assert "Traceback" not in plain.err
    assert "--debug" in plain.err
    assert "Traceback" in debug.err


def test_no_broker_is_unreachable(home: Path) -> None:
    ran = run_cli("status", "--no-autostart", "--json")

    assert ran.code == 69
    assert "client.sock" in ran.json["error"]["message"]
    assert "queuectl broker start" in ran.json["error"]["hint"]


def test_remote_broker_is_never_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.05)

    ran = run_cli("status", "--endpoint", "tcp://127.0.0.1:9")

    assert ran.code == 69
    assert "tcp://127.0.0.1:10" in ran.err
    assert not (home / "logs").exists()


def test_silent_broker_leaves_the_outcome_unknown(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(_: object) -> object:
        raise Silence

    monkeypatch.setattr(link, "PAUSES_S", ())
    hurried = {"credentials": None, "context": None, "home": None, "timeout": 0.02}
    monkeypatch.setattr("queuectl.client.Client.__init__.__kwdefaults__", hurried)
    broker.on("enqueue", silence)

    ran = run_cli("enqueue", "--json", "--", "echo")

    assert ran.code == 69
    assert ran.json["error"]["code"] == "outcome_unknown"
    assert ran.json["error"]["details"]["request_id"] == broker.only("enqueue").id


def test_wrong_configuration_is_named(home: Path) -> None:
    (home / "config.toml").write_text("max_retries = 5\n")

    ran = run_cli("list")

    assert ran.code == 2
    assert "queuectl config set max_retries 5" in ran.err


def test_foreign_directory_is_not_allowed(broker: ScriptedBroker, home: Path) -> None:
    (home / "run").chmod(0o777)

    assert run_cli("status").code == NotAllowed.exit_code


def test_interrupt(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("queuectl.client.Client.status", interrupt)

    assert (run_cli("status").code, run_cli("status").out) == (130, "")
    assert run_cli("status", "--json").json["error"]["code"] == "interrupted"


def cli(*args: str) -> list[str]:
    return [sys.executable, "-m", "cli", *args]


def test_reader_that_goes_away_is_no_error(broker: ScriptedBroker) -> None:
    broker.on("list", lambda args: {"jobs": [job_view(command="x" * 1000)] * args["limit"], "next": 1})

    # Without a buffer Python takes half a write for a whole one, and never learns that the reader has gone.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    line = cli("list", "--limit", "5000")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()

    assert (process.wait(), err) == (141, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_letters_that_the_terminal_lacks_are_escaped(broker: ScriptedBroker, encoding: str) -> None:
    broker.on("list", {"jobs": [job_view(command="echo 漢字")], "next": None})
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    done = subprocess.run(cli("list"), env=environment, capture_output=True, check=True)

    assert b"echo \\u6f22\\u5b57" in done.stdout


def test_command_loads_nothing_slow(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view()], "next": None})
    program = "import sys; from cli.main import main; main(['list']); "
    program += "print([m for m in ('asyncio', 'sqlite3', 'structlog', 'prometheus_client') if m in sys.modules])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [["status", "--json"], ["status"], ["--version"]], ids=" ".join)
def test_output_that_cannot_be_written_is_told_in_a_line(broker: ScriptedBroker, args: list[str]) -> None:
    broker.on("status", status_view())

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(cli(*args), stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("No space left on device")


def test_worker_of_a_queue_without_a_name_is_refused(home: Path) -> None:
    ran = run_cli("worker", "start", "--queue", "")

    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: --queue '' is not a queue name")
    assert not (home / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_job_whose_id_cannot_be_written_is_told_to_be_stored(broker: ScriptedBroker) -> None:
    broker.on("enqueue", {"ids": ["a1"], "errors": []})

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(cli("enqueue", "--", "true"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "Job a1 is enqueued, whatever is told of it.")
    assert done.stderr.splitlines()[1].startswith("error: nothing can be written: ")


def test_empty_home_is_not_the_usual_one(home: Path) -> None:
    assert run_cli("list", "--home", "").err.splitlines()[0] == "error: --home is empty"


def test_options_before_the_command_are_told_where_they_stand(home: Path) -> None:
    assert "queuectl COMMAND --json" in run_cli("--json", "list").out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_stream_that_is_closed_takes_and_has_nothing(broker: ScriptedBroker, closed: str) -> None:
    broker.on("enqueue", {"ids": ["a1"], "errors": []})
    script = f"exec {shlex.join(cli('enqueue', '--', 'true'))} {closed}"

    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "Job enqueued with ID: a1\n")


def test_jobs_from_a_closed_stdin_are_none(broker: ScriptedBroker) -> None:
    script = f"exec {shlex.join(cli('enqueue', '-'))} <&-"

    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "Enqueued 0 jobs.\n", "")
