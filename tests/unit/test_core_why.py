"""Why a job is not running, its place in line, and what is listed of all jobs."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.access import SUBMIT
from queuectl.errors import BadRequest, UnknownJob
from tests.harness import BrokerHarness, patient, request


def why(broker: BrokerHarness, job: str = "a1") -> dict[str, Any]:
    return broker.ask("why", id=job)


def codes(broker: BrokerHarness, job: str = "a1") -> list[str]:
    return [reason["code"] for reason in why(broker, job)["reasons"]]


def test_without_workers_that_is_why(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y")

    assert why(broker) == {
        "id": "a1",
        "state": "pending",
        "position": 0,
        "ahead_capped": False,
        "estimate_s": None,
        "reasons": [{"code": "no_worker", "text": "no worker is connected; start one: queuectl worker start"}],
    }
    assert codes(broker, "a2") == ["no_worker", "behind"]
    assert why(broker, "a2")["position"] == 1


def test_workers_of_other_queues_and_those_that_stop_do_not_count(broker: BrokerHarness) -> None:
    broker.enqueue("x")
    worker = broker.worker(queues=["other"])
    worker.hello()
    assert why(broker)["reasons"] == [
        {
            "code": "no_worker",
            "text": "no worker serves the queue 'default'; start one: queuectl worker start --queue default",
        }
    ]
    stopping = broker.worker("s")
    stopping.hello(draining=True)

    assert "stopping or silent (1)" in why(broker)["reasons"][0]["text"]


def test_place_in_line_is_that_of_leasing(broker: BrokerHarness) -> None:
    broker.enqueue("x", priority=1)
    broker.enqueue("x", "x")
    broker.enqueue("x", priority=5)
    broker.enqueue("x", queue="other", priority=9)

    assert [why(broker, f"a{number}")["position"] for number in range(1, 6)] == [1, 2, 3, 0, 0]


def test_position_is_counted_up_to_an_end(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.why.AHEAD_COUNTED", 2)
    broker.enqueue(*["x"] * 4)
    broker.enqueue("y", priority=-1)

    assert [why(broker, job)["ahead_capped"] for job in ("a3", "a4", "a5")] == [False, True, True]
    answer = why(broker, "a5")
    assert (answer["position"], answer["reasons"][-1]["text"]) == (2, "over 2 jobs of its queue come before it")


def test_estimate_is_from_what_jobs_took(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=2)
    worker.hello()
    broker.enqueue(*["x"] * 6)
    first = worker.grants()[0]
    assert why(broker, "a3")["estimate_s"] is None
    worker.finish(first, duration_ms=4000)
    worker.grant()

    answer = why(broker, "a4")

    assert (answer["position"], answer["estimate_s"]) == (0, 2.0)
    assert [reason["code"] for reason in answer["reasons"]] == ["workers_busy"]
    assert answer["reasons"][0]["text"].endswith("(2 of 2)")
    assert why(broker, "a6")["estimate_s"] == 6.0


def test_job_that_the_next_turn_leases_has_nothing_in_its_way(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=3)
    worker.hello()
    broker.enqueue("x")
    worker.finish(worker.grant(), duration_ms=500)

    broker.turn(clients=[request("enqueue", jobs=[{"command": "y"}]), request("why", id="a2")])

    _, answer = [reply["ok"] for reply in broker.replies()]
    assert (answer["reasons"][0]["code"], answer["position"], answer["estimate_s"]) == ("next", 0, 0.0)
    worker.grant()


def test_full_disk_is_a_reason(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.core.storage_full = True
    broker.enqueue("x")

    assert codes(broker) == ["storage_full"]


def test_job_that_waits_for_its_time_says_when(broker: BrokerHarness) -> None:
    patient(broker)
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x", delay=60)
    assert why(broker)["reasons"][0] == {
        "code": "delayed",
        "text": "it starts at 2027-01-15T08:01:00.000Z",
        "until": "2027-01-15T08:01:00.000Z",
    }
    broker.after(60_000)
    worker.finish(worker.grant(), 3)

    [reason] = why(broker)["reasons"]
    assert (reason["code"], why(broker)["position"]) == ("backoff", None)
    assert reason["text"] == "attempt 1 ended with exit 3, and the next comes at 2027-01-15T08:01:02.000Z"


def test_held_job_says_how_to_release_it(broker: BrokerHarness) -> None:
    broker.enqueue("x", hold=True)

    assert codes(broker) == ["held", "no_worker"]
    broker.ask("edit", select={"ids": ["a1"]}, changes={"delay": 60.0})
    assert why(broker)["reasons"][1]["text"] == "it does not start before 2027-01-15T08:01:00.000Z"
    broker.clock.advance(60_000)
    assert codes(broker) == ["held", "no_worker"]
    assert why(broker)["reasons"][0]["text"] == (
        "it is held since 2027-01-15T08:00:00.000Z by uid:1000; release it: queuectl release a1"
    )


def test_job_that_is_held_again_tells_the_last_time(broker: BrokerHarness) -> None:
    broker.enqueue("x", max_retries=1)
    broker.ask("hold", select={"ids": ["a1"]}, reason="the server is down")
    broker.ask("release", select={"ids": ["a1"]})
    worker = broker.worker()
    worker.hello()
    worker.finish(worker.grant(), exit_code=1)
    broker.after(60_000)
    broker.ask("retry", select={"ids": ["a1"]}, hold=True)

    reason = why(broker)["reasons"][0]

    assert (reason["code"], reason["at"]) == ("held", "2027-01-15T08:01:00.000Z")
    assert "the server is down" not in reason["text"]


def test_suspect_waits_for_a_worker_of_its_own(broker: BrokerHarness) -> None:
    worker = broker.worker(slots=2)
    worker.hello()
    broker.enqueue("x", "y")
    for _ in range(2):
        worker.release(*worker.grants(), reason="lost")
    worker.grants()

    assert sorted(codes(broker, job) for job in ("a1", "a2")) == [["alone", "workers_busy"], ["running"]]


def test_running_job_says_where(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    grant = worker.grant()
    assert "attempt 1, on worker host-w-770000" in why(broker)["reasons"][0]["text"]
    broker.ask("cancel", select={"ids": ["a1"]})
    broker.turn(gone=[worker.route])
    broker.after(1000)

    assert codes(broker) == ["running", "worker_away", "cancelling"]
    assert grant.job == "a1"
    broker.outbox.clear()


def test_lease_ahead_says_so(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    worker.finish(worker.grant(), duration_ms=1)
    broker.enqueue("y", "z")
    worker.grants()

    assert codes(broker, "a3") == ["queued_at_worker"]


def test_job_that_is_over_says_how(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x", max_retries=1)
    worker.finish(worker.grant(), 1)

    assert why(broker)["reasons"] == [
        {
            "code": "dead",
            "text": "it is dead since 2027-01-15T08:00:00.000Z: attempt 1 ended with exit 1, the last one it had",
            "at": "2027-01-15T08:00:00.000Z",
        }
    ]
    broker.enqueue("y")
    worker.finish(worker.grant())
    assert why(broker, "a2")["reasons"][0]["text"] == "it completed at 2027-01-15T08:00:00.000Z"


@pytest.mark.parametrize(
    ("fields", "end", "cause"),
    [
        ({}, {"outcome": "signal", "exit_code": None, "signal": 9}, "signal 9 ended attempt 1, the last one it had"),
        ({}, {"outcome": "timeout", "exit_code": None}, "attempt 1 took longer than its timeout, the last one it had"),
        ({}, {"outcome": "spawn_error", "exit_code": None}, "attempt 1 could not be started, the last one it had"),
        (
            {"max_retries": 3, "no_retry_on": [75]},
            {"exit_code": 75},
            "attempt 1 ended with exit 75, and such an end is not retried",
        ),
        ({"max_retries": 3, "deadline": 1}, {"exit_code": 75}, "its deadline came"),
    ],
)
def test_dead_job_says_what_killed_it(
    broker: BrokerHarness, fields: dict[str, Any], end: dict[str, Any], cause: str
) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x", **{"max_retries": 1, **fields})
    worker.finish(worker.grant(), **end)

    assert why(broker)["reasons"][0]["text"].split(": ", 1)[1] == cause


@pytest.mark.parametrize(
    ("on_lost", "losses", "cause"),
    [("dead", 1, "its worker was lost while it may have been running"), ("retry", 3, "it lost its worker 3 times")],
)
def test_job_that_lost_its_workers_says_so(broker: BrokerHarness, on_lost: str, losses: int, cause: str) -> None:
    broker.enqueue("x", on_lost=on_lost)
    for number in range(losses):
        worker = broker.worker(f"w{number}")
        worker.hello()
        worker.grant()
        broker.after(31_000)

    assert cause in why(broker)["reasons"][0]["text"]


def test_held_job_says_who_held_it_and_why(broker: BrokerHarness) -> None:
    broker.enqueue("x")
    broker.ask("hold", select={"ids": ["a1"]}, reason="the server is down")

    reason = why(broker)["reasons"][0]

    assert reason == {
        "code": "held",
        "text": "it is held since 2027-01-15T08:00:00.000Z by uid:1000: the server is down;"
        " release it: queuectl release a1",
        "at": "2027-01-15T08:00:00.000Z",
    }


def test_job_that_somebody_ended_says_why(broker: BrokerHarness) -> None:
    broker.enqueue("x", "y")
    broker.enqueue("z", expires=1)
    broker.ask("cancel", select={"ids": ["a1"]}, reason="wrong file")
    broker.enqueue("x", unique="key")
    broker.enqueue("y", unique="key", on_conflict="replace")
    broker.after(2000)

    texts = {job: why(broker, job)["reasons"][0]["text"] for job in ("a1", "a3", "a4")}
    assert texts["a1"] == "it was cancelled at 2027-01-15T08:00:00.000Z by uid:1000: wrong file"
    assert texts["a3"] == "it expired at 2027-01-15T08:00:02.000Z, before it was started"
    assert texts["a4"].endswith(" by uid:1000: replaced")


def test_submitter_asks_of_its_own_jobs_only(broker: BrokerHarness) -> None:
    desk = broker.key("desk", SUBMIT)
    broker.enqueue("x")

    assert isinstance(broker.refused("why", id="a1", user=desk), UnknownJob)


# --- listing by what jobs have in common -------------------------------------------------------------------


def listed(broker: BrokerHarness, **select: Any) -> list[str]:
    return [job["id"] for job in broker.ask("list", select=select)["jobs"]][::-1]


@pytest.fixture
def many(broker: BrokerHarness) -> BrokerHarness:
    worker = broker.worker(slots=9)
    worker.hello()
    broker.enqueue("backup home", tags={"kind": "backup", "of": "home"}, priority=5)
    broker.enqueue("Backup var", tags={"kind": "backup", "of": "var"}, max_retries=1)
    broker.enqueue("report", tags={"kind": "report"}, queue="other", cwd="/srv")
    grants = {grant.job: grant for grant in worker.grants()}
    worker.finish(grants["a1"])
    worker.finish(grants["a2"], 3, last_line="no space left")
    broker.clock.advance(5000)
    broker.enqueue("x", hold=True, unique="k")
    broker.enqueue("y", delay=60)
    return broker


@pytest.mark.parametrize(
    ("select", "ids"),
    [
        ({}, ["a1", "a2", "a3", "a4", "a5"]),
        ({"tags": ["kind=backup"]}, ["a1", "a2"]),
        ({"tags": ["kind"]}, ["a1", "a2", "a3"]),
        ({"tags": ["kind=backup", "of=var"]}, ["a2"]),
        ({"tags": ["kind=backup", "of"], "state": "dead"}, ["a2"]),
        ({"tags": ["nosuch"]}, []),
        ({"queue": "other"}, ["a3"]),
        ({"since": 1_800_000_005_000}, ["a4", "a5"]),
        ({"where": ["command~BACKUP"]}, ["a1", "a2"]),
        ({"where": ["command=report"]}, ["a3"]),
        ({"where": ["exit_code=3"]}, ["a2"]),
        ({"where": ["exit_code!=3"]}, ["a1", "a3", "a4", "a5"]),
        ({"where": ["signal!=9"]}, ["a1", "a2", "a3", "a4", "a5"]),
        ({"where": ["exit_code<3"]}, ["a1"]),
        ({"where": ["finished_at!=2027-01-15T08:00:00Z"]}, ["a3", "a4", "a5"]),
        ({"where": ["cwd!=/srv"]}, ["a1", "a2", "a4", "a5"]),
        ({"where": ["priority>=5"]}, ["a1"]),
        ({"where": ["priority<5", "attempt>=1"]}, ["a2", "a3"]),
        ({"where": ["reason=held"]}, ["a4"]),
        ({"where": ["reason=delayed"]}, ["a5"]),
        ({"where": ["reason=exit"]}, ["a2"]),
        ({"where": ["unique=k"]}, ["a4"]),
        ({"where": ["cwd=/srv"]}, ["a3"]),
        ({"where": ["last_line~space"]}, ["a2"]),
        ({"where": ["worker~host-w"]}, ["a1", "a2", "a3"]),
        ({"where": ["finished_at>2027-01-01T00:00:00Z"]}, ["a1", "a2"]),
        ({"where": ["created_at>2027-01-15T08:00:00Z"]}, ["a4", "a5"]),
        ({"where": ["id=a3"]}, ["a3"]),
        ({"where": ["losses=0", "signal=9"]}, []),
        ({"where": ["retry_of=a1"]}, []),
        ({"where": ["max_retries<=1"]}, ["a2"]),
    ],
    ids=str,
)
def test_jobs_are_listed_by_what_they_have_in_common(
    many: BrokerHarness, select: dict[str, Any], ids: list[str]
) -> None:
    assert listed(many, **select) == ids


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("exit_code", "is not a condition"),
        ("=3", "is not a condition"),
        ("exit_cod=3", "there is no field 'exit_cod'"),
        ("exit_code=x", "exit_code: 'x' is not a whole number"),
        ("exit_code=", "exit_code: '' is not a whole number"),
        ("exit_code~3", "~ is for text, and exit_code is none"),
        ("created_at~2027-01-15", "~ is for text, and created_at is none"),
        ("priority=99999999999999999999", "priority: is too large"),
        ("finished_at>yesterday", "is not a time with its zone"),
    ],
)
def test_nonsense_is_no_condition(broker: BrokerHarness, condition: str, message: str) -> None:
    error = broker.refused("list", select={"where": [condition]})

    assert isinstance(error, BadRequest)
    assert message in error.message
    assert error.hint


def test_listing_by_tags_goes_in_slices(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.listing.SLICE_S", 0)
    monkeypatch.setattr("broker.store.listing.FIRST_STEP", 3)
    for number in range(8):
        broker.enqueue("x", tags={"odd": str(number % 2)})

    found, cursor, slices = [], None, 0
    while slices == 0 or cursor is not None:
        page = broker.ask("list", select={"tags": ["odd=1"]}, cursor=cursor)
        found += [job["id"] for job in page["jobs"]]
        cursor, slices = page["next"], slices + 1

    assert (found, slices) == (["a8", "a6", "a4", "a2"], 3)


def test_named_jobs_are_not_listed(broker: BrokerHarness) -> None:
    assert isinstance(broker.refused("list", select={"ids": ["a1"]}), BadRequest)
