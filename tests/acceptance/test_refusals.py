"""Everything that is refused says what is wrong and where, ends with the right code, and changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from broker.store.schema import SCHEMA_VERSION
from tests.harness_cli import CommandLine
from tests.harness_process import free_port

pytestmark = pytest.mark.acceptance


def check_refused(
    q: CommandLine,
    *args: str,
    exit_code: int,
    code: str,
    says: Sequence[str],
    stdin: str | bytes = b"",
    env: dict[str, str | None] | None = None,
) -> None:
    """Words on stderr and nothing on stdout; with --json one value on stdout. Both name the same fault."""
    plain = q.run(*args, stdin=stdin, env=env)
    assert (plain.code, plain.stdout) == (exit_code, "")
    assert plain.stderr.startswith("error: ")
    assert "Traceback" not in plain.stderr
    words = 2 if args[0] in ("dlq", "worker", "broker", "config") else 1
    coded = q.run(*args[:words], "--json", *args[words:], stdin=stdin, env=env)
    assert coded.code == exit_code
    error = coded.json["error"]
    assert error["code"] == code
    for told in (plain.stderr, error["message"] + " " + error.get("hint", "")):
        for text in says:
            assert text in told
        assert "\x1b" not in plain.stderr


def is_untouched(q: CommandLine) -> bool:
    """No broker was started, and nothing was stored."""
    return not (q.home.path / "queue.db").exists()


# --- jobs that cannot be ---------------------------------------------------------------------------------

BAD_JOBS: dict[str, tuple[list[str], list[str]]] = {
    "broken JSON": (['{"command": "echo hello"'], ["not valid JSON", "column 25"]),
    "broken JSON, second line": (['{"command":\n echo}'], ["not valid JSON", "line 2, column 2"]),
    "duplicate keys": (['{"command":"a","command":"b"}'], ["'command'", "twice"]),
    "unknown field": (['{"comand":"echo"}'], ["unknown field 'comand'", "did you mean 'command'?"]),
    "wrong type": (['{"command":"x","priority":"high"}'], ["priority: expected an integer, got text"]),
    "command of a wrong type": (['{"command":["echo"]}'], ["command: expected text, got a list"]),
    "no command": (['{"id":"x"}'], ["command: is missing"]),
    "empty command": (['{"command":""}'], ["command: is empty"]),
    "blank command": (["--", "  "], ["command: is empty"]),
    "control characters in an id": (['{"id":"a\\u001b[31mb\\n","command":"x"}'], ["id: ", "is not an id", "1 to 128"]),
    "negative timeout": (['{"command":"x","timeout":-1}'], ["timeout: must be between 0 and", "not -1"]),
    "negative timeout as an option": (["--timeout", "-5", "--", "x"], ["--timeout", "'-5'"]),
    "no timeout at all": (['{"command":"x","timeout":0}'], ["timeout: must be more than 0"]),
    "NaN": (['{"command":"x","delay":NaN}'], ["NaN"]),
    "no time zone": (['{"command":"x","run_at":"2026-11-22T03:00:00"}'], ["run_at: ", "zone"]),
    "relative directory": (['{"command":"x","cwd":"here"}'], ["cwd: must be an absolute path"]),
    "variable of queuectl": (['{"command":"x","env":{"QUEUECTL_HOME":"/"}}'], ["env: QUEUECTL_HOME"]),
    "a list": (["[1]"], ["a command stands after --"]),
    "unquoted": (["echo", "hello"], ["a command stands after --", "queuectl enqueue -- echo hello"]),
    "nothing": ([], ["there is no job"]),
    "NUL": (['{"command":"a\\u0000b"}'], ["command: contains a NUL"]),
}
NOT_A_JOB = {"negative timeout as an option": "usage", "a list": "bad_request", "unquoted": "bad_request"}
NOT_A_JOB["nothing"] = "bad_request"


@pytest.mark.parametrize("name", BAD_JOBS)
def test_job_that_cannot_be(q: CommandLine, name: str) -> None:
    args, says = BAD_JOBS[name]

    check_refused(q, "enqueue", *args, exit_code=2, code=NOT_A_JOB.get(name, "bad_job"), says=says)

    assert is_untouched(q)


def test_command_longer_than_the_system_takes(q: CommandLine) -> None:
    longest = 128 * 1024 - 1
    line = json.dumps({"command": "#" + "x" * longest})

    plain = q.run("enqueue", "-", stdin=line)
    coded = q.run("enqueue", "-", "--json", stdin=line)

    assert (plain.code, plain.stdout) == (2, "Enqueued 0 jobs; 1 line refused.\n")
    assert plain.stderr.startswith("line 1: command: has 131072 bytes, the system takes 131071 (128 KiB)")
    assert coded.code == 2
    assert coded.json["error"]["code"] == "bad_job"
    assert (coded.json["ids"], coded.json["errors"][0]["line"]) == ([], 1)
    fits = json.dumps({"id": "fits", "command": "#" + "x" * (longest - 1)})
    assert q.ok("enqueue", "-q", "-", stdin=fits) == "fits\n"
    q.worker()
    q.await_state("completed", "fits")


# --- words that mean nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["list", "--state", "done"], "usage", ["--state", "'done'", "pending", "cancelled"]),
        (["config", "set", "max-retrys", "3"], "bad_request", ["'max-retrys'", "did you mean 'max_retries'?"]),
        (["config", "get", "colour"], "bad_request", ["'colour'"]),
        (["config", "set", "max-retries", "many"], "bad_config", ["max_retries", "'many' is not an integer"]),
        (["config", "set", "backoff-base", "--", "-1"], "bad_config", ["backoff_base: must be between 0 and"]),
        (["config", "set", "endpoint", "tcp://here"], "bad_config", ["endpoint", "tcp://here", "tcp://HOST:7710"]),
        (["config", "set", "autostart", "maybe"], "bad_config", ["autostart", "'maybe'", "neither true nor false"]),
        (["worker", "start", "--count", "0"], "usage", ["--count", "0"]),
        (["worker", "start", "--count", "many"], "usage", ["--count", "'many'"]),
        (["worker", "strat"], "usage", ["strat", "start"]),
        (["enqueue", "--file", "missing.jsonl"], "bad_request", ["cannot read missing.jsonl: No such file"]),
        (["dlq", "retry"], "bad_request", ["name the jobs, or say which: --all"]),
        (["broker", "start", "--insecure-no-auth"], "bad_request", ["--insecure-no-auth is about --listen"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_word_that_means_nothing(q: CommandLine, args: list[str], code: str, says: list[str]) -> None:
    check_refused(q, *args, exit_code=2, code=code, says=says)

    assert is_untouched(q)


# --- jobs that are not so ------------------------------------------------------------------------------------


def test_job_that_is_not_there_or_not_so(q: CommandLine) -> None:
    q.enqueue("true", id="build-1")
    q.enqueue("true", id="build-2")
    before = q.jobs()

    check_refused(
        q,
        "enqueue",
        '{"id":"build-1","command":"false"}',
        exit_code=4,
        code="job_exists",
        says=["'build-1' exists already", "it is pending", "queuectl show build-1"],
    )
    check_refused(q, "show", "nope", exit_code=3, code="unknown_job", says=["no job 'nope'"])
    check_refused(q, "logs", "nope", exit_code=3, code="unknown_job", says=["no job 'nope'"])
    check_refused(q, "show", "build", exit_code=2, code="ambiguous_id", says=["'build' could be", "build-1", "build-2"])
    check_refused(q, "dlq", "retry", "nope", exit_code=3, code="unknown_job", says=["no job 'nope'"])
    check_refused(
        q, "dlq", "retry", "build-1", exit_code=4, code="wrong_state", says=["'build-1'", "pending", "not dead"]
    )
    check_refused(q, "dlq", "purge", "build-1", exit_code=4, code="wrong_state", says=["'build-1'", "pending"])
    check_refused(q, "dlq", "show", "build-1", exit_code=4, code="wrong_state", says=["'build-1'", "pending"])
    check_refused(q, "worker", "stop", "nobody", exit_code=3, code="unknown_worker", says=["nobody"])
    check_refused(
        q, "config", "set", "lease", "1", exit_code=2, code="bad_config", says=["lease", "heartbeat", "at least 5"]
    )

    assert q.jobs() == before
    assert q.json("config", "show")["lease"] == 30


# --- brokers that are not there, and too many of them -----------------------------------------------------------


def test_no_broker_here_and_none_may_be_started(q: CommandLine) -> None:
    endpoint = f"ipc://{q.home.path}/run/client.sock"
    for args in (["status"], ["list"], ["dlq", "list"], ["show", "x"], ["enqueue", '{"command":"x"}']):
        check_refused(
            q,
            *args,
            env={"QUEUECTL_AUTOSTART": "false"},
            exit_code=69,
            code="broker_unreachable",
            says=[endpoint, "autostart is off", "queuectl broker start"],
        )
    assert is_untouched(q)


def test_no_broker_elsewhere(q: CommandLine) -> None:
    port = free_port()

    check_refused(
        q,
        "status",
        env={"QUEUECTL_ENDPOINT": f"tcp://127.0.0.1:{port}"},
        exit_code=69,
        code="broker_unreachable",
        says=[f"tcp://127.0.0.1:{port + 1}", "broker", "--listen"],
    )
    assert is_untouched(q)


def test_second_broker(q: CommandLine, tmp_path: Path) -> None:
    broker = q.broker()
    other_home, other_data = tmp_path / "other-home", tmp_path / "other-data"

    check_refused(
        q,
        *("broker", "start", "--data-dir", str(q.home.path), "--home", str(other_home)),
        exit_code=4,
        code="broker_running",
        says=["data directory runs already", f"pid {broker.pid}", str(q.home.path), "queuectl broker stop"],
    )
    check_refused(
        q,
        *("status", "--home", str(other_home)),  # nor is one started unasked
        env={"QUEUECTL_DATA_DIR": str(q.home.path)},
        exit_code=4,
        code="broker_running",
        says=["data directory runs already", f"pid {broker.pid}"],
    )
    for detached in ([], ["--detach"]):
        check_refused(
            q,
            *("broker", "start", "--data-dir", str(other_data), *detached),
            exit_code=4,
            code="broker_running",
            says=["home runs already", f"pid {broker.pid}", str(q.home.path)],
        )
    assert broker.is_running()
    assert q.broker_pid() == broker.pid
    assert not (other_data / "queue.db").exists()


def test_database_of_a_newer_version(q: CommandLine) -> None:
    q.enqueue("true", id="kept")
    q.ok("broker", "stop")
    path = q.home.path / "queue.db"
    set_version(path, 99)
    before = path.read_bytes()

    for args in (["broker", "start"], ["broker", "start", "--detach"], ["status"]):
        check_refused(
            q, *args, exit_code=1, code="database_refused", says=[str(path), "newer queuectl", "99", "data_dir"]
        )

    racers = [q.start("status") for _ in range(3)]  # whoever lost the race to start one hears the same reason
    assert [racer.wait() for racer in racers] == [1] * 3
    assert all("newer queuectl" in racer.stderr for racer in racers)
    assert path.read_bytes() == before
    set_version(path, SCHEMA_VERSION)
    assert q.ok("list", "-q") == "kept\n"


def set_version(path: Path, version: int) -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {version}")
    database.commit()
    database.close()


def test_something_else_in_place_of_the_database(q: CommandLine) -> None:
    path = q.home.path / "queue.db"
    path.write_text("this is not a database" * 100)

    check_refused(q, "status", exit_code=1, code="database_refused", says=[str(path)])

    assert path.read_text() == "this is not a database" * 100


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('endpont = "local"\n', ["'endpont'", "config.toml", "did you mean 'endpoint'?"]),
        ("max_retries = 5\n", ["max_retries", "config.toml", "queuectl config set max_retries 5"]),
        ("max-retries = 5\n", ["max_retries", "config.toml", "queuectl config set max_retries 5"]),
        ("endpoint = \n", ["config.toml", "not valid TOML", "line 1"]),
        ('log_level = "loud"\n', ["log_level", "loud", "config.toml"]),
    ],
)
def test_configuration_file_with_a_fault(q: CommandLine, text: str, says: list[str]) -> None:
    (q.home.path / "config.toml").write_text(text)

    for args in (["worker", "start"], ["broker", "start"]):
        check_refused(q, *args, exit_code=2, code="bad_config", says=says)

    assert is_untouched(q)
    assert (q.home.path / "config.toml").read_text() == text


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("QUEUECTL_MAX_RETRIES", "5", ["max_retries", "environment", "queuectl config set max_retries 5"]),
        ("QUEUECTL_ENDPOIMT", "local", ["'endpoimt'", "environment", "did you mean 'endpoint'?"]),
        ("QUEUECTL_ENDPOINT", "here", ["endpoint", "'here'", "environment"]),
    ],
)
def test_environment_with_a_fault(q: CommandLine, name: str, value: str, says: list[str]) -> None:
    check_refused(q, "status", env={name: value}, exit_code=2, code="bad_config", says=says)

    assert is_untouched(q)


def test_home_too_deep_for_a_socket_works(q: CommandLine) -> None:
    deep = q.home.path / ("d" * 100) / ("e" * 100)
    env: dict[str, Any] = {"env": {"QUEUECTL_HOME": str(deep)}}
    stopped = False
    try:
        job = q.ok("enqueue", "-q", "--", "echo from the deep", **env).strip()
        worker = q.start("worker", "start", **env)
        worker.await_log("job_finished")
        assert json.loads(q.ok("show", job, "--json", **env))["history"][0]["stdout"] == "from the deep\n"
        [endpoint, _] = json.loads(q.ok("status", "--json", **env))["broker"]["endpoints"]
        sockets = Path(endpoint.removeprefix("ipc://")).parent
        assert len(endpoint) < 60
        assert sockets.stat().st_mode & 0o777 == 0o700
        q.ok("worker", "stop", **env)
        assert worker.wait() == 0
    finally:
        stopped = q.run("broker", "stop", **env).code == 0
    assert stopped
    for name in ("worker.sock", "client.sock"):
        (sockets / name).unlink(missing_ok=True)
    sockets.rmdir()


def test_home_that_cannot_be_used(q: CommandLine) -> None:
    occupied = q.home.path / "file"
    occupied.write_text("")

    check_refused(
        q,
        "status",
        env={"QUEUECTL_HOME": str(occupied)},
        exit_code=2,
        code="bad_config",
        says=[str(occupied), "Not a directory"],
    )
