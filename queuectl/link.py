"""The client's end of the wire: one connection, one request at a time, repeated under its id until answered.

The connection is kept between requests. When it fails, or a reply stays out, it is thrown away and the same
request goes out on a fresh one; the broker answers a request id that it has seen from its stored replies,
so repeating is safe. Knows nothing of jobs. Belongs to one thread; a forked child connects anew.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl import packed
from queuectl.errors import (
    BrokerUnreachable,
    OutcomeUnknown,
    TooLarge,
    VersionMismatch,
    from_wire,
)

if TYPE_CHECKING:
    from queuectl.remote import RemoteLine
    from queuectl.zmtp import LocalLine

_IPC = "ipc://"
CONNECT_TIMEOUT_S = 3.0
PAUSES_S = (0.3, 1.0, 3.0)  # before the second, third and fourth try; each is stretched by chance


class Reply(NamedTuple):
    """What the broker answered. `repeated`: from its stored replies. `tries`: how often this call had to send."""

    value: dict[str, Any]
    repeated: bool
    tries: int


class Begun:
    """A request that is ready, or on its way."""

    __slots__ = ("body", "request_id", "tries")

    def __init__(self, request_id: str, body: bytes) -> None:
        self.request_id = request_id
        self.body = body
        self.tries = 0


class Link:
    """A connection to the client endpoint of one broker."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._line: LocalLine | RemoteLine | None = None
        self._pid = os.getpid()

    def connect(self) -> bool:
        """Connect, if no connection is there; False if nobody listens at the endpoint.

        Raises BrokerUnreachable where somebody does, but does not answer, and NotAllowed.
        """
        if self._line is None or self._pid != os.getpid():
            self.close()
            return self._connect()
        return True

    def prepare(self, op: str, args: dict[str, Any], *, request_id: str) -> Begun:
        """Make a request ready to be sent. Raises BadRequest, TooLarge."""
        return Begun(request_id, _encode(op, args, request_id))

    def send(self, begun: Begun) -> None:
        """Send what was prepared; `finish` gets its reply. In between nothing else may be sent.

        Raises BrokerUnreachable: nothing was sent.
        """
        try:
            self._send(begun.body)
        except BrokerUnreachable:
            self.close()
            raise
        begun.tries = 1

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
            self.close()
        raise OutcomeUnknown(
            f"the request went out {begun.tries} times to {self.endpoint}, but no reply came",
            hint=f"it may or may not have been carried out; repeating it with request id {begun.request_id} is safe",
            details={"request_id": begun.request_id},
        )

    def _send_again(self, begun: Begun, pause_s: float) -> bool:
        import random

        time.sleep(pause_s * random.uniform(1.0, 1.5))
        try:
            self._send(begun.body)
        except BrokerUnreachable:
            self.close()
            return False
        begun.tries += 1
        return True

    def close(self) -> None:
        """Close the connection. May be called twice; a later call connects again."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _send(self, body: bytes) -> None:
        if self._try_send(body):
            return
        self.close()
        if not (self._connect() and self._try_send(body)):
            raise self._unreachable()

    def _try_send(self, body: bytes) -> bool:
        """Hand a request over; False if no connection of ours is up to take it."""
        if self._line is None or self._pid != os.getpid():
            return False
        try:
            return self._line.send(body)
        except BaseException:  # interrupted half-way: what follows would be taken for the rest
            self.close()
            raise

    def _connect(self) -> bool:
        line = self._open()
        if line is None:
            return False
        self._line, self._pid = line, os.getpid()
        try:
            is_up = line.greet(CONNECT_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        if not is_up:
            self.close()
            raise self._silent()
        return True

    def _open(self) -> LocalLine | RemoteLine | None:
        """A connection to whoever listens there. Raises NotAllowed where others could have put a socket."""
        if not self.endpoint.startswith(_IPC):
            from queuectl.remote import RemoteLine

            return RemoteLine(self.endpoint, bytes_max=packed.REPLY_BYTES_MAX)
        from queuectl.probe import dial

        connected = dial(self.endpoint)
        if connected is None:
            return None
        from queuectl.zmtp import LocalLine

        return LocalLine(connected, bytes_max=packed.REPLY_BYTES_MAX)

    def _receive(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        """The envelope of the reply, or None if none can be expected any more on this connection."""
        if self._line is None or self._pid != os.getpid():
            return None
        deadline = time.monotonic() + timeout_s
        left_s = timeout_s
        while left_s > 0:
            try:
                body = self._line.receive(left_s)
            except BaseException:  # interrupted half-way through a message
                self.close()
                raise
            if body is None:
                return None
            envelope = packed.unpack(body, bytes_max=packed.REPLY_BYTES_MAX)
            if isinstance(envelope, dict) and envelope.get("id") == request_id:
                return envelope
            left_s = deadline - time.monotonic()
        return None

    def _silent(self) -> BrokerUnreachable:
        if not self.endpoint.startswith(_IPC):
            return self._unreachable()
        from queuectl.probe import silent

        return silent(self.endpoint)

    def _unreachable(self) -> BrokerUnreachable:
        if self.endpoint.startswith(_IPC):
            hint = "start one: queuectl broker start --detach"
        else:
            hint = "is a broker running there with --listen, and does the firewall let you through?"
        return BrokerUnreachable(
            f"no broker answers at {self.endpoint}; nothing was sent", hint=hint, details={"endpoint": self.endpoint}
        )


def _encode(op: str, args: dict[str, Any], request_id: str) -> bytes:
    body = packed.pack({"v": packed.PROTOCOL_VERSION, "id": request_id, "op": op, "args": args})
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
