"""A connection to a broker over TCP, made with ZeroMQ. The same methods as LocalLine; belongs to one thread."""

from __future__ import annotations

import os
from time import monotonic

import zmq

from queuectl import handshake
from queuectl.errors import QueuectlError
from queuectl.probe import silent
from queuectl.ways import Way

CONNECT_S = 2.0
HANDSHAKE_S = 2.5
ATTEMPT_S = CONNECT_S + HANDSHAKE_S + 0.5  # by then libzmq has told
PROMPT_MS = 20  # most replies come sooner: until then only the socket is watched, which is cheaper
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)


class RemoteLine:
    """A socket that makes one attempt to connect to an address of this way, and a monitor that tells what became of it.

    `failure` says why the attempt came to nothing, when `greet` has returned False.
    """

    def __init__(self, way: Way, address: str, *, bytes_max: int) -> None:
        self.failure: QueuectlError = handshake.unreachable(way)
        self._way, self._address = way, address
        self._pid = os.getpid()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = self._socket = self._context.socket(zmq.DEALER)
        link.linger = 0
        link.immediate = 1
        link.sndhwm = link.rcvhwm = 10
        link.rcvtimeo = PROMPT_MS
        link.maxmsgsize = bytes_max
        link.connect_timeout, link.handshake_ivl = int(CONNECT_S * 1000), int(HANDSHAKE_S * 1000)
        link.reconnect_ivl = -1
        link.ipv6 = True
        link.setsockopt(zmq.TCP_MAXRT, 10_000)
        handshake.put_keys(link, way)
        self._monitor = link.get_monitor_socket(handshake.WATCHED)
        self._poller = zmq.Poller()
        self._poller.register(link, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._begun_at = monotonic()
        link.connect(address)

    def greet(self, timeout_s: float) -> bool:
        """Wait until the connection is up; False if it does not come up, or not in time."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLOUT)
        poller.register(self._monitor, zmq.POLLIN)
        end = monotonic() + timeout_s
        while (left_s := end - monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            if self._socket in ready:
                return True
            if self._monitor in ready:
                self.failure = self._why(self._monitor.recv_multipart())
                return False
        return False

    def _why(self, told: list[bytes]) -> QueuectlError:
        cause = handshake.cause_of(told, self._way) or self.failure
        if handshake.is_certain(told):
            return cause
        if monotonic() - self._begun_at >= HANDSHAKE_S:
            return silent(self._way.endpoint)
        return handshake.look_closer(self._way, self._address)

    def send(self, body: bytes) -> bool:
        """Hand a request over; False if no connection is up to take it."""
        try:
            self._socket.send(b"", _MORE)
            self._socket.send(body, _LAST)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout_s: float) -> bytes | None:
        """The body of the next message; None if none came in time, or the broker is gone, and the way back with it."""
        try:
            return self._socket.recv_multipart()[-1]
        except zmq.Again:
            ready = dict(self._poller.poll(int(timeout_s * 1000) + 1))
        if self._socket in ready or self._socket.poll(0):  # its last words may have come just now
            return self._socket.recv_multipart()[-1]
        return None

    def close(self) -> None:
        """Throw the socket away with all that waits in it. A forked child must leave its parent's alone."""
        if self._pid == os.getpid():
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
            self._context.term()
