"""The feed: what is noted, how it is read in slices, how it is waited for, and how it is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core import feed
from broker.core.access import READ, SUBMIT
from broker.core.core import TIDY_EVERY_MS
from broker.core.memory import Cancellation
from broker.core.waits import READS_PER_TURN
from queuectl.ids import job_ids
from queuectl.jobs import Outcome
from queuectl.messages import Cancel, Echo
from tests.harness import USER, BrokerHarness, FakeWorker, held, request

DAY_MS = 86_400_000


def read(broker: BrokerHarness, cursor: list[int], **args: Any) -> list[dict[str, Any]]:
    """All that has happened after a cursor."""
    events = []
    while True:
        reply = broker.ask("events", cursor=cursor, **args)
        events += reply["events"]
        cursor = reply["cursor"]
        if not reply["more"]:
            return events


def now(broker: BrokerHarness) -> list[int]:
    cursor: list[int] = broker.ask("events")["cursor"]
    return cursor


def told(events: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    return [(event["type"], *(event.get(field) for field in fields)) for event in events]


def rows(broker: BrokerHarness) -> int:
    [(count,)] = broker.store._db.query("SELECT count(*) FROM event")
    return int(count)


def working(broker: BrokerHarness, **about: Any) -> FakeWorker:
    worker = broker.worker(**about)
    worker.hello()
    return worker


def hold(broker: BrokerHarness, cursor: list[int], **args: Any) -> None:
    """Wait for more of the feed, and get no answer yet."""
    broker.turn(clients=[request("events", cursor=cursor, wait_ms=1000, **args)])
    assert broker.replies() == []


# --- what is noted ---------------------------------------------------------------------------------


def test_ordinary_job_is_two_rows(broker: BrokerHarness) -> None:
    worker = working(broker)
    start, before = now(broker), rows(broker)

    [job] = broker.enqueue()
    worker.finish(worker.grant(), duration_ms=250)

    assert rows(broker) == before + 2
    enqueued, leased, finished = read(broker, start)
    assert (enqueued["type"], enqueued["job_id"], enqueued["queue"]) == ("enqueued", job, "default")
    assert (enqueued["by"], enqueued["worker"], enqueued["attempt"]) == ("uid:1000", None, None)
    assert (leased["type"], leased["job_id"], leased["attempt"]) == ("leased", job, 1)
    assert leased["worker"] == finished["worker"] == broker.ask("status")["workers"][0]["id"]
    assert {field: finished[field] for field in ("type", "job_id", "attempt", "outcome", "exit_code", "signal")} == {
        "type": "finished",
        "job_id": job,
        "attempt": 1,
        "outcome": "completed",
        "exit_code": 0,
        "signal": None,
    }
    assert (finished["duration_s"], finished["state"], finished["run_at"], finished["by"]) == (
        0.25,
        "completed",
        None,
        None,
    )


def test_turn_in_which_nothing_happens_writes_nothing(broker: BrokerHarness) -> None:
    worker = working(broker)
    before = rows(broker)

    worker.beat()
    broker.after(1000)
    broker.ask("status")

    assert rows(broker) == before
    worker.take(Echo)


def test_failed_turn_leaves_nothing(broker: BrokerHarness) -> None:
    start = now(broker)
    broker.fail_next = RuntimeError()
    with pytest.raises(RuntimeError):
        broker.enqueue("never", id="never")

    broker.enqueue(id="once")

    assert told(read(broker, start), "job_id") == [("enqueued", "once")]


def test_jobs_of_generated_ids_in_a_row_are_one_entry(broker: BrokerHarness) -> None:
    start = now(broker)
    jobs: list[dict[str, Any]] = [{"command": "x"} for _ in range(30)]
    jobs[10]["id"] = "named"
    jobs[11]["queue"] = jobs[12]["queue"] = "q"

    turn = broker.turn(clients=[request("enqueue", jobs=jobs)])
    ids = broker.answer()["ids"]

    assert [event[0] for event in turn.happened] == [feed.ENQUEUED_IN_A_ROW, feed.ENQUEUED] + 2 * [
        feed.ENQUEUED_IN_A_ROW
    ]
    events = read(broker, start, limit=7)
    assert [event["job_id"] for event in events] == ids
    assert [event["queue"] for event in events] == ["default"] * 11 + ["q"] * 2 + ["default"] * 17
    assert {event["type"] for event in events} == {"enqueued"}


def test_jobs_of_others_begin_a_row_of_their_own(broker: BrokerHarness) -> None:
    start = now(broker)

    broker.turn(clients=[(request("enqueue", jobs=[{"command": "x"}] * 2), f"uid:{user}") for user in (1, 2)])
    broker.outbox.clear()

    assert told(read(broker, start), "job_id", "by") == [
        ("enqueued", job, by) for job, by in zip(job_ids(1, 4), ["uid:1"] * 2 + ["uid:2"] * 2, strict=True)
    ]


def test_job_that_is_refused_is_not_told_of(broker: BrokerHarness) -> None:
    broker.enqueue(id="a3")
    start = now(broker)

    jobs = [{"command": "x"}, {"command": "x"}, {"command": "x", "id": "a3"}, {"command": "x"}]
    reply = broker.ask("enqueue", jobs=jobs)

    assert reply["ids"][2] is None
    assert sorted(event["job_id"] for event in read(broker, start)) == sorted(filter(None, reply["ids"]))


def test_failure_tells_when_it_is_tried_again_and_the_last_one_that_the_job_is_dead(broker: BrokerHarness) -> None:
    worker = working(broker)
    [job] = broker.enqueue(max_retries=2)
    start = now(broker)

    worker.finish(worker.grant(), 3)
    run_at = broker.job(job)["run_at"]
    broker.after(2000)
    worker.finish(worker.grant(), None, outcome=Outcome.SIGNAL.value, signal=9)

    first, again, second, dead = read(broker, start)
    assert (first["state"], first["exit_code"], first["run_at"]) == ("failed", 3, run_at)
    assert (again["type"], again["attempt"]) == ("leased", 2)
    assert (second["state"], second["signal"], second["run_at"]) == ("dead", 9, None)
    assert (dead["type"], dead["job_id"], dead["reason"]) == ("dead", job, "signal")


def test_lease_that_is_given_back_is_requeued(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    start = now(broker)

    worker.release(worker.grant(), reason="worker_fault")

    [event] = read(broker, start)
    assert (event["type"], event["attempt"], event["reason"], event["state"]) == (
        "requeued",
        1,
        "worker_fault",
        "pending",
    )


def test_lost_lease_that_goes_on_is_adopted(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    grant = worker.grant()
    start = now(broker)

    broker.turn(gone=[worker.route])
    broker.after(40_000)
    worker.route = b"again"
    worker.hello(held=[held(grant)])

    events = read(broker, start)
    assert told(events, "job_id", "attempt") == [
        ("worker_left", None, None),
        ("lost", "job-1", 1),
        ("worker_joined", None, None),
        ("adopted", "job-1", 1),
    ]
    assert events[0]["reason"] == "connection lost"
    assert (events[1]["reason"], events[1]["state"]) == ("its worker was not heard of for 40.0 s", "pending")
    assert events[2]["slots"] == 1


def test_job_that_is_lost_too_often_is_dead(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1", on_lost="dead")
    start = now(broker)

    worker.release(worker.grant(), reason="lost")

    lost, dead = read(broker, start)
    assert (lost["type"], lost["state"], dead["type"], dead["reason"]) == ("lost", "dead", "dead", "lost")


def test_cancelled_attempt_is_told_with_the_end_of_its_job(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    grant = worker.grant()
    start = now(broker)

    worker.finish(grant, None, outcome=Outcome.CANCELLED.value, signal=15)

    finished, cancelled = read(broker, start)
    assert (finished["outcome"], finished["state"]) == ("cancelled", "cancelled")
    assert (cancelled["type"], cancelled["job_id"], cancelled["reason"]) == ("cancelled", "job-1", "cancelled")


def test_what_a_person_said_is_the_reason_of_a_cancelled_job(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    grant = worker.grant()
    start = now(broker)
    [lease] = broker.core.leases.values()
    lease.cancel = Cancellation(15, 1000, "not needed")

    worker.release(grant, reason="draining")

    requeued, cancelled = read(broker, start)
    assert (requeued["state"], cancelled["type"], cancelled["reason"]) == ("cancelled", "cancelled", "not needed")


def test_time_that_is_over_is_told(broker: BrokerHarness) -> None:
    broker.enqueue(id="late", expires=5)
    broker.enqueue(id="overrun", deadline=5)
    start = now(broker)

    broker.after(6000)

    assert told(read(broker, start), "job_id") == [("expired", "late"), ("dead", "overrun")]
    assert read(broker, start, types=["dead"])[0]["reason"] == "deadline"


def test_what_people_do_is_told_with_who_it_was(broker: BrokerHarness) -> None:
    worker = working(broker)
    for name in ("again", "away"):
        broker.enqueue(id=name, max_retries=1)
        worker.finish(worker.grant(), 1)
    worker.bye()
    broker.outbox.clear()
    broker.enqueue(id="first", unique="k")
    start = now(broker)

    broker.ask("dlq_retry", ids=["again"])
    broker.ask("dlq_purge", ids=["away"])
    broker.enqueue(id="second", unique="k", on_conflict="replace")
    broker.ask("config_set", key="max_retries", value=9)
    broker.key("ann", READ)
    broker.ask("key_revoke", name="ann")

    events = read(broker, start)
    assert told(events, "job_id", "by") == [
        ("retried", "again", "uid:1000"),
        ("purged", "away", "uid:1000"),
        ("replaced", "first", "uid:1000"),
        ("enqueued", "second", "uid:1000"),
        ("setting_changed", None, "uid:1000"),
        ("key_added", None, "uid:1000"),
        ("key_revoked", None, "uid:1000"),
    ]
    assert (events[0]["state"], events[0]["copy"]) == ("pending", None)
    assert (events[4]["key"], events[4]["before"], events[4]["value"]) == ("max_retries", 3, 9)
    assert (events[5]["key_name"], events[5]["role"], events[6]["key_name"]) == ("ann", "read", "ann")


def test_what_people_do_to_jobs_that_wait_or_run_is_told(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="runs")
    grant = worker.grant()
    broker.enqueue(id="waits")
    start = now(broker)

    deeds: dict[str, dict[str, Any]] = {
        "hold": {"reason": "lunch"},
        "release": {},
        "edit": {"changes": {"priority": 7, "timeout": 9}},
        "cancel": {"reason": "no need"},
        "purge": {},
    }
    for op, args in deeds.items():
        broker.ask(op, select={"ids": ["waits"]}, **args)
    broker.ask("cancel", select={"ids": ["runs"]})
    worker.take(Cancel)
    worker.finish(grant, None, outcome=Outcome.CANCELLED.value, signal=15)
    [copy] = broker.ask("retry", select={"ids": ["runs"]}, delay=9)["copies"].values()

    events = read(broker, start)
    assert told(events, "job_id", "by") == [
        ("held", "waits", "uid:1000"),
        ("released", "waits", "uid:1000"),
        ("edited", "waits", "uid:1000"),
        ("cancelled", "waits", "uid:1000"),
        ("purged", "waits", "uid:1000"),
        ("cancel_asked", "runs", "uid:1000"),
        ("finished", "runs", None),
        ("cancelled", "runs", None),
        ("enqueued", copy, "uid:1000"),
        ("retried", "runs", "uid:1000"),
    ]
    assert [events[place].get("reason") for place in (0, 1, 3, 7)] == ["lunch", None, "no need", "cancelled"]
    assert (events[2]["changes"], events[5]["attempt"]) == ("priority, timeout", 1)
    assert (events[9]["state"], events[9]["copy"]) == ("cancelled", copy)


def test_job_that_was_kept_long_enough_is_purged_by_nobody(broker: BrokerHarness) -> None:
    broker.enqueue(id="job-1")
    broker.ask("cancel", select={"ids": ["job-1"]})
    start = now(broker)

    broker.after(8 * DAY_MS)
    for _ in range(3):
        broker.after(1000)

    assert told(read(broker, start), "job_id", "by") == [("purged", "job-1", None)]


def test_broker_tells_when_it_starts_and_stops(broker: BrokerHarness) -> None:
    broker.store.begin()
    broker.core.stop(broker.clock.now)
    broker.store.commit()
    broker.clock.advance(1)
    broker.start()

    started, stopped, again = read(broker, [0])
    assert told([started, stopped, again], "epoch") == [
        ("broker_started", 1),
        ("broker_stopped", 1),
        ("broker_started", 2),
    ]
    assert (again["at"], again["version"]) == ("2027-01-15T08:00:00.001Z", "0.0.0")


def test_where_nothing_can_be_written_workers_come_and_go_unheard(broker: BrokerHarness) -> None:
    worker = working(broker)
    start = now(broker)
    broker.core.storage_full = True

    broker.turn(gone=[worker.route])
    assert now(broker) == start
    worker.hello()
    broker.core.storage_full = False
    broker.enqueue(id="job-1")

    assert told(read(broker, start), "job_id") == [("enqueued", "job-1"), ("leased", "job-1")]
    worker.grant()


# --- reading ---------------------------------------------------------------------------------------


def test_feed_without_a_cursor_begins_now(broker: BrokerHarness) -> None:
    broker.enqueue(id="before")

    reply = broker.ask("events", wait_ms=1000)
    broker.enqueue(id="after")

    assert (reply["events"], reply["more"], reply["missed"]) == ([], False, False)
    assert told(read(broker, reply["cursor"]), "job_id") == [("enqueued", "after")]


def test_now_lies_between_what_happens_in_one_turn(broker: BrokerHarness) -> None:
    enqueue = [request("enqueue", jobs=[{"command": "x"}] * 3 + [{"command": "x", "id": name}]) for name in ("a", "b")]
    broker.turn(clients=[enqueue[0], request("events"), enqueue[1]])
    _, cursor, second = [reply["ok"] for reply in broker.replies()]

    assert [event["job_id"] for event in read(broker, cursor["cursor"])] == second["ids"]


def test_every_event_says_where_to_go_on_after_it(broker: BrokerHarness) -> None:
    start = now(broker)
    broker.enqueue("1", "2", "3")
    broker.enqueue("4", id="named")
    events = read(broker, start)

    assert len(events) == 4
    for place, event in enumerate(events, 1):
        assert read(broker, event["cursor"]) == events[place:]


def test_oldest_event_is_that_of_zero(broker: BrokerHarness) -> None:
    broker.enqueue()

    assert [event["type"] for event in read(broker, [0])] == ["broker_started", "enqueued"]
    assert broker.ask("events", cursor=[0])["missed"] is False


def test_slice_takes_no_more_than_may_be_looked_at(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    start = now(broker)
    for number in range(6):
        broker.enqueue(id=f"job-{number}")
    monkeypatch.setattr(feed, "ROWS_PER_SLICE", 2)

    reply = broker.ask("events", cursor=start, types=["dead"])
    assert (reply["events"], reply["more"], reply["cursor"]) == ([], True, [start[0] + 2, 0])
    monkeypatch.setattr(feed, "BYTES_PER_SLICE", 1)
    reply = broker.ask("events", cursor=start)
    assert (told(reply["events"], "job_id"), reply["more"]) == ([("enqueued", "job-0")], True)
    assert len(read(broker, start)) == 6


def test_only_events_of_the_types_that_are_wanted(broker: BrokerHarness) -> None:
    worker = working(broker)
    start = now(broker)
    broker.enqueue(id="job-1")
    worker.finish(worker.grant())

    assert [event["type"] for event in read(broker, start, types=["finished", "enqueued"])] == ["enqueued", "finished"]


def test_unknown_type_is_refused(broker: BrokerHarness) -> None:
    error = broker.refused("events", types=["finishd"])

    assert (error.code, error.message) == ("bad_request", "unknown type of event 'finishd'")
    assert error.hint == "did you mean 'finished'?"
    assert str(broker.refused("events", types=["?"]).hint).startswith("known: enqueued, leased, finished, ")


def test_cursor_of_another_broker_is_refused(broker: BrokerHarness) -> None:
    [number, _] = now(broker)

    assert broker.ask("events", cursor=[number])["events"] == []
    error = broker.refused("events", cursor=[number + 1])
    assert (error.code, error.message) == ("bad_request", "cursor: that many things have not happened here yet")


@pytest.mark.parametrize("cursor", [[], [1, 2, 3], [-1], [2**62 + 1]])
def test_cursor_of_another_shape_is_refused(broker: BrokerHarness, cursor: list[int]) -> None:
    assert broker.refused("events", cursor=cursor).code == "bad_request"


# --- waiting ---------------------------------------------------------------------------------------


def test_waiting_client_is_answered_by_the_turn_in_which_something_happens(broker: BrokerHarness) -> None:
    start = now(broker)
    hold(broker, start)
    broker.after(100)
    assert broker.replies() == []

    broker.turn(clients=[request("enqueue", jobs=[{"command": "x", "id": "job-1"}])])

    _, reply = broker.replies()
    assert told(reply["ok"]["events"], "job_id") == [("enqueued", "job-1")]
    assert read(broker, reply["ok"]["cursor"]) == []


def test_waiting_client_hears_of_what_happens_in_the_very_turn(broker: BrokerHarness) -> None:
    start = now(broker)

    broker.turn(clients=[request("events", cursor=start, wait_ms=1000), request("enqueue", jobs=[{"command": "x"}])])

    assert [len(reply["ok"].get("events", [])) for reply in broker.replies()] == [0, 1]


def test_events_of_a_job_are_its_own_whatever_its_name_was_before_and_the_clock_says(broker: BrokerHarness) -> None:
    alice, bob = broker.key("alice", SUBMIT), broker.key("bob", SUBMIT)
    broker.enqueue(id="nightly", user=alice)
    broker.ask("cancel", select={"ids": ["nightly"]}, reason="a secret", user=alice)
    broker.ask("purge", select={"ids": ["nightly"]})
    broker.clock.wall_ms -= 3_600_000
    broker.enqueue(id="nightly", user=bob)

    told_to_bob = read(broker, [0, 0], id="nightly", user=bob)

    assert [(event["type"], event["by"]) for event in told_to_bob] == [("enqueued", "bob")]


def test_events_of_a_job_that_came_in_the_turn_in_which_its_name_was_given_up(broker: BrokerHarness) -> None:
    broker.enqueue(id="job-1", hold=True)
    broker.ask("cancel", select={"ids": ["job-1"]})
    broker.turn(
        clients=[
            request("purge", select={"ids": ["job-1"]}),
            request("enqueue", jobs=[{"command": "x", "id": "job-1"}]),
        ]
    )
    broker.replies()

    assert told(read(broker, [0, 0], id="job-1")) == [("enqueued",)]
    assert told(read(broker, [0, 0], id="job-1", types=["purged"])) == []


def test_events_of_a_job_go_on_when_the_clock_was_set_back(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    cursor = now(broker)
    broker.clock.wall_ms -= 3_600_000
    worker.finish(worker.grant())

    assert told(read(broker, cursor, id="job-1")) == [("finished",)]


def test_many_who_wait_are_answered_some_in_each_turn_and_each_once(broker: BrokerHarness) -> None:
    start = now(broker)
    for number in range(2 * READS_PER_TURN + 3):
        hold(broker, start, request_id=f"waiter-{number:02}")

    broker.turn(clients=[request("enqueue", jobs=[{"command": "x"}])])
    _, *first = broker.replies()
    assert len(first) == READS_PER_TURN
    assert broker.core.wake_ms(broker.clock.now) == 0
    broker.turn()
    broker.turn()

    replies = first + broker.replies()
    assert [reply["id"] for reply in replies] == [f"waiter-{number:02}" for number in range(2 * READS_PER_TURN + 3)]
    assert all(told(reply["ok"]["events"]) == [("enqueued",)] for reply in replies)
    assert broker.core.wake_ms(broker.clock.now) != 0


def test_waiting_client_hears_of_nothing_else(broker: BrokerHarness) -> None:
    broker.enqueue(id="job-1", hold=True)
    broker.enqueue(id="job-2", max_retries=1)
    start = now(broker)
    hold(broker, start, id="job-1")
    hold(broker, start, types=["finished", "dead"])
    hold(broker, start, id="job-2", types=["dead"])

    worker = working(broker)
    assert broker.replies() == []
    worker.finish(worker.grant(), 1)

    first, second = [reply["ok"]["events"] for reply in broker.replies()]
    assert (told(first, "job_id"), told(second)) == ([("finished", "job-2"), ("dead", "job-2")], [("dead",)])
    broker.after(1000)
    assert broker.answer()["events"] == []


def test_event_of_the_type_of_another_job_is_no_answer(broker: BrokerHarness) -> None:
    broker.enqueue("x", "x", max_retries=1)
    start = now(broker)
    worker = working(broker)
    first = worker.grant()
    hold(broker, start, id=first.job, types=["dead"])

    assert worker.finish(first) == "recorded"
    worker.finish(worker.grant(), 1)

    assert broker.replies() == []
    broker.after(1000)
    reply = broker.answer()
    assert (reply["events"], reply["cursor"]) == ([], now(broker))


def test_wait_that_lasts_long_enough_ends_with_a_place_to_go_on(broker: BrokerHarness) -> None:
    start = now(broker)
    hold(broker, start, types=["dead"])
    broker.turn(clients=[request("enqueue", jobs=[{"command": "x"}])])
    assert len(broker.replies()) == 1

    broker.after(1000)

    reply = broker.answer()
    assert (reply["events"], reply["more"], reply["missed"]) == ([], False, False)
    assert reply["cursor"] == now(broker) != start


def test_failed_turn_answers_nobody(broker: BrokerHarness) -> None:
    start = now(broker)
    hold(broker, start)
    broker.fail_next = RuntimeError()
    with pytest.raises(RuntimeError):
        broker.enqueue("never")
    assert broker.replies() == []

    broker.turn(clients=[request("enqueue", jobs=[{"command": "x", "id": "job-1"}])])

    assert told(broker.replies()[1]["ok"]["events"], "job_id") == [("enqueued", "job-1")]


# --- one job ---------------------------------------------------------------------------------------


def test_timeline_is_whole_when_the_feed_has_forgotten(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1", max_retries=1)
    broker.clock.advance(1000)
    worker.finish(worker.grant(), 7, started_at_ms=1, duration_ms=500)
    broker.clock.advance(1000)
    broker.ask("dlq_retry", ids=["job-1"])
    worker.release(worker.grant(), reason="lost")
    grant = worker.grant()
    worker.release(grant, reason="stopped")
    broker.store._db.run("DELETE FROM event WHERE event < ?", (broker.core.next_event - 1,))

    reply = broker.ask("events", id="job-1")

    events = reply["events"]
    assert told(events, "attempt", "by") == [
        ("enqueued", None, "uid:1000"),
        ("leased", 1, None),
        ("finished", 1, None),
        ("dead", None, None),
        ("retried", None, "uid:1000"),
        ("leased", 2, None),
        ("lost", 2, None),
        ("leased", 3, None),
        ("requeued", 3, None),
    ]
    assert (events[1]["at"], events[2]["exit_code"], events[2]["duration_s"]) == (events[0]["at"], 7, 0.5)
    assert {event["cursor"] for event in events} == {None}
    assert {event["job_id"] for event in events} == {"job-1"}
    assert (reply["more"], reply["missed"], reply["cursor"]) == (False, False, now(broker))


def test_timeline_tells_of_the_last_attempt_when_the_next_comes(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1", max_retries=3, backoff=[2.0, 60.0])
    worker.finish(worker.grant(), 1)
    broker.after(2000)
    worker.finish(worker.grant(), 1)

    events = broker.ask("events", id="job-1")["events"]
    assert told(events, "state", "run_at")[2::2] == [
        ("finished", None, None),
        ("finished", "failed", broker.job("job-1")["run_at"]),
    ]


def test_timeline_has_the_attempt_that_runs(broker: BrokerHarness) -> None:
    worker = working(broker, slots=2)
    broker.enqueue(id="other")
    broker.enqueue(id="job-1")
    grants = worker.grants()

    events = broker.ask("events", id="job-1")["events"]

    assert told(events, "attempt") == [("enqueued", None), ("leased", 1)]
    assert len(grants) == 2


def test_timeline_ends_as_the_job_has(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="done")
    worker.finish(worker.grant())
    broker.enqueue(id="dead", max_retries=1)
    worker.finish(worker.grant(), 1)
    broker.enqueue(id="stopped")
    worker.finish(worker.grant(), None, outcome=Outcome.CANCELLED.value, signal=15)
    broker.enqueue(id="asked")
    grant = worker.grant()
    broker.ask("cancel", select={"ids": ["asked"]}, reason="no need")
    worker.take(Cancel)
    broker.clock.advance(1)
    worker.finish(grant, None, outcome=Outcome.CANCELLED.value, signal=15)
    worker.bye()
    broker.outbox.clear()
    broker.enqueue(id="ended")
    broker.ask("cancel", select={"ids": ["ended"]}, reason="no need")
    broker.enqueue(id="late", expires=1)
    broker.enqueue(id="replaced", unique="k")
    broker.enqueue(unique="k", on_conflict="replace")
    broker.after(2000)

    def end(job: str) -> tuple[Any, ...]:
        event = broker.ask("events", id=job)["events"][-1]
        return event["type"], event.get("reason"), event["by"]

    assert end("done") == ("finished", None, None)
    assert end("dead") == ("dead", "exit", None)
    assert end("stopped") == ("cancelled", "cancelled", None)
    assert end("asked") == ("cancelled", "no need", None)
    assert "cancel_asked" in [event["type"] for event in broker.ask("events", id="asked")["events"]]
    assert end("ended") == ("cancelled", "no need", "uid:1000")
    assert end("late") == ("expired", None, None)
    assert end("replaced") == ("replaced", None, "uid:1000")


def test_deed_tells_its_note(broker: BrokerHarness) -> None:
    broker.enqueue(id="job-1")
    broker.store.begin()
    jobs = [broker.core.store.jobs.known(["job-1"])["job-1"]]
    broker.store.history.note_deed(jobs, broker.clock.wall_ms, "held", 1, "lunch")
    broker.store.history.note_deed(jobs, broker.clock.wall_ms, "edited", 1, "priority 0 → 5")
    broker.store.commit()

    held_event, edited = broker.ask("events", id="job-1")["events"][1:]

    assert (edited["type"], edited["changes"]) == ("edited", "priority 0 → 5")
    assert (held_event["type"], held_event["reason"]) == ("held", "lunch")


def test_timeline_has_all_deeds_of_a_millisecond_in_their_order_with_who_did_them(broker: BrokerHarness) -> None:
    admin = broker.key("boss", "admin")
    broker.enqueue(id="job-1")
    named: dict[str, Any] = {"select": {"ids": ["job-1"]}}
    for user in (admin, USER):
        broker.ask("hold", user=user, reason=f"for {user}", **named)
        broker.ask("edit", user=user, changes={"priority": 1}, **named)
        broker.ask("edit", user=USER, changes={"timeout": 5.0}, **named)
        broker.ask("release", user=user, **named)
    broker.ask("cancel", **named)
    broker.ask("retry", user=admin, **named)

    events = broker.ask("events", id="job-1")["events"]

    each = [("held", None), ("edited", "priority"), ("edited", "timeout"), ("released", None)]
    assert told(events, "changes") == [("enqueued", None), *each, *each, ("cancelled", None), ("retried", None)]
    who = [*["boss"] * 2, USER, "boss", *[USER] * 4, USER, "boss"]
    assert [event["by"] for event in events][1:] == who
    assert [event["by"] for event in broker.ask("job", id="job-1")["events"]] == who


def test_timeline_has_the_runs_of_a_millisecond_in_their_order(broker: BrokerHarness) -> None:
    worker = working(broker)
    now_ms = broker.clock.wall_ms
    broker.enqueue(id="job-1", max_retries=1)
    for _ in range(2):
        worker.finish(worker.grant(), 1, started_at_ms=now_ms, duration_ms=0)
        broker.ask("dlq_retry", ids=["job-1"])
    broker.ask("cancel", select={"ids": ["job-1"]}, reason="first")
    broker.ask("cancel", select={"ids": ["job-1"]}, reason="second")
    broker.take_all(worker.route, Cancel)
    worker.finish(worker.grant(), None, outcome="cancelled", signal=15, started_at_ms=now_ms, duration_ms=0)
    broker.ask("retry", select={"ids": ["job-1"]})
    broker.outbox.clear()

    events = broker.ask("events", id="job-1")["events"]

    assert told(events, "attempt", "reason") == [
        ("enqueued", None, None),
        ("leased", 1, None),
        ("finished", 1, None),
        ("dead", None, "exit"),
        ("retried", None, None),
        ("leased", 2, None),
        ("finished", 2, None),
        ("dead", None, "exit"),
        ("retried", None, None),
        ("leased", 3, None),
        ("cancel_asked", None, "first"),
        ("cancel_asked", None, "second"),
        ("finished", 3, None),
        ("cancelled", None, "second"),
        ("retried", None, None),
    ]


def test_timeline_of_some_types(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1")
    worker.finish(worker.grant())

    assert told(broker.ask("events", id="job-1", types=["finished"])["events"]) == [("finished",)]


def test_timeline_goes_on_from_the_feed(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue("x", "x", "x", priority=1)
    first, second, third = (f"a{number}" for number in (1, 2, 3))
    reply = broker.ask("events", id=second)
    assert told(reply["events"], "job_id") == [("enqueued", second)]

    for _ in range(3):
        worker.finish(worker.grant())

    assert told(read(broker, reply["cursor"], id=second), "job_id") == [("leased", second), ("finished", second)]
    assert told(read(broker, [0], id=second), "job_id")[0] == ("enqueued", second)
    assert {event["job_id"] for event in read(broker, [0], id=third)} == {third}
    assert first in {event["job_id"] for event in read(broker, [0], types=["enqueued"])}


def test_timeline_ends_with_the_deletion_of_its_job(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1", max_retries=1)
    worker.finish(worker.grant(), 1)
    hold(broker, now(broker), id="job-1")

    purge = request("dlq_purge", ids=["job-1"])
    broker.turn(clients=[purge, request("enqueue", jobs=[{"command": "x", "id": "job-1"}])])

    reply = broker.replies()[-1]["ok"]
    assert told(reply["events"]) == [("purged",)]
    assert len(worker.grants()) == 1


def test_job_of_the_same_id_before_is_another_job(broker: BrokerHarness) -> None:
    worker = working(broker)
    broker.enqueue(id="job-1", max_retries=1)
    worker.finish(worker.grant(), 1)
    broker.ask("dlq_purge", all=True)
    broker.clock.advance(1)
    broker.enqueue(id="job-1", hold=True)

    assert told(read(broker, [0], id="job-1")) == [("enqueued",)]


def test_submit_key_sees_what_happens_to_its_own_jobs(broker: BrokerHarness) -> None:
    me = broker.key("me", SUBMIT)
    broker.enqueue(id="mine", user=me)
    broker.enqueue(id="other")

    error = broker.refused("events", user=me)
    assert (error.code, error.message) == (
        "not_allowed",
        "'me' (submit) may see what happens to its own jobs: name one",
    )
    assert broker.refused("events", user=me, cursor=[0]).code == "not_allowed"
    assert broker.refused("events", user=me, id="other").code == "unknown_job"
    assert told(broker.ask("events", user=me, id="mine")["events"], "by") == [("enqueued", "me")]
    assert told(broker.ask("events", user=me, id="mine", cursor=[0])["events"], "job_id") == [("enqueued", "mine")]


def test_unknown_job_is_refused(broker: BrokerHarness) -> None:
    assert broker.refused("events", id="nobody").code == "unknown_job"


# --- forgetting ------------------------------------------------------------------------------------


def test_feed_reaches_back_as_far_as_is_set_and_its_newest_row_stays(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="keep_events", value="1d")
    broker.clock.advance(DAY_MS // 2)
    start = now(broker)
    broker.enqueue(id="job-1")
    assert rows(broker) == 3

    broker.after(DAY_MS // 2 + TIDY_EVERY_MS)
    assert rows(broker) == 1
    broker.after(10 * DAY_MS)
    assert rows(broker) == 1

    reply = broker.ask("events", cursor=start)
    assert (told(reply["events"], "job_id"), reply["missed"]) == ([("enqueued", "job-1")], False)
    reply = broker.ask("events", cursor=[1])
    assert (told(reply["events"], "job_id"), reply["missed"]) == ([("enqueued", "job-1")], True)
    assert broker.ask("events", cursor=[0])["missed"] is False


def test_gap_in_the_middle_is_told(broker: BrokerHarness) -> None:
    for name in ("x", "y", "z"):
        broker.enqueue(id=name)
    broker.store._db.run("DELETE FROM event WHERE event = 3")

    reply = broker.ask("events", cursor=[2])
    assert (told(reply["events"], "job_id"), reply["missed"]) == ([("enqueued", "x"), ("enqueued", "z")], True)
    assert broker.ask("events", cursor=[3, 1], wait_ms=1000)["missed"] is True
    assert broker.ask("events", cursor=[3, 1], wait_ms=1000, types=["dead"])["missed"] is True


def test_many_are_forgotten_in_steps(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FORGOTTEN_PER_TURN", 500)
    broker.store.begin()
    for number in range(2, 1203):
        broker.store.events.append(number, broker.clock.wall_ms, b"\x90")
    broker.store.commit()
    broker.core.rebuild(broker.clock.now)

    broker.after(31 * DAY_MS)
    assert rows(broker) == 702
    broker.after(100)
    assert rows(broker) == 202
    broker.after(100)
    assert rows(broker) == 1
    assert broker.core.wake_ms(broker.clock.now) is None


def test_clock_that_jumps_ahead_makes_nothing_older(broker: BrokerHarness) -> None:
    broker.enqueue()
    before = rows(broker)

    broker.clock.wall_ms += 100 * DAY_MS
    broker.after(TIDY_EVERY_MS)

    assert rows(broker) == before
