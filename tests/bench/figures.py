"""Our side of each figure, through real processes and sockets."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import zmq

from queuectl import Client, messages, wire
from tests.bench.stage import Stage, stage

WORKERS = 8
CHUNK = 1000
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def _enqueue(client: Client, jobs: list[dict[str, object]]) -> None:
    for first in range(0, len(jobs), CHUNK):
        client.request("enqueue", {"jobs": jobs[first : first + CHUNK]})


def _drain(client: Client) -> None:
    while not client.request("wait", {"empty": True, "timeout_ms": 60_000}, timeout=90)["done"]:
        pass


def run_true(jobs: int) -> float:
    """Jobs per second of `true`: broker, one worker with two slots, first enqueue to last recorded result."""
    with stage() as it:
        it.broker()
        it.worker(2)
        with Client(home=it.home) as client:
            began = time.perf_counter()
            _enqueue(client, [{"command": "true"}] * jobs)
            _drain(client)
            taken = time.perf_counter() - began
            counts = client.status()["jobs"]
        assert counts["completed"] == jobs, counts
    return jobs / taken


def bulk_enqueue(jobs: int) -> float:
    """Jobs per second from a file of JSON Lines through the command line."""
    with stage() as it:
        it.broker()
        lines = it.home.path / "jobs.jsonl"
        lines.write_text("".join(json.dumps({"command": f"echo job {number}"}) + "\n" for number in range(jobs)))
        began = time.perf_counter()
        it.run("enqueue", "--file", str(lines))
        taken = time.perf_counter() - began
        with Client(home=it.home) as client:
            assert client.status()["jobs"]["pending"] == jobs
    return jobs / taken


def cycles(jobs: int) -> float:
    """Lease → result cycles per second: simulated workers that finish each job at once."""
    with stage() as it:
        it.broker()
        with Client(home=it.home) as client:
            _enqueue(client, [{"command": "true"}] * jobs)
            taken = _drain_simulated(it, jobs)
            _drain(client)
            assert client.status()["jobs"]["completed"] == jobs
    return jobs / taken


def _drain_simulated(it: Stage, jobs: int) -> float:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    sessions: dict[zmq.Socket[bytes], int] = {}
    for number in range(WORKERS):
        socket = context.socket(zmq.DEALER)
        socket.connect(it.home.worker_endpoint)
        poller.register(socket, zmq.POLLIN)
        boot = f"{number:032x}"
        hello = messages.Hello(1, 1, boot, "bench", "bench", 1, 16, [], "bench", False, [], "", 1)
        socket.send(wire.encode(hello))
        sessions[socket] = 0
    began, recorded = time.perf_counter(), 0
    while recorded < jobs:
        for socket, _ in poller.poll(10_000):
            recorded += _serve(socket, sessions)
    taken = time.perf_counter() - began
    context.destroy(linger=0)
    return taken


def _serve(socket: zmq.Socket[bytes], sessions: dict[zmq.Socket[bytes], int]) -> int:
    """Finish all that has been pushed; how many results the broker has recorded."""
    recorded, results = 0, []
    while True:
        try:
            message = wire.decode(socket.recv(zmq.NOBLOCK), messages.TO_WORKER, bytes_max=2**24)
        except zmq.Again:
            break
        if isinstance(message, messages.Welcome):
            sessions[socket] = message.session
        elif isinstance(message, messages.Push):
            results += [
                messages.Result(grant.lease, grant.job, grant.attempt, "completed", 0, None, 0, 1, 0, 0, "", "")
                for grant in message.grants
            ]
        elif isinstance(message, messages.Recorded):
            recorded += len(message.verdicts)
    if results:
        socket.send(wire.encode(messages.Results(sessions[socket], results)))
    return recorded


# --- promises about time ---------------------------------------------------------------------------


def retry_lateness_ms() -> list[float]:
    """By how many milliseconds the second and third attempt of a failing job start later than 2 s and 4 s."""
    with stage() as it:
        it.broker()
        it.worker(1)
        marks = it.home.path / "marks"
        with Client(home=it.home) as client:
            client.enqueue(f"date +%s%N >> {marks}; date +%s%N >> {marks}; exit 1", max_retries=3, backoff_base=2)
            _drain(client)
        stamps = [int(line) / 1e6 for line in marks.read_text().split()]
    starts, ends = stamps[::2], stamps[1::2]
    return [starts[1] - ends[0] - 2000, starts[2] - ends[1] - 4000]


def latency_ms(samples: int = 200) -> list[float]:
    """Milliseconds from the acknowledged enqueue to the command's first act, on an idle worker."""
    taken = []
    with stage() as it:
        it.broker()
        it.worker(1)
        mark = it.home.path / "mark"
        with Client(home=it.home) as client:
            for number in range(samples + 5):
                job = client.enqueue(f"date +%s%N > {mark}.{number}")
                acknowledged = time.time_ns()
                client.request("wait", {"jobs": [job], "timeout_ms": 30_000}, timeout=60)
                taken.append((int(Path(f"{mark}.{number}").read_text()) - acknowledged) / 1e6)
    return taken[5:]


def idle_percent(seconds: float = 60) -> tuple[float, float]:
    """Percent of a core that an idle broker with one worker, and that worker, use."""
    with stage() as it:
        broker = it.broker()
        worker = it.worker(2)
        time.sleep(2)
        began = time.monotonic()
        before = _cpu(broker.pid), _cpu(worker.pid)
        time.sleep(seconds)
        taken = time.monotonic() - began
        return tuple(100 * (_cpu(pid) - was) / taken for pid, was in zip((broker.pid, worker.pid), before, strict=True))  # type: ignore[return-value]


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its descendants."""
    ticks = 0
    for process in [pid, *_descendants(pid)]:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies."""
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)
