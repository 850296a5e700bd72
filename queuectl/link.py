"""The client's end of the wire: one socket, one request at a time, repeated under its id until answered.

The socket is kept between requests. When it fails, or a reply stays out, it is thrown away and the same
request goes out on a fresh one; the broker answers a request id that it has seen from its stored replies,
so repeating is safe. Knows nothing of jobs. Belongs to one thread, and to the process that made it.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from typing import Any

import zmq

from queuectl import packed
from queuectl.errors import (
    BadRequest,
    BrokerUnreachable,
    OutcomeUnknown,
    TooLarge,
    VersionMismatch,
    from_wire,
)
from queuectl.probe import IPC, somebody_listens

CONNECT_TIMEOUT_S = 3.0
PROMPT_MS = 20  # most replies come sooner: until then only the socket is watched, which is cheaper
PAUSES_S = (0.3, 1.0, 3.0)  # before the second, third and fourth try; each is stretched by chance
_MORE, _LAST = int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.NOBLOCK)
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@dataclass(frozen=True, slots=True)
class Reply:
    """What the broker answered. `repeated`: from its stored replies. `tries`: how often this call had to send."""

    value: dict[str, Any]
    repeated: bool
    tries: int


@dataclass(slots=True)
class Begun:
    """A request that is on its way."""

    request_id: str
    body: bytes
    tries: int = 0


class Link:
    """A connection to the client endpoint of one broker."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._pid = os.getpid()

    def begin(self, op: str, args: dict[str, Any], *, request_id: str) -> Begun:
        """Send one request; `finish` gets its reply. In between nothing else may be sent.

        Raises BrokerUnreachable: nothing was sent.
        """
        begun = Begun(request_id, _encode(op, args, request_id))
        try:
            self._send(begun.body)
        except BrokerUnreachable:
            self.close()
            raise
        begun.tries = 1
        return begun

    def finish(self, begun: Begun, *, timeout_s: float) -> Reply:
        """Wait for the reply, and send the request again until there is one; `timeout_s` bounds each wait.

        Raises OutcomeUnknown (sent, no reply), or the error of the reply.
        """
        for pause_s in (0.0, *PAUSES_S):
            if pause_s and not self._send_again(begun, pause_s):
                continue
            envelope = self._receive(begun.request_id, timeout_s)
            if envelope is not None:
                return _open(envelope, begun.tries)
            self._drop()
        raise OutcomeUnknown(
            f"the request went out {begun.tries} times to {self.endpoint}, but no reply came",
            hint=f"it may or may not have been carried out; repeating it with request id {begun.request_id} is safe",
            details={"request_id": begun.request_id},
        )

    def _send_again(self, begun: Begun, pause_s: float) -> bool:
        time.sleep(pause_s * random.uniform(1.0, 1.5))
        try:
            self._send(begun.body)
        except BrokerUnreachable:
            self.close()
            return False
        begun.tries += 1
        return True

    def close(self) -> None:
        """Close the socket. May be called twice; a later call connects again."""
        self._drop()
        if self._context is not None and self._pid == os.getpid():
            self._context.term()
        self._context = None

    def _send(self, body: bytes) -> None:
        if self._try_send(body):
            return
        self._drop()
        self._connect()
        if not self._try_send(body):
            raise self._unreachable()

    def _try_send(self, body: bytes) -> bool:
        """Hand a request over; False if no connection is up to take it."""
        if self._socket is None:
            return False
        try:
            self._socket.send(b"", _MORE)
            self._socket.send(body, _LAST)
        except zmq.Again:
            return False
        return True

    def _connect(self) -> None:
        if self.endpoint.startswith(IPC) and not somebody_listens(self.endpoint):
            raise self._unreachable()
        if self._context is None:
            self._context, self._pid = zmq.Context(), os.getpid()
        link = self._socket = self._context.socket(zmq.DEALER)
        link.linger = 0
        link.immediate = 1
        link.sndhwm = link.rcvhwm = 10
        link.rcvtimeo = PROMPT_MS
        link.maxmsgsize = packed.REPLY_BYTES_MAX
        link.handshake_ivl = 3000
        link.connect_timeout = 3000
        link.reconnect_ivl, link.reconnect_ivl_max = 100, 1000
        if not self.endpoint.startswith(IPC):
            link.ipv6 = True
            link.setsockopt(zmq.TCP_MAXRT, 10_000)
        self._monitor = link.get_monitor_socket(_LOST)
        self._poller = zmq.Poller()
        self._poller.register(link, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        link.connect(self.endpoint)
        if not link.poll(int(CONNECT_TIMEOUT_S * 1000), zmq.POLLOUT):
            raise self._unreachable()

    def _receive(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        """The envelope of the reply, or None if none can be expected any more on this socket."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            body = self._next(left_s)
            if body is None:
                return None
            envelope = packed.unpack(body, bytes_max=packed.REPLY_BYTES_MAX)
            if isinstance(envelope, dict) and envelope.get("id") == request_id:
                return envelope
        return None

    def _next(self, timeout_s: float) -> bytes | None:
        """The next message; None if none came in time, or the broker is gone, and with it the way back for any."""
        assert self._socket is not None
        try:
            return self._socket.recv_multipart()[-1]
        except zmq.Again:
            ready = dict(self._poller.poll(int(timeout_s * 1000) + 1))
        if self._socket in ready or self._socket.poll(0):  # its last words may have come just now
            return self._socket.recv_multipart()[-1]
        return None

    def _drop(self) -> None:
        """Throw the socket away with all that waits in it."""
        if self._socket is None:
            return
        if self._pid == os.getpid():  # a forked child must leave its parent's sockets alone
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(0)
            self._socket.close(0)
        self._socket = self._monitor = None

    def _unreachable(self) -> BrokerUnreachable:
        if self.endpoint.startswith(IPC):
            hint = "start one: queuectl broker start --detach"
        else:
            hint = "is a broker running there with --listen, and does the firewall let you through?"
        return BrokerUnreachable(
            f"no broker answers at {self.endpoint}; nothing was sent", hint=hint, details={"endpoint": self.endpoint}
        )


def _encode(op: str, args: dict[str, Any], request_id: str) -> bytes:
    try:
        body = packed.pack({"v": packed.PROTOCOL_VERSION, "id": request_id, "op": op, "args": args})
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
        raise BadRequest(f"the request cannot be encoded: {error}") from None
    if len(body) > packed.CLIENT_MESSAGE_BYTES_MAX:
        raise TooLarge(f"the request has {len(body)} bytes, the broker takes {packed.CLIENT_MESSAGE_BYTES_MAX}")
    return body


def _open(envelope: dict[str, Any], tries: int) -> Reply:
    error = envelope.get("error")
    if isinstance(error, dict):
        raise from_wire(error)
    value = envelope.get("ok")
    if not isinstance(value, dict):
        raise VersionMismatch("the broker's reply is not one that this version understands")
    return Reply(value, envelope.get("repeated") is True, tries)
