"""`run`, `logs -f` and `wait` against a scripted broker: what they ask, say, and exit with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.render import local
from queuectl import Client, following
from queuectl.errors import BadJob, BadRequest, UnknownJob
from tests.harness_client import ScriptedBroker, job_view, run_cli, scripted_broker


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        broker.on("enqueue", {"ids": ["a1"], "errors": []})
        broker.on("job", {"job": job_view(id="a1", state="processing"), "history": []})
        yield broker


def reply(*segments: list[Any], over: bool = True, **changes: Any) -> dict[str, Any]:
    """A reply to `output`, of a first attempt that has ended and its job with it unless said."""
    told: dict[str, Any] = {"id": "a1", "attempt": 1, "segments": list(segments), "totals": None, "next": None}
    told |= {"cursor": [9, 9], "finished": over, "state": "completed" if over else "pending", "latest": 1}
    return told | {"over": over, "outcome": "completed", "exit_code": 0, "signal": None} | changes


def one_after_the_other(*replies: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    left = list(replies)
    return lambda _: left.pop(0)


def ended(broker: ScriptedBroker, **changes: Any) -> None:
    """How `wait` says that the job has ended."""
    job = {"id": "a1", "state": "completed", "exit_code": 0, "signal": None, "reason": None} | changes
    broker.on("wait", {"done": True, "jobs_left": 0, "jobs": [job]})


SINCE = "2026-11-22T10:00:00.000Z"
WAITING = reply(over=False, attempt=0, latest=0)


def test_waiting_command_is_told_why_once_for_each_reason(broker: ScriptedBroker) -> None:
    broker.on("output", one_after_the_other(*[WAITING] * 6, reply([1, 0, b"hi\n"])))
    no_worker = {"reasons": [{"code": "no_worker", "text": "no worker is connected"}]}
    held = {"reasons": [{"code": "held", "text": f"held since {SINCE}", "at": SINCE}]}
    behind = {"reasons": [{"code": "behind", "text": "2 jobs of its queue come before it"}]}
    nearer = {"reasons": [{"code": "behind", "text": "1 job of its queue comes before it"}]}
    broker.on("why", one_after_the_other(no_worker, held, behind, nearer, no_worker))
    ended(broker)

    ran = run_cli("run", "--", "echo hi")

    assert (ran.code, ran.out) == (0, "hi\n")
    assert re.sub(r" \(.* ago\)", "", ran.err).splitlines() == [
        "queuectl: a1 waits: no worker is connected",
        f"queuectl: a1 waits: held since {local(SINCE)}",
        "queuectl: a1 waits: 2 jobs of its queue come before it",
    ]
    waits = [asked.args.get("wait_ms") for asked in broker.asked if asked.op == "output"]
    assert waits == [None, following.FIRST_WAIT_S * 1000, *[following.WAIT_S * 1000] * 5]


@pytest.mark.parametrize("line", [["run", "--", "echo hi"], ["logs", "-f", "a1"]])
def test_broker_that_cannot_say_why_is_not_an_error(broker: ScriptedBroker, line: list[str]) -> None:
    broker.on("output", one_after_the_other(WAITING, WAITING, reply([1, 0, b"hi\n"])))
    broker.on("why", BadRequest("there is no operation 'why'"))
    ended(broker)

    ran = run_cli(*line)

    assert (ran.code, ran.out) == (0, "hi\n")
    assert "why" not in ran.err


def test_job_whose_worker_was_lost_is_told_why_it_waits(broker: ScriptedBroker) -> None:
    lost = reply(over=False, outcome="lost")
    broker.on("output", one_after_the_other(reply([1, 0, b"hi\n"], over=False), lost, lost, reply()))
    broker.on("why", {"reasons": [{"code": "no_worker", "text": "no worker is connected"}]})
    ended(broker)

    ran = run_cli("run", "--", "echo hi")

    assert (ran.out, ran.err) == ("hi\n", "queuectl: a1 waits: no worker is connected\n")


@pytest.mark.parametrize("code", ["backoff", "running", "queued_at_worker"])
def test_what_is_no_news_is_not_told(broker: ScriptedBroker, code: str) -> None:
    second = {"attempt": 2, "latest": 1}
    first = reply(over=False, finished=True, outcome="exit", exit_code=1, state="failed")
    broker.on("output", one_after_the_other(first, *[reply(over=False, **second)] * 2, reply(attempt=2, latest=2)))
    broker.on("job", {"job": job_view(id="a1", state="failed", reason=None), "history": []})
    broker.on("why", {"reasons": [{"code": code, "text": "as was to be expected"}]})
    ended(broker)

    ran = run_cli("run", "--", "echo hi")

    assert ran.err == "queuectl: attempt 1 of a1: exit 1; the next one follows\n"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ({"state": "completed"}, 0, ""),
        ({"state": "dead", "exit_code": 7, "reason": "exit"}, 7, ""),
        ({"state": "dead", "exit_code": None, "signal": 9, "reason": "signal"}, 137, "is dead: signal 9"),
        ({"state": "dead", "exit_code": None, "signal": 9, "reason": "lost"}, 125, "is dead (its worker was lost)"),
        ({"state": "dead", "exit_code": None, "reason": "deadline"}, 125, "is dead (its deadline came)"),
        ({"state": "cancelled", "exit_code": None, "reason": "expired"}, 125, "is cancelled (it expired"),
        ({"state": "cancelled", "exit_code": None, "reason": "cancelled"}, 125, "is cancelled: it has no exit code"),
        ({"state": "cancelled", "exit_code": None, "signal": 15, "reason": "cancelled"}, 143, "a1 is cancelled"),
    ],
)
def test_exit_code_is_that_of_the_job(broker: ScriptedBroker, end: dict[str, Any], code: int, words: str) -> None:
    broker.on("output", reply([1, 0, b"hi\n"]))
    ended(broker, **end)

    ran, waited = run_cli("run", "--", "echo hi"), run_cli("wait", "a1")

    assert (ran.code, ran.out) == (code, "hi\n")
    assert waited.code == code
    assert words in ran.err
    assert words in waited.err
    assert bool(ran.err) is bool(words)


def test_json_is_one_value_with_the_output_of_the_last_attempt(broker: ScriptedBroker) -> None:
    first = reply([1, 0, b"one\n"], over=False, finished=True, outcome="exit", exit_code=1, state="failed")
    last = reply([1, 0, b"two\n"], [2, 0, b"err\xff\n"], attempt=2, latest=2)
    broker.on("output", one_after_the_other(first, last, last))
    broker.on("job", {"job": job_view(id="a1", state="failed", reason=None), "history": []})
    ended(broker)

    ran = run_cli("run", "--json", "--", "echo hi")

    assert ran.json == {
        "id": "a1",
        "state": "completed",
        "exit_code": 0,
        "signal": None,
        "reason": None,
        "attempt": 2,
        "stdout": "two\n",
        "stderr": "err\\xff\n",
    }


def test_json_of_a_job_that_never_began(broker: ScriptedBroker) -> None:
    broker.on("output", reply(outcome=None, attempt=0, latest=0, state="cancelled"))
    ended(broker, state="cancelled", exit_code=None, reason="expired")

    ran = run_cli("run", "--json", "--", "echo hi")

    assert (ran.code, ran.json["state"]) == (125, "cancelled")
    assert (ran.json["attempt"], ran.json["stdout"], ran.json["stderr"]) == (None, "", "")


def test_bytes_that_are_not_kept_are_told_with_their_number(broker: ScriptedBroker) -> None:
    broker.on("output", reply([1, 0, b"start\n"], [1, 1006, b"end\n"], totals={"1": 1010, "2": 5}))
    ended(broker)

    ran = run_cli("run", "--", "echo hi")

    assert ran.out == "start\nend\n"
    assert "1000" in ran.err.replace(",", "")
    assert "5 bytes" in ran.err


def test_output_is_escaped_on_a_terminal_alone(broker: ScriptedBroker) -> None:
    broker.on("output", reply([1, 0, b"\x1b[31mred\n"]))
    ended(broker)

    assert run_cli("run", "--", "x").out == "\x1b[31mred\n"
    assert "\x1b[31m" not in run_cli("run", "--", "x", tty=True).out


def test_job_that_is_refused_is_not_followed(broker: ScriptedBroker) -> None:
    broker.on("enqueue", {"ids": [None], "errors": [{"index": 0, **BadJob("queue: is too long").to_wire()}]})

    ran = run_cli("run", "--", "echo hi")

    assert (ran.code, ran.err) == (2, "error: queue: is too long\n")
    assert broker.ops() == ["enqueue"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["run"], "there is no command"),
        (["run", "--tag", "=x", "--", "true"], "tag"),
        (["run", "--on-interrupt", "perhaps", "--", "true"], "'perhaps' is not one of"),
        (["run", "--on-interrupt", "ask", "--", "true"], "needs a terminal"),
        (["logs", "a1", "--attempt", "0"], "'0' is not the number of an attempt"),
        (["logs", "a1", "--attempt", "all", "-n", "3"], "-n is about one attempt"),
        (["logs", "a1", "--stdout", "--stderr"], "exclude each other"),
        (["wait"], "which jobs?"),
        (["wait", "a1", "--queue", "mail"], "exclude each other"),
        (["wait", "--queue", ""], "--queue is empty"),
        (["cancel", "--tag", "", "--state", "pending"], "--tag is empty"),
        (["wait", "--where", "colour=red"], "colour"),
        (["wait", "a1", "--timeout", "soon"], "soon"),
    ],
)
def test_usage_is_refused_before_a_broker_is_asked(broker: ScriptedBroker, line: list[str], message: str) -> None:
    ran, as_json = run_cli(*line), run_cli(line[0], "--json", *line[1:])

    assert (ran.code, as_json.code) == (2, 2)
    assert message in ran.err
    assert message in as_json.json["error"]["message"]
    assert broker.asked == []


@pytest.mark.parametrize("line", [["wait", "nobody"], ["logs", "nobody"], ["logs", "-f", "nobody"]])
def test_unknown_job_ends_with_three(broker: ScriptedBroker, line: list[str]) -> None:
    for op in ("wait", "output"):
        broker.on(op, UnknownJob("there is no job 'nobody'", hint="see: queuectl list"))

    ran = run_cli(*line)

    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "error: there is no job 'nobody'\nhint: see: queuectl list\n"


@pytest.mark.parametrize(
    ("choice", "verb"), [("cancel", "cancelling a1"), ("detach", "a1 goes on"), (None, "a1 goes on")]
)
def test_interrupt_does_what_was_said(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, choice: str | None, verb: str
) -> None:
    interrupt_readers(monkeypatch)
    broker.on("cancel", {"ids": [], "stopping": ["a1"], "skipped": [], "next": None})
    broker.on("output", reply())
    ended(broker, state="cancelled")

    ran = run_cli("run", *(["--on-interrupt", choice] if choice else []), "--", "sleep 9")

    assert ran.code == 130
    assert verb in ran.err
    assert ("cancel" in broker.ops()) is (choice == "cancel")


@pytest.mark.parametrize(
    ("answer", "cancels"), [("c", True), ("cancel", True), ("l", False), ("", False), ("x\nl", False), ("x\nc", True)]
)
def test_interrupt_asks_on_a_terminal(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, answer: str, cancels: bool
) -> None:
    interrupt_readers(monkeypatch)
    broker.on("cancel", {"ids": ["a1"], "stopping": [], "skipped": [], "next": None})
    broker.on("output", reply())
    ended(broker, state="cancelled")

    ran = run_cli("run", "--", "sleep 9", stdin=f"{answer}\n", tty=True)

    assert ran.code == 130
    assert "Cancel job a1, or leave it running?" in ran.err
    assert ("cancel" in broker.ops()) is cancels


@pytest.mark.parametrize("choice", ["cancel", "detach"])
def test_interrupt_of_what_was_over_by_then_tells_how_it_ended(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    interrupt_readers(monkeypatch)
    broker.on("output", reply([1, 0, b"hi\n"]))
    ended(broker, state="dead", exit_code=7, reason="exit")
    broker.on("job", {"job": job_view(id="a1", state="dead"), "history": []})

    ran = run_cli("run", "--on-interrupt", choice, "--", "sleep 9")

    assert (ran.code, ran.out) == (7, "hi\n")
    assert "a1 was over by then" in ran.err
    assert "cancel" not in broker.ops()


def test_second_interrupt_leaves_and_says_so(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_readers(monkeypatch, times=2)
    broker.on("cancel", {"ids": [], "stopping": ["a1"], "skipped": [], "next": None})
    broker.on("job", {"job": job_view(id="a1", state="processing"), "history": []})

    ran = run_cli("run", "--on-interrupt", "cancel", "--", "sleep 9")

    assert ran.code == 130
    assert "left before a1 was over; see: queuectl show a1" in ran.err


@pytest.mark.parametrize(("choice", "state"), [("cancel", "cancelled"), ("detach", "processing")])
def test_interrupt_leaves_one_value_of_json(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, choice: str, state: str
) -> None:
    interrupt_readers(monkeypatch)
    broker.on("cancel", {"ids": [], "stopping": ["a1"], "skipped": [], "next": None})
    broker.on("output", reply([1, 0, b"hi\n"]))
    ended(broker, state="cancelled")

    ran = run_cli("run", "--json", "--on-interrupt", choice, "--", "sleep 9")

    assert (ran.code, ran.json["id"], ran.json["state"]) == (130, "a1", state)
    assert ran.json.get("stdout") == ("hi\n" if choice == "cancel" else None)


def test_reader_goes_on_where_it_was_interrupted(broker: ScriptedBroker) -> None:
    broker.on("output", reply([1, 0, b"one"], [1, 3, b"two"], [2, 5, b"!"]))
    with Client(broker.endpoint) as client:
        reader = following.Reader(client, "a1", follow=True, attempt=following.ALL)
        first = next(iter(reader))
        rest = list(reader)

    assert isinstance(first, following.Chunk)
    assert [(each.data, each.gap_bytes) for each in rest if isinstance(each, following.Chunk)] == [
        (b"two", 0),
        (b"", 5),
        (b"!", 0),
    ]


def interrupt_readers(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Whoever reads output is interrupted by Ctrl-C at once, so many times."""
    interruptions = iter(range(times))
    goes_on = following.Reader.__iter__

    def interrupt(reader: following.Reader) -> Iterator[object]:
        if next(interruptions, None) is not None:
            raise KeyboardInterrupt
        return goes_on(reader)

    monkeypatch.setattr(following.Reader, "__iter__", interrupt)


