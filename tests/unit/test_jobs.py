"""Jobs as they are handed over: what is taken, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadJob
from queuectl.jobs import COMMAND_BYTES_MAX, ENV_BYTES_MAX, TERMINAL, JobSpec, JobState, parse_job
from queuectl.plain import in_plain_words


def problem(fields: Any) -> BadJob:
    with pytest.raises(BadJob) as caught:
        parse_job(fields)
    return caught.value


def test_command_alone_is_a_job() -> None:
    assert parse_job({"command": "echo"}) == JobSpec(command="echo")


def test_every_field_is_taken() -> None:
    fields = {
        "command": "x",
        "id": "A.b_c:d-1",
        "queue": "q.1",
        "priority": -5,
        "max_retries": 0,
        "backoff_base": 1,
        "backoff_max": 0.5,
        "backoff_jitter": "full",
        "timeout": 0.001,
        "run_at": "2026-11-22T03:00:00Z",
        "env": {"PATH": "/bin", "_x": ""},
        "cwd": "/",
        "on_lost": "dead",
        "keep_children": True,
        "output_limit": 64 * 2**20,
    }

    spec = parse_job(fields)

    assert {name: getattr(spec, name) for name in fields} == fields


@pytest.mark.parametrize("fields", [None, 1, "x", [], [("command", "x")]], ids=str)
def test_job_is_an_object(fields: Any) -> None:
    assert problem(fields).message == "a job is an object with at least a command"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "command: is missing"),
        ({"command": 5}, "command: expected text, got an integer"),
        ({"command": None}, "command: expected text, got null"),
        ({"command": ""}, "command: is empty"),
        ({"command": " \n"}, "command: is empty"),
        ({"command": "a\0b"}, "command: contains a NUL character"),
        ({"command": "\ud800"}, "command: is not valid UTF-8"),
        ({"command": "x", "timeout": "soon"}, "timeout: expected a number, got text"),
        ({"command": "x", "max_retries": 1.5}, "max_retries: expected an integer, got a number"),
        ({"command": "x", "keep_children": 1}, "keep_children: expected true or false, got an integer"),
        ({"command": "x", "env": []}, "env: expected an object, got a list"),
        ({"command": "x", "env": {"A": 1}}, "env[...]: expected text, got an integer"),
        ({"command": "x", "on_lost": "again"}, "on_lost: must be one of retry, dead"),
        ({"command": "x", "backoff_jitter": "some"}, "backoff_jitter: must be one of none, full, equal"),
        ({"command": "x", "timeout": 0}, "timeout: must be more than 0 seconds"),
        ({"command": "x", "delay": 1, "run_at": "2026-11-22T03:00:00Z"}, "delay and run_at exclude each other"),
        ({"command": "x", "retry_on": [1, 75], "no_retry_on": [75]}, "retry_on and no_retry_on both name 75"),
        (
            {"command": "x", "delay": 8.64e18},
            "delay: must be between 0 and 315360000 seconds (10 years), not 8.64e+18",
        ),
        ({"command": "x", "cwd": "here"}, "cwd: must be an absolute path"),
        ({"command": "x", "cwd": "/a\0b"}, "cwd: must be an absolute path"),
        ({"command": "x", "cwd": "/\ud800"}, "cwd: is not valid UTF-8"),
        ({"command": "x", "cwd": "/" * 4096}, "cwd: has 4096 bytes, the system takes 4095"),
        ({"command": "x", "env": {"A": "a\0"}}, "env: A contains a NUL character"),
        ({"command": "x", "env": {"A": "\ud800"}}, "env: is not valid UTF-8"),
        (
            {"command": "x", "env": {"QUEUECTL_HOME": "/"}},
            "env: QUEUECTL_HOME: names that start with QUEUECTL_ are set by queuectl itself",
        ),
        ({"command": "x", "priority": 1_000_001}, "priority: must be within ±1000000"),
    ],
    ids=str,
)
def test_problem_is_named_with_its_field(fields: dict[str, Any], message: str) -> None:
    assert problem(fields).message == message


@pytest.mark.parametrize("name", ["max_retries", "backoff_base", "backoff_max", "timeout", "delay", "output_limit"])
@pytest.mark.parametrize("value", [-1, 10**12, 10**400, float("inf"), float("nan")], ids=lambda value: str(value)[:10])
def test_number_out_of_range(name: str, value: float) -> None:
    message = problem({"command": "x", name: value}).message

    assert message.startswith(f"{name}: ")
    assert len(message) < 150


def test_seconds_out_of_range_are_told_as_people_write_them() -> None:
    message = problem({"command": "x", "timeout": 863913600.0}).message

    assert message == "timeout: must be between 0 and 315360000 seconds (10 years), not 863913600"


@pytest.mark.parametrize("job_id", ["", "a b", "a/b", "ä", "x" * 129, "a\n", "last", "-x", "--all"])
def test_what_is_no_id(job_id: str) -> None:
    assert problem({"command": "x", "id": job_id}).message.startswith("id: ")


@pytest.mark.parametrize("queue", ["", "a:b", "a b", "x" * 65, "-x"])
def test_what_is_no_queue(queue: str) -> None:
    assert problem({"command": "x", "queue": queue}).message.startswith("queue: ")


@pytest.mark.parametrize("name", ["1A", "", "A-B", "A=B", "Ä"])
def test_what_is_no_variable(name: str) -> None:
    assert "is not a variable name" in problem({"command": "x", "env": {name: "v"}}).message


@pytest.mark.parametrize("run_at", ["tomorrow", "2026-11-22", "9999-12-31T23:59:59-01:00"])
def test_what_is_no_time(run_at: str) -> None:
    assert problem({"command": "x", "run_at": run_at}).message.startswith("run_at: ")


def test_unknown_field_says_what_was_meant() -> None:
    assert problem({"command": "x", "comand": "y"}).hint == "did you mean 'command'?"
    assert (problem({"command": "x", "zzz": "y"}).hint or "").startswith("known: command, id, queue")
    assert problem({1: 2}).message == "unknown field '1'"


def test_command_is_as_long_as_the_system_takes() -> None:
    assert parse_job({"command": "x" * COMMAND_BYTES_MAX}).command

    error = problem({"command": "ö" * (COMMAND_BYTES_MAX // 2 + 1)})
    assert error.message == "command: has 131072 bytes, the system takes 131071 (128 KiB)"


def test_environment_is_bounded() -> None:
    parse_job({"command": "x", "env": {"A": "x" * (ENV_BYTES_MAX - 3)}})

    assert "env: has" in problem({"command": "x", "env": {"A": "x" * (ENV_BYTES_MAX - 2)}}).message
    many = {f"A{number}": "" for number in range(2001)}
    assert problem({"command": "x", "env": many}).message == "env: must have at most 2000 items"


def test_words_of_a_library_that_are_not_known_are_told_as_they_are() -> None:
    assert in_plain_words("Something `odd`") == "Something 'odd'"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Expected `str` of length >= 1 - at `$.select.ids[0]`", "select.ids[0]: is empty"),
        ("Expected `str` of length >= 8 - at `$.id`", "id: must have at least 8 characters"),
        ("Expected `array` of length <= 1000 - at `$.jobs`", "jobs: must have at most 1000 items"),
        ("Expected `int` <= 86400000 - at `$.grace_ms`", "grace_ms: must be at most 86400000"),
        ("Expected `float` >= 0.0 - at `$.delay`", "delay: must be at least 0.0"),
        ("Expected `int | null`, got `str` - at `$.limit`", "limit: expected an integer, got text"),
        ("Object missing required field `command`", "command: is missing"),
        ("Invalid enum value 'x' - at `$.role`", "role: invalid enum value 'x'"),
    ],
)
def test_words_of_a_library_become_ours(theirs: str, ours: str) -> None:
    assert in_plain_words(theirs) == ours


def test_jobs_that_are_over() -> None:
    assert set(JobState) - TERMINAL == {"pending", "processing", "failed"}
