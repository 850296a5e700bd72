"""Asking on while the broker is away: what a follower asks changes nothing, so it may be asked again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from queuectl.errors import QueuectlError, WaitTimedOut

T = TypeVar("T")
Away = Callable[[QueuectlError], None]
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # while the broker is away; the last one again and again


def patiently(ask: Callable[[], T], on_away: Away | None = None) -> T:
    """Ask until there is an answer, for ever. Raises what asking again does not mend.

    `on_away` hears of the first error.
    """
    from random import uniform  # loaded by those who wait only

    tries = 0
    while True:
        try:
            return ask()
        except QueuectlError as error:
            if not error.retryable or isinstance(error, WaitTimedOut):
                raise
            if tries == 0 and on_away is not None:
                on_away(error)
        time.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)] * uniform(0.5, 1.0))
        tries += 1
