"""`queuectl dev --until-empty` on a terminal and off it; the processes it starts are not part of this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli import dev
from tests.harness_client import Ran, run_cli, scripted_broker

STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")


def counts(**numbers: int) -> dict[str, int]:
    return dict.fromkeys(STATES, 0) | numbers | {"total": sum(numbers.values())}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The flags with which children would have been started."""
    flags: list[dict[str, Any]] = []
    monkeypatch.setattr(dev, "_refuse_second_broker", lambda session: None)
    monkeypatch.setattr(dev.House, "start", lambda house, name, arguments: flags.append(dict(house.session.flags)))
    return flags


def run_until_empty(home: Path, *args: str, tty: bool, waits: list[dict[str, Any]]) -> Ran:
    jobs = iter([{"jobs": counts(completed=2, pending=4)}, {"jobs": counts(completed=7)}])
    replies = iter(waits)
    with scripted_broker(home) as broker:
        broker.on("status", lambda _: next(jobs))
        broker.on("wait", lambda _: next(replies))
        return run_cli("dev", "--until-empty", *args, tty=tty)


WAITS = [
    {"done": False, "counts": counts(completed=3, pending=3)},
    {"done": False, "counts": counts(completed=4, failed=1, pending=2)},
    {"done": True, "counts": counts(completed=7)},
]


@pytest.mark.usefixtures("started")
def test_terminal_sees_how_many_of_the_jobs_are_done(home: Path) -> None:
    ran = run_until_empty(home, tty=True, waits=WAITS)

    assert (ran.code, ran.out) == (0, "5 completed\n")
    assert [ran.err.find(words) > 0 for words in ("1/4", "2/5", "5/5")] == [True] * 3


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("args", "tty"), [((), False), (("-q",), True), (("--json",), True)], ids=["pipe", "q", "json"]
)
def test_nobody_else_sees_a_bar(home: Path, args: tuple[str, ...], tty: bool) -> None:
    ran = run_until_empty(home, *args, tty=tty, waits=WAITS)

    assert ran.code == 0
    assert "1/4" not in ran.err


@pytest.mark.parametrize(
    ("args", "tty", "level"),
    [((), True, "warning"), (("--log-level", "info"), True, "info"), ((), False, None)],
    ids=["bar", "asked for", "no bar"],
)
def test_logs_make_room_for_the_bar(
    home: Path, started: list[dict[str, Any]], args: tuple[str, ...], tty: bool, level: str | None
) -> None:
    run_until_empty(home, *args, tty=tty, waits=WAITS)

    assert [flags["log_level"] for flags in started] == [level, level]
