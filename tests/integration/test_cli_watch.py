"""`queuectl status --watch` against a scripted broker: on a terminal, and off it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import watching
from queuectl.errors import BrokerUnreachable, NotAllowed, QueuectlError
from tests.harness_client import ScriptedBroker, run_cli, scripted_broker, status_view

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
AWAY = BrokerUnreachable("the broker does not answer\x1b[2J")


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


class Watcher:
    """Presses Ctrl-C when so many answers were shown, and keeps how long was waited between them."""

    def __init__(self, answers: int) -> None:
        self.left = answers
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    watcher = Watcher(3)
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=watcher.sleep))
    return watcher


def answering(broker: ScriptedBroker, *answers: dict[str, Any] | QueuectlError) -> None:
    left = chain(answers, repeat(answers[-1]))
    broker.on("status", lambda _: next(left))


def screens(out: str) -> list[list[str]]:
    """What stood on the screen each time, line by line."""
    return [ANSI.sub("", screen).split("\n") for screen in out.split("\x1b[H")[1:]]


def test_off_a_terminal_one_status_follows_the_other(broker: ScriptedBroker, watcher: Watcher) -> None:
    answering(broker, status_view(), AWAY, AWAY, status_view())
    watcher.left = 4

    ran = run_cli("status", "--watch")

    assert (ran.code, watcher.waits) == (130, [2.0] * 4)
    assert ran.out.count("running for 1m15s") == 2
    assert "\x1b" not in ran.out
    assert re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d$", ran.out, flags=re.MULTILINE) != []
    assert ran.err.count("waiting for the broker: the broker does not answer\\x1b[2J") == 1


def test_json_is_an_object_a_line(broker: ScriptedBroker, watcher: Watcher) -> None:
    answering(broker, status_view(), AWAY, status_view())

    ran = run_cli("status", "--json", "--watch=0.2")

    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err, watcher.waits) == (130, "", [0.2] * 3)
    assert [next(iter(line)) for line in lines] == ["broker", "error", "broker"]
    assert lines[1]["error"]["code"] == "broker_unreachable"


def test_quiet_prints_an_id_a_line(broker: ScriptedBroker, watcher: Watcher) -> None:
    answering(broker, status_view(), AWAY, status_view())

    ran = run_cli("status", "-q", "--watch", "1m")

    assert (ran.out, ran.err, watcher.waits) == ("b1\nb1\n", "", [60.0] * 3)


def test_on_a_terminal_it_stays_in_its_place(
    broker: ScriptedBroker, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "24")
    answering(broker, status_view(), AWAY, status_view())

    ran = run_cli("status", "--watch=5", tty=True, columns=80)

    first, away, last = screens(ran.out)
    assert (ran.code, ran.err) == (130, "")
    assert first[0].endswith("(every 5s; Ctrl-C ends it)")
    assert first[2].split()[:4] == ["Broker", "running", "for", "1m15s,"]
    assert "hint: see why jobs are dead: queuectl dlq list" in first
    assert away[2] == "waiting for the broker: the broker does not answer\\x1b[2J"
    assert last[2] == first[2]
    assert "\x1b[2J" not in ran.out  # nothing is cleared before it is written again
    assert ran.out.count("\x1b[K\n") == ran.out.count("\n") - 1


@pytest.mark.parametrize(("columns", "lines"), [(40, 10), (20, 4), (30, 2)])
def test_it_is_cut_to_the_terminal(
    broker: ScriptedBroker, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    monkeypatch.setenv("LINES", str(lines))
    answering(broker, status_view())

    ran = run_cli("status", "--watch", tty=True, columns=columns)

    for screen in screens(ran.out)[:-1]:
        assert len(screen) <= lines
        assert max(map(len, screen)) < columns
    assert "…" in ran.out


def test_a_dumb_terminal_gets_no_escapes(
    broker: ScriptedBroker, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    answering(broker, status_view())

    assert "\x1b" not in run_cli("status", "--watch", tty=True).out


def test_what_asking_again_does_not_mend_ends_it(broker: ScriptedBroker, watcher: Watcher) -> None:
    answering(broker, status_view(), NotAllowed("the key was revoked"))

    ran = run_cli("status", "--watch")

    assert (ran.code, ran.err.splitlines()[0]) == (NotAllowed.exit_code, "error: the key was revoked")


@pytest.mark.parametrize("written", ["0", "0.19", "1s2", "nan", "2d"])
def test_interval_is_refused(home: Path, written: str) -> None:
    ran = run_cli("status", f"--watch={written}")

    assert (ran.code, ran.out) == (2, "")
    assert "--watch" in ran.err
