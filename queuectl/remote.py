"""A connection to a broker over TCP, made with ZeroMQ. The same methods as LocalLine; belongs to one thread."""

from __future__ import annotations

import os

import zmq

PROMPT_MS = 20  # most replies come sooner: until then only the socket is watched, which is cheaper
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class RemoteLine:
    """A socket that connects in the background, and a monitor that tells when its connection is lost."""

    def __init__(self, endpoint: str, *, bytes_max: int) -> None:
        self._pid = os.getpid()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = self._socket = self._context.socket(zmq.DEALER)
        link.linger = 0
        link.immediate = 1
        link.sndhwm = link.rcvhwm = 10
        link.rcvtimeo = PROMPT_MS
        link.maxmsgsize = bytes_max
        link.handshake_ivl = 3000
        link.connect_timeout = 3000
        link.reconnect_ivl, link.reconnect_ivl_max = 100, 1000
        link.ipv6 = True
        link.setsockopt(zmq.TCP_MAXRT, 10_000)
        self._monitor = link.get_monitor_socket(_LOST)
        self._poller = zmq.Poller()
        self._poller.register(link, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        link.connect(endpoint)

    def greet(self, timeout_s: float) -> bool:
        """Wait until the connection is up; False if it does not come up in time."""
        return bool(self._socket.poll(int(timeout_s * 1000), zmq.POLLOUT))

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
