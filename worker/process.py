"""One shell command as a child process: start it in a session of its own, read its pipes, learn how it ended."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal

from queuectl.errors import QueuectlError
from queuectl.messages import STDERR, STDOUT
from worker.brand import Brands
from worker.environment import Environment

SHELL = "/bin/sh"
READ_BYTES_MAX = 64 * 1024  # of one pipe in one turn of the loop
_LAST_READS_MAX = 16  # after the leader's end: a pipe holds 64 KiB unless made larger, and others may still write
_ALL_SIGNALS = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_FILES_PER_COMMAND = 5  # two pipes and a handle, and both ends of both pipes while it is started
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

    def __init__(self, message: str, *, has_started: bool = False):
        """`has_started`: it ran for a moment, and was killed."""
        super().__init__(message)
        self.has_started = has_started


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

    def start(self, command: str, environment: Environment, cwd: str | None) -> Child:
        """Start a command. Raises SpawnError or WorkerFault."""
        fds: list[int] = []
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
            fds.append(os.pidfd_open(os.getpid()))  # there is room for the handle; once the command runs it is too late
            brand = None if self._brands is None else self._brands.put_on()
            pid = self._spawn(command, environment, cwd, fds[1], fds[3])
            os.close(fds.pop())
            handle = _open_handle(pid)
        except OSError as error:
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
        os.set_blocking(fds[0], False)
        os.set_blocking(fds[2], False)
        return Child(pid, handle, fds[0], fds[2], brand)

    def _spawn(self, command: str, environment: Environment, cwd: str | None, stdout: int, stderr: int) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ]
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


def _open_handle(pid: int) -> int:
    """A handle on a command that runs; without one it is killed, and the tree reaps it. Raises WorkerFault."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:  # somebody else took the room that there was
        with contextlib.suppress(PermissionError):
            os.killpg(pid, signal.SIGKILL)
        raise WorkerFault(f"cannot watch over a command: {error.strerror}", has_started=True) from None


def _fault_of(error: OSError) -> QueuectlError:
    if error.errno == errno.E2BIG:
        return SpawnError(_TOO_BIG)
    return WorkerFault(f"cannot start {SHELL}: {error.strerror}")


class Child:
    """A running command: its leader's handle and our ends of its pipes."""

    __slots__ = ("brand", "handle", "pid", "pipes")

    def __init__(self, pid: int, handle: int, stdout: int, stderr: int, brand: int | None) -> None:
        self.pid = pid  # of the leader; also the number of its session and its process group
        self.handle = handle
        self.brand = brand
        self.pipes = {STDOUT: stdout, STDERR: stderr}  # those still open

    def read(self, stream: int) -> bytes | None:
        """What there is to read, at most READ_BYTES_MAX. None: nothing now. Empty: the pipe has ended."""
        try:
            return os.read(self.pipes[stream], READ_BYTES_MAX)
        except BlockingIOError:
            return None

    def read_rest(self, stream: int) -> list[bytes]:
        """What is in the pipe now; others may hold it open and go on writing, so there is a bound."""
        chunks = []
        for _ in range(_LAST_READS_MAX):
            data = self.read(stream)
            if not data:
                break
            chunks.append(data)
        return chunks

    def exit_status(self) -> tuple[int | None, int | None] | None:
        """Exit code or signal of the leader, None while it runs. Leaves it a zombie, so that its number stays taken."""
        info = os.waitid(os.P_PIDFD, self.handle, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        if info.si_code == os.CLD_EXITED:
            return info.si_status, None
        return None, info.si_status

    def reap(self) -> None:
        """Let the leader's number go."""
        os.waitid(os.P_PIDFD, self.handle, os.WEXITED | os.WNOHANG)
        os.close(self.handle)

    def close_pipe(self, stream: int) -> None:
        os.close(self.pipes.pop(stream))
