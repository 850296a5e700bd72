"""Limits against floods and mistakes: the backlog, requests a second, sessions, held replies."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from broker.core import requests, sessions, state, waits
from broker.core.access import ADMIN, READ, SUBMIT, WORKER
from broker.core.sessions import DENIED_RETRY_MS
from queuectl.errors import QueueFull, TooManyRequests
from queuectl.messages import ByeOk, Refuse, Took
from tests.harness import BrokerHarness, FakeWorker, held, request, result


def limit(broker: BrokerHarness, **settings: int | None) -> None:
    """Set these settings."""
    for key, value in settings.items():
        broker.ask("config_set", key=key, value="none" if value is None else value)


def full(broker: BrokerHarness, *queues: str | None, user: str = "uid:0") -> dict[str, Any]:
    """What the error of an enqueue into these queues says of the limit."""
    error = broker.refused("enqueue", user=user, jobs=[job_in(queue) for queue in queues])
    assert isinstance(error, QueueFull)
    assert error.exit_code == 75
    assert error.retryable
    return {"message": error.message, "details": error.details}


def job_in(queue: str | None) -> dict[str, Any]:
    return {"command": "true"} | ({} if queue is None else {"queue": queue})


# --- backlog --------------------------------------------------------------------------------------------


def test_backlog_is_refused_beyond_its_limit_and_says_which(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=3)
    broker.enqueue("1", "2")

    assert full(broker, "a", "b") == {
        "message": "at most 3 jobs may wait or run in all queues (max_backlog)",
        "details": {"limit": "max_backlog", "value": 3},
    }
    assert broker.core.counts()["total"] == 2
    broker.enqueue("3")
    assert full(broker, "a")


def test_users_of_the_machine_and_keys_share_the_backlog(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=2)
    broker.enqueue(user=broker.key("ann", SUBMIT))
    broker.enqueue(user=broker.key("boss", ADMIN))

    assert full(broker, None)


def test_running_and_failed_jobs_count_and_finished_ones_do_not(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=2)
    worker = broker.worker(slots=1)
    worker.hello()
    broker.enqueue("1")
    first = worker.grant()
    assert full(broker, None, None)

    worker.finish(first, 1)
    assert full(broker, None, None)

    broker.enqueue("2")
    worker.finish(worker.grant(), 0)
    broker.enqueue("3")
    assert full(broker, None)
    worker.release(worker.grant())


def test_backlog_of_a_queue_is_its_own(broker: BrokerHarness) -> None:
    limit(broker, max_queue_backlog=2)
    broker.enqueue("1", "2", queue="a")

    assert full(broker, "a") == {
        "message": "at most 2 jobs may wait or run in queue 'a' (max_queue_backlog)",
        "details": {"limit": "max_queue_backlog", "value": 2},
    }
    broker.enqueue("3", "4", queue="b")
    broker.enqueue("5", "6")
    assert full(broker, None)["message"] == "at most 2 jobs may wait or run in queue 'default' (max_queue_backlog)"


def test_request_is_taken_whole_or_not_at_all(broker: BrokerHarness) -> None:
    limit(broker, max_queue_backlog=2)

    assert full(broker, "a", "b", "b", "b")
    assert full(broker, "new", "new", "new")
    assert broker.core.counts()["total"] == 0
    broker.enqueue("1", "2", queue="b")


@pytest.mark.parametrize("setting", ["max_backlog", "max_queue_backlog"])
def test_requests_of_one_turn_are_counted_together(broker: BrokerHarness, setting: str) -> None:
    limit(broker, **{setting: 5})
    body = [request("enqueue", jobs=[job_in(None)] * 2) for _ in range(4)]
    broker.turn(clients=body)

    assert sum("ok" in reply for reply in broker.replies()) == 2
    assert broker.core.counts()["pending"] == 4


def test_bad_jobs_of_a_request_do_not_count(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=1)

    reply = broker.ask("enqueue", jobs=[{"command": ""}, {"command": "true"}])

    assert [error["index"] for error in reply["errors"]] == [0]
    assert broker.core.counts()["pending"] == 1


def test_repeat_of_a_request_is_answered_when_the_backlog_is_full(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=1)
    first = broker.ask("enqueue", request_id="request-1", jobs=[job_in(None)])

    assert broker.ask("enqueue", request_id="request-1", jobs=[job_in(None)]) == first


def test_refused_request_may_be_made_again_under_its_id(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=1)
    assert broker.refused("enqueue", request_id="request-1", jobs=[job_in(None)] * 2).code == "queue_full"

    assert broker.ask("enqueue", request_id="request-1", jobs=[job_in(None)])["errors"] == []


def test_job_that_is_there_by_its_key_needs_no_room(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=2, max_queue_backlog=2)
    keyed = {"command": "x", "unique": "k"}
    broker.ask("enqueue", jobs=[keyed])
    broker.enqueue()

    assert broker.ask("enqueue", jobs=[keyed])["ids"] == ["a1"]
    assert broker.ask("enqueue", jobs=[{**keyed, "on_conflict": "error"}])["errors"][0]["code"] == "unique_key_taken"
    assert broker.ask("enqueue", jobs=[{**keyed, "on_conflict": "replace"}, keyed])["ids"] == ["a3", "a3"]
    assert isinstance(broker.refused("enqueue", jobs=[{**keyed, "unique": "other"}]), QueueFull)
    assert broker.job("a3")["state"] == "pending"


def test_replacement_in_another_queue_needs_room_there_and_not_in_all(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=3, max_queue_backlog=1)
    keyed = {"command": "x", "unique": "k"}
    broker.ask("enqueue", jobs=[keyed, {"command": "x", "queue": "full"}, {"command": "x", "queue": "third"}])

    replaces = {**keyed, "on_conflict": "replace"}
    assert isinstance(broker.refused("enqueue", jobs=[{**replaces, "queue": "full"}]), QueueFull)
    assert broker.ask("enqueue", jobs=[{**replaces, "queue": "other"}])["errors"] == []
    assert broker.job("a1")["state"] == "cancelled"


def test_job_whose_id_is_in_use_is_told_so_however_full_the_queue_is(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=2)
    named = {"command": "x", "id": "nightly"}
    broker.turn(clients=[request("enqueue", jobs=[named]), request("enqueue", jobs=[{"command": "y"}, named])])
    _, second = broker.replies()
    assert [error["code"] for error in second["ok"]["errors"]] == ["job_exists"]

    assert [error["code"] for error in broker.ask("enqueue", jobs=[named])["errors"]] == ["job_exists"]
    assert isinstance(broker.refused("enqueue", jobs=[named, {"command": "z"}]), QueueFull)


def test_dead_jobs_without_room_are_named_where_others_go_back(broker: BrokerHarness) -> None:
    over(broker, 1, "a", "b", "b")
    limit(broker, max_queue_backlog=1)

    reply = broker.ask("dlq_retry", all=True)
    assert reply["ids"] == ["a3", "a1"]
    assert [(each["id"], each["code"]) for each in reply["skipped"]] == [("a2", "queue_full")]


def test_keys_of_one_turn_are_counted_as_they_are_stored(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=2)
    bodies = [request("enqueue", jobs=[{"command": "x", "unique": key}]) for key in ("k", "k", "l", "k", "m")]

    broker.turn(clients=[request("enqueue", jobs=[{"command": "y"}]), *bodies])

    assert sorted("ok" in reply for reply in broker.replies()) == [False, False, True, True, True, True]
    assert broker.core.counts()["pending"] == 2


def over(broker: BrokerHarness, exit_code: int, *queues: str) -> list[str]:
    """A job of each of these queues that has ended so."""
    worker = broker.worker(slots=len(queues))
    worker.hello()
    for queue in queues:
        broker.enqueue(queue=queue, max_retries=1)
    grants = worker.grants()
    for grant in grants:
        worker.finish(grant, exit_code)
    worker.bye()
    worker.take(ByeOk)
    return [grant.job for grant in grants]


@pytest.mark.parametrize("exit_code", [0, 1], ids=["completed", "dead"])
def test_jobs_that_run_again_take_room(broker: BrokerHarness, exit_code: int) -> None:
    ids = over(broker, exit_code, "a", "a", "b")
    limit(broker, max_backlog=2, max_queue_backlog=1)

    reply = broker.ask("retry", select={"ids": ids})

    assert reply["ids"] == [ids[0], ids[2]]
    [skipped] = reply["skipped"]
    assert (skipped["id"], skipped["code"], skipped["details"]["limit"]) == (ids[1], "queue_full", "max_queue_backlog")
    assert skipped["message"].startswith(f"there is no room for job '{ids[1]}': at most 1 job may wait")
    broker.check_invariants()


def test_dead_letters_that_are_retried_take_room(broker: BrokerHarness) -> None:
    ids = over(broker, 1, "a", "a", "b")
    limit(broker, max_backlog=1)

    assert isinstance(broker.refused("dlq_retry", ids=ids[:2]), QueueFull)
    assert broker.ask("dlq_retry", ids=ids[:1])["ids"] == ids[:1]
    assert isinstance(broker.refused("dlq_retry", all=True), QueueFull)
    limit(broker, max_backlog=2)
    assert len(broker.ask("dlq_retry", all=True)["ids"]) == 1


def test_jobs_that_go_to_another_queue_take_room_there_only(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=3, max_queue_backlog=2)
    ids = [*broker.enqueue("1", queue="a"), *broker.enqueue("2", "3", queue="b")]

    reply = broker.ask("edit", select={"ids": ids}, changes={"queue": "a"})

    assert (reply["ids"], [each["code"] for each in reply["skipped"]]) == (ids[:2], ["queue_full"])


def test_without_a_limit_there_is_none(broker: BrokerHarness) -> None:
    limit(broker, max_backlog=None, max_queue_backlog=None)

    assert len(broker.enqueue(*["x"] * 100)) == 100


def test_queues_have_an_end(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state.QUEUES_MAX == 1000
    monkeypatch.setattr(state, "QUEUES_MAX", 2)
    broker.enqueue(queue="a")
    broker.enqueue(queue="b")

    assert full(broker, "c")["details"] == {"limit": "queues", "value": 2}
    broker.enqueue(queue="a")


def test_new_queues_of_one_turn_are_counted_together_and_those_that_are_there_stay(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "QUEUES_MAX", 3)
    broker.enqueue(queue="old")

    asked = {f"request-{number}": queue for number, queue in enumerate(("a", "b", "b", "c", "old", "d"))}
    broker.turn(clients=[request("enqueue", request_id=key, jobs=[job_in(queue)]) for key, queue in asked.items()])

    refused = {asked[reply["id"]] for reply in broker.replies() if "error" in reply}
    assert refused == {"c", "d"}
    assert set(broker.core.buckets) == {"old", "a", "b"}
    monkeypatch.setattr(state, "QUEUES_MAX", 1)  # as if an older version had taken more
    broker.enqueue(queue="b")


# --- what workers make up ---------------------------------------------------------------------------------


def test_reports_of_leases_that_are_not_live_are_looked_up_only_so_often(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "RIDDLES_PER_SECOND", 3)
    liar = keyed_worker(broker, "liar")
    broker.enqueue("1")
    grant = liar.grant()
    invented = [result(grant, lease=number, attempt=number) for number in range(1, 6)]

    assert liar.report(*invented, result(grant)) == ["stale"] * 3 + ["recorded"]

    broker.clock.advance(1000)
    assert liar.report(*invented) == ["stale"] * 3
    liar.tell(["output", liar.session, [[7, "a1", 1, 1, 0, b"x"]]])
    assert broker.take(liar.route, Took).taken[0].upto == 1


def test_user_of_the_machine_may_puzzle(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RIDDLES_PER_SECOND", 1)
    worker = broker.worker()
    worker.hello()
    broker.enqueue("1")
    grant = worker.grant()

    assert worker.report(*[result(grant, lease=number) for number in range(1, 4)]) == ["stale"] * 3


def test_new_boots_of_a_key_come_one_after_the_other(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BOOTS_PER_SECOND", 1)
    limit(broker, max_sessions=2)
    workers = [keyed_worker(broker, "farm", f"w{number}", is_welcome=number < 2) for number in range(3)]
    workers[0].bye()
    broker.outbox.clear()

    workers[2].tell(workers[2].hello_message())
    assert broker.take(workers[2].route, Refuse).code == "too_many_sessions"
    workers[1].hello()  # its boot is known
    broker.clock.advance(1000)
    workers[2].hello()


def keyed_worker(broker: BrokerHarness, key: str, name: str = "w", *, is_welcome: bool = True) -> FakeWorker:
    """A worker with a key of this name."""
    users = [f"key:{row.key}" for row in broker.core.access.named(key)]
    worker = broker.worker(name)
    broker.users[worker.route] = users[0] if users else broker.key(key, WORKER)
    if is_welcome:
        worker.hello()
    return worker


# --- requests that are refused unread --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (msgpack.packb({"v": 1, "id": "request-1", "op": "ping", "args": {"x": "y" * 10_000}}), "request-1"),
        (msgpack.packb({"v": [1, {"a": b"2"}], "id": "request-1"}), "request-1"),
        (msgpack.packb({"id": "x" * 100}), "x" * 64),
        (msgpack.packb({"id": 7}), ""),
        (msgpack.packb({"v": 1, "op": "ping"}), ""),
        (msgpack.packb({"op": "x" * 600, "id": "request-1"}), ""),
        (msgpack.packb([1, 2]), ""),
        (b"", ""),
        (b"\xdf\xff\xff\xff\xff", ""),
        (b"\xc1", ""),
    ],
)
def test_id_is_found_in_the_head_of_a_request(broker: BrokerHarness, body: bytes, request_id: str) -> None:
    gone = broker.key("gone", READ)
    broker.ask("key_revoke", name="gone")

    broker.turn(clients=[body], user=gone)

    [reply] = broker.replies()
    assert (reply["id"], reply["error"]["code"]) == (request_id, "key_not_accepted")


# --- requests a second ----------------------------------------------------------------------------------


def pinged(broker: BrokerHarness, count: int, user: str) -> int:
    """How many of so many requests at once are answered."""
    broker.turn(clients=[request("ping")] * count, user=user)
    replies = broker.replies()
    assert len(replies) == count
    assert {reply["error"]["code"] for reply in replies if "error" in reply} <= {"too_many_requests"}
    return sum("ok" in reply for reply in replies)


def test_key_that_asks_too_often_is_told_so(broker: BrokerHarness) -> None:
    limit(broker, max_requests_per_second=10)
    ann = broker.key("ann", SUBMIT)

    assert pinged(broker, 25, ann) == 10
    error = broker.refused("ping", user=ann, request_id="the-request")
    assert isinstance(error, TooManyRequests)
    assert (error.exit_code, error.retryable) == (75, True)
    assert error.message == "'ann' asks more than 10 times a second (max_requests_per_second)"
    assert error.details == {"limit": "max_requests_per_second", "value": 10, "retry_ms": requests.RETRY_MS}
    assert broker.core.denied == 16


def test_key_may_ask_again_as_time_goes_on(broker: BrokerHarness) -> None:
    limit(broker, max_requests_per_second=10)
    ann = broker.key("ann", SUBMIT)
    assert pinged(broker, 11, ann) == 10

    for ms, answered in ((99, 0), (1, 1), (250, 2), (50, 1), (60_000, 10)):
        broker.clock.advance(ms)
        assert pinged(broker, 30, ann) == answered


def test_refused_request_is_answered_under_its_id(broker: BrokerHarness) -> None:
    limit(broker, max_requests_per_second=1)
    ann = broker.key("ann", SUBMIT)
    pinged(broker, 1, ann)
    broker.turn(clients=[request("ping", request_id="the-request"), b"\xc1"], user=ann)

    assert [(reply["id"], reply["error"]["code"]) for reply in broker.replies()] == [
        ("the-request", "too_many_requests"),
        ("", "too_many_requests"),
    ]


def test_pace_of_one_key_is_nothing_to_another_nor_to_users_of_the_machine(broker: BrokerHarness) -> None:
    limit(broker, max_requests_per_second=5)
    ann, bob = broker.key("ann", SUBMIT), broker.key("bob", SUBMIT)
    assert pinged(broker, 100, ann) == 5

    assert pinged(broker, 5, bob) == 5
    assert pinged(broker, 100, "uid:0") == 100


def test_garbage_counts_as_requests(broker: BrokerHarness) -> None:
    limit(broker, max_requests_per_second=5)
    ann = broker.key("ann", SUBMIT)
    broker.turn(clients=[b"\xc1"] * 5, user=ann)

    codes = [reply["error"]["code"] for reply in broker.replies()]
    assert codes == ["bad_request"] * 5
    assert pinged(broker, 1, ann) == 0


# --- sessions -------------------------------------------------------------------------------------------


def crowd(broker: BrokerHarness, count: int, user: str) -> list[FakeWorker]:
    workers = [broker.worker(f"{user}-{number}", user=user) for number in range(count)]
    for worker in workers:
        worker.hello()
    return workers


def refused(worker: FakeWorker) -> Refuse:
    worker.tell(worker.hello_message())
    return worker.take(Refuse)


def test_key_has_so_many_sessions_and_no_more(broker: BrokerHarness) -> None:
    limit(broker, max_sessions=3)
    user = broker.key("builder", WORKER)
    workers = crowd(broker, 3, user)
    late = broker.worker("late", user=user)

    refuse = refused(late)
    assert (refuse.code, refuse.retry_ms) == ("too_many_sessions", DENIED_RETRY_MS)
    assert refuse.text == "'builder' has 3 workers connected, the most that it may have (max_sessions)"

    workers[0].bye()
    broker.outbox.clear()
    late.hello()


def test_worker_that_connects_anew_takes_its_own_place(broker: BrokerHarness) -> None:
    limit(broker, max_sessions=2)
    user = broker.key("builder", WORKER)
    worker, _ = crowd(broker, 2, user)
    [job] = broker.enqueue()
    grant = worker.grant()

    worker.hello()
    worker.route = b"anew"
    broker.users[b"anew"] = user
    assert worker.hello(held=[held(grant)]).keep == [grant.lease]
    assert len(broker.core.sessions) == 2
    assert broker.state(job) == "processing"


def test_sessions_of_other_keys_and_of_this_machine_do_not_count(broker: BrokerHarness) -> None:
    limit(broker, max_sessions=1)
    crowd(broker, 3, "uid:0")
    crowd(broker, 1, broker.key("one", WORKER))
    crowd(broker, 1, broker.key("two", WORKER))
    crowd(broker, 1, broker.key("boss", ADMIN))

    assert len(broker.core.sessions) == 6
    assert refused(broker.worker("late", user="key:3")).code == "too_many_sessions"


def test_limit_that_is_lowered_ends_no_session(broker: BrokerHarness) -> None:
    user = broker.key("builder", WORKER)
    workers = crowd(broker, 3, user)
    limit(broker, max_sessions=1)

    for worker in workers:
        worker.beat()
    broker.outbox.clear()
    assert len(broker.core.sessions) == 3
    workers[0].bye()
    broker.outbox.clear()
    assert refused(workers[0]).code == "too_many_sessions"


# --- held replies ---------------------------------------------------------------------------------------


def test_key_holds_so_many_replies_and_no_more(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits.WAITERS_OF_KEY_MAX == 1000
    monkeypatch.setattr(requests, "WAITERS_OF_KEY_MAX", 2)
    ann, bob = broker.key("ann", READ), broker.key("bob", READ)
    broker.enqueue()
    broker.turn(clients=[request("wait", empty=True, timeout_ms=1000)] * 3, user=ann)

    [reply] = broker.replies()
    assert reply["error"]["code"] == "too_many_requests"
    assert isinstance(broker.refused("wait", empty=True, user=ann), TooManyRequests)
    for user in (bob, "uid:0", "uid:0", "uid:0"):
        broker.turn(clients=[request("wait", empty=True, timeout_ms=1000)], user=user)
    assert broker.replies() == []
    broker.after(1000)
    assert len(broker.replies()) == 6


def test_all_together_hold_so_many_replies_and_no_more(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WAITERS_MAX", 1)
    broker.enqueue()
    broker.turn(clients=[request("wait", empty=True, timeout_ms=1000)])

    assert isinstance(broker.refused("wait", empty=True), TooManyRequests)
    broker.after(1000)
    assert len(broker.replies()) == 1


def test_key_that_goes_to_another_queue_in_one_request_is_counted_there(broker: BrokerHarness) -> None:
    limit(broker, max_queue_backlog=1)
    pair = [
        {"command": "x", "unique": "k", "queue": "a"},
        {"command": "y", "unique": "k", "queue": "b", "on_conflict": "replace"},
    ]
    broker.enqueue(queue="b")

    assert isinstance(broker.refused("enqueue", jobs=pair), QueueFull)
    assert broker.core.counts()["total"] == 1
