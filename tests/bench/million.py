"""What it costs that a million jobs wait, are delayed, or are done: rates, memory, disk, and a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from tests.bench import peers
from tests.bench.crew import crew
from tests.bench.fleet import wait_for_lease
from tests.bench.machine import memory_mb, wait_quiet
from tests.bench.measuring import Readings
from tests.bench.stage import CHUNK, Stage, enqueue, stage
from tests.bench.throughput import drain_rate

FEW = 1000
ROUNDS = 3  # of a few and many in turn; each reading is a median of them
ROUND_JOBS = 10_000
DELAY_S = 86_400
DISK = ("queue.db", "queue.db-wal")

Prepare = Callable[[Stage, int], None]


def waiting(jobs: int) -> Readings:
    """All of them wait: rates, memory, disk, restart; and beanstalkd with as many."""
    with stage() as few, stage() as many:
        few.broker()
        broker = many.broker()
        wait_for_waiting(few, FEW)
        disk_before = _disk_bytes(many)
        filled_per_s = _timed(wait_for_waiting, many, jobs)
        readings = {
            "filled": filled_per_s,
            "disk": (_disk_bytes(many) - disk_before - _payload_bytes(jobs)) / jobs,
            "memory": memory_mb(broker.pid)[0],
        }
        readings |= _rates(few, many, jobs)
        readings["memory, highest"] = memory_mb(broker.pid)[1]
        readings |= _restarts(few, many)
    return readings | _beanstalk_costs(jobs)


def delayed(jobs: int) -> Readings:
    """All of them wait for tomorrow."""
    return _beside(_delay, jobs)


def finished(jobs: int) -> Readings:
    """All of them have run: simulated workers have leased and finished every one."""
    return _beside(_finish, jobs)


def wait_for_waiting(it: Stage, jobs: int) -> None:
    """Store jobs that wait."""
    _fill(it, jobs, {})


def _delay(it: Stage, jobs: int) -> None:
    _fill(it, jobs, {"delay": DELAY_S})


def _finish(it: Stage, jobs: int) -> None:
    _fill(it, jobs, {})
    drain_rate(it, jobs)


def _beside(prepare: Prepare, jobs: int) -> Readings:
    with stage() as few, stage() as many:
        few.broker()
        many.broker()
        prepare(few, FEW)
        prepare(many, jobs)
        return _rates(few, many, jobs)


def _fill(it: Stage, jobs: int, fields: dict[str, object]) -> None:
    with it.client() as client:
        for first in range(0, jobs, CHUNK):
            enqueue(client, [{"command": _command(number), **fields} for number in range(first, first + CHUNK)])


def _command(number: int) -> str:
    return f"echo job {number}"


def _payload_bytes(jobs: int) -> int:
    return sum(len(_command(number)) for number in range(jobs))


def _timed(prepare: Prepare, it: Stage, jobs: int) -> float:
    began = time.perf_counter()
    prepare(it, jobs)
    return jobs / (time.perf_counter() - began)


def _rates(few: Stage, many: Stage, jobs: int) -> Readings:
    """Rates of enqueue and of lease with results, beside a few jobs and beside many, in turn."""
    each = min(ROUND_JOBS, jobs // 2)
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for it, beside in ((few, "few"), (many, "many")):
            wait_quiet()
            taken.setdefault(f"enqueue, {beside}", []).append(_timed(wait_for_waiting, it, each))
            taken.setdefault(f"lease, {beside}", []).append(drain_rate(it, each))
    return {name: median(rates) for name, rates in taken.items()}


def _disk_bytes(it: Stage) -> int:
    files = (it.home.path / name for name in DISK)
    return sum(file.stat().st_size for file in files if file.exists())


def _restarts(few: Stage, many: Stage) -> Readings:
    """Seconds from the start of a broker, stopped cleanly before, to the first lease of a worker that waits for it."""
    taken: dict[str, list[float]] = {"restart, few": [], "restart, many": []}
    wait_for_waiting(few, FEW)  # the rounds before have left fewer
    for it in (few, many):
        it.end()
    for _ in range(ROUNDS):
        for it, name in ((few, "restart, few"), (many, "restart, many")):
            wait_quiet()
            taken[name].append(_restart_s(it))
    return {name: median(seconds) for name, seconds in taken.items()}


def _restart_s(it: Stage) -> float:
    with crew(wait_for_lease, [{"endpoint": it.home.worker_endpoint}]) as worker:
        worker.go()
        began = time.monotonic()
        broker = it.start("broker", "start")
        [told] = worker.gather()
    it.stop(broker)
    return told.ended - began


def _beanstalk_costs(jobs: int) -> Readings:
    try:
        with peers.beanstalkd(50) as server:
            before, _ = memory_mb(server.pid)
            peers.fill(server.port, jobs, _command(jobs // 2).encode())
            disk = sum(file.stat().st_size for file in server.directory.iterdir())
            return {
                "beanstalkd, memory": memory_mb(server.pid)[0] - before,
                "beanstalkd, disk": disk / jobs - len(_command(jobs // 2)),
            }
    except peers.NotInstalled:
        return {}
