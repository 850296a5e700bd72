"""Simulated workers: many in one process, over real sockets, in the protocol of docs/protocol.md.

They finish each job at the moment it arrives. They beat, and give back what they hold when they leave; they forget the
care that a real worker takes (spool, repeats), because they must cost less than the broker that they measure.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Generator
from typing import Any

import msgpack
import zmq

HELLO_AGAIN_S = 0.1  # a worker without a session asks again so soon: sooner than a real one
RECONNECT_MS = 20
LEAVE_S = 10.0
STAMP = "true "  # a command that says when it was sent: its push is timed


class Worker:
    """One simulated worker."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, number: int, slots: int) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.immediate, self.socket.rcvhwm = 0, 1, 0
        self.socket.reconnect_ivl = RECONNECT_MS
        self.socket.connect(endpoint)
        self.hello = ["hello", 1, 1, f"{time.time_ns():016x}{number:016x}", "/bench", f"bench-{number}", 1, slots]
        self.hellos = 0
        self.session = 0
        self.has_phase = False
        self.beats = 0
        self.received = 0
        self.done: set[int] = set()
        self.leaving = False


class Fleet:
    """Some simulated workers and what they have seen."""

    def __init__(self, endpoint: str, workers: int, slots: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = max(1024, 2 * workers)
        self.workers = [Worker(self._context, endpoint, number, slots) for number in range(workers)]
        self._of_fd = {worker.socket.FD: worker for worker in self.workers}
        self._epoll = select.epoll()
        for fd in self._of_fd:
            self._epoll.register(fd, select.EPOLLIN)
        self._due = [(0.0, number) for number in range(workers)]  # a heap: when to speak to the broker again
        self._heartbeat_s = 0.0
        self.in_session = 0
        self.pushed = 0
        self.recorded = 0
        self.latencies_ms: list[float] = []

    def until(self, reached: Any, limit_s: float) -> None:
        """Work until something is reached. Raises TimeoutError."""
        end = time.monotonic() + limit_s
        while not reached():
            if time.monotonic() > end:
                raise TimeoutError("the simulated workers did not get so far")
            self._turn()

    def work(self, seconds: float) -> None:
        """Work for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn()

    def leave(self) -> None:
        """Give back what is held and say goodbye, so that no lease has to expire."""
        for worker in self.workers:
            worker.leaving = True
        end = time.monotonic() + LEAVE_S
        while any(worker.done for worker in self.workers) and time.monotonic() < end:
            self._turn()
        for worker in self.workers:
            self._say(worker, ["bye", worker.session])
        while any(worker.session for worker in self.workers) and time.monotonic() < end:
            self._turn()
        self._context.destroy(linger=0)

    def _turn(self) -> None:
        now = time.monotonic()
        while self._due[0][0] <= now:
            _, number = self._due[0]
            heapq.heapreplace(self._due, (now + self._speak(number), number))
        for fd, _ in self._epoll.poll(self._due[0][0] - now):
            self._serve(self._of_fd[fd])

    def _speak(self, number: int) -> float:
        """Say hello, or beat; after how many seconds again. Workers that met at one moment beat at different ones."""
        worker = self.workers[number]
        wait_s = self._heartbeat_s if worker.session else HELLO_AGAIN_S
        if not worker.session:
            if not worker.leaving:
                worker.hellos += 1
                self._say(worker, [*worker.hello, [], "bench", False, [], "", worker.hellos])
        elif not worker.has_phase:
            worker.has_phase = True
            wait_s *= (number + 1) / len(self.workers)
        else:
            worker.beats += 1
            done = list(worker.done)
            self._say(worker, ["beat", worker.session, worker.beats, worker.received, [], done, worker.leaving])
        self._serve(worker)  # a send may take the sign that something has come
        return wait_s

    def _say(self, worker: Worker, message: list[Any]) -> None:
        try:
            worker.socket.send(msgpack.packb(message), zmq.NOBLOCK)
        except zmq.Again:  # not connected: the next connection begins with HELLO
            self._lose(worker)

    def _lose(self, worker: Worker) -> None:
        self.in_session -= bool(worker.session)
        worker.session = 0

    def _serve(self, worker: Worker) -> None:
        """Take all that has come and finish it, until nothing more does."""
        grants: list[list[Any]] = []
        while True:
            try:
                self._hear(worker, msgpack.unpackb(worker.socket.recv(zmq.NOBLOCK)), grants)
            except zmq.Again:
                if not grants:
                    return
                self._finish(worker, grants)
                grants = []

    def _hear(self, worker: Worker, message: list[Any], grants: list[list[Any]]) -> None:
        kind = message[0]
        if kind == "push":
            worker.received = message[2]
            grants += message[3]
        elif kind == "recorded":
            worker.done.difference_update([lease for lease, _ in message[2]])
            self.recorded += len(message[2])
        elif kind == "welcome":
            self.in_session += not worker.session
            worker.session = message[1]
            self._heartbeat_s = message[5] / 1000
        elif kind in ("who", "bye_ok"):
            self._lose(worker)

    def _finish(self, worker: Worker, grants: list[list[Any]]) -> None:
        if worker.leaving:
            self._say(worker, ["release", worker.session, [[grant[0], "draining"] for grant in grants]])
            return
        self.pushed += len(grants)
        now_ms = time.time_ns() // 1_000_000
        worker.done.update([grant[0] for grant in grants])
        results = [
            [lease, job, attempt, "completed", 0, None, now_ms, 1, 0, 0, "", ""] for lease, job, attempt, *_ in grants
        ]
        self._say(worker, ["results", worker.session, results])
        if grants[0][5].startswith(STAMP):
            now_ns = time.monotonic_ns()
            self.latencies_ms += [(now_ns - int(grant[5].removeprefix(STAMP))) / 1e6 for grant in grants]


def drain(*, endpoint: str, workers: int, slots: int, jobs: int) -> Generator[Any, None, None]:
    """Task: from HELLO until so many results are recorded."""
    fleet = Fleet(endpoint, workers, slots)
    yield None
    fleet.until(lambda: fleet.recorded >= jobs, 600)
    yield None
    fleet.leave()


def wait_for_lease(*, endpoint: str) -> Generator[Any, None, None]:
    """Task: one worker that tries to reach a broker, until its first lease."""
    fleet = Fleet(endpoint, 1, 1)
    yield None
    fleet.until(lambda: fleet.pushed > 0, 120)
    yield None
    fleet.leave()


def stay(*, endpoint: str, workers: int, slots: int, seconds: float) -> Generator[Any, None, None]:
    """Task: be connected for so long; milliseconds from the sending of each stamped job to its push."""
    fleet = Fleet(endpoint, workers, slots)
    fleet.until(lambda: fleet.in_session == workers, 60)
    yield None
    fleet.work(seconds)
    yield fleet.latencies_ms
    fleet.leave()
