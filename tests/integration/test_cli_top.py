"""`queuectl top` against a scripted broker: where it refuses, and how it ends when the broker refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl.errors import NotAllowed, TooManyRequests
from tests.harness_cli import PROGRAM
from tests.harness_client import ScriptedBroker, job_view, run_cli, scripted_broker, status_view
from tests.harness_terminal import SCREEN_LEFT, OnTerminal


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        broker.on("status", status_view())
        broker.on("list", listing)
        yield broker


def listing(args: dict[str, Any]) -> dict[str, Any]:
    """Two jobs of each state."""
    ids = [f"{args['state']}-{number}" for number in range(2)]
    return {"jobs": [job_view(id=job_id, state=args["state"]) for job_id in ids], "next": None}


def top(tmp_path: Path, **env: str) -> OnTerminal:
    return OnTerminal([*PROGRAM, "top", "--interval=0.2"], cwd=tmp_path, env={**os.environ, **env})


@pytest.mark.parametrize(
    ("args", "tty"), [([], False), (["--json"], True), (["-q"], True)], ids=["pipe", "json", "quiet"]
)
def test_it_says_what_to_use_where_there_is_no_screen(home: Path, args: list[str], tty: bool) -> None:
    ran = run_cli("top", *args, tty=tty)

    assert ran.code == 2
    assert "queuectl status --watch, queuectl events -f" in ran.out + ran.err
    assert not (home / "queue.db").exists()  # no broker was started for it


def test_a_dumb_terminal_is_no_screen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert run_cli("top", tty=True).code == 2


def test_jobs_stand_in_their_order(broker: ScriptedBroker, tmp_path: Path) -> None:
    with top(tmp_path, NO_COLOR="1") as terminal:
        terminal.await_line("> processing-0")
        terminal.press("G")
        terminal.await_line("> pending-1")  # nothing was asked about a state in which there are no jobs
        terminal.press("3jj")
        terminal.await_line("> dead-1")
        terminal.press("q")

        assert terminal.wait() == 0
        assert {asked.args["state"] for asked in broker.asked if asked.op == "list"} == {
            *("processing", "pending", "dead")
        }
        assert "\x1b[7m" in terminal.written  # the selection is to be seen without colours
        assert not any(f"\x1b[{number}" in terminal.written for number in range(30, 50))


def test_an_error_is_told_when_the_terminal_is_given_back(broker: ScriptedBroker, tmp_path: Path) -> None:
    with top(tmp_path) as terminal:
        terminal.await_line("> processing-0")
        broker.on("status", TooManyRequests("asked too often"))
        terminal.await_line("waiting for the broker: asked too often")
        broker.on("status", NotAllowed("the key was revoked"))

        assert terminal.wait() == NotAllowed.exit_code
        assert terminal.written.partition(SCREEN_LEFT)[2].endswith("error: the key was revoked\r\n")
        assert terminal.modes == terminal.modes_before


def test_a_bug_gives_the_terminal_back_too(broker: ScriptedBroker, tmp_path: Path) -> None:
    with top(tmp_path) as terminal:
        terminal.await_line("> processing-0")
        broker.on("status", {"nothing": "of use"})

        assert terminal.wait() == 1
        assert "this is a bug of queuectl" in terminal.written
        assert terminal.modes == terminal.modes_before


def test_what_the_broker_refuses_is_told_below(broker: ScriptedBroker, tmp_path: Path) -> None:
    broker.on("retry", NotAllowed("you may only look\x1b[2J"))
    with top(tmp_path) as terminal:
        terminal.await_line("> processing-0")
        terminal.press("r")
        terminal.await_line("you may only look\\x1b[2J")
        terminal.press("/pending-1")
        terminal.await_line("> pending-1")
        terminal.press("\x1b")
        terminal.await_line("> pending-1")
        terminal.await_line("processing-0")
        terminal.press("q")
        assert terminal.wait() == 0


def test_while_paused_only_what_one_does_is_shown(broker: ScriptedBroker, tmp_path: Path) -> None:
    with top(tmp_path) as terminal:
        terminal.await_line("> processing-0")
        terminal.press("p")
        terminal.await_line("paused, as of")
        broker.on("list", {"jobs": [job_view(id="later")], "next": None})
        broker.on("hold", {"ids": ["processing-0"], "skipped": [], "next": None})
        terminal.press("j")
        terminal.await_line("> processing-1")
        terminal.press("kh")
        terminal.await_line("Job processing-0 held.")
        terminal.await_line("> later")
        terminal.await_line("paused, as of")
        terminal.press("pq")
        assert terminal.wait() == 0
