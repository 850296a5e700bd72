"""What comes from elsewhere cannot command a terminal or mislead the eye."""

from __future__ import annotations

import pytest

from cli.escape import shortened, visible, visible_lines, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("größer 漢字 ✓", "größer 漢字 ✓"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]52;c;ZXZpbA==\x07", "\\x1b]52;c;ZXZpbA==\\x07"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069\u202a\u2028", "\\u2066x\\u2069\\u202a\\u2028"),
        ("a\xadb\u034f\u180e\u3164\ufff9\U000e0041", "a\\xadb\\u034f\\u180e\\u3164\\ufff9\\U000e0041"),
        ("job\u200b-1\u2060\ufeff", "job\\u200b-1\\u2060\\ufeff"),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),
        ("\ud800", "\\ud800"),
    ],
)
def test_unsafe_characters_become_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_and_tabs_stay_in_text_of_several_lines() -> None:
    assert visible_lines("a\n\tb\r\x1b[1m") == "a\n\tb\\r\\x1b[1m"


def test_width_counts_columns() -> None:
    assert [width(text) for text in ("abc", "漢字", "e\u0301")] == [3, 4, 1]


@pytest.mark.parametrize(
    ("text", "columns", "shown"), [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("漢字漢字", 6, "漢字…")]
)
def test_text_is_cut_to_its_columns(text: str, columns: int, shown: str) -> None:
    assert shortened(text, columns) == shown
