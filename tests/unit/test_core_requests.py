"""The envelope of requests, and requests that come twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from msgspec import inspect

from broker.core.operations import OPERATIONS
from broker.store import StoreFull
from queuectl.errors import BadRequest, Internal, RequestIdReused, ShuttingDown, StorageFailed, VersionMismatch
from queuectl.requests import Edits
from queuectl.times import rfc3339
from tests.harness import BrokerHarness, request

ID = "request-1"


def raw(broker: BrokerHarness, body: Any) -> dict[str, Any]:
    """The reply to any body."""
    broker.turn(clients=[body if isinstance(body, bytes) else msgpack.packb(body)])
    [reply] = broker.replies()
    return reply


# --- the envelope ----------------------------------------------------------------------------------------


def test_reply_carries_version_id_and_data(broker: BrokerHarness) -> None:
    reply = raw(broker, {"v": 1, "id": ID, "op": "ping", "args": {}})

    here = {"broker": "broker-1", "version": "0.0.0", "pid": 4711, "epoch": 1, "data_dir": "/data"}
    assert reply == {"v": 1, "id": ID, "ok": {**here, "time": rfc3339(broker.clock.now.wall_ms)}}


def test_args_may_be_left_out(broker: BrokerHarness) -> None:
    assert "ok" in raw(broker, {"v": 1, "id": ID, "op": "ping"})


@pytest.mark.parametrize(
    ("body", "request_id", "code"),
    [
        (b"", "", "bad_request"),
        (b"\xc1", "", "bad_request"),
        ([1, 2], "", "bad_request"),
        ({}, "", "bad_request"),
        ({"v": 1, "id": "short", "op": "ping"}, "short", "bad_request"),
        ({"v": 1, "id": "with space", "op": "ping"}, "with space", "bad_request"),
        ({"v": 1, "id": "x" * 65, "op": "ping"}, "x" * 64, "bad_request"),
        ({"v": 1, "id": 7, "op": "ping"}, "", "bad_request"),
        ({"v": 1, "id": ID, "op": "ping", "more": 1}, ID, "bad_request"),
        ({"v": 1, "id": ID, "op": "ping", "args": []}, ID, "bad_request"),
        ({"v": 1, "id": ID, "op": "ping", "args": {"x": 1}}, ID, "bad_request"),
        ({"v": 1, "id": ID, "op": "pong"}, ID, "bad_request"),
        ({"v": 2, "id": ID, "op": "ping"}, ID, "version_mismatch"),
        ({"v": "1", "id": ID, "op": "ping"}, ID, "bad_request"),
        (b"\x00" * (4 * 2**20 + 1), "", "too_large"),
    ],
)
def test_malformed_request_is_answered_with_its_id_as_far_as_it_can_be_read(
    broker: BrokerHarness, body: Any, request_id: str, code: str
) -> None:
    reply = raw(broker, body)

    assert reply["id"] == request_id
    assert reply["error"]["code"] == code


def test_unknown_operation_says_what_was_meant(broker: BrokerHarness) -> None:
    assert broker.refused("enqueu").hint == "did you mean 'enqueue'?"


def test_other_version_is_told_ours(broker: BrokerHarness) -> None:
    reply = raw(broker, {"v": 9, "id": ID, "op": "ping", "whatever": "the future brings"})

    assert reply["error"]["message"] == "this broker speaks version 1 of the protocol, not 9"
    assert reply["error"]["code"] == VersionMismatch.code


def test_refusals_are_logged(broker: BrokerHarness) -> None:
    raw(broker, b"")
    broker.refused("job", id="nobody")

    assert [record["code"] for record in broker.events("request_refused")] == ["bad_request", "unknown_job"]


def test_requests_are_carried_out_in_order_of_arrival(broker: BrokerHarness) -> None:
    bodies = [
        request("enqueue", jobs=[{"command": "a", "id": "x"}]),
        request("status"),
        request("config_set", key="max_retries", value=9),
        request("enqueue", jobs=[{"command": "b", "id": "y"}]),
        request("job", id="y"),
    ]

    broker.turn(clients=bodies)

    replies = [reply["ok"] for reply in broker.replies()]
    assert replies[1]["jobs"]["total"] == 1
    assert replies[4]["job"]["max_retries"] == 9
    assert broker.job("x")["max_retries"] == 3


# --- idempotency ---------------------------------------------------------------------------------------------


def test_repeated_request_gets_the_same_reply_and_changes_nothing(broker: BrokerHarness) -> None:
    body = request("enqueue", request_id=ID, jobs=[{"command": "a"}, {"command": ""}])
    first = raw(broker, body)
    broker.enqueue()

    again = raw(broker, body)

    assert again == {**first, "repeated": True}
    assert broker.ask("status")["jobs"]["total"] == 2


@pytest.mark.parametrize("others", [0, 1, 20])
def test_request_repeated_within_a_turn_is_carried_out_once(broker: BrokerHarness, others: int) -> None:
    body = request("enqueue", request_id=ID, jobs=[{"command": "a"}])
    between = [request("enqueue", jobs=[{"command": "b"}]) for _ in range(others)]

    broker.turn(clients=[body, *between, body, body])

    replies = broker.replies()
    assert [reply["ok"]["ids"] for reply in replies if reply["id"] == ID] == [["a1"]] * 3
    assert [reply.get("repeated", False) for reply in replies if reply["id"] == ID] == [False, True, True]
    assert broker.ask("status")["jobs"]["total"] == 1 + others


def test_reply_is_kept_over_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    body = request("enqueue", request_id=ID, jobs=[{"command": "a"}])
    first = raw(broker, body)
    broker.crash()

    assert raw(broker, body) == {**first, "repeated": True}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("config_set", {"key": "max_retries", "value": 5}),
        ("config_unset", {"key": "max_retries"}),
        ("dlq_retry", {"all": True}),
        ("dlq_purge", {"all": True}),
    ],
)
def test_every_change_is_carried_out_once(broker: BrokerHarness, op: str, args: dict[str, Any]) -> None:
    body = request(op, request_id=ID, **args)
    first = raw(broker, body)

    assert raw(broker, body) == {**first, "repeated": True}


def test_token_used_for_other_jobs_is_told_as_a_token(broker: BrokerHarness) -> None:
    raw(broker, request("enqueue", request_id="token:" + "0" * 56, jobs=[{"command": "a"}]))

    error = broker.refused("enqueue", request_id="token:" + "0" * 56, jobs=[{"command": "b"}])

    assert error.message == "this idempotency token was used for other jobs before"


def test_id_used_for_another_operation_is_refused(broker: BrokerHarness) -> None:
    raw(broker, request("enqueue", request_id=ID, jobs=[{"command": "a"}]))

    error = broker.refused("config_set", request_id=ID, key="max_retries", value=5)

    assert isinstance(error, RequestIdReused)
    assert error.message == "request id request-1 was used for 'enqueue' before"
    assert broker.ask("config_show")["changed"] == []


@pytest.mark.parametrize(
    "jobs",
    [
        [{"command": "b"}, {"command": "again"}],
        [{"command": "a", "id": "x"}, {"command": "again"}],
        [{"command": "a"}],
        [{"command": "a"}, {"command": "again"}, {"command": "c"}],
        ["a", {"command": "again"}],
        *(
            [{"command": "a", **more}, {"command": "again"}]
            for more in (
                {"on_lost": "dead"},
                {"queue": "other"},
                {"priority": 1},
                {"max_retries": 1},
                {"timeout": 5},
                {"cwd": "/"},
                {"env": {"A": "1"}},
                {"keep_children": True},
                {"output_limit": 0},
                {"backoff_base": 9},
                {"backoff_max": 9},
                {"backoff_jitter": "full"},
                {"backoff": "fixed"},
                {"backoff": [1, 2]},
                {"retry_on": [75]},
                {"no_retry_on": [75]},
                {"tags": {"a": "b"}},
                {"unique": "k"},
                {"expires": 60},
                {"deadline": 60},
                {"stdin": b"in"},
                {"retry_of": "a1"},
            )
        ),
    ],
    ids=str,
)
def test_id_used_for_other_jobs_is_refused(broker: BrokerHarness, jobs: list[Any]) -> None:
    raw(broker, request("enqueue", request_id=ID, jobs=[{"command": "a"}, {"command": "again"}]))

    error = broker.refused("enqueue", request_id=ID, jobs=jobs)

    assert isinstance(error, RequestIdReused)
    assert error.message == "request id request-1 was used for other jobs before"
    assert broker.ask("status")["jobs"]["total"] == 2


def test_repeat_is_known_where_jobs_were_refused_or_are_gone_since(broker: BrokerHarness) -> None:
    full = {
        "command": "a",
        "queue": "other",
        "timeout": 0.25,
        "env": {"B": "", "A": "1"},
        "on_lost": "dead",
        "delay": 1,
        "backoff": [1, 2],
        "retry_on": [1],
        "no_retry_on": [7],
        "tags": {"b": "1", "a": "2"},
        "unique": "k",
        "expires": 60.5,
        "deadline": 3600,
        "stdin": b"in",
        "retry_of": "a9",
    }
    jobs = [full, {"command": ""}, {"command": "dead", "id": "dead", "max_retries": 1}]
    body = request("enqueue", request_id=ID, jobs=jobs)
    first = raw(broker, body)
    worker = broker.worker(slots=2)
    worker.hello()
    for grant in worker.grants():
        worker.finish(grant, 1)
    broker.ask("dlq_purge", ids=["dead"])

    assert raw(broker, body) == {**first, "repeated": True}


def test_repeat_is_known_where_its_job_was_another_of_the_same_key(broker: BrokerHarness) -> None:
    broker.ask("enqueue", jobs=[{"command": "first", "unique": "k"}])
    body = request("enqueue", request_id=ID, jobs=[{"command": "second", "unique": "k", "tags": {"a": "b"}}])
    assert raw(broker, body)["ok"] == {"ids": ["a1"], "errors": [], "found": [0]}

    assert raw(broker, body)["repeated"]
    assert isinstance(
        broker.refused("enqueue", request_id=ID, jobs=[{"command": "second", "unique": "other"}]), RequestIdReused
    )


@pytest.mark.parametrize("deed", ["edit", "retry"])
def test_repeat_is_known_where_its_job_was_changed_since(broker: BrokerHarness, deed: str) -> None:
    body = request("enqueue", request_id=ID, jobs=[{"command": "a", "max_retries": 1, "deadline": 60}])
    first = raw(broker, body)
    changes: dict[str, Any] = {"changes": {"priority": 4}}
    if deed == "retry":
        worker = broker.worker()
        worker.hello()
        worker.finish(worker.grant(), 1)
        changes = {"delay": 5}
    assert broker.ask(deed, select={"ids": ["a1"]}, **changes)["ids"] == ["a1"]

    assert raw(broker, body) == {**first, "repeated": True}


@pytest.mark.parametrize("op", ["cancel", "hold", "release", "retry", "purge"])
def test_reply_of_what_was_only_tried_is_not_kept(broker: BrokerHarness, op: str) -> None:
    rows = len(broker.store._db.query("SELECT 1 FROM reply"))

    broker.ask(op, request_id=ID, select={}, dry=True)

    assert len(broker.store._db.query("SELECT 1 FROM reply")) == rows
    assert "repeated" not in raw(broker, request(op, request_id=ID, select={}, dry=True))


def test_id_used_for_another_operation_in_the_same_turn_is_refused(broker: BrokerHarness) -> None:
    clients = [
        request("enqueue", request_id=ID, jobs=[{"command": "a"}]),
        request("dlq_retry", request_id=ID, all=True),
        request("config_set", request_id="request-2", key="max_retries", value=5),
        request("enqueue", request_id="request-2", jobs=[{"command": "a"}]),
    ]

    broker.turn(clients=clients)

    assert ["error" in reply for reply in broker.replies()] == [False, True, False, True]


def test_questions_may_use_any_id(broker: BrokerHarness) -> None:
    raw(broker, request("enqueue", request_id=ID, jobs=[{"command": "a"}]))

    assert broker.ask("status", request_id=ID)["jobs"]["total"] == 1


def test_refused_request_may_be_repeated_with_success(broker: BrokerHarness) -> None:
    body = request("enqueue", request_id=ID, jobs=[{"command": "a"}])
    broker.core.disk_low = True
    assert "error" in raw(broker, body)
    broker.core.disk_low = False

    assert "repeated" not in raw(broker, body)


def test_request_refused_twice_in_a_turn_is_answered_twice(broker: BrokerHarness) -> None:
    body = request("enqueue", request_id=ID, jobs=[])

    broker.turn(clients=[body, body])

    assert [reply["error"]["code"] for reply in broker.replies()] == ["bad_request"] * 2


def test_replies_are_forgotten_after_a_day(broker: BrokerHarness) -> None:
    body = request("config_set", request_id=ID, key="max_retries", value=5)
    raw(broker, body)

    broker.after(24 * 3600 * 1000)
    assert raw(broker, body)["repeated"] is True
    broker.after(60_001)

    assert "repeated" not in raw(broker, body)


def test_old_replies_go_in_batches(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.core.TIDY_ROWS", 2)
    for _ in range(3):
        broker.enqueue()
    count = "SELECT count(*) FROM reply"

    broker.after(24 * 3600 * 1000 + 60_001)
    assert broker.store._db.query(count) == [(1,)]
    broker.after(100)

    assert broker.store._db.query(count) == [(0,)]


def test_old_replies_are_looked_for_once_a_minute(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def forget(before_ms: int, limit: int) -> int:
        asked.append(before_ms)
        return 0

    monkeypatch.setattr(broker.store.ledger, "forget_replies", forget)
    broker.after(60_000)
    asked.clear()

    for _ in range(4):
        broker.after(30_000)

    assert len(asked) == 2


# --- a broker that stops, a store that fails -------------------------------------------------------------------


@pytest.mark.parametrize("op", [name for name, op in OPERATIONS.items() if op.changes])
def test_stopping_broker_takes_no_changes(broker: BrokerHarness, op: str) -> None:
    broker.ask("shutdown")
    args: dict[str, dict[str, Any]] = {
        "enqueue": {"jobs": [{"command": "x"}]},
        "config_set": {"key": "max_retries", "value": 1},
        "config_unset": {"key": "max_retries"},
        "dlq_retry": {"all": True},
        "dlq_purge": {"all": True},
        "key_add": {"name": "a", "role": "read", "public_key": "x" * 40},
        "key_rotate": {"name": "a", "public_key": "x" * 40},
        "key_revoke": {"name": "a"},
        "edit": {"select": {}, "changes": {"priority": 1}},
        **{op: {"select": {}} for op in ("cancel", "hold", "release", "retry", "purge")},
    }

    assert isinstance(broker.refused(op, **args[op]), ShuttingDown)


@pytest.mark.parametrize("error", [StoreFull("full"), StorageFailed("broken"), RuntimeError("a bug")])
def test_failure_of_the_store_is_not_the_requests_fault(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(OPERATIONS, "config_set", replace(OPERATIONS["config_set"], handler=fail))

    with pytest.raises(type(error)):
        broker.ask("config_set", key="max_retries", value=5)
    broker.assert_quiet()


@pytest.mark.parametrize("unique", [None, "k"])
def test_failure_of_the_store_is_not_the_fault_of_an_enqueue(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch, unique: str | None
) -> None:
    def fail(*_: Any) -> Any:
        raise StoreFull("full")

    monkeypatch.setattr(broker.store.jobs, "enqueue", fail)

    with pytest.raises(StoreFull):
        broker.enqueue(**({} if unique is None else {"unique": unique}))
    broker.assert_quiet()


def test_error_of_the_wire_is_what_was_raised() -> None:
    assert Internal().to_wire() == {
        "code": "internal",
        "message": "The broker failed to carry this out; it is a bug, its log says more.",
        "retryable": False,
    }
    assert issubclass(RequestIdReused, Exception)
    assert BadRequest("x").to_wire()["message"] == "x"


# --- what a request may be ---------------------------------------------------------------------------------


def endless(kind: inspect.Type, where: str) -> Iterator[str]:
    """Texts and lists in a type for which nothing says how long they may be."""
    match kind:
        case inspect.UnionType(types=types):
            for each in types:
                yield from endless(each, where)
        case inspect.ListType(item_type=item, max_length=most):
            yield from () if most else (where,)
            yield from endless(item, where)
        case inspect.StrType(max_length=None, pattern=pattern):
            yield from () if pattern and re.search(r"\d\}\\Z$", pattern) else (where,)
        case inspect.StructType(fields=fields, cls=cls) if (
            cls is not Edits
        ):  # a job checks those, with words of its own
            for field in fields:
                yield from endless(field.type, f"{where}.{field.name}")


@pytest.mark.parametrize("op", OPERATIONS)
def test_everything_that_is_asked_has_an_end(op: str) -> None:
    assert list(endless(inspect.type_info(OPERATIONS[op].args), op)) == []
