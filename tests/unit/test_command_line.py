"""The tools of the tests refuse what means nothing, and clean up when they are told to end."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module

import pytest

from tests.command_line import number, run, whole


@pytest.fixture(autouse=True)
def _plain_handlers() -> Iterator[None]:
    """As in a process of its own, whoever runs the tests."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


# --- options ---


def test_values_within_bounds_are_taken() -> None:
    assert [whole(0)("0"), whole(1)("1_000")] == [0, 1000]
    assert [number(0.25, 9)("0.25"), number(0.25, 9)("9"), number(0)("1e3")] == [0.25, 9, 1000]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((whole(1), text) for text in ("0", "-1", "1.5", "", "many", "inf")),
        *((number(0.25, 9), text) for text in ("0.2", "9.1", "-1", "nan", "inf", "", "much")),
        (number(0), "inf"),
    ],
)
def test_values_out_of_bounds_are_refused(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be"):
        kind(text)


REFUSED = [
    ("simulation", ["--seeds", "0"], "--seeds: must be 1 or more"),
    ("simulation", ["--jobs=-1"], "--jobs: must be 1 or more"),
    ("crashpoints", ["--states", "0"], "--states: must be 1 or more"),
    ("campaign", ["--minutes", "0"], "--minutes: must be 0.1 or more"),
    ("campaign", ["--lease", "nan"], "--lease: must be between"),
    ("campaign", ["--lease", "0.2"], "--lease: must be between"),
    ("zoo", ["--times", "0"], "--times: must be 1 or more"),
    ("zoo", ["--animal", "nosuch"], "no animal is called 'nosuch'"),
    ("zoo", ["--animal", "exits 255", "--way", "timeout"], "ends that way"),
    ("fuzz", ["--inputs=-1"], "--inputs: must be 1 or more"),
    ("fuzz", ["--target", "decoder", "--case", "-1"], "--case: must be 0 or more"),
]


@pytest.mark.parametrize(("tool", "options", "said"), REFUSED)
def test_tool_refuses_at_once(
    tool: str,
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [tool, *options])

    with pytest.raises(SystemExit) as refusal:
        import_module(f"tests.{tool}.__main__").main()

    assert refusal.value.code == 2
    assert said in capsys.readouterr().err


# --- the end ---


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_unwinds_and_is_the_exit_code(
    number: int, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done = []

    def main() -> int:
        try:
            os.kill(os.getpid(), number)
            done.append("went on")
        finally:
            os.kill(os.getpid(), number)  # a second one at once is the same request
            done.append("cleaned up")
        return 0

    assert run(main) == code
    assert done == ["cleaned up"]
    assert capfd.readouterr().err == f"{said}: ending what was started\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_later_signal_breaks_off_the_cleaning_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.command_line.SAME_WITHIN_S", 0.0)
    done = []

    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            done.append("cleaned up")
        return 0

    assert run(main) == 143
    assert done == []
    assert capfd.readouterr().err.splitlines()[1] == "interrupted again: what was started may be left"


def test_error_while_cleaning_up_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise AssertionError("something was left")

    assert run(main) == 143
    assert "cleaning up did not go well: AssertionError: something was left" in capfd.readouterr().err


def test_swallowed_signal_is_no_success() -> None:
    def main() -> int:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert run(main) == 143


def test_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def main() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 3

    assert run(main) == 3


def test_other_errors_are_left_alone() -> None:
    def main() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        run(main)
