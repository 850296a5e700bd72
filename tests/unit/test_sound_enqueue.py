"""The quick way in for enqueues: it takes nothing that the way step by step refuses, and makes the same of it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from queuectl.errors import BadRequest
from queuectl.jobs import ENV_VARIABLES_MAX, parse_job
from queuectl.requests import JOBS_PER_REQUEST_MAX, sound_enqueue
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, unpack

FULL: dict[str, Any] = {
    "command": "echo",
    "id": "mine",
    "queue": "mail",
    "priority": -5,
    "max_retries": 3,
    "backoff_base": 2,
    "backoff_jitter": "full",
    "timeout": 1.5,
    "delay": None,
    "run_at": "2030-01-01T00:00:00Z",
    "env": {"A": "ä"},
    "cwd": "/tmp",
    "keep_children": True,
}


def body_of(*jobs: Any, **changes: Any) -> bytes:
    packed: bytes = msgpack.packb({"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": jobs}, **changes})
    return packed


@pytest.mark.parametrize("jobs", [[{"command": "true"}], [FULL], [FULL, {"command": "true"}] * 400, [FULL] * 3])
def test_sound_jobs_are_the_same_either_way(jobs: list[Any]) -> None:
    request = sound_enqueue(body_of(*jobs))

    assert request is not None
    assert request.id == "request-1"
    assert request.args.jobs == [parse_job(fields) for fields in jobs]


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": " "},
        {"command": "a\0b"},
        {"command": b"echo"},
        {"id": ""},
        {"id": "a b"},
        {"queue": "a b"},
        {"priority": 1_000_001},
        {"priority": 2**64 - 1},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"delay": 1, "run_at": "2030-01-01T00:00:00Z"},
        {"run_at": "soon"},
        {"env": {"A": 1}},
        {"env": {1: "A"}},
        {"on_lost": "dead?"},
        {"colour": "red"},
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [[], [{"command": "true"}], [FULL, FULL]], ids=len)
def test_jobs_with_something_wrong_go_step_by_step(wrong: dict[str, Any], before: list[Any]) -> None:
    assert sound_enqueue(body_of(*before, {"command": "true"} | wrong)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        body_of({"command": "true"}) + b"\0",
        body_of({"command": "true"}, v=2),
        body_of({"command": "true"}, v=True),
        body_of({"command": "true"}, id="short"),
        body_of({"command": "true"}, op="status"),
        body_of({"command": "true"}, more=1),
        body_of({"command": "true"}).replace(b"true", b"tr\xffe"),
        body_of(),
        body_of(*[{"command": "true"}] * (JOBS_PER_REQUEST_MAX + 1)),
        body_of("true"),
        msgpack.packb({"v": 1, "id": "request-1", "op": "enqueue"}),
    ],
)
def test_other_bodies_go_step_by_step(body: bytes) -> None:
    assert sound_enqueue(body) is None


def test_limits_of_the_protocol_hold() -> None:
    long = [{"command": "x" * 100_000}] * 42
    env = {f"A{number}": "" for number in range(ENV_VARIABLES_MAX)}

    assert sound_enqueue(body_of(*long[:41])) is not None
    assert len(body_of(*long)) > CLIENT_MESSAGE_BYTES_MAX
    assert sound_enqueue(body_of(*long)) is None
    assert sound_enqueue(body_of({"command": "true", "env": env})) is not None
    wide = body_of({"command": "true", "env": {**env, "B": ""}})
    assert sound_enqueue(wide) is None
    with pytest.raises(BadRequest):
        unpack(wide, bytes_max=CLIENT_MESSAGE_BYTES_MAX)
