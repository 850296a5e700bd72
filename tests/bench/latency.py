"""How long an idle worker takes to start a command.

A command's first act is to write a line into a pipe, which a shell does without another process; whoever reads it looks
at the clock. The same command is started in each contender.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench import limits, peers
from tests.bench.crew import crew
from tests.bench.machine import wait_quiet
from tests.bench.measuring import OURS, Readings, percentile
from tests.bench.stage import scratch, stage

GAP_S = 0.02  # between two jobs, so that everything is idle again
WARM = 5
LIMIT_S = 10.0


class Doorbell:
    """A pipe that commands write to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)  # open for writing, too: it never ends
        self.command = f"echo > {path}"

    def wait(self) -> float:
        """The moment at which it rang."""
        if not select.select([self._fd], [], [], LIMIT_S)[0]:
            raise TimeoutError("the command did not start")
        rang = time.monotonic()
        os.read(self._fd, 16)
        return rang

    def close(self) -> None:
        """Take it away."""
        os.close(self._fd)


class Times(NamedTuple):
    """Milliseconds until the command's first act."""

    acknowledged: float  # since the enqueue was acknowledged
    sent: float  # since it was sent


@contextmanager
def doorbell() -> Iterator[Doorbell]:
    """A fresh one."""
    with scratch() as directory:
        bell = Doorbell(directory / "bell")
        try:
            yield bell
        finally:
            bell.close()


def latency(samples: int) -> Readings:
    """50th and 99th percentiles in milliseconds."""
    readings: Readings = {}
    for name, measure in (("series", _series), ("beanstalkd -f 0", _beanstalk), (OURS, _ours)):
        wait_quiet()
        try:
            times = measure(samples)
        except peers.NotInstalled:
            continue
        for word, share in (("p50", 0.5), ("p99", 0.99)):
            readings[f"{name} {word}"] = percentile([each.acknowledged for each in times], share)
            readings[f"{name} from sending {word}"] = percentile([each.sent for each in times], share)
    return readings


def _sample(samples: int, store: Callable[[], object], bell: Doorbell) -> list[Times]:
    times = []
    for _ in range(WARM + samples):
        time.sleep(GAP_S)
        sent = time.monotonic()
        store()
        acknowledged = time.monotonic()
        rang = bell.wait()
        times.append(Times(1000 * (rang - acknowledged), 1000 * (rang - sent)))
    return times[WARM:]


def _ours(samples: int) -> list[Times]:
    with stage() as it, doorbell() as bell, it.client() as client:
        it.broker()
        it.worker(1)
        return _sample(samples, lambda: client.enqueue(bell.command), bell)


def _beanstalk(samples: int) -> list[Times]:
    with peers.beanstalkd(0) as server, doorbell() as bell:
        with crew(peers.consume_beanstalk, [{"port": server.port, "run": True}]) as consumer:
            consumer.go()
            link = peers.Beanstalk(server.port)
            times = _sample(samples, lambda: link.put(bell.command.encode()), bell)
            link.put(peers.END)
            link.close()
            consumer.gather()
        return times


def _series(samples: int) -> list[Times]:
    """A round trip, a commit and a spawn, strictly one after the other."""
    times = []
    environment = dict(os.environ)
    with limits.echo() as endpoint, limits.database() as db, doorbell() as bell:
        bouncer = limits.Bouncer(endpoint)
        for _ in range(WARM + samples):
            time.sleep(GAP_S)
            began = time.monotonic()
            bouncer.bounce()
            bounced, worked = time.monotonic(), db.seconds
            db.enqueue(1, requests=1)
            committed_s, spawned = db.seconds - worked, time.monotonic()
            child = os.posix_spawn("/bin/sh", ["sh", "-c", bell.command], environment)
            taken = 1000 * (bounced - began + committed_s + bell.wait() - spawned)
            os.waitpid(child, 0)
            times.append(Times(taken, taken))
        bouncer.close()
    return times[WARM:]
