"""A connection to a local socket in the words of ZeroMQ (ZMTP 3.1), spoken without ZeroMQ.

A request and its reply over a socket of this machine need neither a queue nor a thread nor a poller: one write, one
read. So a command starts without loading zmq, and each request is spared two changes of threads. What libzmq does
behind the back of a program is little here: greet, and answer the broker's pings. Belongs to one thread.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

READ_BYTES = 2**16
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
    """A connected socket, which is ours from now on. After a False or None from it there is nothing but to close it.

    A wait ends in time whatever wakes it: signals, or a peer that says a byte at a time. What a program's own signal
    handlers raise goes through.
    """

    def __init__(self, connected: socket.socket, *, bytes_max: int) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._bytes_max = bytes_max
        self._read_bytes = bytearray()  # and not used yet
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connected, select.POLLIN)
        self._writable.register(connected, select.POLLOUT)
        self._write_s = 0.0
        self._end = 0.0  # of the wait, monotonic

    def greet(self, timeout_s: float) -> bool:
        """Agree with the other side on how to speak; False if it says nothing, or something else.

        No later write takes longer than this either.
        """
        self._write_s = timeout_s
        self._end = monotonic() + timeout_s
        try:
            self._write(_HELLO)
            theirs = self._read(len(_GREETING))
            flags, ready = self._frame()
        except Lost:
            return False
        is_zmtp_3 = (theirs[0], theirs[9]) == (0xFF, 0x7F) and theirs[10] >= 3
        return is_zmtp_3 and theirs[12:32] == _GREETING[12:32] and flags == _COMMAND and ready.startswith(_READY[:6])

    def send(self, body: bytes) -> bool:
        """Hand a request over; False if it did not get there as a whole, and so not at all."""
        try:
            self._write(_EMPTY_AND_MORE + _head(0, len(body)) + body)
        except Lost:
            return False
        return True

    def receive(self, timeout_s: float) -> bytes | None:
        """The body of the next message; None if none came in time, or none can come any more."""
        self._end = monotonic() + timeout_s
        try:
            while True:
                flags, body = self._frame()
                if flags & _COMMAND:
                    self._obey(body)
                elif not flags & _MORE:
                    return body
        except Lost:
            return None

    def close(self) -> None:
        """Close our end. In a forked child this leaves the connection to its parent."""
        self._socket.close()

    def _frame(self) -> tuple[int, bytes]:
        flags, size = self._read(2)
        if flags & _LONG:
            size = int.from_bytes(bytes((size,)) + self._read(7))
        if size > self._bytes_max:
            raise Lost
        return flags, self._read(size)

    def _obey(self, command: bytes) -> None:
        if command.startswith(_PING):
            answer = _PONG + command[len(_PING) + _TTL_BYTES :]
            self._write(_head(_COMMAND, len(answer)) + answer)

    def _read(self, size: int) -> bytes:
        """So many bytes. Raises Lost if they do not come before the end of the wait."""
        while len(self._read_bytes) < size:
            _wait(self._readable, self._end)
            more = _unless_lost(self._socket.recv, READ_BYTES)
            if more == b"":
                raise Lost
            self._read_bytes += more or b""
        data = bytes(self._read_bytes[:size])
        del self._read_bytes[:size]
        return data

    def _write(self, data: bytes) -> None:
        """All of it. Raises Lost if the other side does not take it in time."""
        end, rest = 0.0, memoryview(data)
        while rest:
            sent = _unless_lost(self._socket.send, rest, _QUIETLY)
            if sent is None:
                end = end or monotonic() + self._write_s
                _wait(self._writable, end)
            rest = rest[sent or 0 :]


def _wait(poll: select.poll, end: float) -> None:
    left_s = end - monotonic()
    if left_s <= 0 or not poll.poll(math.ceil(left_s * 1000)):
        raise Lost


def _unless_lost(act: Callable[..., T], *arguments: object) -> T | None:
    """What a call of the system returns; None if it would have to wait. Raises Lost if it fails."""
    try:
        return act(*arguments)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno is None:  # not of the system: a signal handler of the program has raised it
            raise
        raise Lost from error


def _head(flags: int, size: int) -> bytes:
    """What stands before the bytes of a frame."""
    if size <= _SHORT_MAX:
        return bytes((flags, size))
    return bytes((flags | _LONG,)) + size.to_bytes(8)
