"""The worker's one connection to the broker: a DEALER socket that is thrown away whenever there is doubt.

No ZeroMQ heartbeat and no limit on what is received: on a connecting socket the two together can end the
process with an assertion (libzmq 3937). With IMMEDIATE nothing is queued for a broker that is not there, so
nothing stale is ever sent.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Container, Iterator

import zmq

from queuectl import wire
from queuectl.errors import BadRequest
from queuectl.messages import TO_WORKER, Bye, Hello, ToBroker, ToWorker
from worker.children import Poller

MESSAGE_BYTES_MAX = 4 * 2**20
MESSAGES_PER_TURN_MAX = 256
LINGER_MS = 2000  # after BYE
_IPC = "ipc://"
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Link:
    """The connection.

    The descriptor of a ZeroMQ socket tells only that something has changed, and once only: whoever asks the socket
    how it stands, or sends, has heard of it. `has_news` keeps what was learnt so.
    """

    def __init__(self, endpoint: str, chance: Callable[[], float], poller: Poller) -> None:
        self._endpoint = endpoint
        self._chance = chance
        self._poller = poller
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._fd = self._monitor_fd = -1
        self._wants_to_write = False  # a HELLO could not go out
        self._is_readable = self._is_writable = False
        self.has_news = False
        self.bad_messages = 0
        self.last_fault = ""  # of them

    def connect(self) -> None:
        """Throw the socket away, if there is one, and connect a fresh one."""
        self._drop(linger_ms=0)
        link = self._socket = self._context.socket(zmq.DEALER)
        link.immediate = 1
        link.rcvhwm = 0
        link.sndhwm = 1000
        link.linger = 0
        link.maxmsgsize = MESSAGE_BYTES_MAX
        link.handshake_ivl = 5000
        link.connect_timeout = 5000
        link.reconnect_ivl = 100 + int(200 * self._chance())
        if not self._endpoint.startswith(_IPC):
            # libzmq doubles the pause without jitter; only the ends differ from worker to worker.
            link.reconnect_ivl_max = 2000 + int(3000 * self._chance())
            link.ipv6 = True
            link.tcp_keepalive, link.tcp_keepalive_idle = 1, 30
            link.tcp_keepalive_intvl, link.tcp_keepalive_cnt = 10, 3
            link.setsockopt(zmq.TCP_MAXRT, 60_000)
        self._monitor = link.get_monitor_socket(_LOST)
        self._monitor.getsockopt(zmq.EVENTS)  # or its descriptor would not tell of the first event
        self._fd, self._monitor_fd = link.FD, self._monitor.FD
        self._poller.register(self._fd, select.EPOLLIN)
        self._poller.register(self._monitor_fd, select.EPOLLIN)
        link.connect(self._endpoint)

    def send(self, message: ToBroker) -> bool:
        """Hand a message over; False if nobody is there to take it."""
        if self._socket is None:
            return False
        try:
            self._socket.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            if isinstance(message, Hello):
                self._wants_to_write = True
            return False
        finally:
            self._ask()
        if isinstance(message, Bye):
            self._socket.linger = LINGER_MS
        return True

    def _ask(self) -> None:
        assert self._socket is not None
        events = int(self._socket.getsockopt(zmq.EVENTS))
        self._is_readable = events & zmq.POLLIN != 0
        self._is_writable = events & zmq.POLLOUT != 0
        self.has_news = self._is_readable or (self._wants_to_write and self._is_writable)

    def has_become_writable(self) -> bool:
        """Whether the connection that a HELLO waits for has come up. Ask after the messages."""
        has_become = self._wants_to_write and self._is_writable
        if has_become:
            self._wants_to_write = False
            self.has_news = self._is_readable
        return has_become

    def was_lost(self, ready: Container[int]) -> bool:
        """Whether the connection broke."""
        if self._monitor is None or self._monitor_fd not in ready:
            return False
        was_lost = False
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._monitor.recv_multipart(zmq.NOBLOCK)
            was_lost = True
        return was_lost

    def messages(self, ready: Container[int]) -> Iterator[ToWorker]:
        """What has arrived, within the budget of a turn. What cannot be understood is counted and left out."""
        if self._socket is None or not (self.has_news or self._fd in ready):
            return
        for _ in range(MESSAGES_PER_TURN_MAX):
            self._ask()
            if not self._is_readable:
                return
            body = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
            try:
                yield wire.decode(body, TO_WORKER, bytes_max=MESSAGE_BYTES_MAX)
            except BadRequest as error:
                self.bad_messages += 1
                self.last_fault = error.message

    def close(self) -> None:
        """Close; what was said before a BYE still goes out."""
        self._drop(linger_ms=None)
        self._context.term()

    def _drop(self, *, linger_ms: int | None) -> None:
        if self._monitor is not None:
            self._poller.unregister(self._fd)
            self._poller.unregister(self._monitor_fd)
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger_ms)
        if self._monitor is not None:
            self._monitor.close(0)
        self._socket = self._monitor = None
        self._fd = self._monitor_fd = -1
        self._wants_to_write = self._is_readable = self._is_writable = self.has_news = False
