"""A command on a terminal of its own (a pty): what stands on its screen, and keys for it.

The screen is read as frames, each of which begins at the home position and is written over the one before.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.harness_cli import until

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SCREEN_TAKEN, SCREEN_LEFT, CURSOR_SHOWN = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
ANEW = re.compile(r"\x1b\[H|\x1b\[\?1049l")  # what comes then stands on the screen, and nothing of before
CTRL_C, CTRL_Z = "\x03", "\x1a"


class OnTerminal:
    """Runs it from the beginning to the end of a `with` block."""

    def __init__(
        self, line: Sequence[str], *, cwd: Path, env: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self._master, self._slave = pty.openpty()
        self._open: tuple[int, ...] = (self._master, self._slave)
        os.set_blocking(self._master, False)
        self.resize(columns, lines)
        self.modes_before = self.modes
        self._written = b""
        # The leader of a session that opens a terminal has it as its own: Ctrl-C reaches it.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <> "$0" >&0 2>&0', os.ttyname(self._slave), *line],
            cwd=cwd,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
        )

    @property
    def modes(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._slave)

    @property
    def written(self) -> str:
        """All that was written to it so far."""
        try:
            while data := os.read(self._master, 65536):
                self._written += data
        except BlockingIOError:
            pass
        return self._written.decode(errors="replace")

    @property
    def screen(self) -> str:
        """What was written since the last beginning, without escapes; of a frame perhaps only a part."""
        return ESCAPES.sub("", ANEW.split(self.written)[-1]).replace("\r\n", "\n")

    def await_line(self, *texts: str) -> None:
        """Wait until a line of the screen has all of these."""
        until(
            lambda: any(all(text in line for text in texts) for line in self.screen.split("\n")),
            f"a line with {texts!r} on the screen",
        )

    def await_absence(self, text: str, *, beside: str) -> None:
        """Wait until this is no longer on a screen that has something else."""
        until(lambda: beside in self.screen and text not in self.screen, f"the absence of {text!r}")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Whoever has the terminal in front hears of it."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def hang_up(self) -> None:
        """The terminal goes away, as when its window is closed."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open = ()

    def wait(self) -> int:
        """Wait for its end, and take what it writes meanwhile; the exit code."""
        until(lambda: self.takes_all() and self.process.poll() is not None, "the end")
        return self.process.wait()

    def takes_all(self) -> bool:
        """Take what it writes, so that it never waits for that; always true."""
        return len(self.written) >= 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()
