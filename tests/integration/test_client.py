"""The client over a real socket: replies, errors, repeats, and what it says when it gives up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from queuectl import Client, link
from queuectl.errors import (
    BadJob,
    BadRequest,
    BrokerUnreachable,
    JobExists,
    NotAllowed,
    OutcomeUnknown,
    QueuectlError,
    StorageFailed,
    TooLarge,
    UnknownJob,
    VersionMismatch,
    WaitTimedOut,
)
from queuectl.home import Home
from tests.harness_client import Answer, ScriptedBroker, Silence, attempt_view, job_view, scripted_broker


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


@pytest.fixture
def client(broker: ScriptedBroker) -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAUSES_S", (0.01, 0.01, 0.01))


def ids_of(args: dict[str, Any]) -> dict[str, Any]:
    return {"ids": [f"a{n}" for n in range(len(args["jobs"]))], "errors": []}


def silent_for(times: int, then: Any) -> Any:
    left = iter(range(times))

    def handler(args: dict[str, Any]) -> Any:
        if next(left, None) is not None:
            raise Silence
        return then

    return handler


# --- requests and replies --------------------------------------------------------------------------


def test_reply_is_returned_and_the_socket_is_kept(broker: ScriptedBroker, client: Client) -> None:
    broker.on("ping", {"pid": 7})

    assert [client.ping() for _ in range(3)] == [{"pid": 7}] * 3
    assert len({asked.id for asked in broker.asked}) == 3


def test_many_requests_share_a_connection(
    broker: ScriptedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Mock(side_effect=link.Link._connect)
    monkeypatch.setattr(link.Link, "_connect", lambda self: connect(self))
    broker.on("ping", {})

    for _ in range(100):
        client.ping()

    assert connect.call_count == 1


def test_error_of_the_reply_is_raised_with_its_type(broker: ScriptedBroker, client: Client) -> None:
    broker.on("job", UnknownJob("there is no job 'x'", hint="look", details={"id": "x"}))

    with pytest.raises(UnknownJob, match="there is no job 'x'") as caught:
        client.get("x")

    assert (caught.value.hint, caught.value.details, caught.value.exit_code) == ("look", {"id": "x"}, 3)


def test_error_of_a_newer_broker_is_an_error(broker: ScriptedBroker, client: Client) -> None:
    class Novelty(QueuectlError):
        code = "novelty"

    broker.on("ping", Novelty("something new"))

    with pytest.raises(QueuectlError, match="something new"):
        client.ping()


@pytest.mark.usefixtures("impatient")
def test_reply_to_another_request_is_dropped(broker: ScriptedBroker, client: Client) -> None:
    broker.on("ping", Answer({"pid": 1}, id="another-request"))

    with pytest.raises(OutcomeUnknown):
        client.request("ping", timeout=0.02)


def test_reply_that_is_none_is_refused(broker: ScriptedBroker, client: Client) -> None:
    broker.on("ping", ["not a map"])

    with pytest.raises(VersionMismatch):
        client.ping()


def test_request_that_cannot_be_encoded_is_not_sent(broker: ScriptedBroker, client: Client) -> None:
    with pytest.raises(BadRequest, match="not valid UTF-8"):
        client.request("job", {"id": "\ud800"})
    with pytest.raises(BadRequest, match="a number that is too large"):
        client.request("edit", {"changes": {"priority": 2**70}})
    with pytest.raises(TooLarge):
        client.request("job", {"id": "x" * 5_000_000})

    assert broker.asked == []


# --- repeating and giving up -----------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_request_is_repeated_under_its_id_until_answered(broker: ScriptedBroker, client: Client) -> None:
    broker.on("ping", silent_for(2, {"pid": 7}))

    reply = client.exchange("ping", request_id="my-request", timeout=0.05)

    assert (reply.value, reply.tries) == ({"pid": 7}, 3)
    assert [asked.id for asked in broker.asked] == ["my-request"] * 3


@pytest.mark.usefixtures("impatient")
def test_silence_ends_with_the_outcome_unknown(broker: ScriptedBroker, client: Client) -> None:
    broker.on("enqueue", silent_for(99, None))

    with pytest.raises(OutcomeUnknown) as caught:
        client.request("enqueue", {"jobs": []}, request_id="my-request", timeout=0.02)

    assert caught.value.details == {"request_id": "my-request"}
    assert "request id my-request is safe" in str(caught.value.hint)
    assert len(broker.asked) == 4


def test_nobody_listening_is_found_out_without_a_connection(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuectl.zmtp.LocalLine.greet", lambda *_: pytest.fail("it waits for an answer"))

    with Client() as client, pytest.raises(BrokerUnreachable, match=r"client\.sock") as caught:
        client.ping()

    assert "queuectl broker start" in str(caught.value.hint)


def test_socket_without_a_listener_is_found_out_at_once(home: Path) -> None:
    place = Home(home)
    place.prepare()
    left = socket.socket(socket.AF_UNIX)
    left.bind(place.client_endpoint.removeprefix("ipc://"))
    left.close()

    with Client() as client, pytest.raises(BrokerUnreachable):
        client.ping()


def test_tcp_endpoint_where_nobody_listens_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        port = taken.getsockname()[1]

        with Client(f"tcp://127.0.0.1:{port - 1}") as client, pytest.raises(BrokerUnreachable, match=str(port)):
            client.ping()


def test_directory_that_others_can_use_is_refused(home: Path) -> None:
    with scripted_broker(home):
        (home / "run").chmod(0o755)

        with Client() as client, pytest.raises(NotAllowed, match="only you can use"):
            client.ping()


@pytest.mark.usefixtures("impatient")
def test_broker_that_went_away_is_unreachable_when_nothing_was_sent(home: Path) -> None:
    with Client() as client:
        with scripted_broker(home) as broker:
            broker.on("ping", {})
            client.ping()

        with pytest.raises((BrokerUnreachable, OutcomeUnknown)):
            client.ping()


def test_client_finds_a_restarted_broker(home: Path) -> None:
    with Client() as client:
        for pid in (1, 2, 3):
            with scripted_broker(home) as broker:
                broker.on("ping", {"pid": pid})
                assert client.ping() == {"pid": pid}


@pytest.mark.usefixtures("impatient")
def test_lost_connection_is_noticed_before_the_time_out(broker: ScriptedBroker) -> None:
    def hang_up(args: dict[str, Any]) -> Any:
        broker.hang_up()
        raise Silence

    broker.on("status", hang_up)

    with Client(timeout=3600) as client, pytest.raises(OutcomeUnknown):
        client.status()


# --- methods ---------------------------------------------------------------------------------------


def test_enqueue_takes_text_and_fields(broker: ScriptedBroker, client: Client) -> None:
    broker.on("enqueue", ids_of)

    assert client.enqueue("echo hello", priority=5) == "a0"
    assert client.enqueue({"command": "x", "id": "a0"}) == "a0"
    assert [asked.args["jobs"] for asked in broker.asked] == [
        [{"command": "echo hello", "priority": 5}],
        [{"command": "x", "id": "a0"}],
    ]


@pytest.mark.parametrize("job", [None, ["echo", "hi"], b"echo"])
def test_what_can_be_no_job_is_refused_here(broker: ScriptedBroker, client: Client, job: Any) -> None:
    with pytest.raises(BadJob, match="a job is text, a mapping"):
        client.enqueue(job)
    assert broker.asked == []


def test_text_is_no_list_of_jobs(client: Client) -> None:
    with pytest.raises(BadRequest, match="lists of ids"):
        client.wait("a17")


def test_attempt_that_there_was_not_has_not_ended(broker: ScriptedBroker, client: Client) -> None:
    over = {"state": "dead", "latest": 1, "over": True, "finished": True, "next": None, "totals": None}
    nothing = {"id": "a1", "attempt": 9, "segments": [], "outcome": None, "exit_code": None, "signal": None}
    broker.on("output", {**over, **nothing})

    assert list(client.logs("a1", attempt=9)) == []


def test_job_that_is_refused_is_raised(broker: ScriptedBroker, client: Client) -> None:
    refused = {"index": 0, **JobExists("a job with id 'x' exists").to_wire()}
    broker.on("enqueue", {"ids": [None], "errors": [refused]})

    with pytest.raises(JobExists, match="exists"):
        client.enqueue("echo", id="x")


def test_many_jobs_are_numbered_over_all_requests(broker: ScriptedBroker, client: Client) -> None:
    def handler(args: dict[str, Any]) -> dict[str, Any]:
        size = len(args["jobs"])
        return {"ids": [None] + ["x"] * (size - 1), "errors": [{"index": 0, **JobExists().to_wire()}]}

    broker.on("enqueue", handler)

    result = client.enqueue_many(["echo"] * 1500)

    assert (result.accepted, [refused.index for refused in result.errors]) == (1498, [0, 1000])


def test_repeated_jobs_are_counted_unless_we_repeated_them_ourselves(
    broker: ScriptedBroker, client: Client, impatient: None
) -> None:
    client.timeout = 0.05
    broker.on("enqueue", Answer({"ids": ["a1"], "errors": []}, repeated=True))
    assert client.enqueue_many(["echo"]).repeated == 1

    broker.on("enqueue", silent_for(1, Answer({"ids": ["a1"], "errors": []}, repeated=True)))
    assert client.enqueue_many(["echo"]).repeated == 0


def test_error_among_many_says_how_far_it_came(broker: ScriptedBroker, client: Client) -> None:
    answers = iter([{"ids": ["x"] * 1000, "errors": []}, QueuectlError("full")])
    broker.on("enqueue", lambda _: next(answers))

    with pytest.raises(QueuectlError) as caught:
        client.enqueue_many(["echo"] * 2000, request_id="many-jobs")

    assert caught.value.details == {"request_id": "many-jobs", "accepted": 1000}


def test_list_goes_over_all_pages(broker: ScriptedBroker, client: Client) -> None:
    pages = {None: (["c", "b"], 2), 2: (["a"], None)}

    def handler(args: dict[str, Any]) -> dict[str, Any]:
        ids, following = pages[args.get("cursor")]
        return {"jobs": [job_view(id=each) for each in ids], "next": following}

    broker.on("list", handler)

    assert [job["id"] for job in client.list(state="dead")] == ["c", "b", "a"]
    assert [asked.args for asked in broker.asked] == [
        {"state": "dead", "limit": 500},
        {"state": "dead", "limit": 500, "cursor": 2},
    ]


def test_list_selects(broker: ScriptedBroker, client: Client) -> None:
    broker.on("list", {"jobs": [], "next": None})

    assert list(client.list(queue="mail", tags=["night"], since=2.5)) == []
    assert broker.only("list").args == {
        "select": {"queue": "mail", "tags": ["night"], "since": 2500},
        "limit": 500,
    }


def test_list_stops_at_its_limit(broker: ScriptedBroker, client: Client) -> None:
    broker.on("list", lambda args: {"jobs": [job_view()] * args["limit"], "next": 1})

    assert len(list(client.list(limit=700))) == 700
    assert [asked.args["limit"] for asked in broker.asked] == [500, 200]


def test_output_is_read_to_its_end(broker: ScriptedBroker, client: Client) -> None:
    def handler(args: dict[str, Any]) -> dict[str, Any]:
        first = "cursor" not in args
        segments = [[1, 0, b"ab"]] if first else [[2, 0, b"c"]]
        return {"attempt": 2, "segments": segments, "totals": None, "next": [5, 0] if first else None, "finished": True}

    broker.on("output", handler)

    assert list(client.output("a1")) == [("stdout", 0, b"ab"), ("stderr", 0, b"c")]
    assert broker.asked[1].args == {"id": "a1", "attempt": 2, "cursor": [5, 0]}


def test_wait_asks_again_until_it_is_done(broker: ScriptedBroker, client: Client) -> None:
    answers = iter([{"done": False}, {"done": False}, {"done": True}])
    broker.on("wait", lambda _: next(answers))

    assert client.wait(["a1"]) == {"done": True}
    assert broker.asked[0].args == {"jobs": ["a1"], "timeout_ms": 10_000}


def test_wait_for_more_jobs_than_go_into_a_request_asks_for_all_of_them(broker: ScriptedBroker, client: Client) -> None:
    broker.on("wait", {"done": True})
    ids = [f"job-{number}" for number in range(2500)]

    assert client.wait(ids) == {"done": True}
    assert max(len(asked.args["jobs"]) for asked in broker.asked) == 1000
    assert sorted(each for asked in broker.asked for each in asked.args["jobs"]) == sorted(ids)


def test_wait_for_many_jobs_has_one_time_limit(broker: ScriptedBroker, client: Client) -> None:
    answers = iter([{"done": True}, {"done": False}])
    broker.on("wait", lambda _: next(answers))

    with pytest.raises(WaitTimedOut):
        client.wait(["job"] * 1500, timeout=0.0)


def test_wait_times_out(broker: ScriptedBroker, client: Client) -> None:
    broker.on("wait", {"done": False})

    with pytest.raises(WaitTimedOut) as caught:
        client.wait(empty=True, timeout=0.0)

    assert caught.value.exit_code == 124


def test_wait_goes_on_when_the_broker_comes_back(broker: ScriptedBroker, client: Client) -> None:
    answers = iter([StorageFailed("the disk does not answer"), {"done": True, "jobs": []}])
    broker.on("wait", lambda _: next(answers))
    told: list[QueuectlError] = []

    assert client.wait(["a1"], on_away=told.append)["done"]
    assert [error.code for error in told] == ["storage_failed"]


def test_wait_is_over_in_time_though_the_broker_is_away(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/nobody.sock") as client, pytest.raises(WaitTimedOut):
        client.wait(["a1"], timeout=0.1)


def test_wait_is_over_in_time_though_the_broker_says_nothing(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuectl.waiting.LATE_S", 0.0)

    def say_nothing(_: Any) -> Any:
        raise Silence

    broker.on("wait", say_nothing)
    with Client(broker.endpoint, timeout=0.1) as client, pytest.raises(WaitTimedOut):
        client.wait(["a1"], timeout=0.2)
    assert len(broker.asked) == 1


def test_progress_is_asked_for_from_the_first_request_on(broker: ScriptedBroker, client: Client) -> None:
    replies = iter([{"done": False, "jobs_left": 2}, {"done": False, "jobs_left": 1}, {"done": True, "jobs_left": 0}])
    broker.on("wait", lambda _: next(replies))
    told: list[int] = []

    client.wait(["a1", "a2"], progress=told.append)

    assert told == [2, 1, 0]
    assert [asked.args.get("seen") for asked in broker.asked] == [3, 2, 1]


def test_progress_is_told_when_it_is_another(broker: ScriptedBroker, client: Client) -> None:
    left = iter([3, 3, 2, 2, 0])
    broker.on("wait", lambda _: {"jobs_left": (now := next(left)), "done": not now, "jobs": []})
    told: list[int] = []

    client.wait(["a1", "a2", "a3"], progress=told.append)

    assert told == [3, 2, 0]


@pytest.mark.parametrize(
    ("last", "result"),
    [({"finished": True, "outcome": "completed"}, (b"", 0)), ({"outcome": None}, (b"first", 1))],
    ids=["silent", "never begun"],
)
def test_run_tells_what_the_last_attempt_has_printed(
    broker: ScriptedBroker, client: Client, last: dict[str, Any], result: tuple[bytes, int]
) -> None:
    common = {"totals": None, "next": None, "cursor": [1, 1], "signal": None, "finished": True}
    first = {
        "attempt": 1,
        "segments": [[1, 4, b"first"]],
        "over": False,
        "latest": 1,
        "outcome": "exit",
        "state": "failed",
    }
    then = {"attempt": 2, "segments": [], "over": True, "latest": 2, "state": "completed"}
    replies = iter([common | first | {"exit_code": 1}, common | then | {"exit_code": 0} | last])
    broker.on("enqueue", {"ids": ["a1"], "errors": []})
    broker.on("output", lambda _: next(replies))
    job = {"id": "a1", "state": "completed", "exit_code": result[1], "signal": None}
    broker.on("wait", {"done": True, "jobs_left": 0, "jobs": [job]})

    ran = client.run("x")

    assert (ran.stdout, ran.returncode) == result
    assert ran.missing_bytes == (4 if ran.stdout else 0)


def test_wait_for_workers_is_not_patient(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/nobody.sock") as client, pytest.raises(BrokerUnreachable):
        client.wait(workers=["w1"], timeout=0.1)


@pytest.mark.parametrize("what", [{}, {"jobs": ["a1"], "empty": True}, {"jobs": [], "workers": ["w1"]}])
def test_wait_is_for_one_thing(client: Client, what: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        client.wait(**what)


def test_job_and_history(broker: ScriptedBroker, client: Client) -> None:
    broker.on("job", {"job": job_view(), "history": [attempt_view()]})

    assert client.get("a1")["id"] == "a1"
    assert client.history("a1")[0]["outcome"] == "exit"


def test_all_dead_letters_go_in_slices(broker: ScriptedBroker, client: Client) -> None:
    broker.on("dlq_retry", lambda args: {"ids": ["b"], "next": None} if "cursor" in args else {"ids": ["a"], "next": 1})

    assert client.dlq_retry(all_jobs=True) == ["a", "b"]


def test_settings_and_processes(broker: ScriptedBroker, client: Client) -> None:
    broker.on("config_set", lambda args: {**args, "before": 3, "per_job": True})
    broker.on("config_unset", lambda args: {**args, "value": 3, "before": 5, "per_job": True})
    broker.on("config_show", {"settings": {"max_retries": 3}, "changed": [], "data_dir": "/data"})
    broker.on("worker_stop", {"workers": ["w1"]})
    broker.on("shutdown", {"pid": 7, "held": 0})

    assert client.config_set("max_retries", 5)["value"] == 5
    assert client.config_unset("max_retries")["value"] == 3
    assert client.config()["data_dir"] == "/data"
    assert client.stop_workers(now=True) == ["w1"]
    assert client.shutdown() == {"pid": 7, "held": 0}
