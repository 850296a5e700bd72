"""The processes of a campaign: a broker and machines, each with a home of its own and a worker in it.

They are started as people start them, by the command line, and say over a pipe that they are ready. Whatever
is killed here is killed by its process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from queuectl.home import Home
from tests.harness_cli import PROGRAM, children_of, is_alive, last_guard_of, until
from tests.harness_process import ROOT, TcpProxy
from tests.harness_worker import below

LIMIT_S = 120.0  # a wait that lasts longer has failed; on a busy machine everything else is only slow


class DaemonDied(Exception):
    """A broker or worker ended before it was ready, and nobody had killed it."""


class Daemon:
    """A broker or a worker in a home. May be started again after it has ended."""

    def __init__(self, home: Path, arguments: Sequence[str], *, program: Sequence[str] = PROGRAM):
        self.home = Home(home)
        self.log = home.with_suffix(".log")
        self._line = [*program, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None  # the pipe over which it says that it is ready

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs, or ran last."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start it and do not wait."""
        self._forget_pipe()
        self._told, tell = os.pipe()
        environment = {**os.environ, "QUEUECTL_HOME": str(self.home.path), "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._line, "--ready-fd", str(tell)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home.path.parent,
                env=environment,
                pass_fds=(tell,),
                start_new_session=True,
            )
        os.close(tell)

    def await_ready(self) -> dict[str, Any]:
        """Wait until it is ready, after `spawn`; what it said then. Raises DaemonDied."""
        assert self._told is not None
        data = b""
        while not data.endswith(b"\n"):
            if not select.select([self._told], [], [], LIMIT_S)[0]:
                raise DaemonDied(f"{self._line} was not ready after {LIMIT_S:g} s; see {self.log}")
            piece = os.read(self._told, 65536)
            if not piece:
                raise DaemonDied(f"{self._line} ended with {self.wait()}; see {self.log}")
            data += piece
        self._forget_pipe()
        said: dict[str, Any] = json.loads(data)
        if "ready" not in said:
            raise DaemonDied(f"{self._line} said {said}; see {self.log}")
        return said

    def _forget_pipe(self) -> None:
        if self._told is not None:
            os.close(self._told)
            self._told = None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(limit_s)

    def kill(self) -> None:
        """SIGKILL for the process that was started."""
        self.process.kill()
        self.wait()
        self._forget_pipe()

    def close(self) -> None:
        """End it, whatever it does."""
        if self.is_running:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self._forget_pipe()


class Broker(Daemon):
    """The broker; also on a loopback port, for the machines that are far away."""

    def __init__(self, home: Path, port: int, *, program: Sequence[str] = PROGRAM):
        listen = ["--listen", f"tcp://127.0.0.1:{port}", "--insecure-no-auth"]
        super().__init__(home, ["broker", "start", *listen], program=program)

    def start(self) -> None:
        self.spawn()
        self.await_ready()


class Machine(Daemon):
    """A home with a worker: over ipc beside the broker, or over TCP through a proxy that can break."""

    def __init__(self, home: Path, slots: int, *, broker: Home, proxy: TcpProxy | None = None):
        endpoint = [] if proxy is None else ["--endpoint", f"tcp://127.0.0.1:{proxy.port}"]
        super().__init__(home, ["worker", "start", "--count", str(slots), *endpoint])
        self.name = home.name
        self.proxy = proxy
        self._inner: int | None = None
        self.home.prepare()
        if proxy is None:  # it finds the broker's socket where it looks for that of its own home
            (self.home.run / "worker.sock").symlink_to(broker.run / "worker.sock")

    def start(self) -> None:
        """Start the worker and wait until the broker has welcomed it."""
        self.spawn()
        self.await_ready()

    @property
    def inner(self) -> int | None:
        """The process that runs the jobs; None before there is one, and where its guardian is gone."""
        if self.is_running and self._inner is None:
            self._inner = next(iter(children_of(self.pid)), None)
        return self._inner

    @property
    def last_guard(self) -> int:
        """The process that acts when the other two are dead."""
        return last_guard_of(self.pid)

    def spawn(self) -> None:
        self._inner = None
        super().spawn()

    def signal(self, number: int) -> None:
        """To both processes of the worker, the one that could react first."""
        for pid in (self.pid, self.inner):
            send(pid, number)

    def await_end(self) -> None:
        """Wait until both processes of the worker are gone."""
        self.wait()
        inner = self._inner
        if inner is not None:
            until(lambda: not is_alive(inner), f"the end of {inner} in {self.name}", LIMIT_S)

    def descendants(self) -> list[int]:
        """All processes below the one that runs the jobs."""
        return below(self.inner) if self.inner else []

    def close(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            for pid in self.descendants():
                send(pid, signal.SIGCONT)
            if self.is_running:
                self.process.kill()  # its other half ends what is left
            self.await_end()
        super().close()


def send(pid: int | None, number: int) -> None:
    """Signal a process that may be gone."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def python(*module: str) -> list[str]:
    """The command line of a module of the tests."""
    return [sys.executable, "-m", *module]
