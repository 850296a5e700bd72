"""Where a benchmark plays: a home of its own with a real broker and real workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from queuectl import Client
from queuectl.errors import QueuectlError
from queuectl.home import Home
from tests.bench.crew import ROOT

SCRIPT = Path(sys.executable).with_name("queuectl")  # as it is installed beside this interpreter
QUEUECTL = (str(SCRIPT),) if SCRIPT.exists() else (sys.executable, "-P", "-m", "cli")
CHUNK = 1000  # jobs of one request
LIMIT_S = 60.0


class Stage:
    """One home, its environment, and the daemons started in it."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.environment = {**os.environ, "QUEUECTL_HOME": str(path), "PYTHONPATH": str(ROOT)}
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def database(self) -> Path:
        return self.home.path / "queue.db"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon in the foreground; it is ended with the stage."""
        with (self.home.path / f"{arguments[0]}.out").open("ab") as log:
            daemon = subprocess.Popen(
                [*QUEUECTL, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._daemons.append(daemon)
        return daemon

    def run(self, *arguments: str) -> None:
        """Run a command to its end."""
        subprocess.run(
            [*QUEUECTL, *arguments], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )

    def broker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A broker that answers."""
        daemon = self.start("broker", "start", *arguments)
        wait_for(self._answers, "the broker does not answer")
        return daemon

    def worker(self, slots: int, *arguments: str) -> subprocess.Popen[bytes]:
        """A worker that is connected."""
        daemon = self.start("worker", "start", "--count", str(slots), *arguments)
        with self.client() as client:
            wait_for(lambda: bool(client.status()["workers"]), "the worker does not connect")
        return daemon

    def client(self) -> Client:
        """A client of this broker, patient enough for a busy machine."""
        return Client(home=self.home, timeout=LIMIT_S)

    def _answers(self) -> bool:
        try:
            with Client(home=self.home) as client:
                client.ping()
        except QueuectlError:
            return False
        return True

    def stop(self, daemon: subprocess.Popen[bytes]) -> None:
        """End one daemon cleanly."""
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(LIMIT_S)
        self._daemons.remove(daemon)

    def end(self) -> None:
        """End every daemon, workers first."""
        for daemon in reversed(self._daemons):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(LIMIT_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage, removed afterwards."""
    with scratch() as path:
        it = Stage(path)
        try:
            yield it
        finally:
            it.end()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk where all figures are measured, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="qbench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def enqueue(client: Client, jobs: Sequence[dict[str, object]]) -> list[str]:
    """Store jobs in requests of a thousand; their ids."""
    ids: list[str] = []
    for first in range(0, len(jobs), CHUNK):
        ids += client.request("enqueue", {"jobs": jobs[first : first + CHUNK]})["ids"]
    return ids


def wait_for(condition: Callable[[], bool], complaint: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(complaint)
        time.sleep(0.01)
