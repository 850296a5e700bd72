"""A connection to a local socket in the words of ZeroMQ (ZMTP 3.1), spoken without ZeroMQ.

A request and its reply over a socket of this machine need neither a queue nor a thread nor a poller: one write, one
read. So a command starts without loading zmq, and each request is spared two changes of threads. What libzmq does
behind the back of a program is little here: greet, and answer the broker's pings. Belongs to one thread.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import Final

_MORE, _LONG, _COMMAND = 1, 2, 4  # flags of a frame
_SHORT_MAX = 255
_GREETING = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY" + b"\x0bSocket-Type\0\0\0\x06DEALER" + b"\x08Identity\0\0\0\0"
_HELLO: Final = _GREETING + bytes((_COMMAND, len(_READY))) + _READY
_PING, _PONG = b"\x04PING", b"\x04PONG"
_TTL_BYTES = 2
_QUIETLY = getattr(socket, "MSG_NOSIGNAL", 0)  # a program may have made SIGPIPE deadly again
_EMPTY_AND_MORE = bytes((_MORE, 0))  # the frame between the envelope and the body


class Lost(Exception):
    """The connection is of no more use: ended, too late, or the other side does not speak ZMTP."""


class LocalLine:
    """A connected socket, which is ours from now on. After a False or None from it there is nothing but to close it."""

    def __init__(self, connected: socket.socket, *, bytes_max: int) -> None:
        self._socket = connected
        self._stream = open(connected.fileno(), "rb", closefd=False)  # noqa: SIM115  makefile reads in Python
        self._bytes_max = bytes_max
        self._patience_s = 0.0

    def greet(self, timeout_s: float) -> bool:
        """Agree with the other side on how to speak; False if it says nothing, or something else.

        No later write takes longer than this either.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
        self._wait_at_most(timeout_s)
        try:
            self._socket.sendall(_HELLO, _QUIETLY)
            theirs = self._read(len(_GREETING))
            flags, ready = self._frame()
        except (Lost, OSError):
            return False
        is_zmtp_3 = (theirs[0], theirs[9]) == (0xFF, 0x7F) and theirs[10] >= 3
        return is_zmtp_3 and theirs[12:32] == _GREETING[12:32] and flags == _COMMAND and ready.startswith(_READY[:6])

    def send(self, body: bytes) -> bool:
        """Hand a request over; False if it did not get there as a whole, and so not at all."""
        try:
            self._socket.sendall(_EMPTY_AND_MORE + _head(0, len(body)) + body, _QUIETLY)
        except OSError:
            return False
        return True

    def receive(self, timeout_s: float) -> bytes | None:
        """The body of the next message; None if none came in time, or none can come any more."""
        deadline = monotonic() + timeout_s
        self._wait_at_most(timeout_s)
        try:
            while True:
                flags, body = self._frame()
                if flags & _COMMAND:
                    self._obey(body)
                elif not flags & _MORE:
                    return body
                if monotonic() > deadline:
                    return None
        except (Lost, OSError):
            return None

    def close(self) -> None:
        """Close our end. In a forked child this leaves the connection to its parent."""
        self._stream.close()
        self._socket.close()

    def _frame(self) -> tuple[int, bytes]:
        flags, size = self._read(2)
        if flags & _LONG:
            size = int.from_bytes(bytes((size,)) + self._read(7))
        if size > self._bytes_max:
            raise Lost
        return flags, self._read(size)

    def _read(self, size: int) -> bytes:
        data: bytes | None = self._stream.read(size)  # None where it took too long
        if data is None or len(data) < size:
            raise Lost
        return data

    def _obey(self, command: bytes) -> None:
        if command.startswith(_PING):
            answer = _PONG + command[len(_PING) + _TTL_BYTES :]
            self._socket.sendall(_head(_COMMAND, len(answer)) + answer, _QUIETLY)

    def _wait_at_most(self, seconds: float) -> None:
        """Bound each read. An option of the socket: a time-out of Python's would cost two more calls of the system."""
        if seconds != self._patience_s:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
            self._patience_s = seconds


def _head(flags: int, size: int) -> bytes:
    """What stands before the bytes of a frame."""
    if size <= _SHORT_MAX:
        return bytes((flags, size))
    return bytes((flags | _LONG,)) + size.to_bytes(8)


def _timeval(seconds: float) -> bytes:
    """The bytes of a struct timeval, never zero: that would mean for ever."""
    return struct.pack("ll", *divmod(max(1, round(seconds * 1_000_000)), 1_000_000))
