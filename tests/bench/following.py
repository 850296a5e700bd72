"""What it costs the others that many people follow jobs that print much, and whether each of them gets all of it.

A job prints so many bytes at once; of a stream the first and the last half of `output_limit` are kept (1 MiB in all,
unless set), and followers are told the exact size of what is not. Each process of followers follows as many jobs at a
time as run, one after the other, in the order in which they were enqueued.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import Any

from queuectl import Chunk, Client
from tests.bench.crew import crew
from tests.bench.machine import memory_mb, wait_quiet
from tests.bench.measuring import Readings, percentile
from tests.bench.stage import LIMIT_S, Stage, enqueue, stage
from tests.harness_process import ScriptedWorker

PRINTED, PRINTED_QUICK = 10_000_000, 1_000_000  # bytes of a job
MANY = 100  # fewer jobs are the quick run
AT_A_TIME = 8
FOLLOWERS = 5
LOWEST = 19
PACE_S = 0.02
WAIT_S = 1800.0


def followers(jobs: int) -> Readings:
    """The same jobs without followers and with five each: heartbeats, dispatch, memory, and what the followers got.

    Followers that share the broker's cores take these from it besides. Once they have the lowest priority (nice): much
    as if they ran elsewhere.
    """
    size = PRINTED if jobs >= MANY else PRINTED_QUICK
    readings = _idle()
    for name, many, nice in (("no followers", 0, 0), ("followers nice", FOLLOWERS, LOWEST)):
        readings |= {f"{key}, {name}": value for key, value in _scene(jobs, size, many, nice).items()}
    return {**readings, **_scene(jobs, size, FOLLOWERS, 0)}


def _idle() -> Readings:
    with stage() as it:
        it.broker()
        wait_quiet()
        with Probe(it) as probe:
            time.sleep(5)
        return {f"{name}, idle": value for name, value in probe.readings().items()}


def _scene(jobs: int, size: int, many: int, nice: int) -> Readings:
    with stage() as it, it.client() as client:
        broker = it.broker()
        ids = [f"loud-{number}" for number in range(jobs)]
        with crew(follow, [{"home": str(it.home.path), "ids": ids, "nice": nice}] * many) as crowd:
            wait_quiet()
            command = f"head -c {size} /dev/zero | tr '\\0' x"
            enqueue(client, [{"command": command, "id": name, "queue": "loud"} for name in ids])
            crowd.go()
            began = time.monotonic()
            with Probe(it) as probe:
                it.start("worker", "start", "--count", str(AT_A_TIME), "--queue", "loud")
                client.wait(ids, timeout=WAIT_S)
                told = crowd.gather()
            taken = time.monotonic() - began
        assert client.status()["jobs"]["dead"] == 0
        readings = {"memory": memory_mb(broker.pid)[1], "rate": jobs / taken, **probe.readings()}
    got = sum(each.result["bytes"] for each in told)
    gaps = sum(each.result["gaps"] for each in told)
    wrong = sum(each.result["wrong"] for each in told) + abs(many * jobs * size - got - gaps)
    return {**readings, "wrong": wrong, "delivered": got / 1e6 / taken}


def follow(home: str, ids: list[str], nice: int) -> Generator[Any, None, None]:
    """Follow all of these jobs to their ends; bytes that came, bytes told as gaps, and bytes out of place."""
    os.nice(nice)
    left, told, lock = deque(ids), {"bytes": 0, "gaps": 0, "wrong": 0}, threading.Lock()

    def follow_some() -> None:
        with Client(home=home, timeout=LIMIT_S) as client:
            while True:
                try:
                    job = left.popleft()
                except IndexError:
                    return
                counts = _follow_one(client, job)
                with lock:
                    for name, count in counts.items():
                        told[name] += count

    threads = [threading.Thread(target=follow_some) for _ in range(AT_A_TIME)]
    yield
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield told


def _follow_one(client: Client, job: str) -> dict[str, int]:
    counts = {"bytes": 0, "gaps": 0, "wrong": 0}
    reached = 0
    for piece in client.logs(job, follow=True, attempt="all"):
        if isinstance(piece, Chunk):
            counts["wrong"] += abs(piece.offset - reached) + len(piece.data.strip(b"x"))
            counts["bytes"] += len(piece.data)
            counts["gaps"] += piece.gap_bytes
            reached = piece.offset + len(piece.data) + piece.gap_bytes
    return counts


class Probe:
    """A worker of another queue that beats, and is given a job now and then: how long each takes, in ms."""

    def __init__(self, it: Stage) -> None:
        self._worker = ScriptedWorker(it.home.worker_endpoint)
        self._client = it.client()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._echoes_ms: list[float] = []
        self._leases_ms: list[float] = []

    def readings(self) -> Readings:
        """The 99th of a hundred heartbeats, and of as many jobs."""
        return {"echo p99": percentile(self._echoes_ms, 0.99), "lease p99": percentile(self._leases_ms, 0.99)}

    def _run(self) -> None:
        self._worker.hello(queues=("quick",))
        while not self._over.wait(PACE_S):
            began = time.perf_counter()
            self._worker.beat()
            echoed = time.perf_counter()
            self._client.enqueue("true", queue="quick")
            [grant] = self._worker.pushed()
            leased = time.perf_counter()
            self._worker.finish(grant)
            self._echoes_ms.append(1000 * (echoed - began))
            self._leases_ms.append(1000 * (leased - echoed))

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._worker.close()
        self._client.close()
