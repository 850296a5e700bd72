"""What `top` hears of its terminal: an Esc is one when nothing has followed it, whatever else happens meanwhile."""

from __future__ import annotations

import os
import pty
import tty
from collections.abc import Iterator

import pytest

from cli.top import terminal as terminal_module
from cli.top.terminal import Terminal


@pytest.fixture
def mouth(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of a terminal at which keys are pressed; the other end is stdin."""
    master, slave = pty.openpty()
    os.set_blocking(slave, False)
    with os.fdopen(slave, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield master
    os.close(master)


def test_esc_is_not_what_a_wake_makes_of_half_a_key(mouth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "ESC_S", 3600.0)
    tty.setcbreak(mouth)
    terminal = Terminal()
    os.write(mouth, b"\x1b")
    assert terminal.wait(60).keys == []

    terminal.wake()
    assert terminal.wait(60).keys == []
    os.write(mouth, b"[A")
    assert terminal.wait(60).keys == ["up"]


def test_esc_that_nothing_follows_is_one(mouth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "ESC_S", 0.0)
    tty.setcbreak(mouth)
    terminal = Terminal()
    os.write(mouth, b"\x1b")
    assert terminal.wait(60).keys == []

    assert terminal.wait(60).keys == ["esc"]
