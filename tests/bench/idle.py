"""What brokers and workers use when they wait, and when a thousand workers are connected."""

from __future__ import annotations

import time
from contextlib import ExitStack

from queuectl import Client
from queuectl.link import Begun
from tests.bench.crew import crew
from tests.bench.fleet import STAMP, stay
from tests.bench.machine import cpu_of, family_cpu_s, wait_quiet
from tests.bench.measuring import Readings, percentile
from tests.bench.stage import Stage, stage

CONNECTED = 100
SETTLE_S = 3.0
CROWD = 1000
CROWD_QUICK = 100
RATE = 500  # jobs a second
CLIENTS = 8
LEAST_S = 10  # measured for less, it is the quick run


def idle(seconds: int) -> Readings:
    """Percent of a core over so many seconds without a job; both brokers are watched at the same time."""
    with stage() as crowded, stage() as alone:
        brokers = {"broker, 100 workers": crowded.broker(), "broker, 1 worker": alone.broker()}
        watched = {**{name: daemon.pid for name, daemon in brokers.items()}, "worker": alone.worker(2).pid}
        arguments = {"endpoint": crowded.home.worker_endpoint, "workers": CONNECTED, "slots": 1}
        with crew(stay, [{**arguments, "seconds": seconds + 2 * SETTLE_S}]) as fleet:
            wait_quiet()
            fleet.go()
            time.sleep(SETTLE_S)
            before, began = {name: family_cpu_s(pid) for name, pid in watched.items()}, time.monotonic()
            time.sleep(seconds)
            taken = time.monotonic() - began
            used = {name: family_cpu_s(pid) - before[name] for name, pid in watched.items()}
            fleet.gather()
    return {name: 100 * cpu_s / taken for name, cpu_s in used.items()}


def crowd(seconds: int) -> Readings:
    """A thousand workers connected, and jobs enqueued one by one at a steady pace."""
    workers = CROWD if seconds >= LEAST_S else CROWD_QUICK
    with stage() as it, it.client() as client:
        broker = it.broker()
        arguments = {"endpoint": it.home.worker_endpoint, "workers": workers, "slots": 1}
        with crew(stay, [{**arguments, "seconds": seconds + SETTLE_S}]) as fleet:
            wait_quiet()
            fleet.go()
            time.sleep(SETTLE_S / 2)
            before, began = cpu_of(broker.pid), time.monotonic()
            jobs = _keep_pace(it, seconds)
            taken, used = time.monotonic() - began, cpu_of(broker.pid).since(before)
            [told] = fleet.gather()
        assert client.status()["jobs"]["completed"] == jobs == len(told.result)
    return {
        "broker": 100 * used.own / taken,
        "rate": jobs / taken,
        "p50": percentile(told.result, 0.5),
        "p99": percentile(told.result, 0.99),
    }


def _keep_pace(it: Stage, seconds: int) -> int:
    """Enqueue for so long, by some clients in turn, so that none has to wait for its reply; how many jobs it were."""
    with ExitStack() as stack:
        clients = [stack.enter_context(it.client()) for _ in range(CLIENTS)]
        begun: dict[Client, Begun] = {}
        began, jobs = time.monotonic(), 0
        while jobs < RATE * seconds and time.monotonic() < began + seconds:
            time.sleep(max(0.0, began + jobs / RATE - time.monotonic()))
            client = clients[jobs % CLIENTS]
            if client in begun:
                client.finish(begun[client])
            command = f"{STAMP}{time.monotonic_ns()}"
            begun[client] = client.begin("enqueue", {"jobs": [{"command": command}]})
            jobs += 1
        for client, request in begun.items():
            client.finish(request)
    return jobs
