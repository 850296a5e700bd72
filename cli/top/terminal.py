"""The terminal in the hands of `queuectl top`: a screen of its own, each key as it is pressed, signals as events.

Whatever happens, `give_back` leaves it as it was found. Signals are only noted, and so never interrupt a drawing.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cli.top.keys import Keys

ESC_S = 0.05  # what comes so soon after an Esc belongs to it
_READ_BYTES = 4096
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGWINCH", "SIGTSTP", "SIGCONT")


class Happened(NamedTuple):
    """What there was to wait for. `hung_up`: nobody will press a key any more."""

    keys: Sequence[str]
    signals: Sequence[int]
    hung_up: bool


class Terminal:
    """Takes the terminal when entered. `wake` may be called from any thread."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=False)
        self._keys = Keys()
        self._read_at_s = 0.0
        self._noted: list[int] = []
        self._ear, self._mouth = os.pipe()  # never closed: a thread may write to it until the process ends
        for end in (self._ear, self._mouth):
            os.set_blocking(end, False)
        self._live: Live | None = None
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return self._console.size.width, self._console.size.height

    def wake(self) -> None:
        """End the present or the next `wait`."""
        with suppress(BlockingIOError):  # it is full: there is enough to wake it
            os.write(self._mouth, b"!")

    def take(self) -> None:
        """Take it: keys come one by one, and nothing is echoed."""
        self._modes = termios.tcgetattr(self._fd)
        self._handlers = {
            number: signal.signal(number, self._note) for number in (signal.Signals[name] for name in _SIGNALS)
        }
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        tty.setcbreak(self._fd)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def give_back(self) -> None:
        """Leave it as it was found. May be called twice."""
        live, self._live = self._live, None
        if live is None:
            return
        try:
            with suppress(OSError):  # it has hung up
                live.stop()
        finally:
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else a process in the background stops here
            with suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)
            signal.signal(signal.SIGTTOU, before)
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def draw(self, screen: Text) -> None:
        """Put this on the screen."""
        assert self._live is not None
        self._live.update(screen, refresh=True)

    def wait(self, seconds: float) -> Happened:
        """Wait for a key, a signal or `wake`, at most so long."""
        if self._keys.pending:
            seconds = min(seconds, self._read_at_s + ESC_S - time.monotonic())
        ready, _, _ = select.select([self._fd, self._ear], [], [], max(0.0, seconds))
        if self._ear in ready:
            os.read(self._ear, _READ_BYTES)
        keys, hung_up = self._read() if self._fd in ready else (self._esc(), False)
        noted, self._noted = self._noted, []
        return Happened(keys, noted, hung_up)

    def stop(self) -> None:
        """Stop as Ctrl-Z does, and go on when told to."""
        self.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.take()

    def _read(self) -> tuple[list[str], bool]:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except OSError:
            return [], True
        self._read_at_s = time.monotonic()
        return self._keys.feed(data), not data

    def _esc(self) -> list[str]:
        """What began as a key and was not followed by anything for a while."""
        return self._keys.flush() if time.monotonic() >= self._read_at_s + ESC_S else []

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)
