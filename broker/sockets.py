"""The broker's sockets: two ROUTERs with bounded everything, and how bytes come off and go onto them.

Options and their reasons: docs/protocol.md. In short: no fixed routing ids (duplicates are silently
ignored), ROUTER_MANDATORY with NOBLOCK (else messages vanish on a full pipe), limits on size, queue,
handshake and backlog; ZMTP heartbeats only to reap dead connections, liveness is the core's business.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic

import zmq

from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, WORKER_MESSAGE_BYTES_MAX

ENVELOPE_FRAMES_MAX = 3
GONE, FULL, SENT = "gone", "full", "sent"

# Plain numbers: to combine two members of an enumeration costs as much as to send a frame.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

# The frames before the body, the body, and the user id that the gate has given the connection.
Message = tuple[tuple[bytes, ...], bytes, str]
CAME, LET_IN, LOST = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_HANDSHAKE_SUCCEEDED), int(zmq.EVENT_DISCONNECTED)
_EVENTS_QUEUED_MAX = 100_000  # while the loop is busy: libzmq's thread must not wait for it
_USER = "User-Id"

_COMMON = {
    zmq.ROUTER_MANDATORY: 1,
    zmq.ROUTER_HANDOVER: 0,
    zmq.LINGER: 0,
    zmq.HANDSHAKE_IVL: 5000,
    zmq.HEARTBEAT_IVL: 15_000,  # reaps dead TCP connections; TTL stays unset, it wraps at 65 s
    zmq.HEARTBEAT_TIMEOUT: 60_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 60_000,
    zmq.BACKLOG: 1024,
}


class Router:
    """A ROUTER socket. `frames_max` bounds what may stand before the body."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        receive_queue: int,
        send_queue: int,
        bytes_max: int,
        envelope_max: int,
    ):
        self.socket = context.socket(zmq.ROUTER)
        for option, value in _COMMON.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.RCVHWM, receive_queue)
        self.socket.setsockopt(zmq.SNDHWM, send_queue)
        self.socket.setsockopt(zmq.MAXMSGSIZE, bytes_max)
        self._envelope_max = envelope_max
        self.misframed = 0  # messages with more frames than anybody of ours sends

    def bind(self, endpoint: str, domain: str, secret_key: str | None = None) -> None:
        """Listen, with CURVE if there is a secret key. Raises zmq.ZMQError.

        Who connects is asked of the gate in this domain; without a gate nobody gets in (ZAP_ENFORCE_DOMAIN). The
        options are those of the endpoint, not of the socket: libzmq takes them over when it binds.
        """
        self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        self.socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.socket.setsockopt(zmq.CURVE_SERVER, int(secret_key is not None))
        if secret_key is not None:
            self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret_key)
        self.socket.bind(endpoint)

    def unbind(self, endpoint: str) -> None:
        """Listen there no more, and end the connections that came from there. Raises zmq.ZMQError."""
        self.socket.unbind(endpoint)

    def watch(self, events: int) -> zmq.Socket[bytes]:
        """A socket that tells of events; `read_monitor` reads them."""
        address = f"inproc://monitor-{id(self)}"
        self.socket.monitor(address, events)
        monitor: zmq.Socket[bytes] = self.socket.context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = _EVENTS_QUEUED_MAX
        monitor.connect(address)
        return monitor

    def drain(self, *, messages_max: int, bytes_max: int, seconds_max: float) -> tuple[list[Message], bool]:
        """What has arrived, within a budget, and whether that was all."""
        found: list[Message] = []
        count, size, end = 0, 0, monotonic() + seconds_max
        while count < messages_max and size < bytes_max and (count & 31 or monotonic() < end):
            try:
                frames, user, read = self._receive()
            except zmq.Again:
                return found, True
            count += 1  # what is thrown away costs time as well
            size += read
            if frames:
                found.append((tuple(frames[:-1]), frames[-1], user))
            else:
                self.misframed += 1
        return found, False

    def _receive(self) -> tuple[list[bytes], str, int]:
        """The frames of one message (none if there are too many or too few), the user id, and the bytes of all."""
        receive = self.socket.recv
        frame = receive(_NOW, copy=False)
        frames = [frame.bytes]
        count = size = 1
        while frame.more:
            frame = receive(_NOW, copy=False)
            count += 1
            size += len(frame) + 1  # a frame without a byte is work, too
            if count <= self._envelope_max + 1:
                frames.append(frame.bytes)
        if not 2 <= count <= self._envelope_max + 1:
            return [], "", size
        return frames, str(frame.get(_USER)), size

    def send(self, envelope: tuple[bytes, ...], body: bytes) -> str:
        """Hand a message to ZeroMQ without ever waiting: sent, or the peer is gone, or its queue is full."""
        try:
            for frame in envelope:
                self.socket.send(frame, _NOW_AND_MORE)
            self.socket.send(body, _NOW)
        except zmq.Again:
            return FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return GONE
            raise
        return SENT

    def close(self, linger_ms: int) -> None:
        """Close, giving what is on its way so long to leave."""
        self.socket.close(linger_ms)


