"""The client's wire as another language would speak it: one REQ socket, one msgpack map each way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.harness_process import LIMIT_S, BrokerProcess, RawClient, ScriptedWorker, running_broker, until


@pytest.fixture
def broker(home: Path) -> Iterator[BrokerProcess]:
    with running_broker(home) as process:
        yield process


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[RawClient]:
    with RawClient(broker.endpoint) as raw:
        yield raw


def code_of(reply: dict[str, Any]) -> str:
    assert "ok" not in reply, reply
    error: dict[str, Any] = reply["error"]
    assert isinstance(error["retryable"], bool)
    assert error["message"]
    return str(error["code"])


def test_ping_tells_who_is_there(broker: BrokerProcess, client: RawClient) -> None:
    reply = client.ok("ping")

    assert reply["pid"] == broker.process.pid
    assert reply["epoch"] == 1
    assert re.fullmatch("[0-9a-f]{32}", reply["broker"])


def test_enqueue_then_list_then_job(client: RawClient) -> None:
    reply = client.ok("enqueue", jobs=[{"id": "job-1", "command": "echo Hello World"}, {"command": "true"}])
    assert reply == {"ids": ["job-1", "a2"], "errors": []}

    listed = client.ok("list", state="pending")
    assert [job["id"] for job in listed["jobs"]] == ["a2", "job-1"]
    assert listed["next"] is None

    shown = client.ok("job", id="job-1")
    assert (shown["job"]["command"], shown["job"]["state"]) == ("echo Hello World", "pending")
    assert shown["job"]["reason"] == "no_worker"
    assert shown["history"] == []


def test_a_job_that_is_wrong_does_not_touch_its_neighbours(client: RawClient) -> None:
    reply = client.ok("enqueue", jobs=[{"command": "true"}, {"command": ""}, {"comand": "x"}, "no", {"command": "b"}])

    assert reply["ids"] == ["a1", None, None, None, "a2"]
    assert [(error["index"], error["code"]) for error in reply["errors"]] == [(n, "bad_job") for n in (1, 2, 3)]


def test_a_repeated_request_gets_the_same_reply_and_changes_nothing(client: RawClient) -> None:
    first = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])
    again = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])

    assert "repeated" not in first
    assert again == {**first, "repeated": True}
    assert client.ok("status")["jobs"]["total"] == 1


def test_a_repeat_is_known_after_a_crash(broker: BrokerProcess, client: RawClient) -> None:
    first = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])
    broker.kill()
    broker.start()
    again = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])

    assert again == {**first, "repeated": True}
    assert client.ok("status")["jobs"]["total"] == 1


def test_many_requests_under_one_id_in_one_go_have_one_effect(broker: BrokerProcess, client: RawClient) -> None:
    requests = [("request-1", "true"), *[(f"other-{n:04}", "false") for n in range(40)], ("request-1", "true")]
    with ExitStack() as stack:
        others = [stack.enter_context(RawClient(broker.endpoint)) for _ in requests]
        for other in others:
            other.ok("ping")  # it is connected
        broker.pause()  # so that all of them arrive in one turn
        for other, (request_id, command) in zip(others, requests, strict=True):
            body = {"v": 1, "id": request_id, "op": "enqueue", "args": {"jobs": [{"command": command}]}}
            other.send(msgpack.packb(body))
        broker.resume()
        replies = [other.receive() for other in others]

    assert replies[0]["ok"] == replies[-1]["ok"]
    assert client.ok("status")["jobs"]["total"] == 41


def test_a_request_id_cannot_be_used_for_another_operation(client: RawClient) -> None:
    client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])

    assert code_of(client.ask("config_set", request_id="request-1", key="lease", value=60)) == "request_id_reused"


def test_a_request_that_was_refused_may_be_mended_under_its_id(client: RawClient) -> None:
    assert code_of(client.ask("config_set", request_id="request-1", key="lease", value="soon")) == "bad_config"

    assert client.ask("config_set", request_id="request-1", key="lease", value=60)["ok"]["value"] == 60


@pytest.mark.parametrize(
    ("op", "args", "code"),
    [
        ("frobnicate", {}, "bad_request"),
        ("list", {"limit": 0}, "bad_request"),
        ("list", {"limit": 501}, "bad_request"),
        ("list", {"state": "asleep"}, "bad_request"),
        ("list", {"cursor": 2**64 - 1}, "bad_request"),
        ("list", {"limt": 5}, "bad_request"),
        ("job", {"id": "nobody"}, "unknown_job"),
        ("job", {"id": "a1", "state": "dead"}, "wrong_state"),
        ("job", {"id": "a1", "state": 7}, "bad_request"),
        ("output", {"id": "a1", "attempt": 2**64 - 1}, "bad_request"),
        ("output", {"id": "a1", "cursor": [1]}, "bad_request"),
        ("output", {"id": "a1", "cursor": [2**63, 0]}, "bad_request"),
        ("enqueue", {"jobs": []}, "bad_request"),
        ("enqueue", {}, "bad_request"),
        ("dlq_retry", {}, "bad_request"),
        ("dlq_retry", {"ids": ["a1"]}, "wrong_state"),
        ("dlq_retry", {"all": True, "cursor": 2**64 - 1}, "bad_request"),
        ("dlq_purge", {"all": True, "cursor": -(2**63)}, "bad_request"),
        ("config_set", {"key": "max_retrys", "value": 1}, "bad_config"),
        ("config_set", {"key": "lease", "value": float("nan")}, "bad_config"),
        ("config_unset", {"key": "nothing"}, "bad_config"),
        ("worker_stop", {"workers": ["nobody"]}, "unknown_worker"),
        ("wait", {}, "bad_request"),
        ("wait", {"jobs": ["nobody"]}, "unknown_job"),
        ("wait", {"empty": True, "timeout_ms": 60_001}, "bad_request"),
    ],
)
def test_what_is_wrong_is_said_with_a_code(
    broker: BrokerProcess, client: RawClient, op: str, args: dict[str, Any], code: str
) -> None:
    client.enqueue("true")

    assert code_of(client.ask(op, **args)) == code
    assert not broker.logged("batch_replayed"), "it was refused by its effect, not by its form"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb(None),
        msgpack.packb([1, 2]),
        msgpack.packb({}),
        msgpack.packb({"v": 1, "id": "short", "op": "ping"}),
        msgpack.packb({"v": 1, "id": "has a space", "op": "ping"}),
        msgpack.packb({"v": "1", "id": "request-1", "op": "ping"}),
        msgpack.packb({"v": 1, "id": "request-1", "op": "ping", "more": 1}),
        msgpack.packb({"v": 1, "id": "request-1", "op": "ping", "args": []}),
        msgpack.packb({"v": 1, "id": "request-1", "op": "ping"}) + b"\x00",
    ],
    ids=range(11),
)
def test_what_is_no_request_is_answered_as_such(client: RawClient, body: bytes) -> None:
    client.send(body)

    assert code_of(client.receive()) == "bad_request"


@pytest.mark.parametrize("version", [0, 2, 2**63])
def test_an_unknown_version_is_refused_by_its_name(client: RawClient, version: int) -> None:
    client.send(msgpack.packb({"v": version, "id": "request-1", "op": "ping", "args": {}, "new": "field"}))
    reply = client.receive()

    assert code_of(reply) == "version_mismatch"
    assert reply["id"] == "request-1"


def test_list_goes_on_at_its_cursor(client: RawClient) -> None:
    client.enqueue(*["true"] * 7)
    seen, cursor = [], None
    while True:
        page = client.ok("list", limit=3, **({} if cursor is None else {"cursor": cursor}))
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["next"]) is None:
            break

    assert seen == [f"a{n}" for n in range(7, 0, -1)]


def test_wait_answers_after_its_time(client: RawClient) -> None:
    client.enqueue("true")

    reply = client.ok("wait", empty=True, timeout_ms=50)

    assert reply["done"] is False
    assert reply["counts"]["pending"] == 1


def test_wait_is_answered_when_it_comes_true(broker: BrokerProcess, client: RawClient) -> None:
    [job] = client.enqueue("true")
    client.send(msgpack.packb({"v": 1, "id": "request-1", "op": "wait", "args": {"jobs": [job], "timeout_ms": 60_000}}))

    with ScriptedWorker(broker.home.worker_endpoint) as worker:
        worker.hello()
        assert worker.finish(*worker.pushed()) == ["recorded"]
        reply = client.receive()["ok"]

    assert (reply["done"], reply["jobs_left"], reply["counts"]["completed"]) == (True, 0, 1)


def test_wait_for_workers_is_answered_when_they_are_gone(broker: BrokerProcess, client: RawClient) -> None:
    with ScriptedWorker(broker.home.worker_endpoint) as worker:
        name = worker.hello().worker
        assert client.ok("worker_stop") == {"workers": [name], "held": 0}
        client.send(msgpack.packb({"v": 1, "id": "request-1", "op": "wait", "args": {"workers": [name]}}))
        worker.leave()

        assert client.receive()["ok"]["done"] is True


def test_who_waits_is_answered_when_the_broker_stops(broker: BrokerProcess, client: RawClient) -> None:
    client.enqueue("true")
    wait = {"v": 1, "id": "request-1", "op": "wait", "args": {"empty": True, "timeout_ms": 60_000}}
    with zmq.Context() as context, context.socket(zmq.DEALER) as other:
        other.linger = 0
        other.connect(broker.endpoint)
        for request in (wait, {**wait, "op": "ping", "args": {}}):
            other.send_multipart([b"", msgpack.packb(request)])
        assert "epoch" in msgpack.unpackb(other.recv_multipart()[-1])["ok"]  # what came before it is held
        assert client.ok("shutdown") == {"pid": broker.process.pid, "held": 0, "workers": 0}

        assert other.poll(int(LIMIT_S * 1000))
        assert msgpack.unpackb(other.recv_multipart()[-1])["ok"]["done"] is False
    assert broker.wait() == 0


def test_a_setting_is_kept_over_a_restart(broker: BrokerProcess, client: RawClient) -> None:
    changed = client.ok("config_set", key="max-retries", value="5")
    broker.stop()
    broker.start()

    assert changed == {"key": "max_retries", "value": 5, "before": 3, "per_job": True}
    assert client.ok("config_show")["changed"] == ["max_retries"]
    assert client.ok("config_unset", key="max_retries")["value"] == 3


def test_a_worker_that_leaves_is_not_in_the_status(broker: BrokerProcess, client: RawClient) -> None:
    with ScriptedWorker(broker.home.worker_endpoint) as worker:
        welcome = worker.hello()
        assert [entry["id"] for entry in client.ok("status")["workers"]] == [welcome.worker]
        worker.leave()
    until(lambda: client.ok("status")["workers"] == [], "the worker's leave")
