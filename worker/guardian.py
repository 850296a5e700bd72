"""The process that the user started: it forks the worker, passes signals on, and leaves no job behind.

Being a subreaper it inherits whatever the worker leaves when it dies, even from SIGKILL, and kills it. The
worker in turn watches this process through a handle, and ends everything if it should be the one to die.
The worker has a session of its own, so that Ctrl-C on a terminal reaches only this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from queuectl.systemd import notify
from worker.proc import become_subreaper, children_of, descendants_of, find_stat, retitle, send_signal
from worker.signals import STOP, STOP_NOW

CRASHED = 70  # the worker's exit code for an error of its own (EX_SOFTWARE of sysexits)
READY = signal.SIGUSR1  # from the worker: the first session has begun
FINISHING = "Finishing what runs; press Ctrl+C again to end it and give it back."
CLEAN_UP_S_MAX = 10.0  # a process that hangs in the kernel cannot be waited for
_PASSED_ON = {
    signal.SIGTERM: STOP,
    signal.SIGINT: STOP,
    signal.SIGHUP: STOP,
    signal.SIGQUIT: STOP_NOW,
}
_HEARD = frozenset({*_PASSED_ON, signal.SIGCHLD, READY})


@dataclass(frozen=True, slots=True)
class Death:
    """How the worker process ended."""

    code: int | None
    signal: int | None

    @property
    def is_clean(self) -> bool:
        return self.code is not None and self.code != CRASHED

    def __str__(self) -> str:
        if self.signal is not None:
            return f"the worker process was killed by signal {self.signal}"
        return f"the worker process ended with code {self.code}"


def guard(work: Callable[[int], int]) -> Death:
    """Run `work` in a forked process, given a handle on this one, and clean up after it. May be called once.

    No thread and no zmq context may exist yet.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some starters leave it, it would reap for us
    # What is ignored from the start, by nohup for one, stays so; blocked it would be heard all the same.
    heard = frozenset(number for number in _HEARD if signal.getsignal(number) is not signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    become_subreaper()
    strangers = frozenset(children_of(os.getpid()))  # of the program that became this one by exec
    handle = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        _be_the_worker(work, handle)
    os.close(handle)
    death = _attend(pid, heard)
    if not death.is_clean:
        kill_all(strangers)
    return death


def _be_the_worker(work: Callable[[int], int], guardian: int) -> None:
    code = CRASHED
    try:
        os.setsid()
        become_subreaper()
        # Who kills by pattern (`pkill -9 -f "queuectl worker"`) must not hit both processes at once.
        retitle(f"queuectl: runs the jobs of {os.getppid()}")
        code = work(guardian)
        sys.stdout.flush()
    finally:
        os._exit(code)  # not a return into the caller's stack, which belongs to the other process


def _attend(worker: int, heard: Collection[int]) -> Death:
    """Pass signals on until the worker is dead."""
    is_told = False
    while True:
        info = signal.sigwaitinfo(heard)
        number = signal.Signals(info.si_signo)
        if number in _PASSED_ON:
            notify("STOPPING=1")
            if not is_told and sys.stderr.isatty():
                sys.stderr.write(f"{FINISHING}\n")
                sys.stderr.flush()
            is_told = True
            os.kill(worker, _PASSED_ON[number])
        elif number == READY and info.si_pid == worker:
            notify("READY=1")
        death = _reap(worker)
        if death is not None:
            return death


def _reap(worker: int) -> Death | None:
    """Reap all that died; the death of the worker, if it was among them."""
    death = None
    with contextlib.suppress(ChildProcessError):
        while (info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)) is not None:
            if info.si_pid == worker:
                exited = info.si_code == os.CLD_EXITED
                death = Death(info.si_status if exited else None, None if exited else info.si_status)
    return death


def kill_all(spared: Collection[int] = ()) -> bool:
    """SIGKILL every descendant but those spared, until none is left. Whether that was achieved."""
    deadline = time.monotonic() + CLEAN_UP_S_MAX
    while time.monotonic() < deadline:
        left = [pid for pid in children_of(os.getpid()) if pid not in spared]
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            for descendant in descendants_of(pid):
                stat = find_stat(descendant)
                if stat is not None:
                    send_signal(descendant, signal.SIGKILL, stat.started)
        if not left:
            return True
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)
        _reap(0)
    return False
