"""What the others notice: a worker's heartbeats, a client's requests, and what the broker takes of the machine."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measuring import percentile
from tests.harness_keys import Domain, keyed_broker
from tests.harness_process import ROOT, RawClient, ScriptedWorker

MIB = 2**20
PACE_S = 0.02  # between two heartbeats, and two requests
SAMPLE_S = 0.05
COUNTERS = ("turned_away", "denied", "malformed")
COMMAND_BYTES = 100_000  # of jobs whose listing is a large reply


@dataclass(frozen=True)
class Scene:
    """Who attacks: by what name, with a key of which role (None: with none), and how many of them."""

    name: str
    what: str
    attack: str | None
    role: str | None = None
    attackers: int = 1


SCENES = (
    Scene("nothing", "nobody attacks", None),
    Scene("requests", "sends requests without waiting", "send_without_waiting", "submit"),
    Scene("enqueues", "enqueues without waiting", "enqueue_without_waiting", "submit"),
    Scene("unread", "never reads its replies", "never_read", "read"),
    Scene("large", "sends messages of 1 MiB", "send_large", "worker"),
    Scene("frames", "sends messages of 100,000 frames", "send_many_frames", "worker"),
    Scene("beats", "a worker beats without waiting", "beat_without_waiting", "worker"),
    Scene("knocks", "knocks with unknown keys", "knock"),
    Scene("bytes", "throws bytes and hangs up", "throw_bytes"),
    Scene("silence", "holds 1000 handshakes open", "say_nothing"),
    Scene("long", "sends 4 MiB in each handshake", "say_much"),
)


@dataclass
class Timed:
    """How long something took each time, in seconds, and how often it failed."""

    took: list[float] = field(default_factory=list)
    errors: int = 0

    def told(self) -> dict[str, float | int]:
        """In milliseconds."""
        if not self.took:
            return {"count": 0, "errors": self.errors, "p50_ms": 0.0, "p99_ms": 0.0, "most_ms": 0.0}
        return {
            "count": len(self.took),
            "errors": self.errors,
            "p50_ms": 1000 * percentile(self.took, 0.5),
            "p99_ms": 1000 * percentile(self.took, 0.99),
            "most_ms": 1000 * max(self.took),
        }


class Process:
    """What a process takes of the machine."""

    def __init__(self, pid: int):
        self._pid = pid

    def memory(self) -> int:
        """Bytes in memory."""
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def cpu_s(self) -> float:
        """Seconds of all its threads so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def attacked(domain: Domain, scene: Scene, seed: int) -> Iterator[None]:
    """While the block runs the attackers do; they are ended by their pids."""
    with ExitStack() as stack:
        for number in range(scene.attackers if scene.attack else 0):
            public, secret = "", ""
            if scene.role is not None:
                made = domain.add(f"flood-{number}", scene.role)
                public, secret = made.public_key, made.secret_key
            about: dict[str, Any] = {"port": domain.port, "server_key": domain.server_key, "seed": seed + number}
            about |= {"public_key": public, "secret_key": secret}
            command = [sys.executable, "-m", "tests.flood.attacks", str(scene.attack)]
            attacker = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, text=True)
            stack.enter_context(attacker)
            stack.callback(attacker.kill)
            assert attacker.stdin is not None
            attacker.stdin.write(json.dumps(about))
            attacker.stdin.close()
        yield


class Others:
    """A worker with a lease and a client, both with keys, each in a thread."""

    def __init__(self, domain: Domain):
        self._stack = ExitStack()
        self.worker = self._stack.enter_context(ScriptedWorker(domain.worker_way(domain.add("worker", "worker"))))
        self.client = self._stack.enter_context(RawClient(domain.client_way(domain.add("client", "read"))))
        self.worker.hello(queues=("default",))
        [self.job] = domain.local.enqueue("sleep 1000")
        self.worker.pushed()
        self.beats, self.requests = Timed(), Timed()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._beat), threading.Thread(target=self._ask)]

    def go(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; the lease is reported, and must be live yet."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.beats.errors += self.worker.finish(*self.worker.grants.values()) != ["recorded"]
        self._stack.close()

    def _beat(self) -> None:
        while not self._over.wait(PACE_S):
            began = time.perf_counter()
            try:
                self.beats.errors += bool(self.worker.beat().drop)
                self.beats.took.append(time.perf_counter() - began)
            except TimeoutError:
                self.beats.errors += 1

    def _ask(self) -> None:
        while not self._over.wait(PACE_S):
            began = time.perf_counter()
            try:
                self.requests.errors += self.client.ask("job", id=self.job).get("ok") is None
                self.requests.took.append(time.perf_counter() - began)
            except TimeoutError:
                self.requests.errors += 1


def play(scene: Scene, *, seconds: float, seed: int) -> dict[str, Any]:
    """One scene on a broker of its own; what was read."""
    home = Path(tempfile.mkdtemp(prefix="q-"))
    try:
        with keyed_broker(home) as domain:
            for _ in range(10):
                domain.local.enqueue("true # " + "x" * COMMAND_BYTES, queue="large")
            return _measure(domain, scene, seconds, seed)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _measure(domain: Domain, scene: Scene, seconds: float, seed: int) -> dict[str, Any]:
    broker = Process(domain.broker.process.pid)
    others = Others(domain)
    counters = {name: domain.counter(name) for name in COUNTERS}
    before, peak = broker.memory(), 0
    others.go()
    try:
        with attacked(domain, scene, seed):
            began, cpu_s = time.monotonic(), broker.cpu_s()
            while time.monotonic() - began < seconds:
                peak = max(peak, broker.memory())
                time.sleep(SAMPLE_S)
            cpu = (broker.cpu_s() - cpu_s) / (time.monotonic() - began)
            requests, beats = others.requests.told(), others.beats.told()
    finally:
        others.close()
    return {
        "scene": scene.name,
        "what": scene.what,
        "seconds": seconds,
        "beats": beats | {"errors": others.beats.errors},
        "requests": requests | {"errors": others.requests.errors},
        "memory_mib": {"before": before / MIB, "peak": peak / MIB, "after": broker.memory() / MIB},
        "cpu": cpu,
        "counters": {name: domain.counter(name) - counters[name] for name in COUNTERS},
    }
