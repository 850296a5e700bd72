"""`queuectl events` against a scripted broker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl import feed, patience
from queuectl.errors import BadRequest, ShuttingDown, UnknownJob
from queuectl.feed import Event
from tests.harness_client import ScriptedBroker, job_view, run_cli, scripted_broker
from tests.harness_feed import ScriptedFeed, event_view

WORK = [
    event_view("broker_started", epoch=1, version="0.6.0"),
    event_view("worker_joined", worker="host-1", by="uid:0", slots=2),
    event_view("enqueued", job_id="a1", by="ann", queue="mail"),
    event_view("leased", job_id="a1", attempt=1, worker="host-1"),
    event_view(
        "finished",
        job_id="a1",
        attempt=1,
        worker="host-1",
        outcome="exit",
        exit_code=3,
        signal=None,
        duration_s=0.25,
        state="failed",
        run_at="2026-11-22T10:00:02.000Z",
    ),
    event_view("finished", job_id="a1", attempt=2, worker="host-1", outcome="signal", signal=9, state="dead"),
    event_view(
        "finished", job_id="a2", attempt=1, worker="host-1", outcome="completed", exit_code=0, state="completed"
    ),
    event_view("dead", job_id="a1", reason="signal"),
    event_view("retried", job_id="a1", by="bob", state="completed", copy="a7"),
    event_view("setting_changed", by="bob", key="lease", value=60, before=30),
    event_view("something_new", job_id="a1", colour="red"),
]
LINES = """\
broker_started   epoch 1, version 0.6.0
worker_joined    host-1, slots 2, by uid:0
enqueued         a1  queue mail, by ann
leased           a1  attempt 1 on host-1
finished         a1  attempt 1 on host-1, exit 3 after 0.25s, now failed, again at 2026-11-22T12:30:02+02:30
finished         a1  attempt 2 on host-1, signal 9, now dead
finished         a2  attempt 1 on host-1, completed
dead             a1  signal
retried          a1  as a7, by bob
setting_changed  lease, is 60, was 30, by bob
something_new    a1  colour red
"""


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown by the clock of the machine: two hours and a half before UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "XXX-02:30")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def broker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    monkeypatch.setattr(patience, "PAUSES_S", (0.01,))
    with scripted_broker(home) as broker:
        yield broker


def on(broker: ScriptedBroker, *events: dict[str, Any], **how: Any) -> ScriptedFeed:
    script = ScriptedFeed(*events, **how)
    broker.on("events", script)
    return script


def test_every_event_is_a_line(broker: ScriptedBroker) -> None:
    on(broker, *WORK)

    ran = run_cli("events")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "".join(f"2026-11-22T12:30:00+02:30  {line}\n" for line in LINES.splitlines())


def test_last_fifty_are_shown(broker: ScriptedBroker) -> None:
    on(broker, *[event_view("enqueued", job_id=f"j{number}") for number in range(60)])

    assert run_cli("events", "-q").out.splitlines() == [f"j{number}" for number in range(10, 60)]
    assert run_cli("events", "-q", "-n", "2").out.splitlines() == ["j58", "j59"]
    assert len(run_cli("events", "-q", "--since", "0").out.splitlines()) == 60


def test_json_is_an_object_a_line(broker: ScriptedBroker) -> None:
    on(broker, *WORK)

    lines = run_cli("events", "--json").out.splitlines()

    assert [json.loads(line) for line in lines] == [event | {"cursor": f"{row}.1"} for row, event in enumerate(WORK, 1)]
    assert json.loads(run_cli("events", "--json", "--since", "10.1").out)["type"] == "something_new"


def test_quiet_prints_ids_of_jobs(broker: ScriptedBroker) -> None:
    on(broker, *WORK[:4])

    assert run_cli("events", "-q").out == "a1\na1\n"


def test_only_some_types(broker: ScriptedBroker) -> None:
    on(broker, *WORK)

    ran = run_cli("events", "--type", "dead", "--type", "leased")

    assert [line.split()[1] for line in ran.out.splitlines()] == ["leased", "dead"]


def test_history_of_a_job(broker: ScriptedBroker) -> None:
    script = on(broker, *WORK, history=tuple(WORK[2:5]))

    assert len(run_cli("events", "a1").out.splitlines()) == 3
    assert script.asked == [{"id": "a1"}]
    assert [line.split()[1] for line in run_cli("events", "a1", "-n", "1").out.splitlines()] == ["finished"]


def test_job_is_followed_until_it_is_over(broker: ScriptedBroker) -> None:
    script = on(broker, WORK[2], history=(WORK[2],))
    script.later = [[WORK[3]], [WORK[7]]]
    states = iter(["pending", "dead", "dead"])
    broker.on("job", lambda _: {"job": job_view(id="a1", state=next(states)), "history": []})

    ran = run_cli("events", "a1", "-f", "-q", "--json")

    assert ran.code == 0
    assert [json.loads(line)["type"] for line in ran.out.splitlines()] == ["enqueued", "leased", "dead"]


@pytest.mark.parametrize(
    ("args", "before"), [([], []), (["-n", "1"], ["a2"]), (["--since", "2.1"], ["a1", "a2"])], ids=str
)
def test_follower_begins_now_or_where_it_is_told(broker: ScriptedBroker, args: list[str], before: list[str]) -> None:
    script = on(broker, WORK[0], WORK[1], WORK[2], WORK[3] | {"job_id": "a2"})
    script.later = [[WORK[7] | {"job_id": "a3"}]]
    script.trouble_after = BadRequest("enough")

    ran = run_cli("events", "-f", "-q", *args)

    assert (ran.code, ran.out.split()) == (2, [*before, "a3"])


def test_interrupted_follower_ends_without_a_word(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    on(broker)

    def interrupt(_: object) -> Iterator[Event]:
        raise KeyboardInterrupt

    monkeypatch.setattr(feed.Feed, "follow", interrupt)
    monkeypatch.setattr(feed.Feed, "rest", interrupt)

    ran = run_cli("events", "-f", "--json")
    assert (ran.code, ran.out, ran.err) == (130, "", "")
    assert run_cli("events", "--since", "0").err == "error: interrupted\n"


def test_it_says_that_it_waits_for_the_broker(broker: ScriptedBroker) -> None:
    script = on(broker, WORK[2], history=(WORK[2],))
    script.trouble = [ShuttingDown("stopping"), ShuttingDown("stopping")]
    script.later = [[WORK[7]]]
    states = iter(["pending", "dead", "dead"])
    broker.on("job", lambda _: {"job": job_view(id="a1", state=next(states)), "history": []})

    ran = run_cli("events", "a1", "-f")

    assert ran.code == 0
    assert ran.err == "queuectl: waiting for the broker: stopping\n"
    assert len(ran.out.splitlines()) == 2


def test_gap_is_told(broker: ScriptedBroker) -> None:
    on(broker, *WORK[:4], oldest=3)

    ran = run_cli("events", "--since", "1.1")
    assert len(ran.out.splitlines()) == 2
    assert ran.err == "Some events were forgotten before they were read (setting keep_events).\n"
    assert json.loads(run_cli("events", "--since", "1.1", "--json").out.splitlines()[0])["type"] == "missed"
    assert run_cli("events", "--since", "1.1", "-q").out == "a1\na1\n"


def test_what_comes_from_a_job_is_escaped(broker: ScriptedBroker) -> None:
    on(
        broker,
        event_view(
            "\x1b[2J",
            job_id="\x1b",
            attempt=1,
            worker="\x1b",
            by="\x1b",
            outcome="\x1b",
            reason="\x1b",
            **{"\x1b": "\x1b"},
        ),
    )

    ran = run_cli("events", tty=True)

    assert "\x1b" not in ran.out
    assert ran.out.count("\\x1b") == 8


def test_state_is_coloured_on_a_terminal(broker: ScriptedBroker) -> None:
    on(broker, WORK[5])

    assert "now \x1b[31mdead\x1b[0m" in run_cli("events", tty=True).out


def test_unknown_job_ends_with_three(broker: ScriptedBroker) -> None:
    broker.on("events", UnknownJob("there is no job 'x'"))

    assert (run_cli("events", "x").code, run_cli("events", "x", "-f").code) == (3, 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--since", "0", "-n", "3"], "--since and -n exclude each other"),
        (["--since", "x"], "'x' is not a cursor"),
        (["-n", "-1"], "-1 is not in the range"),
    ],
)
def test_usage_is_refused(broker: ScriptedBroker, args: list[str], words: str) -> None:
    ran = run_cli("events", *args)

    assert ran.code == 2
    assert words in ran.err
