"""The third process of a worker: it waits until the other two are dead, and does what they cannot do any more.

Worker and guardian see to it that no process of a job is left when one of them is killed. This one is for the
moment in which both are. It is neither their child nor of their session or name, so that what hits them does
not hit it; it does nothing but wait, at the end of a socket that only those two hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from worker.proc import rename, retitle

NAME = "last-guard"  # as short as the kernel keeps names; without the words by which people kill workers
_DONE = b"."
_FAREWELL_S_MAX = 5.0  # it may have been stopped, and then goes when it is continued


class LastGuard:
    """The handle of its worker and guardian on it."""

    def __init__(self, act: Callable[[], object]) -> None:
        """Fork it. `act` is what it does when both are dead.

        No thread may exist yet, and this process be no subreaper, or it would become the father of it again.
        """
        ours, its = socket.socketpair()
        boss = os.getpid()
        pid = os.fork()
        if pid == 0:
            _part(boss, its.fileno(), act)
        its.close()
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, as some starters leave it
            os.waitpid(pid, 0)
        self._socket = ours

    def dismiss(self) -> None:
        """Everything is in order: let it go, and wait until it has gone."""
        self._socket.settimeout(_FAREWELL_S_MAX)
        with contextlib.suppress(OSError):  # somebody has killed it
            self._socket.send(_DONE)
            self._socket.recv(1)
        self._socket.close()


def _part(boss: int, its: int, act: Callable[[], object]) -> NoReturn:
    """In the child: leave the family, wait, act."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()
        if os.fork() == 0:
            _watch(boss, its, act)
    finally:
        os._exit(0)  # not a return into the caller's stack, which belongs to the other process


def _watch(boss: int, its: int, act: Callable[[], object]) -> None:
    retitle(f"{NAME} of worker {boss}")
    rename(NAME)
    end = os.dup2(its, 3, inheritable=False)
    os.closerange(end + 1, os.sysconf("SC_OPEN_MAX"))
    if not os.read(end, 1):
        act()
