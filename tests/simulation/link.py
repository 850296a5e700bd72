"""A worker's socket: the real link, over a simulated line instead of ZeroMQ's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from tests.simulation.network import TO_BROKER, WORKERS, Line, Network, Path
from worker.link import Link

SOCKET_FD, MONITOR_FD = 1004, 1005


class Poller:
    """Which sources the loop wants to hear of."""

    def __init__(self) -> None:
        self.wanted: dict[int, int] = {}

    def register(self, fd: int, eventmask: int) -> None:
        self.wanted[fd] = eventmask

    def unregister(self, fd: int) -> None:
        del self.wanted[fd]


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

    def getsockopt(self, option: int) -> int:
        assert option == zmq.EVENTS
        return (zmq.POLLIN if self.inbox else 0) | (zmq.POLLOUT if self.is_up else 0)

    def recv_multipart(self, flags: int) -> list[bytes]:
        return [self.inbox.popleft()]

    def hang_up(self, *, is_silent: bool = False) -> None:
        self._network.hang_up(self.line, is_silent=is_silent)


class Monitor:
    """Tells that the connection broke."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def getsockopt(self, option: int) -> int:
        assert option == zmq.EVENTS
        return zmq.POLLIN if self._socket.losses else 0

    def recv_multipart(self, flags: int) -> list[bytes]:
        self._socket.losses -= 1
        return []


class SimulatedLink(Link):
    """The real link but for the making and throwing away of sockets."""

    def __init__(self, name: str, network: Network, path: Path, poller: Poller, on_news: Callable[[], None]) -> None:
        self._name, self._network, self._path, self._on_news = name, network, path, on_news
        self._wants: Poller = poller
        self._poller: Any = poller
        self._socket: Any = None
        self._monitor: Any = None
        self._fd, self._monitor_fd = SOCKET_FD, MONITOR_FD
        self._wants_to_write = self._is_readable = self._is_writable = self.has_news = False
        self.bad_messages = 0
        self.last_fault = ""

    def connect(self) -> None:
        self.close()
        self._socket = Socket(self._name, self._network, self._path, self._on_news)
        self._monitor = Monitor(self._socket)
        self._wants.register(SOCKET_FD, zmq.POLLIN)
        self._wants.register(MONITOR_FD, zmq.POLLIN)

    def ready(self) -> dict[int, int]:
        """What an epoll would tell of it."""
        socket = self._socket
        if socket is None:
            return {}
        is_news = socket.inbox or (self._wants_to_write and socket.is_up)
        ready = {SOCKET_FD: 1} if is_news else {}
        return ready | {MONITOR_FD: 1} if socket.losses else ready

    def close(self, *, is_silent: bool = False) -> None:
        if self._socket is not None:
            self._wants.unregister(SOCKET_FD)
            self._wants.unregister(MONITOR_FD)
            self._socket.hang_up(is_silent=is_silent)
        self._socket = self._monitor = None
        self._wants_to_write = self._is_readable = self._is_writable = self.has_news = False
