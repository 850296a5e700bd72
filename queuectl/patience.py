"""Asking on while the broker is away: what a follower asks changes nothing, so it may be asked again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from queuectl.errors import QueuectlError, WaitTimedOut

T = TypeVar("T")
Away = Callable[[QueuectlError], None]
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # while the broker is away; the last one again and again


def may_be_asked_again(error: QueuectlError) -> bool:
    """Whether the broker may answer the same question later; that time was up is an answer."""
    return error.retryable and not isinstance(error, WaitTimedOut)


def patiently(ask: Callable[[], T], on_away: Away | None = None, *, deadline: float = math.inf) -> T:
    """Ask until there is an answer, for ever or until then (monotonic). Raises what asking again does not mend.

    `on_away` hears of the first error.
    """
    from random import uniform  # loaded by those who wait only

    tries = 0
    while True:
        try:
            return ask()
        except QueuectlError as error:
            if not may_be_asked_again(error) or time.monotonic() >= deadline:
                raise
            if tries == 0 and on_away is not None:
                on_away(error)
        pause_s = PAUSES_S[min(tries, len(PAUSES_S) - 1)] * uniform(0.5, 1.0)
        time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        tries += 1
