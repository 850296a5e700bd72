"""Where a broker may be started unasked, and how the suggested commands name the same home."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.autostart import given_again, home_flag, tilde, why_not
from cli.session import Session
from queuectl.home import Home


def session(*, home_path: str | None = None, no_autostart: bool = False) -> Session:
    return Session(False, False, None, home_path, no_autostart)


def remember(home: Path, started: str) -> None:
    (home / "run").mkdir()
    (home / "run" / "last_start").write_text(started)


def test_fresh_home_may_have_a_broker(home: Path) -> None:
    assert why_not(session()) is None


@pytest.mark.parametrize(("started", "allowed"), [("auto", True), ("detached", True), ("explicit", False)])
def test_last_start_decides(home: Path, started: str, allowed: bool) -> None:
    remember(home, started)

    assert (why_not(session()) is None) is allowed


def test_refusal_comes_first(home: Path) -> None:
    assert why_not(session(no_autostart=True)) == "autostart is off"


def test_home_of_another_user_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "is_ours", lambda _: False)

    assert why_not(session()) == f"{home} belongs to another user"


def test_suggested_command_names_the_home_that_was_given(home: Path) -> None:
    assert home_flag(session()) == ""
    assert home_flag(session(home_path="/srv/my queue")) == " --home '/srv/my queue'"


def test_suggested_command_names_the_broker_that_was_given(home: Path) -> None:
    named = Session(False, False, None, "/srv/q", False, credentials="my desk.toml")

    assert given_again(named) == " --home /srv/q --credentials 'my desk.toml'"
    assert given_again(session()) == ""


def test_path_is_written_as_people_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert tilde(Path("/home/me/.queuectl")) == "~/.queuectl"
    assert tilde(Path("/srv/queuectl")) == "/srv/queuectl"
