"""One shell command as a child process: start it in a session of its own, read its pipes, let it go."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
from collections.abc import Iterator
from typing import NamedTuple

from queuectl.errors import QueuectlError
from queuectl.messages import STDERR, STDOUT
from worker.brand import Brands
from worker.environment import Environment
from worker.stdin import open_stdin

SHELL = "/bin/sh"
READ_BYTES_MAX = 64 * 1024  # of one pipe in one turn of the loop
_LAST_READS_MAX = 16  # after the leader's end: a pipe holds 64 KiB unless made larger, and others may still write
_ALL_SIGNALS = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_FILES_PER_COMMAND = 4  # both ends of both pipes while it is started
_FILES_OF_OUR_OWN = 100
_TOO_BIG = "the command and its environment are too long for the system (E2BIG)"


Limit = tuple[int, int]  # soft and hard


def raise_file_limit(slots: int) -> Limit | None:
    """Allow as many open files as so many commands need. The limit before, if it had to be raised."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_OF_OUR_OWN + _FILES_PER_COMMAND * slots
    if before[0] == resource.RLIM_INFINITY or before[0] >= needed:
        return None
    raised = needed if before[1] == resource.RLIM_INFINITY else min(needed, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, before[1]))
    return before


class SpawnError(QueuectlError):
    """The command cannot be started; that is the job's fault."""

    code = "spawn_error"


class WorkerFault(QueuectlError):
    """The command cannot be started; that is this machine's fault."""

    code = "worker_fault"


class Spawner:
    """Starts commands. Keeps what every start needs: /dev/null, and the directory to come back to."""

    def __init__(self, file_limit: Limit | None = None, brands: Brands | None = None) -> None:
        """`file_limit`: of open files, for the commands, where the worker has raised its own."""
        self._file_limit = file_limit
        self._brands = brands
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._null)
        os.close(self._directory)

    def start(self, command: str, environment: Environment, cwd: str | None, stdin: bytes | None = None) -> Child:
        """Start a command, which reads `stdin`, or nothing. Raises SpawnError or WorkerFault."""
        if stdin is None:
            return self._start(command, environment, cwd, self._null)
        try:
            file = open_stdin(stdin)
        except OSError as error:
            raise WorkerFault(f"cannot make the standard input of the command: {error.strerror}") from None
        try:
            return self._start(command, environment, cwd, file)
        finally:
            os.close(file)

    def _start(self, command: str, environment: Environment, cwd: str | None, stdin: int) -> Child:
        fds: list[int] = []
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
            brand = None if self._brands is None else self._brands.put_on()
            pid = self._spawn(command, environment, cwd, (stdin, fds[1], fds[3]))
        except (OSError, ValueError) as error:
            for fd in fds:
                os.close(fd)
            raise _fault_of(error) from None
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        if self._file_limit is not None:
            with contextlib.suppress(OSError):  # it may be over already
                resource.prlimit(pid, resource.RLIMIT_NOFILE, self._file_limit)
        os.close(fds[1])
        os.close(fds[3])
        return Child(pid, fds[0], fds[2], brand)

    def _spawn(self, command: str, environment: Environment, cwd: str | None, standard: tuple[int, int, int]) -> int:
        """`standard`: what it gets as its descriptors 0, 1 and 2."""
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(standard)]
        if cwd is not None:
            os.fchdir(self._directory)  # if there is no way back, it must not even begin
            self._enter(cwd)
        try:
            # Every signal starts out as the system has it, whatever the worker or its starter ignores.
            return os.posix_spawn(
                SHELL,
                [b"sh", b"-c", command.encode()],
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_ALL_SIGNALS,
            )
        finally:
            if cwd is not None:
                self._come_back()

    def _enter(self, cwd: str) -> None:
        try:
            os.chdir(cwd)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SpawnError(f"cannot enter the directory {cwd}: {reason}") from None

    def _come_back(self) -> None:
        try:
            os.fchdir(self._directory)
        except OSError as error:  # of no single job: this worker cannot go on, and what it has started ends with it
            raise RuntimeError(f"cannot come back to the worker's own directory: {error.strerror}") from error


def _fault_of(error: OSError | ValueError) -> QueuectlError:
    if isinstance(error, ValueError):  # a NUL, or a name of a variable that can be none: no broker of ours sends that
        return SpawnError(f"cannot start {SHELL}: {error}")
    if error.errno == errno.E2BIG:
        return SpawnError(_TOO_BIG)
    return WorkerFault(f"cannot start {SHELL}: {error.strerror}")


class Child:
    """A running command: its leader's number and our ends of its pipes."""

    __slots__ = ("_is_unblocked", "brand", "pid", "pipes")

    def __init__(self, pid: int, stdout: int, stderr: int, brand: int | None) -> None:
        self.pid = pid  # of the leader; also the number of its session and its process group
        self.brand = brand
        self.pipes = {STDOUT: stdout, STDERR: stderr}  # those still open
        self._is_unblocked = False

    def unblock(self) -> None:
        """Let no read wait, for whatever reason the pipe should be empty. May be called twice."""
        if not self._is_unblocked:
            self._is_unblocked = True
            for fd in self.pipes.values():
                os.set_blocking(fd, False)

    def read(self, stream: int) -> bytes | None:
        """What there is to read, at most READ_BYTES_MAX. None: nothing now. Empty: the pipe has ended."""
        self.unblock()
        try:
            return os.read(self.pipes[stream], READ_BYTES_MAX)
        except BlockingIOError:
            return None

    def read_rest(self) -> Iterator[tuple[int, bytes]]:
        """What is in the pipes now; others may hold them open and go on writing, so there is a bound."""
        poller = select.poll()  # one call for both: mostly there is nothing
        for fd in self.pipes.values():
            poller.register(fd, select.POLLIN)
        readable = {fd for fd, events in poller.poll(0) if events & select.POLLIN}
        for stream in [stream for stream, fd in self.pipes.items() if fd in readable]:
            for _ in range(_LAST_READS_MAX):
                data = self.read(stream)
                if not data:
                    break
                yield stream, data

    def reap(self) -> None:
        """Let the number of the leader, which has ended, go."""
        os.waitpid(self.pid, os.WNOHANG)

    def close_pipe(self, stream: int) -> None:
        os.close(self.pipes.pop(stream))


class Death(NamedTuple):
    """A child that has ended: with an exit code, or by a signal."""

    pid: int
    exit_code: int | None
    signal: int | None


def find_dead() -> Death | None:
    """A child that has ended. It stays a zombie, so that its number stays taken, and is found until it is reaped."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if info is None:
        return None
    if info.si_code == os.CLD_EXITED:
        return Death(info.si_pid, info.si_status, None)
    return Death(info.si_pid, None, info.si_status)
