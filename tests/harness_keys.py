"""Keys for tests: a real broker that listens with CURVE, holders of keys, and connections that tell their fate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from queuectl.credentials import Credentials, new_key_pair
from queuectl.errors import QueuectlError
from queuectl.handshake import WATCHED, cause_of, put_keys
from queuectl.server_keys import load_server_keys
from queuectl.ways import Way
from tests.harness_process import LIMIT_S, BrokerProcess, RawClient, free_port


def credentials(name: str, role: str = "admin", server_keys: Sequence[str] = ()) -> Credentials:
    """Credentials with a key pair that nobody has seen before."""
    return Credentials(name, role, (), tuple(server_keys), *new_key_pair())


class Domain:
    """A broker with keys on loopback, and a local admin who adds and revokes them."""

    def __init__(self, broker: BrokerProcess, port: int):
        self.broker = broker
        self.worker_endpoint, self.client_endpoint = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}"
        self.port = port
        self.local = RawClient(broker.endpoint)

    @property
    def server_key(self) -> str:
        """The public key that the broker's files hold now."""
        keys = load_server_keys(self.broker.home.keys)
        assert keys is not None
        return keys.current.public

    def add(self, name: str, role: str, queues: Sequence[str] = ()) -> Credentials:
        """Let a new key in."""
        made = credentials(name, role, [self.server_key])
        self.local.ok("key_add", name=name, role=role, public_key=made.public_key, queues=list(queues))
        return made

    def client_way(self, who: Credentials | None, server_key: str | None = None) -> Way:
        """To the port of clients; as nobody if there are no credentials."""
        return self._way(self.client_endpoint, who, server_key)

    def worker_way(self, who: Credentials | None, server_key: str | None = None) -> Way:
        """To the port of workers."""
        return self._way(self.worker_endpoint, who, server_key)

    def _way(self, endpoint: str, who: Credentials | None, server_key: str | None) -> Way:
        return Way(endpoint) if who is None else Way(endpoint, server_key or who.server_keys[0], who)

    def counter(self, name: str) -> int:
        """A counter of `status`: turned_away, denied, malformed."""
        return int(self.local.ok("status")["broker"][name])


@contextmanager
def keyed_broker(home: Path, **options: Any) -> Iterator[Domain]:
    """A broker with keys that runs while the block does."""
    port = free_port()
    with BrokerProcess(home, listen=f"tcp://127.0.0.1:{port}", insecure=False, **options) as broker:
        broker.start()
        domain = Domain(broker, port)
        try:
            yield domain
        finally:
            domain.local.close()


class Line:
    """One connection that is tried once. What is sent waits until it is up, and goes nowhere if it never is."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], way: Way):
        self.way = way
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        self._monitor = self.socket.get_monitor_socket(WATCHED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        put_keys(self.socket, way)
        self.socket.connect(way.endpoint)

    def fate(self, limit_s: float = LIMIT_S) -> str:
        """How the handshake ended: `open`, or the code of the error that a client would tell."""
        end = time.monotonic() + limit_s
        while self._monitor.poll(max(0, int(1000 * (end - time.monotonic())))):
            if (known := self._read_fate()) is not None:
                return known
        raise AssertionError("the handshake did not end")

    def _read_fate(self) -> str | None:
        frames = self._monitor.recv_multipart()
        if int.from_bytes(frames[0][:2], "little") == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return "open"
        error: QueuectlError | None = cause_of(frames, self.way)
        return None if error is None else error.code

    def ends(self, limit_s: float = LIMIT_S) -> bool:
        """Whether an open connection is ended by the broker within the limit."""
        return bool(self._monitor.poll(int(1000 * limit_s)))

    def send(self, *frames: bytes) -> None:
        """Send a message when the connection is up; nothing happens if it has failed already."""
        with suppress(zmq.Again):
            self.socket.send_multipart(frames, zmq.NOBLOCK)

    def receive(self, limit_s: float = LIMIT_S) -> bytes:
        """The body of the next message. Raises TimeoutError."""
        if not self.socket.poll(int(1000 * limit_s)):
            raise TimeoutError
        return self.socket.recv_multipart()[-1]

    def has_message(self) -> bool:
        return bool(self.socket.poll(0))

    def close(self) -> None:
        with suppress(zmq.ZMQError):
            self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
