"""Every byte that is not there is said to be missing, with the exact number."""

from __future__ import annotations

from typing import Any

from cli.output import Piece, pieces


def page(*segments: list[Any], totals: dict[str, int] | None = None, finished: bool = True) -> dict[str, Any]:
    return {"segments": list(segments), "totals": totals, "finished": finished}


def test_whole_output_has_no_gaps() -> None:
    found = list(pieces([page([1, 0, b"ab"], [2, 0, b"x"]), page([1, 2, b"cd"], totals={"1": 4, "2": 1})]))

    assert found == [Piece("stdout", 0, b"ab"), Piece("stderr", 0, b"x"), Piece("stdout", 2, b"cd")]


def test_gaps_are_found_at_start_middle_and_end() -> None:
    found = list(pieces([page([1, 3, b"ab"], [1, 10, b"c"], totals={"1": 20, "2": 0})]))

    assert [(piece.offset, piece.gap_bytes or piece.data) for piece in found] == [
        (0, 3),
        (3, b"ab"),
        (5, 5),
        (10, b"c"),
        (11, 9),
    ]


def test_output_that_is_still_to_come_is_no_gap() -> None:
    assert list(pieces([page([1, 0, b"a"], totals={"1": 9, "2": 0}, finished=False)])) == [Piece("stdout", 0, b"a")]


def test_output_that_was_thrown_away_is_one_gap() -> None:
    assert list(pieces([page(totals={"1": 7, "2": 0})])) == [Piece("stdout", 0, b"", 7)]
