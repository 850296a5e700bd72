"""`Client.events` against a scripted broker, and against one that is killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import pytest

from queuectl import Client, feed, patience
from queuectl.errors import BadRequest, BrokerUnreachable, KeyNotAccepted, ShuttingDown, UnknownJob
from queuectl.feed import MISSED, Event, Feed
from tests.harness_client import ScriptedBroker, job_view, scripted_broker
from tests.harness_feed import ScriptedFeed, event_view

FINISHED = event_view("finished", job_id="a1", attempt=1, worker="w", outcome="exit", exit_code=3, state="failed")
DEAD = event_view("dead", job_id="a1", reason="exit")
ENQUEUED = event_view("enqueued", job_id="a1", by="ann", queue="default")


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


@pytest.fixture
def client(broker: ScriptedBroker) -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.01,))


def types(events: Iterator[Event] | list[Event]) -> list[str]:
    return [event.type for event in events]


def test_all_that_is_kept_comes_in_slices(
    broker: ScriptedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "EVENTS_PER_REPLY", 2)
    script = ScriptedFeed(*[event_view("enqueued", job_id=f"a{number}") for number in range(1, 6)])
    broker.on("events", script)

    events = list(client.events())

    assert [event.job_id for event in events] == ["a1", "a2", "a3", "a4", "a5"]
    assert [args["cursor"] for args in script.asked] == [[0], [3, 0], [5, 0]]
    assert list(client.events(since=events[3].cursor)) == events[4:]


def test_event_has_what_all_have_and_what_its_type_adds(broker: ScriptedBroker, client: Client) -> None:
    broker.on("events", ScriptedFeed(FINISHED))

    [event] = client.events(since="0")

    assert event == Event(
        "finished",
        at="2026-11-22T10:00:00.000Z",
        job_id="a1",
        attempt=1,
        worker="w",
        cursor="1.1",
        more={"outcome": "exit", "exit_code": 3, "state": "failed"},
    )
    assert event.as_dict() == {**FINISHED, "cursor": "1.1"}


def test_types_are_chosen_by_the_broker(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED, FINISHED, DEAD)
    broker.on("events", script)

    assert types(client.events(types=["dead", "enqueued"])) == ["enqueued", "dead"]
    assert script.asked[0]["types"] == ["dead", "enqueued"]


def test_what_was_forgotten_leaves_a_mark(broker: ScriptedBroker, client: Client) -> None:
    broker.on("events", ScriptedFeed(ENQUEUED, FINISHED, DEAD, oldest=3))

    assert types(client.events(since="1.1")) == [MISSED, "dead"]
    assert types(client.events()) == ["dead"]


def test_history_of_a_job_is_all_that_happened_to_it(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED, history=(ENQUEUED, FINISHED))
    broker.on("events", script)

    assert types(client.events("a1")) == ["enqueued", "finished"]
    assert script.asked == [{"id": "a1"}]
    assert types(client.events("a1", types=["finished"])) == ["finished"]


def stands(broker: ScriptedBroker, *states: str) -> None:
    """In which state the job is, each time that somebody asks."""
    left = chain(states, repeat(states[-1]))
    broker.on("job", lambda _: {"job": job_view(id="a1", state=next(left)), "history": []})


def test_end_that_was_undone_is_none(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED, history=(ENQUEUED,))
    again, done = event_view("retried", job_id="a1", state="pending"), FINISHED | {"state": "completed"}
    script.later = [[DEAD], [again], [done]]
    broker.on("events", script)
    stands(broker, "pending", "pending", "completed")

    assert types(client.events("a1", follow=True)) == ["enqueued", "dead", "retried", "finished"]


def test_job_is_followed_until_it_is_over(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED, history=(ENQUEUED,))
    script.later = [[], [FINISHED], [event_view("leased", job_id="a1")], [DEAD]]
    broker.on("events", script)
    stands(broker, "pending", "dead")

    assert types(client.events("a1", follow=True, types=["enqueued", "finished"])) == ["enqueued", "finished"]
    assert script.later == []
    assert {args["wait_ms"] for args in script.asked[1:-1]} == {10_000}


@pytest.mark.parametrize("state", ["completed", "dead", "cancelled"])
def test_job_that_is_over_is_not_waited_for(broker: ScriptedBroker, client: Client, state: str) -> None:
    broker.on("events", ScriptedFeed(ENQUEUED, history=(ENQUEUED, DEAD)))
    broker.on("job", {"job": job_view(id="a1", state=state), "history": []})

    assert types(client.events("a1", follow=True)) == ["enqueued", "dead"]


@pytest.mark.parametrize(
    ("event", "is_over"),
    [
        (ENQUEUED, False),
        (FINISHED, False),
        (FINISHED | {"state": "completed"}, True),
        (event_view("requeued", job_id="a1", state="pending"), False),
        (event_view("lost", job_id="a1", state="dead"), True),
        (DEAD, True),
        (event_view("purged", job_id="a1"), True),
        (event_view("expired", job_id="a1"), True),
        (event_view("replaced", job_id="a1"), True),
        (event_view("cancel_asked", job_id="a1"), False),
        (event_view("retried", job_id="a1", state="pending"), False),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else str(value),
)
def test_end_of_a_job_is_known(broker: ScriptedBroker, client: Client, event: dict[str, object], is_over: bool) -> None:
    broker.on("events", ScriptedFeed(event))

    assert [each.ends_job for each in client.events()] == [is_over]


def test_follower_outlives_the_absence_of_its_broker(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED)
    script.trouble = [ShuttingDown(), BrokerUnreachable(), ShuttingDown()]
    script.later = [[FINISHED], [DEAD]]
    broker.on("events", script)
    told: list[str] = []
    follower = Feed(client, on_away=lambda error: told.append(error.code))
    follower.begin()

    assert types(list(islice(follower.follow(), 2))) == ["finished", "dead"]
    assert told == ["shutting_down"]
    assert follower.cursor == "4.0"


def test_follower_begins_now(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED)
    script.later = [[FINISHED]]
    broker.on("events", script)

    assert types(list(islice(client.events(follow=True), 1))) == ["finished"]


def test_follower_that_may_not_come_in_any_more_ends(broker: ScriptedBroker, client: Client) -> None:
    script = ScriptedFeed(ENQUEUED)
    script.trouble = [KeyNotAccepted()]
    broker.on("events", script)

    with pytest.raises(KeyNotAccepted):
        list(client.events(follow=True))


def test_job_that_is_not_there_is_refused(broker: ScriptedBroker, client: Client) -> None:
    broker.on("events", UnknownJob("there is no job 'x'"))

    with pytest.raises(UnknownJob):
        list(client.events("x"))


@pytest.mark.parametrize("count", [0, 1, 3, 5, 40, 100])
def test_last_events_are_found_however_far_back_they_are(broker: ScriptedBroker, client: Client, count: int) -> None:
    script = ScriptedFeed(*[event_view("dead" if row % 4 == 0 else "leased", job_id=f"a{row}") for row in range(60)])
    broker.on("events", script)

    found = [event.job_id for event in Feed(client).last(count)]
    rare = [event.job_id for event in Feed(client, types=["dead"]).last(count)]

    assert found == [f"a{row}" for row in range(60)][60 - min(count, 60) :]
    assert rare == [f"a{row}" for row in range(0, 60, 4)][15 - min(count, 15) :]


def test_last_events_of_a_job_are_those_of_its_history(broker: ScriptedBroker, client: Client) -> None:
    broker.on("events", ScriptedFeed(history=(ENQUEUED, FINISHED, DEAD)))

    assert types(Feed(client, job_id="a1").last(2)) == ["finished", "dead"]
    assert types(Feed(client, job_id="a1").last(9)) == ["enqueued", "finished", "dead"]


def test_place_is_none_before_anything_was_asked(client: Client) -> None:
    assert Feed(client).cursor is None


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "-1", "1.", "²", "9" * 19])
def test_text_that_is_no_cursor_is_refused(client: Client, text: str) -> None:
    with pytest.raises(BadRequest, match="is not a cursor"):
        list(client.events(since=text))
