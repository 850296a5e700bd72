"""The broker's side of the network: what its loop takes for its two sockets."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from broker.sockets import FULL, GONE, LOST, SENT, Message, Router
from tests.simulation.network import TO_PEER, Line, Network


class Monitor:
    """Tells the loop that a connection has ended."""

    def __init__(self) -> None:
        self.events = 0
        self.closed = False

    def recv_multipart(self, flags: int) -> list[bytes]:
        """One event as libzmq tells it, or zmq.Again."""
        if not self.events:
            raise zmq.Again
        self.events -= 1
        return [int(LOST).to_bytes(2, sys.byteorder)]


class Socket:
    """What the loop asks of the socket itself."""

    def __init__(self) -> None:
        self.monitor = Monitor()


class SimulatedRouter(Router):
    """A ROUTER socket with its peers. `on_news` wakes the loop, `on_send` hears what is about to leave."""

    def __init__(self, network: Network, on_news: Callable[[], None], on_send: Callable[[Line, bytes], int]) -> None:
        self.misframed = 0
        self.lines: dict[bytes, Line] = {}
        self.inbox: deque[tuple[bytes, bytes, str]] = deque()
        self.messages_max = 1000
        self._network, self._on_news, self._on_send = network, on_news, on_send
        self._socket = Socket()
        self._envelope: tuple[bytes, ...] = ()
        self.socket: Any = self._socket

    @property
    def monitor(self) -> Monitor:
        return self._socket.monitor

    def watch(self, events: int) -> Any:
        return self.monitor

    def on_arrived(self, route: bytes, body: bytes, user: str) -> None:
        self.inbox.append((route, body, user))
        self._on_news()

    def on_gone(self, route: bytes) -> None:
        """A connection has ended; the loop is not told which."""
        self.lines.pop(route, None)
        self.monitor.events += 1
        self._on_news()

    def drain(self, *, messages_max: int, bytes_max: int, seconds_max: float) -> tuple[list[Message], bool]:
        found: list[Message] = []
        while self.inbox and len(found) < min(messages_max, self.messages_max):
            route, body, user = self.inbox.popleft()
            found.append(((route,), body, user))
        return found, not self.inbox

    def send(self, envelope: tuple[bytes, ...], body: bytes) -> str:
        line = self.lines.get(envelope[0])
        if line is None:
            return GONE
        if line.queued >= self._network.queue_max:
            return FULL
        self._network.send(line, TO_PEER, body, self._on_send(line, body))
        return SENT

    def close(self, linger_ms: int) -> None:
        self.lines.clear()
