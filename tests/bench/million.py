"""What it costs that a million jobs wait, are delayed, or are done: rates, memory, disk, and a restart."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench import peers
from tests.bench.crew import crew
from tests.bench.fleet import wait_for_lease
from tests.bench.machine import memory_mb, wait_quiet
from tests.bench.measuring import Readings
from tests.bench.stage import CHUNK, Stage, enqueue, stage
from tests.bench.throughput import drain_rate

FEW = 1000
ROUNDS = 5  # of a few and many in turn, in one run
ROUND_JOBS = 30_000
DELAY_S = 86_400
DISK = ("queue.db", "queue.db-wal")

Prepare = Callable[[Stage, int], None]


def waiting(jobs: int) -> list[Readings]:
    """All of them wait: memory and disk, beside beanstalkd with as many; rates; restart."""
    with stage() as few, stage() as many:
        few.broker()
        broker = many.broker()
        wait_for_waiting(few, FEW)
        disk_before = _disk_bytes(many)
        wait_for_waiting(many, jobs)
        costs = {
            "disk": (_disk_bytes(many) - disk_before - _payload_bytes(jobs)) / jobs,
            "memory": memory_mb(broker.pid)[0],
        }
        rates = _rates(few, many, jobs)
        costs["memory, highest"] = memory_mb(broker.pid)[1]
        restarts = _restarts(few, many)
    return [costs | _beanstalk_costs(jobs), *rates, *restarts]


def delayed(jobs: int) -> list[Readings]:
    """All of them wait for tomorrow."""
    return _beside(_delay, jobs)


def finished(jobs: int) -> list[Readings]:
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


def _beside(prepare: Prepare, jobs: int) -> list[Readings]:
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


def _rates(few: Stage, many: Stage, jobs: int) -> list[Readings]:
    """Rates of enqueue and of lease with results, beside a few jobs and beside many, in turn."""
    each = min(ROUND_JOBS, jobs // 2)
    rounds: list[Readings] = [{} for _ in range(ROUNDS)]
    for readings in rounds:
        for it, beside in ((few, "few"), (many, "many")):
            wait_quiet()
            readings[f"enqueue, {beside}"] = _timed(wait_for_waiting, it, each)
            readings[f"lease, {beside}"] = drain_rate(it, each)
    return rounds


def _disk_bytes(it: Stage) -> int:
    files = (it.home.path / name for name in DISK)
    return sum(file.stat().st_size for file in files if file.exists())


def _restarts(few: Stage, many: Stage) -> list[Readings]:
    """Seconds from the start of a broker, stopped cleanly before, to the first lease of a worker that waits for it."""
    wait_for_waiting(few, FEW)  # the rounds before have left fewer
    for it in (few, many):
        it.end()
    rounds: list[Readings] = [{} for _ in range(ROUNDS)]
    for readings in rounds:
        for it, name in ((few, "restart, few"), (many, "restart, many")):
            wait_quiet()
            readings[name] = _restart_s(it)
    return rounds


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
