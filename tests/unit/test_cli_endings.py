"""How attempts and jobs have ended, in words."""

from __future__ import annotations

import pytest

from cli.endings import ending, whole_ending


@pytest.mark.parametrize(
    ("outcome", "exit_code", "signal", "words"),
    [
        ("completed", 0, None, "completed"),
        ("exit", 3, None, "exit 3"),
        ("signal", None, 9, "signal 9"),
        ("cancelled", None, 15, "cancelled, signal 15"),
        ("timeout", 1, None, "timeout, exit 1"),
        ("lost", None, None, "lost"),
        ("\x1b", None, None, "\\x1b"),
    ],
)
def test_end_of_an_attempt(outcome: str, exit_code: int | None, signal: int | None, words: str) -> None:
    assert whole_ending(outcome, exit_code, signal) == words


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"reason": "timeout", "signal": 15}, "timeout"),
        ({"reason": "spawn_error"}, "not started"),
        ({"reason": "exit", "exit_code": 3}, "exit 3"),
        ({"reason": "cancelled", "exit_code": None, "signal": 15}, "signal 15"),
        ({"reason": None, "exit_code": 0}, "exit 0"),
        ({"reason": "expired"}, "expired"),
        ({"reason": None}, "-"),
    ],
    ids=str,
)
def test_end_of_a_job_in_a_word(job: dict[str, object], words: str) -> None:
    assert ending(job) == words
