"""Start a process of ours that outlives this one, and learn through a pipe when it is ready or why it is not.

The child runs in a session of its own with the home as its directory, nothing on stdin, and its words in
a log that it keeps short itself. It writes one line of JSON into the pipe: `{"ready": {…}}` or `{"error": {…}}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queuectl.errors import QueuectlError, from_wire

if TYPE_CHECKING:
    from cli.session import Session

READY_TIMEOUT_S = 60.0
ROOT = str(Path(__file__).resolve().parent.parent)


class NotReady(QueuectlError):
    """The process in the background did not get ready."""

    code = "not_ready"


def command(session: Session, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and environment to run this program with other arguments in the same home."""
    environment = dict(os.environ)
    if sys.path and sys.path[0] in ("", ROOT):  # run from a checkout that is not installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, environment.get("PYTHONPATH")]))
    if "QUEUECTL_HOME" in environment:  # what is relative is meant from here, and the child runs elsewhere
        environment["QUEUECTL_HOME"] = str(session.home.path)
    for name in environment.keys() & {"QUEUECTL_DATA_DIR", "QUEUECTL_CREDENTIALS"}:
        environment[name] = _from_anywhere(environment[name])
    line = [sys.executable, "-P", "-m", "cli", *arguments, "--home", str(session.home.path)]
    for key in ("endpoint", "credentials", "context", "log_format", "log_level"):
        value = session.flags.get(key)
        if value is not None:
            line += [f"--{key.replace('_', '-')}", _from_anywhere(value) if key == "credentials" else str(value)]
    return line, environment


def _from_anywhere(path: str) -> str:
    """The path as it is meant from here."""
    return str(Path(path).expanduser().absolute())


@dataclass(slots=True)
class Child:
    """A process of ours that was started and has not said yet whether it is ready."""

    process: subprocess.Popen[bytes]
    reader: int
    log: Path | None

    def await_ready(self) -> dict[str, Any]:
        """What it says when it is ready. Raises the error that it reports instead, or NotReady."""
        try:
            return _read_verdict(self.reader, self.log)
        finally:
            os.close(self.reader)


# It outlives us and must not be our child: a worker ends all its descendants when it ends.
_DISOWN = ["/bin/sh", "-c", '"$@" &', "sh"]


def launch(session: Session, arguments: list[str], *, log: Path | None, disown: bool = False) -> Child:
    """Start a process in a session of its own; its words go to the log, or to our stderr.

    A broker lives in the home. A worker stays where it was started: its jobs run there, never beside the database.
    """
    reader, writer = os.pipe()
    line, environment = command(session, [*arguments, "--ready-fd", str(writer)])
    if log is None:
        output = 2
    else:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        line += ["--log-file", str(log)]
    try:
        process = subprocess.Popen(
            [*_DISOWN, *line] if disown else line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=session.home.path if arguments[0] == "broker" else None,
            env=environment,
            pass_fds=(writer,),
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        if log is not None:
            os.close(output)
    return Child(process, reader, log)


def spawn(session: Session, arguments: list[str], *, log: Path) -> dict[str, Any]:
    """Start a process that outlives us, and return what it says when it is ready.

    Raises the error that it reports instead, or NotReady if it ends or takes too long.
    """
    child = launch(session, arguments, log=log, disown=True)
    child.process.wait()  # the shell between us
    return child.await_ready()


def _read_verdict(reader: int, log: Path | None) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        if not select.select([reader], [], [], READY_TIMEOUT_S)[0]:
            raise NotReady(f"not ready after {READY_TIMEOUT_S:g} s; it may still be starting", hint=_see(log))
        piece = os.read(reader, 65536)
        if not piece:
            raise NotReady("it ended before it was ready", hint=_see(log))
        received += piece
    verdict = json.loads(received)
    if "error" in verdict:
        raise from_wire(verdict["error"])
    facts: dict[str, Any] = verdict["ready"]
    return facts


def _see(log: Path | None) -> str | None:
    return f"{log} ends with: {_last_line(log)}" if log is not None else None


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "nothing"


@contextlib.contextmanager
def serving(session: Session, ready_fd: int | None, log_file: Path | None) -> Iterator[ReadyPipe]:
    """Be the process that was launched: keep the log short, prepare the home, and tell of what goes wrong."""
    pipe = ReadyPipe(ready_fd)
    try:
        if log_file is not None:
            from queuectl.capped import keep_short

            keep_short(log_file)
        if ready_fd is not None:
            _hear_again()
        session.home.prepare()
        yield pipe
    except QueuectlError as error:
        if pipe.failed(error) and log_file is not None:  # who started us says so: the log is for programs
            raise click.exceptions.Exit(error.exit_code) from None
        raise


def _hear_again() -> None:
    """The shell between us and who started us has had us ignore what `worker stop --now` sends."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class ReadyPipe:
    """The child's end of the pipe; does nothing for a process that nobody waits for."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)  # the jobs of a worker must not keep it open

    def ready(self, facts: dict[str, Any]) -> None:
        self._write({"ready": facts})

    def failed(self, error: QueuectlError) -> bool:
        """Tell who waits for us; whether somebody does."""
        return self._write({"error": error.to_wire()})

    def _write(self, verdict: dict[str, Any]) -> bool:
        if self._fd is None:
            return False
        is_heard = False
        with contextlib.suppress(BrokenPipeError):  # the parent was interrupted; we go on without it
            os.write(self._fd, json.dumps(verdict).encode() + b"\n")
            is_heard = True
        os.close(self._fd)
        self._fd = None
        return is_heard
