"""`queuectl enqueue` for one job: every way to write it, and what is refused before a broker is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl.errors import DiskFull, JobExists
from queuectl.times import parse_rfc3339
from tests.harness_client import ScriptedBroker, run_cli, scripted_broker


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        broker.on("enqueue", lambda args: {"ids": [job.get("id", "a1") for job in args["jobs"]], "errors": []})
        yield broker


def stored(broker: ScriptedBroker) -> dict[str, Any]:
    [job] = broker.only("enqueue").args["jobs"]
    assert isinstance(job, dict)
    return job


@pytest.mark.parametrize(
    ("args", "job"),
    [
        (['{"id":"job-1","command":"echo Hello World"}'], {"id": "job-1", "command": "echo Hello World"}),
        ([' {"command":"x","delay":1.5}'], {"command": "x", "delay": 1.5}),
        (["--", "echo a && echo b"], {"command": "echo a && echo b"}),
        (["--", "echo", "a b", "-n"], {"command": "echo 'a b' -n"}),
        (["--", "{ echo a; }"], {"command": "{ echo a; }"}),
        (["--", "-"], {"command": "-"}),
        (["--id", "x", "--queue", "mail", "--priority", "-3", "--", "x"], {"id": "x", "queue": "mail", "priority": -3}),
        (["--max-retries", "5", "--backoff-base", "1.5", "--", "x"], {"max_retries": 5, "backoff_base": 1.5}),
        (["--on-lost", "dead", "--", "x"], {"on_lost": "dead"}),
        (
            ["--backoff-max", "5m", "--backoff-jitter", "full", "--", "x"],
            {"backoff_max": 300, "backoff_jitter": "full"},
        ),
        (["--timeout", "1h30m", "--delay", "250ms", "--", "x"], {"timeout": 5400, "delay": 0.25}),
        (["--run-at", "2026-11-22T03:00:00Z", "--", "x"], {"run_at": "2026-11-22T03:00:00Z"}),
        (["--env", "A=1", "--env", "B=x=y", "--", "x"], {"env": {"A": "1", "B": "x=y"}}),
        (["--cwd", "/srv", "--keep-children", "--output-limit", "64KiB", "--", "x"], {"output_limit": 65536}),
        (["--priority", "2", '{"command":"x","priority":1}'], {"priority": 2}),
    ],
)
def test_job_is_stored_as_it_was_written(broker: ScriptedBroker, args: list[str], job: dict[str, Any]) -> None:
    ran = run_cli("enqueue", *args)

    assert (ran.code, ran.err) == (0, "")
    assert stored(broker).items() >= job.items()


def test_id_is_printed_word_for_word(broker: ScriptedBroker) -> None:
    assert run_cli("enqueue", '{"id":"job-1","command":"echo"}').out == "Job enqueued with ID: job-1\n"


def test_quiet_prints_the_id_only(broker: ScriptedBroker) -> None:
    assert run_cli("enqueue", "-q", "--", "echo").out == "a1\n"


def test_json(broker: ScriptedBroker) -> None:
    assert run_cli("enqueue", '{"command":"echo"}', "--json").json == {"id": "a1"}


def test_terminal_gets_the_next_step(broker: ScriptedBroker) -> None:
    assert "queuectl show a1" in run_cli("enqueue", "--", "echo", tty=True).err


def test_relative_directory_is_made_absolute(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    run_cli("enqueue", "--cwd", "sub", "--", "x")

    assert stored(broker)["cwd"] == str(tmp_path / "sub")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is no job"),
        (["echo"], "a command stands after --"),
        (["{command:", "echo}"], "the JSON came in pieces"),
        (["{command: echo}"], "not valid JSON"),
        (['{"id":"x"}'], "command: is missing"),
        (['{"command":"x","priorty":1}'], "unknown field 'priorty'"),
        (['{"command":"x","id":"a/b"}'], "is not an id"),
        (['{"command":"x","timeout":"5"}'], "timeout: expected a number, got text"),
        (["--env", "A", "--", "x"], "is not of the form NAME=VALUE"),
        (["--env", "QUEUECTL_JOB_ID=1", "--", "x"], "set by queuectl itself"),
        (["--timeout", "soon", "--", "x"], "is not a duration"),
        (["--output-limit", "big", "--", "x"], "is not a size"),
        (["--delay", "1", "--run-at", "2026-11-22T03:00:00Z", "--", "x"], "exclude each other"),
        (["--again", "--", "x"], "about many jobs"),
        (["--file", "/nowhere/jobs.jsonl"], "cannot read"),
        (["--file", "x", "--", "y"], "exclude each other"),
        (["-", "--id", "x"], "--id names one job"),
        (["-", "--request-id", "01234567"], "--request-id is about one job"),
        (["--request-id", "short", "--", "x"], "'short' is not a request id"),
        (["--priority", "high", "--", "x"], "not a valid whole number"),
    ],
)
def test_bad_job_is_refused_before_anything_is_sent(broker: ScriptedBroker, args: list[str], message: str) -> None:
    ran = run_cli("enqueue", *args)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert broker.asked == []


def test_request_id_is_passed_on(broker: ScriptedBroker) -> None:
    run_cli("enqueue", "--request-id", "my-request", "--", "x")

    assert broker.only("enqueue").id == "my-request"


def test_misspelt_field_is_guessed(broker: ScriptedBroker) -> None:
    assert "hint: did you mean 'priority'?" in run_cli("enqueue", '{"command":"x","priorty":1}').err


def test_id_in_use_is_a_conflict(broker: ScriptedBroker) -> None:
    refused = {"index": 0, **JobExists("a job with id 'x' exists already").to_wire()}
    broker.on("enqueue", {"ids": [None], "errors": [refused]})

    ran = run_cli("enqueue", '{"id":"x","command":"echo"}', "--json")

    assert ran.code == 4
    assert ran.json["error"]["code"] == "job_exists"


def test_full_disk_means_try_later(broker: ScriptedBroker) -> None:
    broker.on("enqueue", DiskFull(hint="free some space"))

    ran = run_cli("enqueue", "--", "echo")

    assert (ran.code, ran.out) == (75, "")
    assert "hint: free some space" in ran.err


# --- at what time ------------------------------------------------------------------------------------

NOW_MS = parse_rfc3339("2026-11-23T09:00:30Z")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is ten o'clock in Berlin, and half a minute."""
    monkeypatch.setattr("time.time", lambda: NOW_MS / 1000)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("at", "run_at"),
    [
        ("tomorrow 03:00", "2026-11-24T02:00:00.000Z"),
        ("+2h", "2026-11-23T11:00:30.000Z"),
        ("now", "2026-11-23T09:00:30.000Z"),
        ("today 10:00", "2026-11-23T09:00:00.000Z"),
        ("2026-11-23T09:00:00Z", "2026-11-23T09:00:00.000Z"),
    ],
)
def test_moment_in_words_becomes_the_time_of_the_job(broker: ScriptedBroker, at: str, run_at: str) -> None:
    ran = run_cli("enqueue", "--at", at, "--", "x")

    assert (ran.code, ran.err) == (0, "")
    assert stored(broker) == {"command": "x", "run_at": run_at}


