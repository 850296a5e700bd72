"""A worker's socket: the real link, over a simulated line instead of ZeroMQ's."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from queuectl.ways import Ways
from tests.simulation.network import TO_BROKER, WORKERS, Line, Network, Path
from worker.link import Link

_EVENT = struct.Struct("=hi")  # a message of ZeroMQ's monitor: what, and a value
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
    """A DEALER with IMMEDIATE: it takes messages only while its line is up. `comes_back`: it connects by itself."""

    def __init__(
        self, name: str, network: Network, path: Path, on_news: Callable[[], None], *, comes_back: bool
    ) -> None:
        self.name = name
        self._network, self._on_news, self._comes_back = network, on_news, comes_back
        self.inbox: deque[bytes] = deque()
        self.fate: deque[int] = deque()  # what the monitor has not been asked about
        self.line: Line = network.connect(self, path, WORKERS)

    def on_connected(self) -> None:
        if not self._comes_back:
            self.fate.append(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._on_news()

    def on_lost(self, again: Line) -> None:
        self.fate.append(zmq.EVENT_DISCONNECTED)
        self.line = again
        if not self._comes_back:
            self.hang_up()
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

    def disable_monitor(self) -> None: ...

    def close(self, linger: int | None) -> None:
        self.hang_up()

    def hang_up(self, *, is_silent: bool = False) -> None:
        self._network.hang_up(self.line, is_silent=is_silent)


class Monitor:
    """Tells that the connection came up, or broke."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def getsockopt(self, option: int) -> int:
        assert option == zmq.EVENTS
        return zmq.POLLIN if self._socket.fate else 0

    def recv_multipart(self, flags: int) -> list[bytes]:
        return [_EVENT.pack(self._socket.fate.popleft(), 0), b""]

    def close(self, linger: int | None) -> None: ...


class SimulatedLink(Link):
    """The real link but for the making of sockets."""

    def __init__(
        self,
        name: str,
        network: Network,
        path: Path,
        poller: Poller,
        on_news: Callable[[], None],
        *,
        endpoint: str,
        chance: Callable[[], float],
    ) -> None:
        super().__init__(Ways([endpoint]), chance, poller)
        self._name, self._network, self._path, self._on_news = name, network, path, on_news
        self._socket: Any = None
        self._monitor: Any = None

    def _open(self) -> None:
        comes_back = self._way.is_local
        self._socket = Socket(self._name, self._network, self._path, self._on_news, comes_back=comes_back)
        self._monitor = Monitor(self._socket)
        self._watch(SOCKET_FD, MONITOR_FD)

    def ready(self) -> dict[int, int]:
        """What an epoll would tell of it."""
        socket = self._socket
        if socket is None:
            return {}
        is_news = socket.inbox or (self._wants_to_write and socket.is_up)
        ready = {SOCKET_FD: 1} if is_news else {}
        return ready | {MONITOR_FD: 1} if socket.fate else ready

    def vanish(self, *, is_silent: bool) -> None:
        """Its process is dead; silently where its machine is."""
        if self._socket is not None:
            self._socket.hang_up(is_silent=is_silent)
        self.close()