def test_wait_on_a_selection_asks_for_those_that_are_not_over(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view(id="a1"), job_view(id="a2")], "next": None})
    jobs = [{"id": each, "state": "completed", "exit_code": 0, "signal": None, "reason": None} for each in ("a1", "a2")]
    broker.on("wait", {"done": True, "jobs_left": 0, "jobs": jobs})

    ran = run_cli("wait", "--queue", "mail", "--tag", "night")

    assert ran.code == 0
    assert broker.only("list").args["select"] == {"state": "unfinished", "queue": "mail", "tags": ["night"]}
    assert broker.only("wait").args["jobs"] == ["a1", "a2"]
    assert [line.split()[:2] for line in ran.out.splitlines()[1:]] == [["a1", "completed"], ["a2", "completed"]]


def test_letter_that_comes_in_two_pieces_is_one(broker: ScriptedBroker) -> None:
    data = "1 € 😀".encode()
    places = [(0, 3), (3, 7), (7, 9), (9, len(data))]
    pieces = [[1, start, data[start:end]] for start, end in places]
    broker.on("output", reply(*pieces, [1, 20, b"\xe2"], [2, 0, b"\xff \xe2"], totals={"1": 21, "2": 3}))
    ended(broker)

    told = [json.loads(line) for line in run_cli("logs", "a1", "--json").out.splitlines()]
    shown = [(each["stream"], each["offset"], each.get("text", each.get("gap_bytes"))) for each in told]
    assert shown == [
        *[("stdout", 0, "1 "), ("stdout", 2, "€ "), ("stdout", 6, "😀"), ("stdout", 10, 10)],
        *[("stderr", 0, "\\xff "), ("stdout", 20, "\\xe2"), ("stderr", 2, "\\xe2")],
    ]
    for line in (["logs", "a1"], ["run", "--", "x"]):
        out = run_cli(*line, tty=True).out
        assert out.startswith("1 € 😀")
        assert out.count("\\xe2") == 2 - (line[0] == "run")


def test_wait_on_nothing_says_so(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [], "next": None})

    ran = run_cli("wait", "--queue", "mail")

    assert (ran.code, ran.out, ran.err) == (0, "", "There is nothing to wait for.\n")


def test_wait_that_times_out_says_how_to_go_on(broker: ScriptedBroker) -> None:
    broker.on("wait", {"done": False, "jobs_left": 1})

    ran = run_cli("wait", "a1", "--timeout", "0")

    assert ran.code == 124
    assert ran.err == "error: not over after 0 s\nhint: wait again, or see: queuectl why a1\n"