@pytest.mark.usefixtures("clock", "broker")
def test_person_is_told_what_was_understood() -> None:
    line = ("enqueue", "--at", "tomorrow 03:00")

    assert "It runs at 2026-11-24T03:00:00+01:00 (in 16h59m).\n" in run_cli(*line, "--", "x", tty=True).err
    assert run_cli(*line, "-q", "--", "x", tty=True).err == ""
    told = run_cli(*line, "--json", "--", "x", tty=True)
    assert (told.json, told.err) == ({"id": "a1"}, "")


@pytest.mark.usefixtures("clock")
def test_nothing_is_said_of_the_time_of_a_job_that_was_there_already(broker: ScriptedBroker) -> None:
    broker.on("enqueue", {"ids": ["a7"], "errors": [], "found": [0]})

    assert "It runs at" not in run_cli("enqueue", "--at", "+2h", "--unique", "k", "--", "x", tty=True).err


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--at", "soon", "--", "x"], "'soon' is not a moment; write +2h, 18:00, tomorrow 03:00"),
        (["--at", "+2h", "--delay", "1h", "--", "x"], "--at, --delay and --run-at exclude each other"),
        (["--at", "+2h", "--run-at", "2026-12-22T03:00:00Z", "--", "x"], "exclude each other"),
        (["--at", "+2h", '{"command":"x","delay":5}'], "delay and run_at exclude each other"),
        (["--at", "today 08:00", "--", "x"], "--at 'today 08:00' is over: it was 2h00m ago"),
        (["--at", "+2h", "-"], "hint: write the moment itself: --at 2026-11-23T11:00:30.000Z"),
        (["--at", "fri", "--request-id", "request-1", "--", "x"], "is another moment when it is repeated"),
        (["--at", "fri", "--idempotency-token", "t", "--", "x"], "is another moment when it is repeated"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_moment_that_makes_no_sense_is_refused(broker: ScriptedBroker, args: list[str], message: str) -> None:
    ran = run_cli("enqueue", *args)

    assert (ran.code, broker.asked) == (2, [])
    assert message in ran.err


@pytest.mark.usefixtures("clock")
def test_moment_with_its_day_holds_for_many_jobs(broker: ScriptedBroker) -> None:
    ran = run_cli("enqueue", "--at", "2026-12-24 18:00", "-", stdin='{"command":"x"}\n')

    assert ran.code == 0, ran
    assert stored(broker)["run_at"] == "2026-12-24T17:00:00.000Z"


# --- what may be chosen of a job -----------------------------------------------------------------------


def test_choices_become_fields_of_the_job(broker: ScriptedBroker) -> None:
    ran = run_cli(
        *("enqueue", "--expires", "10m", "--deadline", "1h", "--backoff", "10s,1m", "--retry-on", "75,100-102"),
        *("--no-retry-on", "2", "--hold", "--tag", "kind=backup", "--tag", "of=home", "--unique", "nightly"),
        *("--on-conflict", "replace", "--", "x"),
    )

    assert ran.code == 0, ran
    assert broker.only("enqueue").args["jobs"] == [
        {
            "command": "x",
            "expires": 600.0,
            "deadline": 3600.0,
            "backoff": [10.0, 60.0],
            "retry_on": [75, 100, 101, 102],
            "no_retry_on": [2],
            "hold": True,
            "tags": {"kind": "backup", "of": "home"},
            "unique": "nightly",
            "on_conflict": "replace",
        }
    ]


def test_same_token_is_the_same_request(broker: ScriptedBroker) -> None:
    for token in ("backup of 2026-11-23", "backup of 2026-11-23", "another"):
        assert run_cli("enqueue", "--idempotency-token", token, "--", "x").code == 0

    first, second, third = (asked.id for asked in broker.asked)
    assert first == second != third


def test_job_that_was_there_already_is_told_as_such(broker: ScriptedBroker) -> None:
    broker.on("enqueue", {"ids": ["a7"], "errors": [], "found": [0]})

    assert run_cli("enqueue", "--unique", "k", "--", "x").out == "Job is there with ID: a7\n"
    assert run_cli("enqueue", "--unique", "k", "--json", "--", "x").json == {"id": "a7", "existed": True}
    assert run_cli("enqueue", "--unique", "k", "-q", "--", "x").out == "a7\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backoff", "sometimes"], "'sometimes' is no backoff"),
        (["--retry-on", "0"], "'0': codes are 1 to 255, in a range the lower one first"),
        (["--retry-on", "75,110-100"], "'110-100': codes are 1 to 255, in a range the lower one first"),
        (["--retry-on", "200-300"], "'200-300': codes are 1 to 255"),
        (["--retry-on", ""], "'' is not a code"),
        (["--no-retry-on", "²"], "'²' is not a code"),
        (["--idempotency-token", ""], "--idempotency-token is empty"),
        (["--delay", "10m", "--expires", "5m"], "expires: is over before the job may start"),
        (["--retry-on", "x"], "'x' is not a code"),
        (["--no-retry-on", "1-x"], "'1-x' is not a code"),
        (["--tag", "kind"], "--tag 'kind' is not of the form NAME=VALUE"),
        (["--tag", "a b=c"], "'a b' is not a tag's name"),
        (["--on-conflict", "ignore"], "on_conflict: must be one of return, error, replace"),
        (["--expires", "0"], "expires: must be more than 0 seconds"),
        (["--unique", ""], "unique: must be 1 to 256 characters"),
        (["--request-id", "request-1", "--idempotency-token", "t"], "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_choice_that_makes_no_sense_is_refused(broker: ScriptedBroker, args: list[str], message: str) -> None:
    ran = run_cli("enqueue", *args, "--", "x")

    assert (ran.code, broker.asked) == (2, [])
    assert message in ran.err


def test_edit_takes_a_moment_in_the_words_of_enqueue(broker: ScriptedBroker) -> None:
    broker.on("edit", {"ids": ["a1"], "skipped": [], "next": None})

    assert run_cli("edit", "a1", "--at", "2099-01-01T03:00:00Z").code == 0
    assert broker.asked[0].args["changes"] == {"run_at": "2099-01-01T03:00:00.000Z"}
    assert run_cli("edit", "a1", "--at", "+2h", "--delay", "1h").code == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--priority", "9" * 30], "priority: must be within"),
        (["--command", "\udcff"], "command: is not valid UTF-8"),
        (["--to-queue", "-x"], "queue: '-x' is not a queue name"),
    ],
)
def test_edit_of_nonsense_is_refused_here(broker: ScriptedBroker, changes: list[str], words: str) -> None:
    ran = run_cli("edit", "a1", *changes)

    assert (ran.code, broker.asked) == (2, [])
    assert words in ran.err
