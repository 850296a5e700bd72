"""What the machine itself can do, with the product's own schema, statements and transport, and nothing around them.

SQLite: the store's own verbs on a database that the store opened, synchronous=FULL; the clock runs only while SQLite
works (statements, commits, checkpoints), so what the verbs do in Python is not part of the limit. Transport: a ROUTER
in a process of its own that sends back what it gets, without looking at it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import zmq

from broker.store import Store, open_store
from broker.store.connection import Connection
from broker.store.rows import READY, AttemptRow, Candidate, Completion, NewJob, NewSpec
from queuectl.ids import job_id_of, new_request_id
from queuectl.settings import DEFAULTS
from queuectl.wire import encode
from tests.bench.crew import ROOT, span_s, together
from tests.bench.peers import program
from tests.bench.stage import scratch, wait_for

P = ParamSpec("P")
T = TypeVar("T")

# --- SQLite ------------------------------------------------------------------------------------------


class Timed(Connection):
    """The store's connection with a clock that runs only while SQLite works."""

    def __init__(self, path: Path | str) -> None:
        self.seconds = 0.0
        super().__init__(path)

    def _time(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.perf_counter()
        try:
            return act(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began

    def begin(self) -> None:
        self._time(super().begin)

    def commit(self) -> None:
        self._time(super().commit)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._time(super().run, sql, parameters)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        return self._time(super().run_many, sql, list(rows))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._time(super().query, sql, parameters)

    def checkpoint(self) -> None:
        self._time(super().checkpoint)


_REPLY = encode({"ids": ["a1"], "errors": []})


class Database:
    """A store with jobs in one queue, and the seconds that SQLite has worked for it."""

    def __init__(self, path: Path) -> None:
        self._connections: list[Timed] = []
        self.store: Store = open_store(path, connect=self._connect)
        self._next_seq = 1

    def _connect(self, path: Path | str) -> Connection:
        self._connections.append(Timed(path))
        return self._connections[-1]

    @property
    def seconds(self) -> float:
        return sum(connection.seconds for connection in self._connections)

    def enqueue(self, jobs: int, requests: int = 0) -> None:
        """Store jobs in one transaction, with what is written for so many requests that brought them, if for any.

        Each request is looked up and its reply kept, that a repeat has no effect; the count is written once.
        """
        seqs = range(self._next_seq, self._next_seq + jobs)
        self._next_seq += jobs
        new, specs = [_job(seq) for seq in seqs], [_spec(seq) for seq in seqs]
        self.store.begin()
        if requests:
            ids = [new_request_id() for _ in range(requests)]
            self.store.ledger.replies(ids)
            self.store.ledger.keep_replies([(each, "enqueue", seqs[0], _REPLY) for each in ids])
            self.store.ledger.write_tallies([(1, 0, self._next_seq - 1)])
        self.store.jobs.enqueue(new, specs)
        self.store.commit()
        self.store.tidy()

    def cycle(self, ended: list[Candidate], jobs: int) -> list[Candidate]:
        """Record what was leased, and lease the next, in one transaction."""
        now_ms = time.time_ns() // 1_000_000
        self.store.begin()
        if ended:
            self.store.jobs.complete([_completed(job, now_ms) for job in ended])
            self.store.history.record([_attempt(job, now_ms) for job in ended])
        leased = self.store.jobs.candidates(1, jobs)
        if leased:
            self.store.jobs.lease([(job.seq, 1, 1, now_ms, job.seq) for job in leased])
        self.store.commit()
        self.store.tidy()
        return leased


@contextmanager
def database() -> Iterator[Database]:
    """A fresh one, removed afterwards."""
    with scratch() as directory:
        it = Database(directory / "queue.db")
        try:
            yield it
        finally:
            it.store.abandon()


def insert_rate(jobs: int, batch: int, requests: int = 0) -> float:
    """Jobs stored per second, in transactions of `batch`, each of them brought by so many requests."""
    with database() as db:
        began = db.seconds
        for _ in range(0, jobs, batch):
            db.enqueue(batch, requests)
        return jobs / (db.seconds - began)


def cycle_rate(jobs: int, batch: int) -> float:
    """Jobs leased and completed per second, in transactions of `batch` results and the next leases."""
    with database() as db:
        for _ in range(0, jobs, 1000):
            db.enqueue(1000)
        began, leased = db.seconds, db.cycle([], batch)
        while leased:
            leased = db.cycle(leased, batch)
        return jobs / (db.seconds - began)


def _job(seq: int) -> NewJob:
    now_ms = time.time_ns() // 1_000_000
    return job_id_of(seq), 1, 0, READY, now_ms, now_ms, seq


def _spec(seq: int) -> NewSpec:
    settings: dict[str, Any] = DEFAULTS
    policy = (settings["max_retries"], settings["backoff_base"], settings["backoff_max"], settings["backoff_jitter"])
    return seq, f"echo job {seq}", *policy, None, settings["output_limit"], 0, None, None, "retry", 1, seq


def _completed(job: Candidate, now_ms: int) -> Completion:
    return Completion(exit_code=0, signal=None, updated_at_ms=now_ms, finished_at_ms=now_ms, seq=job.seq, lease=job.seq)


def _attempt(job: Candidate, now_ms: int) -> AttemptRow:
    return AttemptRow(
        seq=job.seq,
        attempt=1,
        lease=job.seq,
        worker=1,
        started_at_ms=now_ms,
        finished_at_ms=now_ms,
        duration_ms=1,
        outcome="completed",
        exit_code=0,
        signal=None,
        stdout_bytes=0,
        stderr_bytes=0,
        last_line="",
        note="",
    )


# --- transport ---------------------------------------------------------------------------------------


@contextmanager
def echo() -> Iterator[str]:
    """The endpoint of a ROUTER that sends back what it gets."""
    with scratch() as directory:
        path = directory / "echo.sock"
        process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo", f"ipc://{path}"], cwd=ROOT)
        try:
            wait_for(path.exists, "the echo does not listen")
            yield f"ipc://{path}"
        finally:
            process.kill()
            process.wait()


class Bouncer:
    """A client of the echo, with a request like that of an enqueue."""

    def __init__(self, endpoint: str) -> None:
        args = {"jobs": [{"command": "true"}]}
        self._body = encode({"v": 1, "id": new_request_id(), "op": "enqueue", "args": args})
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.connect(endpoint)
        self.bounce()

    def bounce(self) -> None:
        """One round trip."""
        self._socket.send(self._body)
        self._socket.recv()

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)


def bounce(*, endpoint: str, times: int) -> Generator[Any, None, None]:
    """Task: round trips, one after the other."""
    bouncer = Bouncer(endpoint)
    yield None
    for _ in range(times):
        bouncer.bounce()
    yield None
    bouncer.close()


def round_trip_rate(clients: int, times: int) -> float:
    """Round trips per second of some clients in lock-step, each in a process of its own."""
    with echo() as endpoint:
        told = together(bounce, [{"endpoint": endpoint, "times": times // clients}] * clients)
    return times // clients * clients / span_s(told)


def series_rate(clients: int, jobs: int, *, requests: int) -> float:
    """Jobs per second if the clients' round trips and one commit of a job of each came strictly one after the other.

    With what is written for so many requests, or, for none, with the rows of the jobs alone.
    """
    return 1 / (1 / round_trip_rate(clients, jobs) + 1 / insert_rate(jobs, clients, requests))


# --- processes ---------------------------------------------------------------------------------------


def xargs_rate(jobs: int) -> float:
    """Commands per second of `xargs -P2` running `sh -c true`. Raises NotInstalled."""
    xargs = program("xargs")
    began = time.perf_counter()
    subprocess.run(
        [xargs, "-P2", "-I{}", "sh", "-c", "true"], input="\n".join(map(str, range(jobs))).encode(), check=True
    )
    return jobs / (time.perf_counter() - began)
