"""The broker's loop: wait → drain → apply → commit → send.

One transaction a turn. Nothing leaves before COMMIT has returned; if the disk refuses, nothing leaves at
all. Batching appears by itself: while one turn is being written, the next one's messages arrive.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from typing import NamedTuple

from broker.core import Core, Turn
from broker.core.envelope import Envelope, failed
from broker.disk import Disk
from broker.doors import OpenDoors
from broker.gate import Gate
from broker.porter import GarbageLog, Porter
from broker.sockets import FULL, GONE, Message, Router, Watch
from broker.store import Store, StoreFull
from queuectl.clock import Now, read_clock
from queuectl.errors import DiskFull, Internal, QueuectlError, StorageFailed
from queuectl.logs import Log
from queuectl.messages import Echo
from queuectl.wire import encode, unpack

WORKER_MESSAGES_PER_TURN = 512
WORKER_BYTES_PER_TURN = 512 * 1024  # half a thousand results or more, and half a window of output
CLIENT_MESSAGES_PER_TURN = 256
CLIENT_BYTES_PER_TURN = 128 * 1024  # a thousand-job request or two: a turn stays short
CLIENT_REPLIES_BYTES = 2**20  # in a turn; where it was more, fewer requests are taken in the next
SECONDS_PER_DRAIN = 0.005
WAIT_MS_MAX = 30_000  # so that a step of the wall clock is noticed
LOOK_EVERY_MS = 1000  # at the disk, when only workers speak
MEASURE_EVERY_MS = 20  # of how much is free, while clients speak: less is written meanwhile than is kept free
HEAR_EVERY_MS = 100  # a turn for each word of many workers would cost more than their jobs
TIDY_EVERY_MS = 20  # the database's log, if it has become long
RENEW_MS = 1000  # so that what fails each time is not tried without end
FULL_PAUSE_MS = 1000  # between two tries to write on a full disk
GARBAGE = frozenset({"message_malformed", "request_refused", "result_stale", "worker_denied", "report_denied"})
GOODBYE_LINGER_MS = 2000
GOODBYE_PAUSE_S = 0.1  # what a peer has received, but not read yet, is lost to it when the connection ends (IMMEDIATE)

FromWorker = tuple[bytes, bytes, str]  # route, body, user id of the connection
FromClient = tuple[Envelope, bytes, str]
_NOTHING: tuple[list[Message], bool] = ([], True)


class Wait(NamedTuple):
    """How long the loop has nothing to do, and for how much of that it need not hear workers. In ms."""

    timeout_ms: int
    deaf_ms: int


class Loop:
    """Moves bytes between the sockets and the core, and decides nothing."""

    def __init__(
        self,
        *,
        core: Core,
        store: Store,
        workers: Router,
        clients: Router,
        disk: Disk,
        log: Log,
        wakeup: int,
        gate: Gate | None = None,
        doors: OpenDoors | None = None,
        clock: Callable[[], Now] = read_clock,
    ):
        self.core = core
        self._clock = clock
        self._store = store
        self._workers = workers
        self._clients = clients
        self._disk = disk
        self._look_at_ms = self._measure_at_ms = self._tidy_at_ms = 0
        self._min_free: int | None = None  # as it was when the disk was last measured
        self._log = log
        self._wakeup = wakeup
        self._heard_ms = 0  # when workers were heard last
        self._client_messages = CLIENT_MESSAGES_PER_TURN
        self._garbage = GarbageLog(log)
        self._porter = Porter(workers, clients, core=core, log=log, garbage=self._garbage, gate=gate, doors=doors)
        self._gone: list[bytes] = []
        self._renew: dict[bytes, int] = {}  # routes whose sessions are to begin anew, and when
        self._full_until_ms = 0  # the disk refused to write; nothing new until then
        self._counted = self._misframed = 0  # messages with wrong frames that were counted, and that the log knows of

    def run(self, read_signals: Callable[[], bool]) -> None:
        """Turn until the core stops. `read_signals` says whether one has told us to. Raises StorageFailed."""
        porter = self._porter
        assert porter.gate is not None
        watch = Watch(self._workers.socket, self._clients.socket, porter.gate.socket, porter.monitors, self._wakeup)
        turns = self.turns(read_signals)
        with suppress(StopIteration):
            wait = next(turns)
            while True:
                wait = turns.send(watch.wait(*wait))

    def turns(self, read_signals: Callable[[], bool]) -> Generator[Wait, Collection[object], None]:
        """The loop but for its waiting: it yields how long to wait, and is sent what has become readable."""
        before = self._clock()
        self._forgive(0, before.mono_ms - self.core.started_ms)
        while not self.core.stopping:
            asleep = self._clock()
            timeout_ms = self._timeout_ms(asleep)
            woken = yield Wait(timeout_ms, self._deaf_ms(asleep))
            now = self._clock()
            self._forgive(now.mono_ms - asleep.mono_ms - timeout_ms, asleep.mono_ms - before.mono_ms)
            before = now
            if self._wakeup in woken:
                _empty(self._wakeup)
                self.core.stopping |= read_signals()
            self._porter.mind(now, woken)
            self._turn(now, woken)
        now = self._clock()
        self._forgive(0, now.mono_ms - before.mono_ms)
        self._heard_ms = 0
        self._turn(now, (self._workers.socket, self._clients.socket))  # answers those who wait

    def close(self) -> None:
        """Let the last replies arrive and close the sockets; a second call does nothing."""
        if self._workers.socket.closed:
            return
        time.sleep(GOODBYE_PAUSE_S)
        self._porter.close()
        self._workers.close(GOODBYE_LINGER_MS)
        self._clients.close(GOODBYE_LINGER_MS)

    # --- wait and drain ------------------------------------------------------------------------------

    def _timeout_ms(self, now: Now) -> int:
        wake_ms = 0 if self._gone else self._duty_ms(now)
        # Of a machine that was suspended only what goes beyond the wait is seen, so where there are leases it is short.
        longest_ms = self.core.heartbeat_ms // 2 if self.core.leases else WAIT_MS_MAX
        return longest_ms if wake_ms is None else min(wake_ms, longest_ms)

    def _deaf_ms(self, now: Now) -> int:
        """What workers say is heard once in a while, as long as nothing waits for it: many words cost one turn."""
        if self.core.is_awaited():
            return 0
        hear_again_ms = min(HEAR_EVERY_MS, self.core.heartbeat_ms // 20)
        return max(0, self._heard_ms + hear_again_ms - now.mono_ms)

    def _forgive(self, late_ms: int, turn_ms: int) -> None:
        """Time in which nobody could be heard, asleep for too long or busy, is forgiven to all."""
        stall_ms = max(0, late_ms) + turn_ms
        if stall_ms > self.core.heartbeat_ms // 2:
            self.core.forgive(stall_ms)
            self._log.warning("broker_stalled", stall_ms=stall_ms)

    def _duty_ms(self, now: Now) -> int | None:
        due_ms = [at_ms - now.mono_ms for at_ms in (*self._renew.values(), *self._porter.due_ms())]
        if (wake_ms := self.core.wake_ms(now)) is not None:
            due_ms.append(wake_ms)
        if self.core.storage_full:
            return max(self._full_until_ms - now.mono_ms, min(due_ms, default=0), 0)
        return max(min(due_ms), 0) if due_ms else None

    def _turn(self, now: Now, readable: Collection[object]) -> None:
        clients, _ = self._hear_clients() if self._clients.socket in readable else _NOTHING
        workers, drained = _NOTHING
        if self._workers.socket in readable:
            workers, drained = ([], False) if clients and self._deaf_ms(now) else self._hear_workers(now)
        self._renew_sessions(now)
        self._probe(now)
        self.core.storage_full = now.mono_ms < self._full_until_ms
        self._look_at_disk(now, for_clients=bool(clients))
        from_workers = [(envelope[0], body, user) for envelope, body, user in workers]
        said = 0
        for turn in self._apply(now, from_workers, clients, drained=drained):
            said += sum(len(reply.body) for reply in turn.to_clients)
            self._send(turn)
        self._mind_the_effort(said)
        self._porter.cut(now)
        self._tidy(now)

    def _hear_workers(self, now: Now) -> tuple[list[Message], bool]:
        self._heard_ms = now.mono_ms
        return self._workers.drain(
            messages_max=WORKER_MESSAGES_PER_TURN, bytes_max=WORKER_BYTES_PER_TURN, seconds_max=SECONDS_PER_DRAIN
        )

    def _hear_clients(self) -> tuple[list[Message], bool]:
        return self._clients.drain(
            messages_max=self._client_messages, bytes_max=CLIENT_BYTES_PER_TURN, seconds_max=SECONDS_PER_DRAIN
        )

    def _mind_the_effort(self, said: int) -> None:
        """A turn that had to make large replies was long: so that others wait less, the next takes fewer requests."""
        if said > CLIENT_REPLIES_BYTES:
            self._client_messages = max(1, self._client_messages // 8)
        else:
            self._client_messages = min(CLIENT_MESSAGES_PER_TURN, 2 * self._client_messages)

    def _renew_sessions(self, now: Now) -> None:
        """Begin anew with workers of whom, or to whom, a message was lost: HELLO and WELCOME make up for all of it."""
        if not self._renew:
            return
        due = [route for route, at_ms in self._renew.items() if at_ms <= now.mono_ms]
        for route in due:
            del self._renew[route]
        self._gone += due

    def _tidy(self, now: Now) -> None:
        self._count_misframed()
        if self.core.storage_full or now.mono_ms < self._tidy_at_ms:
            return
        self._tidy_at_ms = now.mono_ms + TIDY_EVERY_MS
        try:
            if self._store.tidy():
                self._log.debug("checkpointed")
        except StoreFull as error:  # the log of what was written grows on, as long as it can
            self._on_full(now, error)

    def _on_full(self, now: Now, error: StoreFull) -> None:
        self._log.error("storage_full", error=error)
        self.core.storage_full = self.core.disk_low = True
        self._full_until_ms = now.mono_ms + FULL_PAUSE_MS

    # --- apply and commit ------------------------------------------------------------------------------

    def _apply(
        self, now: Now, workers: Sequence[FromWorker], clients: Sequence[FromClient], *, drained: bool
    ) -> list[Turn]:
        """The turn, committed. A batch that fails is replayed one by one, so that it harms only the offender."""
        gone, self._gone = self._gone, []
        try:
            return [self._commit(now, workers, clients, gone, drained=drained)]
        except StorageFailed:
            raise
        except StoreFull as error:
            self._gone += gone
            return self._apply_on_full_disk(now, workers, clients, error)
        except Exception as error:  # noqa: BLE001  whatever one message did, the others must not suffer
            self._gone += gone
            self._log.error("batch_replayed", error=error, messages=len(workers) + len(clients))
            return self._replay(now, workers, clients)

    def _commit(
        self,
        now: Now,
        workers: Sequence[FromWorker],
        clients: Sequence[FromClient],
        gone: Sequence[bytes] = (),
        *,
        drained: bool = False,
        with_duties: bool = True,
    ) -> Turn:
        self._store.begin()
        try:
            turn = self.core.turn(now, workers, clients, gone=gone, drained=drained, with_duties=with_duties)
            self._store.commit()
        except BaseException as error:
            if not isinstance(error, StorageFailed):
                self._undo(now)
            raise
        return turn

    def _undo(self, now: Now) -> None:
        """Nothing of the turn has happened: neither on disk nor in memory."""
        self._store.rollback()
        self.core.rebuild(now)

    def _apply_on_full_disk(
        self, now: Now, workers: Sequence[FromWorker], clients: Sequence[FromClient], error: StoreFull
    ) -> list[Turn]:
        """No room to write: enqueues are refused, and nothing new begins."""
        self._on_full(now, error)
        try:
            return [self._commit(now, workers, clients)]
        except StoreFull:
            return self._replay(now, workers, clients)

    def _replay(self, now: Now, workers: Sequence[FromWorker], clients: Sequence[FromClient]) -> list[Turn]:
        turns = []
        for message in workers:
            try:
                turns.append(self._commit(now, [message], [], with_duties=False))
            except StorageFailed:
                raise
            except Exception as error:  # noqa: BLE001  the offender
                self.core.miss(message[0], now, is_its_fault=not isinstance(error, StoreFull))
                self._renew.setdefault(message[0], now.mono_ms + RENEW_MS)
                if not isinstance(error, StoreFull):
                    self._log.error("message_failed", error=error, digest=_digest(message[1]))
        for request in clients:
            envelope, body, _ = request
            try:
                turns.append(self._commit(now, [], [request], with_duties=False))
            except StorageFailed:
                raise
            except Exception as error:  # noqa: BLE001  the offender
                if not isinstance(error, StoreFull):
                    self._log.error("message_failed", error=error, digest=_digest(body))
                turn = Turn(now)
                turn.reply(envelope, failed(_request_id(body), _blame(error)))
                turns.append(turn)
        if not workers and not clients and not self.core.storage_full:
            raise RuntimeError("a turn without messages failed")  # it would fail for ever
        return turns

    # --- send ------------------------------------------------------------------------------------------

    def _send(self, turn: Turn) -> None:
        for route, message in turn.to_workers:
            outcome = self._workers.send((route,), encode(message))
            if outcome is GONE:
                self._gone.append(route)
            elif outcome is FULL:
                self._renew.setdefault(route, turn.now.mono_ms + RENEW_MS)
                self._log.warning("push_undelivered", reason="the worker does not read")
        for envelope, body in turn.to_clients:
            self._clients.send(envelope, body)
        self._log.many(
            (level, event, keys)
            for level, event, keys in turn.logs
            if event not in GARBAGE or self._garbage.may_log(turn.now, event)
        )

    def _count_misframed(self) -> None:
        misframed = self._workers.misframed + self._clients.misframed
        self.core.malformed += misframed - self._counted
        self._counted = misframed
        if misframed != self._misframed and self._garbage.may_log(self._clock(), "message_malformed"):
            self._misframed = misframed
            self._log.warning("message_malformed", reason="it has too many frames", count=misframed)

    def _probe(self, now: Now) -> None:
        """ZeroMQ does not say whose connection has ended: an empty echo finds the routes that are gone."""
        if not self._porter.probes.take(now):
            return
        known = len(self._gone)
        for route, session in self.core.sessions.items():
            probe = encode(Echo(session.number, 0, self.core.heartbeat_ms, []))
            if self._workers.send((route,), probe) is GONE:
                self._gone.append(route)
        self._porter.probes.found(anybody=len(self._gone) > known)

    def _look_at_disk(self, now: Now, *, for_clients: bool) -> None:
        """Is the database still there, and room for more? Before anything is stored for a client, and now and then."""
        is_time = now.mono_ms >= self._look_at_ms
        if (for_clients or is_time) and not self._disk.has_database():
            raise StorageFailed("the database file was deleted or replaced while it was open")
        min_free = self.core.settings["min_free"]
        is_stale = self.core.disk_low or min_free != self._min_free or now.mono_ms >= self._measure_at_ms
        if is_time or (for_clients and is_stale):
            self._look_at_ms, self._measure_at_ms = now.mono_ms + LOOK_EVERY_MS, now.mono_ms + MEASURE_EVERY_MS
            assert min_free is None or isinstance(min_free, int)
            self._min_free = min_free
            self._measure_disk()

    def _measure_disk(self) -> None:
        low = self.core.storage_full or self._disk.is_low(self._min_free)
        if low != self.core.disk_low:
            self.core.disk_low = low
            free, _ = self._disk.free_bytes()
            if low:
                self._log.warning("disk_low", free_bytes=free)
            else:
                self._log.info("disk_recovered", free_bytes=free)


def _blame(error: Exception) -> QueuectlError:
    return DiskFull(hint=error.message) if isinstance(error, StoreFull) else Internal()


def _request_id(body: bytes) -> str:
    """The id of a request that could not be carried out, as far as it can be read."""
    try:
        data = unpack(body, bytes_max=len(body))
        return str(data["id"])[:64]
    except (QueuectlError, TypeError, KeyError):
        return ""


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def _empty(pipe: int) -> None:
    os.read(pipe, 4096)
