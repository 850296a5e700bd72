"""The worker's one connection to the broker: a DEALER socket that is thrown away whenever there is doubt.

No ZeroMQ heartbeat and no limit on what is received: on a connecting socket the two together can end the
process with an assertion (libzmq 3937). With IMMEDIATE nothing is queued for a broker that is not there, so
nothing stale is ever sent.

A local socket connects again by itself. One over TCP makes one attempt, which ends in time, and is thrown away when
that has failed, or when the connection has: left to itself libzmq gives up after a refused key, and knocks for ever
where the server's is wrong.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Container, Iterator

import zmq

from queuectl import handshake, wire
from queuectl.errors import BadRequest, BrokerUnreachable, QueuectlError, ServerKeyMismatch
from queuectl.messages import TO_WORKER, Bye, Hello, ToBroker, ToWorker
from queuectl.probe import silent
from queuectl.ways import Ways
from worker.children import Poller
from worker.look import Look

MESSAGE_BYTES_MAX = 4 * 2**20
MESSAGES_PER_TURN_MAX = 256
LINGER_MS = 2000  # after BYE
CONNECT_MS = HANDSHAKE_MS = 2000
ATTEMPT_MS = CONNECT_MS + HANDSHAKE_MS + 500  # by then libzmq has told, unless it waits for the name of a host
SOCKETS_MAX = 16  # also of those that libzmq has yet to close: while it waits for a name, they would pile up
MISMATCHES_MIN = 2  # a connection that breaks in the handshake looks the same, but seldom twice
_FATE = handshake.WATCHED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Link:
    """The connection.

    The descriptor of a ZeroMQ socket tells only that something has changed, and once only: whoever asks the socket
    how it stands, or sends, has heard of it. `has_news` keeps what was learnt so.
    """

    def __init__(self, ways: Ways, chance: Callable[[], float], poller: Poller) -> None:
        self._ways = ways
        self._chance = chance
        self._poller = poller
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = SOCKETS_MAX
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._fd = self._monitor_fd = -1
        self._way = ways.present
        self._ends_at_ms: int | None = None  # when the attempt to connect has failed, if nothing is heard of it
        self._reason: QueuectlError = handshake.unreachable(self._way)  # why that would be
        self._failures = 0  # since the last connection
        self._causes: list[QueuectlError] = []
        self._look: Look | None = None
        self._has_heard = False  # the broker, on this socket
        self._wants_to_write = False  # a HELLO could not go out
        self._is_readable = self._is_writable = False
        self.has_news = False
        self.bad_messages = 0
        self.last_fault = ""  # of them

    def connect(self, now_ms: int) -> None:
        """Throw the socket away, if there is one, and connect a fresh one by the present way."""
        if self._socket is not None and not self._has_heard:
            self._fail(self._silence())
        if (fault := self._ways.read_again()) is not None:
            self._causes.append(fault)
        self._drop(linger_ms=0)
        self._way = self._ways.present
        self._reason = handshake.unreachable(self._way)
        try:
            self._open()
        except zmq.ZMQError as error:
            self._drop(linger_ms=0)
            self._reason = BrokerUnreachable(f"cannot connect to {self._way.endpoint}: {error.strerror}")
            self._ends_at_ms = now_ms
        else:
            self._ends_at_ms = None if self._way.is_local else now_ms + ATTEMPT_MS

    def _open(self) -> None:
        link = self._socket = self._context.socket(zmq.DEALER)
        link.immediate = 1
        link.rcvhwm = 0
        link.sndhwm = 1000
        link.linger = 0
        link.maxmsgsize = MESSAGE_BYTES_MAX
        if self._way.is_local:
            link.handshake_ivl = link.connect_timeout = 5000
            link.reconnect_ivl = 100 + int(200 * self._chance())
        else:
            link.handshake_ivl, link.connect_timeout = HANDSHAKE_MS, CONNECT_MS
            link.reconnect_ivl = -1
            link.ipv6 = self._way.ipv6
            link.tcp_keepalive, link.tcp_keepalive_idle = 1, 30
            link.tcp_keepalive_intvl, link.tcp_keepalive_cnt = 10, 3
            link.setsockopt(zmq.TCP_MAXRT, 60_000)
            handshake.put_keys(link, self._way)
        self._monitor = link.get_monitor_socket(_LOST if self._way.is_local else _FATE)
        self._monitor.getsockopt(zmq.EVENTS)  # or its descriptor would not tell of the first event
        self._watch(link.FD, self._monitor.FD)
        link.connect(self._way.endpoint)

    def _watch(self, fd: int, monitor_fd: int) -> None:
        self._fd, self._monitor_fd = fd, monitor_fd
        self._poller.register(fd, select.EPOLLIN)
        self._poller.register(monitor_fd, select.EPOLLIN)

    # --- what becomes of the connection ---

    @property
    def comes_back(self) -> bool:
        """Whether there is a socket that connects again by itself."""
        return self._socket is not None and self._way.is_local

    @property
    def has_tried_all(self) -> bool:
        """Whether each way has failed since one last worked."""
        return self._failures >= len(self._ways)

    def next_deadline(self) -> int | None:
        """When `was_lost` has something to say though nothing is ready."""
        return self._ends_at_ms

    def was_lost(self, ready: Container[int], now_ms: int) -> bool:
        """Whether the connection broke, or did not come about. Ask after the messages."""
        was_lost = False
        if self._monitor_fd in ready:
            while self._monitor is not None and int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
                was_lost = self._way.is_local or self._has_ended(frames, now_ms) or was_lost
        if self._ends_at_ms is not None and now_ms >= self._ends_at_ms:
            self._fail(self._reason)
            return True
        return was_lost

    def _has_ended(self, frames: list[bytes], now_ms: int) -> bool:
        """Whether this is the end of a connection over TCP, or of the attempt at one."""
        if handshake.has_succeeded(frames):
            self._ends_at_ms = None
            self._failures = 0
            return False
        if self._ends_at_ms is None:
            self._drop(linger_ms=0)
            return True
        cause = handshake.cause_of(frames, self._way)
        if cause is not None and handshake.is_certain(frames):
            self._fail(cause)
        elif now_ms >= self._ends_at_ms - ATTEMPT_MS + HANDSHAKE_MS:
            self._fail(silent(self._way.endpoint))
        else:
            self._look_closer()
            self._fail(None)
        return True

    def _fail(self, cause: QueuectlError | None) -> None:
        """The present way has failed; None: why, a closer look will tell."""
        self._drop(linger_ms=0)
        self._failures += 1
        if cause is not None:
            self._causes.append(cause)
        self._ways.failed(cause or handshake.server_key_mismatch(self._way))

    def _silence(self) -> QueuectlError:
        """Why nothing was ever heard on a socket that was not lost."""
        if self._ends_at_ms is not None:
            return self._reason
        if self._is_writable or not self._way.is_local:
            return silent(self._way.endpoint)
        return BrokerUnreachable(f"no broker answers at {self._way.endpoint}", hint="start it: queuectl broker start")

    def _look_closer(self) -> None:
        if self._look is None:
            try:
                self._look = Look(self._way, self._poller)
            except (OSError, RuntimeError):
                self._causes.append(self._reason)

    def causes(self, ready: Container[int]) -> list[QueuectlError]:
        """Why attempts to connect have failed, as far as it was learnt since the last time."""
        if self._look is not None and self._look.fileno() in ready:
            cause = self._look.cause
            self._close_look()
            if not isinstance(cause, ServerKeyMismatch) or self._failures >= max(MISMATCHES_MIN, len(self._ways)):
                self._causes.append(cause)
        causes, self._causes = self._causes, []
        return causes

    def _close_look(self) -> None:
        if self._look is not None:
            self._look.close()
            self._look = None

    # --- messages ---

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

    def messages(self, ready: Container[int]) -> Iterator[ToWorker]:
        """What has arrived, within the budget of a turn. What cannot be understood is counted and left out."""
        if self._socket is None or not (self.has_news or self._fd in ready):
            return
        for _ in range(MESSAGES_PER_TURN_MAX):
            self._ask()
            if not self._is_readable:
                return
            self._has_heard = True
            body = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
            try:
                yield wire.decode(body, TO_WORKER, bytes_max=MESSAGE_BYTES_MAX)
            except BadRequest as error:
                self.bad_messages += 1
                self.last_fault = error.message

    # --- the end ---

    def hang_up(self) -> None:
        """Close the connection, and let go of its descriptors; what was said before a BYE still goes out."""
        self._drop(linger_ms=None)
        self._close_look()

    def close(self) -> None:
        """Hang up, and wait until what still goes out is gone."""
        self.hang_up()
        self._context.term()

    def _drop(self, *, linger_ms: int | None) -> None:
        if self._fd != -1:
            self._poller.unregister(self._fd)
            self._poller.unregister(self._monitor_fd)
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger_ms)
        if self._monitor is not None:
            self._monitor.close(0)
        self._socket = self._monitor = self._ends_at_ms = None
        self._fd = self._monitor_fd = -1
        self._has_heard = self._wants_to_write = self._is_readable = self._is_writable = self.has_news = False
