"""The worker's one connection to the broker: a DEALER socket that is thrown away whenever there is doubt.

No ZeroMQ heartbeat and no limit on what is received: on a connecting socket the two together can end the
process with an assertion (libzmq 3937). With IMMEDIATE nothing is queued for a broker that is not there, so
nothing stale is ever sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import zmq

from queuectl import wire
from queuectl.errors import BadRequest
from queuectl.messages import TO_WORKER, Bye, Hello, ToBroker, ToWorker

MESSAGE_BYTES_MAX = 4 * 2**20
MESSAGES_PER_TURN_MAX = 256
LINGER_MS = 2000  # after BYE
_IPC = "ipc://"
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Link:
    """The connection. `wants_to_write`: a HELLO could not go out, so tell when the socket can take one."""

    def __init__(self, endpoint: str, chance: Callable[[], float], poller: zmq.Poller) -> None:
        self._endpoint = endpoint
        self._chance = chance
        self._poller = poller
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._wants_to_write = False
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
        link.connect(self._endpoint)
        self._poller.register(link, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def send(self, message: ToBroker) -> bool:
        """Hand a message over; False if nobody is there to take it."""
        if self._socket is None:
            return False
        try:
            self._socket.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            if isinstance(message, Hello):
                self._want_to_write(self._socket, True)
            return False
        if isinstance(message, Bye):
            self._socket.linger = LINGER_MS
        return True

    def _want_to_write(self, link: zmq.Socket[bytes], wanted: bool) -> None:
        if wanted != self._wants_to_write:
            self._wants_to_write = wanted
            self._poller.register(link, zmq.POLLIN | zmq.POLLOUT if wanted else zmq.POLLIN)

    def is_readable(self, ready: Mapping[object, int]) -> bool:
        return ready.get(self._socket, 0) & zmq.POLLIN != 0

    def has_become_writable(self, ready: Mapping[object, int]) -> bool:
        """Whether the connection that a HELLO waits for has come up."""
        if self._socket is None or not ready.get(self._socket, 0) & zmq.POLLOUT:
            return False
        self._want_to_write(self._socket, False)
        return True

    def was_lost(self, ready: Mapping[object, int]) -> bool:
        """Whether the connection broke."""
        if self._monitor is None or self._monitor not in ready:
            return False
        self._monitor.recv_multipart(zmq.NOBLOCK)
        return True

    def messages(self) -> Iterator[ToWorker]:
        """What has arrived, within the budget of a turn. What cannot be understood is counted and left out."""
        for _ in range(MESSAGES_PER_TURN_MAX):
            if self._socket is None:
                return
            try:
                body = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
            except zmq.Again:
                return
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
        if self._socket is None or self._monitor is None:
            return
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)
        self._socket = self._monitor = None
        self._wants_to_write = False
