"""The comparison of followers finds what followers could get wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from queuectl.following import AttemptEnd, Chunk
from tests.campaign.followers import Told, wrongs
from tests.campaign.jobs import printed

LENGTH = 30
TEXT = {attempt: printed(attempt, LENGTH) for attempt in (1, 2)}


def chunk(attempt: int, start: int, end: int) -> Chunk:
    return Chunk(attempt, "stdout", start, TEXT[attempt][start:end])


def gap(attempt: int, start: int, size: int) -> Chunk:
    return Chunk(attempt, "stdout", start, b"", None, size)


def end(attempt: int, outcome: str, *, is_last: bool = False) -> AttemptEnd:
    return AttemptEnd(attempt, outcome, None, None, "completed" if is_last else "failed", is_last)


SIZE = len(TEXT[1])
Piece = Chunk | AttemptEnd
TOLD: list[Piece] = [
    chunk(1, 0, 100),
    chunk(1, 100, 512),
    gap(1, 512, SIZE - 612),
    chunk(1, SIZE - 100, SIZE),
    end(1, "exit"),
]
LAST: list[Piece] = [chunk(2, 0, SIZE), end(2, "completed", is_last=True)]
KEPT: list[Piece] = [*TOLD, chunk(2, 0, 512), gap(2, 512, SIZE - 1000), chunk(2, SIZE - 488, SIZE), LAST[-1]]


def found(*told: Piece) -> list[str]:
    return wrongs(Told.of(told), Told.of(KEPT), lambda attempt: TEXT[attempt])


def test_what_is_right_is_right() -> None:
    assert found(*TOLD, *LAST) == []


def test_lost_attempt_may_have_printed_less() -> None:
    kept: list[Piece] = [chunk(1, 0, 100), end(1, "lost"), *LAST]

    assert wrongs(Told.of(kept), Told.of(kept), lambda attempt: TEXT[attempt]) == []


WRONG: dict[str, Callable[[], list[Piece]]] = {
    "a chunk is missed": lambda: [TOLD[0], *TOLD[2:], *LAST],
    "a chunk comes twice": lambda: [TOLD[0], TOLD[0], *TOLD[1:], *LAST],
    "a gap is too small": lambda: [*TOLD[:2], gap(1, 512, SIZE - 613), *TOLD[3:], *LAST],
    "a gap is not told": lambda: [*TOLD[:2], *TOLD[3:], *LAST],
    "a gap stands for what is kept": lambda: [gap(1, 0, 100), *TOLD[1:], *LAST],
    "the end is missed": lambda: [*TOLD[:3], TOLD[4], *LAST],
    "bytes of another attempt": lambda: [Chunk(1, "stdout", 0, TEXT[2][:100]), *TOLD[1:], *LAST],
    "an attempt is missed": lambda: LAST,
    "an attempt ends twice": lambda: [*TOLD, TOLD[-1], *LAST],
    "attempts are out of order": lambda: [*LAST, *TOLD],
    "the last is not told as such": lambda: [*TOLD, LAST[0], end(2, "completed")],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    assert found(*WRONG[name]()) != []
