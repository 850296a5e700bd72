"""Who asked how often to stop, when the same request may come by two ways."""

from __future__ import annotations

import signal

import pytest

from worker.signals import STOP, StopRequests

TERM = signal.SIGTERM


@pytest.mark.parametrize(
    ("rounds", "requests"),
    [
        ([[TERM], [TERM]], [1, 1]),
        ([[STOP], [STOP]], [1, 1]),
        ([[TERM, STOP]], [1]),
        ([[TERM], [STOP]], [1, 0]),
        ([[STOP], [TERM], [STOP], [TERM]], [1, 0, 1, 0]),
        ([[TERM, signal.SIGINT]], [2]),
        ([[STOP, STOP]], [2]),
        ([[signal.SIGCHLD]], [0]),
    ],
    ids=["direct", "passed-on", "both-at-once", "one-after-the-other", "both-twice", "two", "two-passed-on", "none"],
)
def test_requests_are_counted(rounds: list[list[int]], requests: list[int]) -> None:
    counter = StopRequests()

    assert [counter.count(numbers) for numbers in rounds] == requests
