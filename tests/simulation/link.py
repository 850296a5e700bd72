"""A worker's socket: the real link, over a simulated line instead of ZeroMQ's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from tests.simulation.network import TO_BROKER, WORKERS, Line, Network, Path
from worker.link import Link


class Poller:
    """Which sources the loop wants to hear of."""

    def __init__(self) -> None:
        self.wanted: dict[object, int] = {}

    def register(self, source: object, flags: int) -> None:
        self.wanted[source] = flags

    def unregister(self, source: object) -> None:
        self.wanted.pop(source, None)


class Socket:
    """A DEALER with IMMEDIATE: it takes messages only while its line is up, and connects again by itself."""

    def __init__(self, name: str, network: Network, path: Path, on_news: Callable[[], None]) -> None:
        self.name = name
        self._network, self._on_news = network, on_news
        self.inbox: deque[bytes] = deque()
        self.losses = 0  # that the monitor has not been asked about
        self.line: Line = network.connect(self, path, WORKERS)

    def on_connected(self) -> None:
        self._on_news()

    def on_lost(self, again: Line) -> None:
        self.losses += 1
        self.line = again
        self._on_news()

    def on_arrived(self, body: bytes) -> None:
        self.inbox.append(body)
        self._on_news()

    @property
    def is_up(self) -> bool:
        return self.line.is_open[1]

    def send(self, body: bytes, flags: int) -> None:
        if not self.is_up:
            raise zmq.Again
        self._network.send(self.line, TO_BROKER, body)

    def recv_multipart(self, flags: int) -> list[bytes]:
        if not self.inbox:
            raise zmq.Again
        return [self.inbox.popleft()]

    def hang_up(self, *, is_silent: bool = False) -> None:
        self._network.hang_up(self.line, is_silent=is_silent)


class Monitor:
    """Tells that the connection broke."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def recv_multipart(self, flags: int) -> list[bytes]:
        self._socket.losses = 0
        return []


class SimulatedLink(Link):
    """The real link but for the making and throwing away of sockets."""

    def __init__(self, name: str, network: Network, path: Path, poller: Poller, on_news: Callable[[], None]) -> None:
        self._name, self._network, self._path, self._on_news = name, network, path, on_news
        self._wants: Poller = poller
        self._poller: Any = poller
        self._socket: Any = None
        self._monitor: Any = None
        self._wants_to_write = False
        self.bad_messages = 0
        self.last_fault = ""

    def connect(self) -> None:
        self.close()
        self._socket = Socket(self._name, self._network, self._path, self._on_news)
        self._monitor = Monitor(self._socket)
        self._wants.register(self._socket, zmq.POLLIN)

    def ready(self) -> dict[object, int]:
        """What a poller would tell of it."""
        socket = self._socket
        if socket is None:
            return {}
        ready: dict[object, int] = {}
        flags = zmq.POLLIN if socket.inbox else 0
        if self._wants_to_write and socket.is_up:
            flags |= zmq.POLLOUT
        if flags:
            ready[socket] = flags
        if socket.losses:
            ready[self._monitor] = zmq.POLLIN
        return ready

    def close(self, *, is_silent: bool = False) -> None:
        if self._socket is not None:
            self._wants.unregister(self._socket)
            self._socket.hang_up(is_silent=is_silent)
        self._socket = self._monitor = None
        self._wants_to_write = False