def worker_router(context: zmq.Context[zmq.Socket[bytes]]) -> Router:
    """The socket that workers connect to: [route][body]."""
    return Router(context, receive_queue=200, send_queue=1000, bytes_max=WORKER_MESSAGE_BYTES_MAX, envelope_max=1)


def client_router(context: zmq.Context[zmq.Socket[bytes]]) -> Router:
    """The socket that clients connect to: [route][correlation id?][empty][body].

    Its messages may be large, both ways: few of them wait, for whoever asks one thing after the other needs no more.
    """
    return Router(
        context,
        receive_queue=32,
        send_queue=64,
        bytes_max=CLIENT_MESSAGE_BYTES_MAX,
        envelope_max=ENVELOPE_FRAMES_MAX,
    )


class Watch:
    """Waits until there is something to read. ZeroMQ's own poll asks each socket twice, before and after its wait.

    The descriptor of a socket tells that something has happened to it, once: what had been said before, or was
    noticed while we sent, only the socket itself knows. So it is asked before each wait, and after it only if its
    descriptor has told. A monitor is never sent to, so its descriptor tells everything to one who reads it to its
    end each time, and has done so once before: until then the other end believes its reader to be awake. The gate is
    sent to, and asked like the sockets.
    """

    def __init__(
        self,
        workers: zmq.Socket[bytes],
        clients: zmq.Socket[bytes],
        gate: zmq.Socket[bytes],
        monitors: Sequence[zmq.Socket[bytes]],
        descriptor: int,
    ) -> None:
        self._workers = workers
        self._asked = (workers, clients, gate)
        sources = (*self._asked, *monitors)
        self._sources: dict[int, object] = {int(source.getsockopt(zmq.FD)): source for source in sources}
        self._sources[descriptor] = descriptor
        for monitor in monitors:
            read_monitor(monitor)
        self._all, self._others = select.poll(), select.poll()
        for number, source in self._sources.items():
            self._all.register(number, select.POLLIN)
            if source is not workers:
                self._others.register(number, select.POLLIN)

    def wait(self, timeout_ms: int, deaf_ms: int = 0) -> set[object]:
        """Which of the sockets, the monitors and the descriptor have something to read; none after so many ms.

        For `deaf_ms` what workers say does not end the wait; it is told of together with what does.
        """
        ready: set[object] = {socket for socket in self._asked if _has_message(socket)}
        told: list[tuple[int, int]] = []
        if deaf_ms:
            deaf_ms = min(deaf_ms, timeout_ms)
            told = self._others.poll(0 if ready - {self._workers} else deaf_ms)
        if not told:
            told = self._all.poll(0 if ready else timeout_ms - deaf_ms)
        sources = [self._sources[number] for number, _ in told]
        ready.update(source for source in sources if not isinstance(source, zmq.Socket) or _has_message(source))
        if deaf_ms and _has_message(self._workers):
            ready.add(self._workers)
        return ready


def _has_message(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)


def read_monitor(monitor: zmq.Socket[bytes]) -> list[tuple[int, int]]:
    """All events that a monitor has to tell, in order, each with its value: of most of them a descriptor."""
    seen = []
    with suppress(zmq.Again):
        for _ in _forever():
            told = monitor.recv_multipart(_NOW)[0]
            seen.append((int.from_bytes(told[:2], sys.byteorder), int.from_bytes(told[2:6], sys.byteorder)))
    return seen


def _forever() -> Iterator[None]:
    while True:
        yield
