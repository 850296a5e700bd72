"""Signals as something to read, so that the loop can wait for them with everything else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable

# What the guardian passes on, on signals of their own: a service manager that signals every process of the
# service must not make two requests of one.
STOP = signal.SIGRTMIN
STOP_NOW = signal.SIGRTMIN + 1
DIRECT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNAL_SET_BYTES = 128  # glibc's and musl's sigset_t
_NOTICE_BYTES = 128  # what the kernel writes for each signal


class SignalPipe:
    """The signals that have arrived, for the main thread only."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*DIRECT, STOP, STOP_NOW, signal.SIGQUIT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _ignore)  # a handler there must be, or Python writes nothing into the pipe
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def fileno(self) -> int:
        return self._read

    def take(self) -> bytes:
        """The numbers of the signals since the last time, a byte each."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._read)
        os.close(self._write)


class DeathNotices:
    """Readable when a child has died: SIGCHLD is blocked and read, so that it interrupts nothing. For the main thread.

    One handle serves all children, orphans that the worker has inherited included; and since nobody but the worker
    reaps them, their numbers stay theirs until then. A handle for each would cost eight more system calls a command.
    """

    def __init__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        wanted = (1 << signal.SIGCHLD - 1).to_bytes(_SIGNAL_SET_BYTES, "little")
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Be readable again only when another dies. Those that have died by now are to be looked for after it."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _NOTICE_BYTES)

    def renew(self) -> None:
        """Be readable once more: not all that have died were looked at."""
        os.kill(os.getpid(), signal.SIGCHLD)

    def close(self) -> None:
        os.close(self._fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class StopRequests:
    """Counts who asked how often to stop. A request told twice, directly and by the guardian, counts once."""

    def __init__(self) -> None:
        self._direct = 0
        self._passed_on = 0
        self._answered = 0

    def count(self, numbers: Iterable[int]) -> int:
        """How many new requests these signals make."""
        for number in numbers:
            if number in DIRECT:
                self._direct += 1
            elif number == STOP:
                self._passed_on += 1
        asked = max(self._direct, self._passed_on)
        new, self._answered = asked - self._answered, asked
        return new


def _ignore(number: int, frame: object) -> None:
    pass
