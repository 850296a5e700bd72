"""How many jobs go through: real commands, simulated workers, and files of jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from tests.bench import limits, peers
from tests.bench.crew import crew, span_s, together
from tests.bench.fleet import drain
from tests.bench.machine import Cpu, cpu_of, family_of, wait_quiet
from tests.bench.measuring import OURS, Readings, take_turns
from tests.bench.stage import Stage, enqueue, stage

WORKERS = 8
SLOTS = 16  # of each simulated worker
WARM = 500  # jobs of a backlog that run before the clock starts
WINDOW = 5000  # those that run while it does
LAST = 10  # jobs of a window that must all be done: two slots do not finish in order
XARGS = "xargs -P2"


def true(jobs: int) -> Readings:
    """Jobs per second of `true`, from the first enqueue to the last recorded result."""
    return take_turns(
        {
            XARGS: lambda: limits.xargs_rate(jobs),
            "beanstalkd -f 0": lambda: beanstalk_true(jobs),
            OURS: lambda: run_true(jobs),
        }
    )


def backlog(jobs: int) -> Readings:
    """The same while so many jobs wait, beside the same without."""
    return take_turns(
        {
            XARGS: lambda: limits.xargs_rate(WINDOW),
            "no backlog": lambda: run_true(min(WINDOW, jobs // 2)),
            OURS: lambda: run_backlog(jobs),
        }
    )


def run_true(jobs: int) -> float:
    """One broker, one worker with two slots."""
    with stage() as it:
        it.broker()
        it.worker(2)
        return _time_true(it, jobs)


def _time_true(it: Stage, jobs: int) -> float:
    with it.client() as client:
        began = time.perf_counter()
        enqueue(client, [{"command": "true"}] * jobs)
        client.wait(empty=True)
        taken = time.perf_counter() - began
        counts = client.status()["jobs"]
    assert counts["completed"] == jobs, counts
    return jobs / taken


def run_backlog(jobs: int) -> float:
    """Jobs leave in the order in which they came, so two of them tell when those between them were done."""
    window = min(WINDOW, jobs // 2)
    warm = min(WARM, window // 10)
    with stage() as it, it.client() as client:
        it.broker()
        ids = enqueue(client, [{"command": "true"}] * jobs)
        it.worker(2)
        client.wait(ids[:warm][-LAST:])
        began = time.perf_counter()
        client.wait(ids[: warm + window][-LAST:])
        return window / (time.perf_counter() - began)


def beanstalk_true(jobs: int) -> float:
    """beanstalkd that synchronises each write, and two bare consumers that run the same with posix_spawn."""
    with peers.beanstalkd(0) as server:
        arguments = [{"port": server.port, "run": True}] * 2
        with crew(peers.consume_beanstalk, arguments) as consumers:
            consumers.go()
            began = time.monotonic()
            peers.fill(server.port, jobs, b"true", ends=len(arguments))
            return jobs / (max(told.ended for told in consumers.gather()) - began)


def bulk(jobs: int) -> Readings:
    """Jobs per second from a file of JSON Lines through the command line, its start included."""
    return take_turns(
        {"SQLite": lambda: limits.insert_rate(jobs, 1000), OURS: lambda: run_bulk(jobs)},
    )


def run_bulk(jobs: int) -> float:
    """`queuectl enqueue --file`."""
    with stage() as it:
        it.broker()
        lines = it.home.path / "jobs.jsonl"
        lines.write_text("".join(json.dumps({"command": f"echo job {number}"}) + "\n" for number in range(jobs)))
        began = time.perf_counter()
        it.run("enqueue", "--file", str(lines))
        taken = time.perf_counter() - began
        with it.client() as client:
            assert client.status()["jobs"]["pending"] == jobs
    return jobs / taken


def cycles(jobs: int) -> Readings:
    """Leases and results per second, without commands."""
    return take_turns(
        {
            "SQLite": lambda: limits.cycle_rate(jobs, 100),
            "beanstalkd -f 50": lambda: beanstalk_cycles(jobs),
            OURS: lambda: run_cycles(jobs),
        }
    )


def run_cycles(jobs: int) -> float:
    """Simulated workers drain what waits."""
    with stage() as it, it.client() as client:
        it.broker()
        enqueue(client, [{"command": "true"}] * jobs)
        rate = drain_rate(it, jobs)
        assert client.status()["jobs"]["completed"] == jobs
    return rate


def drain_rate(it: Stage, jobs: int) -> float:
    """Cycles per second of simulated workers, from their HELLO until so many results are recorded."""
    arguments = {"endpoint": it.home.worker_endpoint, "workers": WORKERS, "slots": SLOTS, "jobs": jobs}
    return jobs / span_s(together(drain, [arguments]))


def beanstalk_cycles(jobs: int) -> float:
    """As many bare consumers, each in a process of its own."""
    with peers.beanstalkd(50) as server:
        arguments = [{"port": server.port, "run": False}] * WORKERS
        peers.fill(server.port, jobs, b"true", ends=WORKERS)
        return jobs / span_s(together(peers.consume_beanstalk, arguments))


def profile(jobs: int) -> Readings:
    """Where the time of a job goes: CPU of both cores in microseconds a job, by process."""
    with stage() as it:
        broker, worker = it.broker(), it.worker(2)
        pids = {"broker": [broker.pid], "worker": family_of(worker.pid)}
        wait_quiet()
        before = {pid: cpu_of(pid) for family in pids.values() for pid in family}
        rate = _time_true(it, jobs)
        spent = {
            name: _sum([cpu_of(pid).since(before[pid]) for pid in family if pid in before])
            for name, family in pids.items()
        }
    each = {
        "broker, user": spent["broker"].user,
        "broker, kernel": spent["broker"].system,
        "worker, user": spent["worker"].user,
        "worker, kernel": spent["worker"].system,
        "commands, user": spent["worker"].children_user,
        "commands, kernel": spent["worker"].children_system,
    }
    readings = {name: 1e6 * seconds / jobs for name, seconds in each.items()}
    return {**readings, "both cores": 2e6 / rate}


def _sum(spent: Sequence[Cpu]) -> Cpu:
    return Cpu(*map(sum, zip(*spent, strict=True)))
