"""Where a benchmark plays: a home of its own with a real broker and workers, and a quiet machine if it can be had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from queuectl import Client
from queuectl.home import Home

QUEUECTL = (sys.executable, "-P", "-m", "cli")
BUSY_MAX = 0.12
QUIET_SECONDS_MAX = 10.0


class Stage:
    """One home, its environment, and the daemons started in it."""

    def __init__(self, path: Path):
        self.home = Home(path)
        self.environment = {**os.environ, "QUEUECTL_HOME": str(path), "PYTHONPATH": str(Path(__file__).parents[2])}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon in the foreground of its own session; it is ended with the stage."""
        log = (self.home.path / f"{arguments[0]}.out").open("ab")
        daemon = subprocess.Popen(
            [*QUEUECTL, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        self._daemons.append(daemon)
        return daemon

    def run(self, *arguments: str, stdin: Path | None = None) -> str:
        """Run a command to its end; its output."""
        with (stdin or Path(os.devnull)).open("rb") as source:
            done = subprocess.run(
                [*QUEUECTL, *arguments], env=self.environment, stdin=source, capture_output=True, check=True
            )
        return done.stdout.decode()

    def broker(self) -> subprocess.Popen[bytes]:
        """A broker that answers."""
        daemon = self.start("broker", "start")
        self.wait_for(lambda: self._answers(), "the broker does not answer")
        return daemon

    def worker(self, slots: int) -> subprocess.Popen[bytes]:
        """A worker that is connected."""
        daemon = self.start("worker", "start", "--count", str(slots))
        with Client(home=self.home) as client:
            self.wait_for(lambda: bool(client.status()["workers"]), "the worker does not connect")
        return daemon

    def _answers(self) -> bool:
        try:
            with Client(home=self.home) as client:
                client.request("ping", {})
        except Exception:  # noqa: BLE001  not yet
            return False
        return True

    @staticmethod
    def wait_for(condition: object, complaint: str, seconds: float = 30) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            if time.monotonic() > end:
                raise RuntimeError(complaint)
            time.sleep(0.01)

    def end(self) -> None:
        """End every daemon, workers first."""
        for daemon in reversed(self._daemons):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="qbench-"))
    path.chmod(0o700)
    it = Stage(path)
    try:
        yield it
    finally:
        it.end()
        shutil.rmtree(path, ignore_errors=True)


def wait_quiet() -> bool:
    """Wait a while for the machine to have nothing else to do; whether it had."""
    end = time.monotonic() + QUIET_SECONDS_MAX
    while _busy() > BUSY_MAX:
        if time.monotonic() > end:
            return False
    return True


def _busy(seconds: float = 0.3) -> float:
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 1 - idle / max(1, total)


def _ticks() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {"cpus": os.cpu_count(), "cpu": model, "kernel": os.uname().release, "python": sys.version.split()[0]}


def dump(path: Path, data: object) -> None:
    """Write JSON for people who compare runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")
