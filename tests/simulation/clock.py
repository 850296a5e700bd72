"""Time: what is to happen when, and what the clocks of each machine make of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from queuectl.clock import Now

WALL_MS = 1_800_000_000_000


class Timeline:
    """True time in ms. Nothing happens between two events, so it jumps from one to the next."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, ms: int, act: Callable[..., None], *arguments: object) -> None:
        """Have something done in so many ms; of two things at one time the one that was asked for first comes first."""
        self._made += 1
        heappush(self._heap, (self.now_ms + max(0, ms), self._made, act, arguments))

    def run(self, end_ms: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until `end_ms`, or until it is over."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.now_ms, _, act, arguments = heappop(heap)
            self.events += 1
            act(*arguments)
            if is_over():
                return
        self.now_ms = end_ms


class MachineClock:
    """Both clocks of one machine. `lag_ms`: time that passed for it within the event of the moment."""

    def __init__(self, timeline: Timeline, *, mono_ms: int, ahead_ms: int = 0, rate: float = 1.0) -> None:
        self._timeline = timeline
        self._since_ms = timeline.now_ms
        self._mono_ms = float(mono_ms)
        self._ahead_ms = WALL_MS + ahead_ms - mono_ms
        self._rate = rate
        self.lag_ms = 0

    def __call__(self) -> Now:
        mono_ms = int(self._mono_ms + (self._timeline.now_ms + self.lag_ms - self._since_ms) * self._rate)
        return Now(mono_ms + self._ahead_ms, mono_ms)

    def drift(self, rate: float) -> None:
        """Run faster or slower from now on; 1.0 is right."""
        elapsed_ms = self._timeline.now_ms - self._since_ms
        self._mono_ms, self._since_ms = self._mono_ms + elapsed_ms * self._rate, self._timeline.now_ms
        self._rate = rate

    def jump(self, ms: int) -> None:
        """The wall clock is set."""
        self._ahead_ms += ms

    def reboot(self) -> None:
        """The monotonic clock begins anew; the wall clock goes on."""
        wall_ms = self().wall_ms
        self._mono_ms, self._since_ms = 0.0, self._timeline.now_ms
        self._ahead_ms = wall_ms

    def true_ms(self, ms: int) -> int:
        """How long it takes until this machine has counted so many ms."""
        return math.ceil(ms / self._rate)
