"""What the tools of the tests have in common as commands: options with bounds, and an end on request that cleans up.

`run` makes of SIGINT and SIGTERM an exception, so that everything is ended and removed as after an error.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf
from types import FrameType

# Of `timeout make …`, both send one to the tool: what comes so soon is the same request.
SAME_WITHIN_S = 1.0
_SAID = {signal.SIGINT: b"interrupted", signal.SIGTERM: b"terminated"}


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come."""


def whole(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < low:
            raise ArgumentTypeError(f"must be {low} or more, not {text}")
        return value

    return parse


def number(low: float, high: float = inf) -> Callable[[str], float]:
    """An argparse type: a finite number from `low` to `high`."""
    bounds = f"{low:g} or more" if high == inf else f"between {low:g} and {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"must be a number, not {text!r}") from None
        if value == inf or not low <= value <= high:  # so NaN is refused as well
            raise ArgumentTypeError(f"must be {bounds}, not {text}")
        return value

    return parse


def run(main: Callable[[], int]) -> int:
    """The exit code of `main`: its own, or 128 and the signal's number where it was told to end.

    It is told by Interrupted, once what comes of it has been said on stderr. A later signal breaks off the cleaning up.
    """
    told: list[tuple[int, float]] = []

    def tell(number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if told and now_s - told[-1][1] < SAME_WITHIN_S:
            return
        told.append((number, now_s))
        text = b": ending what was started\n" if len(told) == 1 else b" again: what was started may be left\n"
        os.write(2, _SAID[signal.Signals(number)] + text)  # a handler must not use buffered files
        raise Interrupted

    # What is ignored stays so, as it is for a command in the background of a script.
    heard = [number for number in _SAID if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in heard}
    try:
        code = main()
        return 128 + told[0][0] if told else code
    except BaseException as error:
        if not told:
            raise
        if not isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"cleaning up did not go well: {type(error).__name__}: {error}\n")
        return 128 + told[0][0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """In a child that shares the terminal: Ctrl-C is for its parent, which then ends it by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
