"""A scripted broker for worker tests: a real ROUTER socket, stepped by the test, and workers as real processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zmq

from queuectl import wire
from queuectl.home import Home
from queuectl.messages import (
    TO_BROKER,
    Beat,
    Bye,
    ByeOk,
    Cancel,
    Echo,
    Gone,
    Grant,
    Hello,
    Output,
    Piece,
    Push,
    Recorded,
    Release,
    Result,
    Results,
    Stop,
    Taken,
    ToBroker,
    Took,
    ToWorker,
    Verdict,
    Welcome,
    Who,
)
from tests.harness_cli import last_guard_of, last_guards_of, strike, three_of

LIMIT_S = 20.0
BROKER_ID = "broker-1"
T = TypeVar("T")


def grant(command: str, lease: int, **changes: Any) -> Grant:
    """A grant with everything ordinary but what is named."""
    fields: dict[str, Any] = {
        "lease": lease,
        "job": f"job-{lease}",
        "attempt": 1,
        "max_retries": 3,
        "queue": "default",
        "command": command,
        "env": None,
        "cwd": None,
        "timeout_ms": None,
        "output_limit": 1 << 20,
        "keep_children": False,
    }
    return Grant(**(fields | changes))


@dataclass
class Peer:
    """What the broker knows of one worker."""

    route: bytes
    hello: Hello
    session: int
    pushes: int = 0


@dataclass
class ScriptedBroker:
    """Answers as a broker does, as far as its switches allow, and remembers everything."""

    endpoint: str
    broker_id: str = BROKER_ID
    heartbeat_ms: int = 200
    silence_ms: int = 2000
    window_bytes: int = 1 << 20
    verdict: str = "recorded"
    answers_results: bool = True
    answers_output: bool = True
    answers_bye: bool = True
    drop: list[int] = field(default_factory=list)
    received: list[ToBroker] = field(default_factory=list)
    peers: dict[str, Peer] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    released: dict[int, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    byes: int = 0
    streams: dict[tuple[int, int], list[Piece]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sessions = itertools.count(int(time.monotonic_ns() & 0xFFFFFF))
        self.socket: zmq.Socket[bytes]
        self.open()

    def open(self) -> None:
        """Begin to listen, as a broker that has just been started: it knows no session."""
        self.peers.clear()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        wait_for(self._bind)  # a TCP port is free only when the old socket has been closed behind the scenes

    def _bind(self) -> bool:
        try:
            self.socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    def vanish(self) -> None:
        """Be gone, as after SIGKILL."""
        self.socket.close(0)

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()

    # --- to the worker ---

    @property
    def peer(self) -> Peer:
        """The worker that said HELLO last."""
        return list(self.peers.values())[-1]

    def send(self, route: bytes, message: ToWorker) -> None:
        self.socket.send_multipart([route, wire.encode(message)])

    def push(self, *grants: Grant) -> None:
        peer = self.peer
        peer.pushes += 1
        self.send(peer.route, Push(peer.session, peer.pushes, list(grants)))

    def cancel(self, *leases: int, grace_ms: int = 10_000, number: int = signal.SIGTERM) -> None:
        self.send(self.peer.route, Cancel(self.peer.session, list(leases), grace_ms, number))

    def stop(self, *, now: bool = False) -> None:
        self.send(self.peer.route, Stop(self.peer.session, now))

    # --- from the worker ---

    def step(self, wait_ms: int = 50) -> None:
        """Take and answer what has arrived, waiting for the first of it."""
        if not self.socket.poll(wait_ms):
            return
        while True:
            try:
                route, body = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.decode(body, TO_BROKER, bytes_max=wire.WORKER_MESSAGE_BYTES_MAX)
            self.received.append(message)
            self._answer(route, message)

    def _answer(self, route: bytes, message: ToBroker) -> None:
        if isinstance(message, Hello):
            self._welcome(route, message)
            return
        known = [peer for peer in self.peers.values() if peer.route == route and peer.session == message.session]
        if not known:
            self.send(route, Who())
            return
        session = message.session
        match message:
            case Beat():
                self.send(route, Echo(session, message.n, self.heartbeat_ms, list(self.drop)))
            case Results() if self.answers_results:
                self.results |= {result.lease: result for result in message.results}
                verdicts = [Verdict(result.lease, self.verdict) for result in message.results]
                self.send(route, Recorded(session, verdicts))
            case Output() if self.answers_output:
                self._take_output(route, message)
            case Release():
                self.released |= {returned.lease: returned.reason for returned in message.leases}
            case Gone():
                self.gone += message.boots
            case Bye() if self.answers_bye:
                self.byes += 1
                self.send(route, ByeOk(session))
            case _:
                pass

    def _welcome(self, route: bytes, hello: Hello) -> None:
        peer = self.peers.get(hello.boot)
        if peer is None or peer.route != route:
            self.peers.pop(hello.boot, None)
            peer = self.peers[hello.boot] = Peer(route, hello, next(self._sessions))
        keep = [held.lease for held in hello.held if held.lease not in self.drop]
        drop = [held.lease for held in hello.held if held.lease in self.drop]
        fields = (self.broker_id, 1, self.heartbeat_ms, self.silence_ms, self.window_bytes, "worker-1", keep, drop)
        self.send(route, Welcome(peer.session, wire.PROTOCOL_VERSION, *fields))

    def _take_output(self, route: bytes, message: Output) -> None:
        taken: dict[tuple[int, int], int] = {}
        for piece in message.pieces:
            key = (piece.lease, piece.stream)
            pieces = self.streams.setdefault(key, [])
            end = pieces[-1].offset + len(pieces[-1].data) if pieces else 0
            if piece.offset >= end:
                pieces.append(piece)
            taken[key] = max(end, piece.offset + len(piece.data))
        self.send(route, Took(message.session, [Taken(*key, upto) for key, upto in taken.items()]))

    def text(self, lease: int, stream: int = 1) -> bytes:
        """What has arrived of a stream, without its gaps."""
        return b"".join(piece.data for piece in self.streams.get((lease, stream), []))

    def gap(self, lease: int, stream: int = 1) -> int:
        """Bytes that are missing between the pieces of a stream."""
        missing = end = 0
        for piece in self.streams.get((lease, stream), []):
            missing += piece.offset - end
            end = piece.offset + len(piece.data)
        return missing

    def count(self, kind: type[ToBroker]) -> int:
        return len(self.all(kind))

    def all(self, kind: type[T]) -> list[T]:
        """The messages of this kind, in the order in which they came."""
        return [message for message in self.received if isinstance(message, kind)]

    def last(self, kind: type[T]) -> T:
        """Step until there is a message of this kind; the latest."""
        self.until(lambda: self.all(kind))
        return self.all(kind)[-1]

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Step until the condition holds; fail after the limit."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; received {self.received[-5:]}"
            self.step()

    def result_of(self, lease: int) -> Result:
        """Step until there is a result of this lease."""
        self.until(lambda: lease in self.results)
        return self.results[lease]


_PROGRAM = """
import sys
from queuectl.config import load_config
from queuectl.home import find_home
from worker.service import run_worker
home = find_home()
config = load_config(home, {"log_format": "json", "log_level": "debug"})
sys.exit(run_worker(home=home, config=config, slots=int(sys.argv[1]), queues=[]))
"""


class WorkerProcess:
    """A worker started as a user starts one. `pid` is the guardian's, `inner` the worker process itself."""

    def __init__(self, home: Home, slots: int = 1, **environment: str) -> None:
        root = Path(__file__).resolve().parent.parent
        environ = os.environ | {"QUEUECTL_HOME": str(home.path), "PYTHONPATH": str(root)} | environment
        self._log = home.path / f"worker-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(slots)], env=environ, stdin=subprocess.DEVNULL, stderr=log
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def inner(self) -> int:
        """The process id of the forked worker."""
        return wait_for(lambda: children(self.pid))[0]

    def last_guard(self) -> int:
        """The process id of the one that acts when both others are dead."""
        return last_guard_of(self.pid)

    def kill_whole(self) -> None:
        """Kill all three at once, so that nobody is left to clean up."""
        strike(three_of(self.pid).values())
        self.process.wait(LIMIT_S)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if name in (None, line["event"])]

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        return self.process.wait(limit_s)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        left = [*last_guards_of(self.pid), self.pid, *below(self.pid)] if self.process.poll() is None else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(LIMIT_S)


@contextlib.contextmanager
def scripted_broker(home: Home, **switches: Any) -> Iterator[ScriptedBroker]:
    home.prepare()
    broker = ScriptedBroker(home.worker_endpoint, **switches)
    try:
        yield broker
    finally:
        broker.close()


def wait_for(condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
    """The first true value of the condition; fail after the limit."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def below(pid: int) -> list[int]:
    """All descendants of a process."""
    found = children(pid)
    for child in list(found):
        found += below(child)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
