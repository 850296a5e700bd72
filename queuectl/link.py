"""The client's end of the wire: one connection, one request at a time, repeated under its id until answered.

The connection is kept between requests. When it fails, or a reply stays out, it is thrown away and the same
request goes out on a fresh one; the broker answers a request id that it has seen from its stored replies,
so repeating is safe. Knows nothing of jobs. Belongs to one thread; a forked child connects anew.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl import packed
from queuectl.errors import (
    BrokerUnreachable,
    KeyNotAccepted,
    NotAllowed,
    OutcomeUnknown,
    QueuectlError,
    ServerKeyMismatch,
    TooLarge,
    VersionMismatch,
    from_wire,
)

if TYPE_CHECKING:
    from queuectl.remote import RemoteLine
    from queuectl.ways import Way, Ways
    from queuectl.zmtp import LocalLine

CONNECT_TIMEOUT_S = 3.0  # on this machine; elsewhere see `remote`
ROUND_S, ROUND_PAUSE_S = 1.0, 0.3  # a first round that failed sooner is made again; a port may be cut for 100 ms
PAUSES_S = (0.3, 1.0, 3.0)  # before the second, third and fourth try; each is stretched by chance


class Reply(NamedTuple):
    """What the broker answered. `repeated`: from its stored replies. `tries`: how often this call had to send."""

    value: dict[str, Any]
    repeated: bool
    tries: int


class Begun:
    """A request that is ready, or on its way."""

    __slots__ = ("body", "op", "request_id", "tries")

    def __init__(self, op: str, request_id: str, body: bytes) -> None:
        self.op = op
        self.request_id = request_id
        self.body = body
        self.tries = 0


class Link:
    """A connection to the client endpoint of one broker, by whichever of the ways to it works."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._line: LocalLine | RemoteLine | None = None
        self._pid = os.getpid()

    @property
    def endpoint(self) -> str:
        """Where requests go now."""
        return self._ways.present.endpoint

    def connect(self) -> bool:
        """Connect, if no connection is there; False if nobody listens at the endpoint.

        Raises BrokerUnreachable where somebody does, but does not answer, or nobody elsewhere, and NotAllowed.
        """
        if self._line is None or self._pid != os.getpid():
            self.close()
            return self._connect()
        return True

    def prepare(self, op: str, args: dict[str, Any], *, request_id: str) -> Begun:
        """Make a request ready to be sent. Raises BadRequest, TooLarge."""
        return Begun(op, request_id, _encode(op, args, request_id))

    def send(self, begun: Begun) -> None:
        """Send what was prepared; `finish` gets its reply. In between nothing else may be sent.

        Raises BrokerUnreachable: nothing was sent.
        """
        try:
            self._send(begun.body)
        except QueuectlError:
            self.close()
            raise
        begun.tries = 1

    def finish(self, begun: Begun, *, timeout_s: float, until: float = math.inf) -> Reply:
        """Wait for the reply, and send the request again until there is one; `timeout_s` bounds each wait.

        After `until` (monotonic) nothing more is waited for, or sent. Raises OutcomeUnknown (sent, no reply), or the
        error of the reply.
        """
        obstacle: QueuectlError | None = None
        for pause_s in (0.0, *PAUSES_S):
            if pause_s and time.monotonic() >= until:
                break
            left_s = until - time.monotonic()
            if pause_s and (obstacle := self._send_again(begun, pause_s, left_s)) is not None:
                continue
            envelope = self._receive(begun.request_id, min(timeout_s, until - time.monotonic()))
            if envelope is not None:
                return self._open(envelope, begun.tries)
            self.close()
        raise self._unanswered(begun, obstacle)

    def _send_again(self, begun: Begun, pause_s: float, left_s: float) -> QueuectlError | None:
        """After a pause, of at most `left_s`. Why it could not go out; None if it did."""
        import random

        time.sleep(min(pause_s * random.uniform(1.0, 1.5), max(0.0, left_s)))
        try:
            self._send(begun.body)
        except (BrokerUnreachable, NotAllowed) as error:
            self.close()
            return error
        begun.tries += 1
        return None

    def _unanswered(self, begun: Begun, obstacle: QueuectlError | None) -> OutcomeUnknown:
        often = "once" if begun.tries == 1 else f"{begun.tries} times"
        since = f"; since then {obstacle.message}" if isinstance(obstacle, NotAllowed) else ""
        is_named = begun.op == "enqueue"  # whoever stores jobs can say which request it is
        then = f"repeating it with request id {begun.request_id} is safe" if is_named else "look, and ask again"
        return OutcomeUnknown(
            f"the request went out {often} to {self.endpoint}, but no reply came{since}",
            hint=f"it may or may not have been carried out; {then}",
            details={"request_id": begun.request_id},
        )

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
        if self._ways.present.is_local:
            return self._connect_here(self._ways.present)
        self._connect_elsewhere()
        return True

    def _connect_here(self, way: Way) -> bool:
        """Raises NotAllowed where others could have put a socket, BrokerUnreachable where nobody answers."""
        from queuectl.probe import dial, silent

        connected = dial(way.endpoint)
        if connected is None:
            return False
        from queuectl.zmtp import LocalLine

        line = LocalLine(connected, bytes_max=packed.REPLY_BYTES_MAX)
        if not self._greet(line, CONNECT_TIMEOUT_S):
            raise silent(way.endpoint)
        return True

    def _connect_elsewhere(self) -> None:
        """By each way, until one works. Raises what tells most of why none of them does.

        A broker that cuts its connections is not there, or goes in the middle of a handshake, for a moment: who is told
        so at once, and not that the key is unknown, tries again.
        """
        begun = time.monotonic()
        try:
            self._connect_by_one()
        except (BrokerUnreachable, ServerKeyMismatch):
            if time.monotonic() - begun > ROUND_S:
                raise
            time.sleep(ROUND_PAUSE_S)
            self._connect_by_one()

    def _connect_by_one(self) -> None:
        """By each way once."""
        failures: list[QueuectlError] = []
        tried: set[Way] = set()
        while (way := self._ways.present) not in tried:
            tried.add(way)
            failure = self._failure_of(way)
            if failure is None:
                return
            failures.append(failure)
            self._ways.failed(failure)
        raise _most_telling(failures)

    def _failure_of(self, way: Way) -> QueuectlError | None:
        """Why this way does not work; None if it does: the connection is up."""
        import zmq

        from queuectl.probe import addresses_of
        from queuectl.remote import ATTEMPT_S, RemoteLine

        failure: QueuectlError | None = None
        try:
            for address in addresses_of(way.endpoint):
                line = RemoteLine(way, address, bytes_max=packed.REPLY_BYTES_MAX)
                if self._greet(line, ATTEMPT_S):
                    return None
                failure = min(filter(None, (failure, line.failure)), key=_tells_little)
        except BrokerUnreachable as error:
            return error
        except zmq.ZMQError as error:  # no descriptors are left, for one
            what = f"cannot connect to {way.endpoint}: {error.strerror}"
            return BrokerUnreachable(what, details={"endpoint": way.endpoint})
        return failure

    def _greet(self, line: LocalLine | RemoteLine, timeout_s: float) -> bool:
        self._line, self._pid = line, os.getpid()
        try:
            is_up = line.greet(timeout_s)
        except BaseException:
            self.close()
            raise
        if not is_up:
            self.close()
        return is_up

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

    def _open(self, envelope: dict[str, Any], tries: int) -> Reply:
        error = envelope.get("error")
        if isinstance(error, dict):
            raised = from_wire(error)
            if isinstance(raised, KeyNotAccepted):
                self.close()  # by the next request the file of credentials may hold another key
            raise raised
        value = envelope.get("ok")
        if not isinstance(value, dict):
            raise VersionMismatch("the broker's reply is not one that this version understands")
        return Reply(value, envelope.get("repeated") is True, tries)

    def _unreachable(self) -> BrokerUnreachable:
        return BrokerUnreachable(
            f"no broker answers at {self.endpoint}; nothing was sent",
            hint="start one: queuectl broker start --detach" if self._ways.present.is_local else None,
            details={"endpoint": self.endpoint},
        )


def _encode(op: str, args: dict[str, Any], request_id: str) -> bytes:
    body = packed.pack({"v": packed.PROTOCOL_VERSION, "id": request_id, "op": op, "args": args})
    if len(body) > packed.CLIENT_MESSAGE_BYTES_MAX:
        raise TooLarge(f"the request has {len(body)} bytes, the broker takes {packed.CLIENT_MESSAGE_BYTES_MAX}")
    return body


def _most_telling(failures: list[QueuectlError]) -> QueuectlError:
    """What to say where each way has failed."""
    told = min(failures, key=_tells_little)
    places = [*dict.fromkeys(failure.details["endpoint"] for failure in failures if failure is not told)]
    if not isinstance(told, BrokerUnreachable) or places in ([], [told.details["endpoint"]]):
        return told
    return BrokerUnreachable(
        f"{told.message}; it is no better at {', '.join(places)}", hint=told.hint, details=told.details
    )


def _tells_little(failure: QueuectlError) -> int:
    """How little this says of why one is not let in. Somebody who answers says more than nobody does; and one of two
    server keys that does not fit says nothing, if the other does.
    """
    return 2 if isinstance(failure, BrokerUnreachable) else 1 if isinstance(failure, ServerKeyMismatch) else 0
