"""Showing the same thing again and again: in its place on a terminal, else one after the other.

It goes on while the broker is away, and ends by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cli.escape import shortened, visible, width
from cli.options import Converted
from cli.waiting import away
from queuectl.errors import QueuectlError
from queuectl.times import human_duration

if TYPE_CHECKING:
    from cli.session import Session

INTERRUPTED = 130
INTERVAL_S_MIN, INTERVAL_S_MAX = 0.2, 86400.0  # more often would be a load, and less often no watching
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # what click.style writes; all else is escaped when it comes here

Told = dict[str, Any]


def _interval(text: str) -> float:
    from queuectl.times import parse_duration

    seconds = parse_duration(text)
    if not INTERVAL_S_MIN <= seconds <= INTERVAL_S_MAX:
        raise ValueError(f"{text!r} is not between {INTERVAL_S_MIN:g} s and a day")
    return seconds


INTERVAL = Converted("interval", _interval)


def watch(session: Session, interval_s: float, ask: Callable[[], Told], draw: Callable[[Told], str]) -> int:
    """Ask and show every `interval_s` until Ctrl-C; the exit code. `draw` makes text of an answer.

    Raises the errors that asking again does not mend.
    """
    show = _shower(session, interval_s, draw)
    try:
        while True:
            show(_answer(ask))
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return INTERRUPTED  # that is how it ends: nothing to say about it
    finally:
        if not session.as_json and _is_screen():
            click.echo()


def _answer(ask: Callable[[], Told]) -> Told | QueuectlError:
    try:
        return ask()
    except QueuectlError as error:
        if not error.retryable:
            raise
        return error


def _is_screen() -> bool:
    """Whether stdout is a terminal that can go back to its first line."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _shower(session: Session, interval_s: float, draw: Callable[[Told], str]) -> Callable[[Told | QueuectlError], None]:
    """How an answer is shown, or why there is none: an object a line, the whole screen, or one after the other."""
    if session.as_json:
        return lambda told: click.echo(json.dumps(_value(told)))
    if _is_screen():
        return lambda told: click.echo(_screen(_head(interval_s), _words(told, draw)), nl=False)
    return _Listing(session, draw)


def _value(told: Told | QueuectlError) -> Told:
    return {"error": told.to_wire()} if isinstance(told, QueuectlError) else told


def _words(told: Told | QueuectlError, draw: Callable[[Told], str]) -> str:
    return f"waiting for the broker: {visible(told.message)}" if isinstance(told, QueuectlError) else draw(told)


class _Listing:
    """One after the other; that the broker is away is said once, on stderr."""

    def __init__(self, session: Session, draw: Callable[[Told], str]) -> None:
        self._session = session
        self._draw = draw
        self._was_away = False
        self._is_first = True

    def __call__(self, told: Told | QueuectlError) -> None:
        if isinstance(told, QueuectlError):
            if not self._was_away:
                away(self._session, told)
            self._was_away = True
            return
        self._was_away = False
        if not self._session.quiet:
            self._session.print(("" if self._is_first else "\n") + _now() + "\n")
        self._session.print(self._draw(told))
        self._is_first = False


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")


def _head(interval_s: float) -> str:
    return f"{_now()}  (every {human_duration(interval_s)}; Ctrl-C ends it)"


def _screen(head: str, text: str) -> str:
    """What puts these lines on the screen, in one go and over what stands there, as many and as wide as fit."""
    size = shutil.get_terminal_size((80, 24))
    lines = [head, "", *text.split("\n")][: max(1, size.lines - 1)]  # the last one is for what comes afterwards
    cut = [_fitting(line, size.columns - 1) for line in lines]  # a full line would be wrapped by some terminals
    return _HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in cut) + _REST_OF_SCREEN


def _fitting(line: str, columns: int) -> str:
    plain = _COLOUR.sub("", line)
    return line if width(plain) <= columns else shortened(plain, max(1, columns))
