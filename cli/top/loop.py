"""Joins what `queuectl top` is made of: keys and signals go to the state, and what it wishes to the broker; the state
goes to the screen.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING

from cli.escape import visible
from cli.top.asking import Answer, Asker, Look
from cli.top.state import Do, Effect, Follow, Page, Quit, Refresh, State
from cli.top.terminal import Happened, Terminal
from cli.top.view import frame
from cli.why import why_text
from queuectl.errors import QueuectlError

if TYPE_CHECKING:
    from cli.session import Session

SIGNAL_CODE = 128  # and the number of the signal, as a shell has it
INTERRUPTED = SIGNAL_CODE + signal.SIGINT
HUNG_UP = SIGNAL_CODE + signal.SIGHUP
_IDLE_S = 3600.0
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Top:
    """One run of `top`."""

    def __init__(self, session: Session, interval_s: float, terminal: Terminal, asker: Asker) -> None:
        self._session = session
        self._interval_s = interval_s
        self._terminal = terminal
        self._state = State()
        self._asker = asker
        self._is_looking = False
        self._look_at_s = 0.0
        self._code: int | None = None

    def run(self) -> int:
        """Go on until somebody quits; the exit code. Raises the errors that asking again does not mend."""
        while self._code is None:
            self._look_if_due()
            try:
                happened = self._show_and_wait()
            except (OSError, termios.error):  # the terminal is gone
                return HUNG_UP
            for key in happened.keys:
                self._do(self._state.key(key))
            for answer in self._asker.answers():
                self._take(answer)
        return self._code

    def _show_and_wait(self) -> Happened:
        self._terminal.draw(frame(self._state, *self._terminal.size))
        happened = self._terminal.wait(self._idle_s())
        for number in happened.signals:
            self._signal(number)
            if self._code is not None:
                break
        if happened.hung_up:
            self._code = HUNG_UP
        return happened

    # --- looking ---------------------------------------------------------------------------------------

    def _look_if_due(self) -> None:
        if not self._is_looking and not self._state.paused and time.monotonic() >= self._look_at_s:
            self._look()

    def _look(self, *, is_urgent: bool = False) -> None:
        """Ask for a snapshot; what is on its way already may be of before the last change."""
        self._is_looking = True
        self._look_at_s = time.monotonic() + self._interval_s
        self._asker.ask(Look(bool(self._state.filter), is_urgent))

    def _idle_s(self) -> float:
        return _IDLE_S if self._is_looking or self._state.paused else self._look_at_s - time.monotonic()

    def _take(self, answer: Answer) -> None:
        result, wish = answer.result, answer.wish
        if isinstance(wish, Look):
            self._is_looking = False
        if isinstance(result, Exception):
            self._failed(wish, result)
        elif isinstance(wish, Look):
            if wish.is_urgent or not self._state.paused:
                self._state.take(result)
        elif wish.op == "why":
            self._state.told("")
            self._state.open(Page(f"Why {wish.job_id}", why_text(result)))
        else:
            self._state.told(result)
            self._look(is_urgent=True)

    def _failed(self, wish: Look | Do, error: Exception) -> None:
        if not isinstance(error, QueuectlError):
            raise error
        if isinstance(wish, Do):
            self._state.told(visible(error.message))
        elif error.retryable:
            self._state.away(f"waiting for the broker: {visible(error.message)}")
        else:
            raise error

    # --- keys and signals ------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Quit):
                self._code = 0
            elif isinstance(effect, Refresh):
                self._look_at_s = 0.0
            elif isinstance(effect, Follow):
                self._follow(effect.job_id)
            else:
                self._state.told(f"{effect.op} {effect.job_id}: asking the broker")
                self._asker.ask(effect)

    def _signal(self, number: int) -> None:
        if number in _ENDS:
            self._code = SIGNAL_CODE + number
        elif number == signal.SIGTSTP:
            self._terminal.stop()
        elif number == signal.SIGCONT:  # whoever had the terminal meanwhile may have changed its modes
            self._terminal.give_back()
            self._terminal.take()

    def _follow(self, job_id: str) -> None:
        """Show the output in the terminal itself; Ctrl-C comes back, or Enter when the job is over."""
        from cli.main import main

        self._terminal.give_back()
        try:
            self._session.print(f"Following {visible(job_id)}; Ctrl-C comes back.")
            if main(["logs", "--follow", *_flags(self._session), "--", job_id]) != INTERRUPTED:
                self._session.warn("Press Enter to come back.")
                os.read(sys.stdin.fileno(), 4096)
        except KeyboardInterrupt:
            pass  # that is how one comes back
        finally:
            self._terminal.take()
        self._look_at_s = 0.0


def _flags(session: Session) -> list[str]:
    """What a command here is to be told so that it means the same broker."""
    flags = [("endpoint", session.flags["endpoint"]), ("credentials", session.flags["credentials"])]
    flags += [("context", session.flags["context"]), ("home", session.home_path)]
    return ["--no-autostart", *[f"--{name}={value}" for name, value in flags if value]]


def run(session: Session, interval_s: float) -> int:
    """Show everything until somebody quits; the exit code."""
    from queuectl.client import Client

    session.client()  # before the screen is taken: it may start a broker, and says so
    terminal = Terminal()
    asker = Asker(Client.of(session.config, session.home), terminal.wake)  # a client belongs to one thread
    try:
        with terminal:
            return Top(session, interval_s, terminal, asker).run()
    finally:
        asker.close()
