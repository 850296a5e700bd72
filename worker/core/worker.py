"""What the worker decides. Messages and events go in; what is to be said and done is collected in `outbox`.

Knows no socket, process, file or clock. `flush` puts together what may travel in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from queuectl.clock import Now
from queuectl.errors import BrokerUnreachable, QueuectlError, from_wire
from queuectl.messages import (
    Beat,
    Bye,
    ByeOk,
    Cancel,
    Echo,
    Gone,
    Hello,
    Push,
    Recorded,
    Refuse,
    Release,
    Stop,
    Took,
    ToWorker,
    Welcome,
    Who,
)
from queuectl.wire import PROTOCOL_VERSION
from worker.core.departure import Departure, Stage
from worker.core.effects import Connect, Leave, Ready, Refused, SpoolReturned
from worker.core.identity import Adopted, Identity
from worker.core.outbox import Outbox
from worker.core.reports import Reports
from worker.core.session import HELLO_EVERY_MS, Session
from worker.core.slots import Slots
from worker.core.trouble import Trouble, hint_of, is_of_itself


class WorkerCore:
    """The state of one worker process."""

    def __init__(
        self,
        identity: Identity,
        *,
        chance: Callable[[], float],
        adopted: Sequence[Adopted] = (),
        patience_ms: int = 2000,
        is_awaited: bool = False,
    ) -> None:
        """`is_awaited`: somebody waits for the first session, so that a refusal before it ends the worker."""
        self.identity = identity
        self.outbox = Outbox()
        self.session = Session(chance)
        self.reports = Reports(self.outbox, adopted)
        self.slots = Slots(identity.slots, self.outbox, self.reports)
        self.departure = Departure(patience_ms)
        self._trouble = Trouble()
        self._is_awaited = is_awaited
        self._broker = ""  # id of the database that the leases come from
        self._is_ready = False

    # --- the connection ---

    def start(self, now: Now) -> None:
        """Connect for the first time."""
        self.session.connected(now.mono_ms)
        self.outbox.do(Connect())

    def on_writable(self, now: Now) -> None:
        """The connection has come up: HELLO need not wait for its time."""
        if self.session.may_hello:
            self._hello(now)

    def on_disconnected(self, now: Now, *, comes_back: bool = True) -> None:
        """The connection broke, or did not come about. `comes_back`: the socket connects again by itself."""
        if self.session.is_open:
            self._lose_session("disconnected", now)
        if not comes_back and self.session.connect_at_ms is None:
            self._pause(now)

    def on_trouble(self, error: QueuectlError, now: Now, *, is_everywhere: bool = True) -> None:
        """Why attempts to connect fail. `is_everywhere`: they do by each way that there is."""
        if not self.session.is_open:
            self._say_why(error, now)
            if is_everywhere and not is_of_itself(error):
                self._disappoint(error, now)

    def _say_why(self, error: QueuectlError, now: Now, *, code: str = "", retry_ms: int | None = None) -> None:
        code = code or error.code
        if not self._trouble.is_to_be_said(code, str(error.details.get("endpoint", "")), now.mono_ms):
            return
        keys = {"code": code, "detail": error.message, "hint": hint_of(error)}
        if isinstance(error, BrokerUnreachable):
            self.outbox.tell("warning", "connect_failed", **keys)
        else:
            self.outbox.tell("error" if retry_ms == 0 else "warning", "worker_refused", **keys, retry_ms=retry_ms)

    def _disappoint(self, error: QueuectlError, now: Now) -> None:
        """End if somebody waits for the first session: who is told of a failure takes the worker for ended."""
        if self._is_awaited and not self._is_ready:
            self._end_refused(error, now)

    def _end_refused(self, error: QueuectlError, now: Now) -> None:
        self._is_awaited = False
        if not self._is_ready:
            self.outbox.do(Refused(error))
        self.session.give_up()
        self.departure.refuse(error.exit_code)
        self.stop(now)

    def _pause(self, now: Now, least_ms: int = 0) -> None:
        """Without a socket for a while. What the broker counts on is back the sooner."""
        is_holding = len(self.slots) > 0 or self.reports.results.is_owing
        self.session.pause(now.mono_ms, is_holding=is_holding, least_ms=least_ms)

    def _lose_session(self, reason: str, now: Now) -> None:
        self.session.lost(now.mono_ms)
        self.departure.reconsider()
        self.reports.suspend()
        self.slots.untell()
        self.outbox.tell("warning", "worker_disconnected", reason=reason, leases=len(self.slots))

    def _hello(self, now: Now) -> None:
        self.session.hello_at_ms = now.mono_ms + HELLO_EVERY_MS
        self.session.hellos += 1
        me = self.identity
        held = [*self.slots.held(), *self.reports.results.held()]
        self.outbox.say(
            Hello(
                version_min=PROTOCOL_VERSION,
                version_max=PROTOCOL_VERSION,
                boot=me.boot,
                home=me.home,
                host=me.host,
                pid=me.pid,
                slots=me.slots,
                queues=list(me.queues),
                software=me.software,
                draining=self.is_draining,
                held=held,
                broker=self._broker if held else "",
                n=self.session.hellos,
            )
        )

    def _beat(self, now: Now) -> None:
        """Say what is held. What was finished or given back is said first, or it would seem to be lost."""
        session = self.session
        assert session.number is not None
        self.flush(now)
        n = session.beaten(now.mono_ms)
        held, done = self.slots.numbers(), self.reports.results.leases()
        self.outbox.say(Beat(session.number, n, session.received, held, done, self.is_draining))

    def flush(self, now: Now) -> None:
        """Say all that is ready to be said; without a session it waits."""
        self.outbox.is_dirty = False
        session = self.session.number
        if session is not None:
            self.reports.flush(session, now)
            if self.slots.has_returned:
                self.outbox.say(Release(session, self.slots.take_returned(self.session.beats + 1)))

    # --- messages ---

    def on_message(self, message: ToWorker, now: Now) -> None:
        """Take a message. What belongs to another session than the present one is ignored."""
        self.session.heard_at_ms = now.mono_ms
        match message:
            case Welcome():
                self._on_welcome(message, now)
            case Refuse():
                self._on_refuse(message, now)
            case Who():
                self._on_who(now)
            case _:
                if message.session == self.session.number:
                    self._on_session_message(message, now)

    def _on_session_message(self, message: Push | Echo | Recorded | Took | Cancel | Stop | ByeOk, now: Now) -> None:
        match message:
            case Push():
                if message.seq > self.session.received:  # a repeated push brings nothing new
                    self.session.received = message.seq
                    self.slots.add(message.grants, now)
            case Echo():
                self.session.retime(message.heartbeat_ms, now.mono_ms)
                self.slots.drop(message.drop, now)
                self.slots.on_echo(message.n)
                self.reports.on_echo(message.n)
            case Recorded():
                self.reports.on_verdicts(message.verdicts)
            case Took():
                for taken in message.taken:
                    self.reports.on_taken(taken.lease, taken.stream, taken.upto)
            case Cancel():
                self.slots.cancel(message.leases, message.signal, message.grace_ms, now)
            case Stop():
                self.stop(now, hard=message.now)
            case ByeOk():
                if self.departure.stage is Stage.LEAVING:
                    self._leave(is_tidy=True)
            case _:
                assert_never(message)

    def _on_welcome(self, message: Welcome, now: Now) -> None:
        if message.session == self.session.number:
            return  # the answer to a repeated HELLO
        self.slots.untell()  # of the session before this one, where nobody had noticed its end
        self.session.begun(message, now.mono_ms)
        self._broker = message.broker
        self._trouble.is_over()
        self.slots.drop(message.drop, now)
        self.reports.restart(message.broker, message.window_bytes)
        self.departure.reconsider()
        self.outbox.tell(
            "info", "worker_connected", worker_id=message.worker, epoch=message.epoch, leases=len(self.slots)
        )
        if not self._is_ready:
            self._is_ready = True
            self.outbox.do(Ready(message.worker, message.broker))

    def _on_refuse(self, message: Refuse, now: Now) -> None:
        error = from_wire({"code": message.code, "message": message.text})
        self._say_why(error, now, code=message.code, retry_ms=message.retry_ms)
        self.reports.suspend()
        self.slots.untell()
        if message.retry_ms == 0:
            self._end_refused(error, now)
            return
        self._pause(now, message.retry_ms)
        if not is_of_itself(error):
            self._disappoint(error, now)

    def _on_who(self, now: Now) -> None:
        if self.session.is_open:
            self._lose_session("unknown_session", now)
            self._hello(now)
        # Without a session it answers something older than the last HELLO, which is repeated each second anyway.

    # --- what becomes of commands ---

    def on_output(self, lease: int, stream: int, data: bytes) -> None:
        """A command has written something."""
        self.slots.on_output(lease, stream, data)

    def on_exit(self, lease: int, *, exit_code: int | None, signal: int | None, note: str, now: Now) -> None:
        """The leader of a command has ended: with an exit code, or by a signal."""
        self.slots.on_exit(lease, exit_code, signal, note, now)
        if not self.session.is_open:
            self.reports.spool_output()

    def on_spawn_error(self, lease: int, note: str, now: Now) -> None:
        """The command cannot be started, here or anywhere."""
        self.slots.on_spawn_error(lease, note, now)

    def on_worker_fault(self, lease: int, note: str, now: Now) -> None:
        """This machine cannot start commands now."""
        self.slots.on_worker_fault(lease, note, now)

    # --- the end ---

    @property
    def is_draining(self) -> bool:
        """Whether the worker takes nothing new."""
        return self.departure.stage is not Stage.WORKING

    def on_signal(self, now: Now) -> None:
        """Someone asks the worker to stop: kindly the first time, with force when asked again."""
        self.stop(now, hard=self.is_draining)

    def stop(self, now: Now, *, hard: bool = False) -> None:
        """Take nothing new and end when all is done; `hard`: kill what runs and give it back. May be repeated."""
        was_draining = self.is_draining
        self._drain()
        if hard:
            self.slots.stop_all(now, hard=self.departure.escalate())
        if not was_draining:
            self.outbox.tell("info", "worker_draining", leases=len(self.slots))
            if self.session.is_open:
                self._beat(now)

    def on_guardian_lost(self) -> None:
        """Nobody is left to clean up after this worker: kill everything, report it as lost, and end."""
        self._drain(code=1)
        self.slots.lose_all()

    def _drain(self, code: int = 0) -> None:
        self.departure.begin(code)
        self.slots.is_draining = True
        self.slots.return_waiting("draining")

    def _try_to_leave(self, now: Now) -> None:
        is_connected = self.session.is_open
        is_owing = self.slots.has_returned or self.reports.is_owing
        if not self.departure.may_leave(now.mono_ms, is_connected=is_connected, is_owing=is_owing):
            return
        if self.session.number is not None and not is_owing:
            self.outbox.say(Bye(self.session.number))
            self.departure.bye_said(now.mono_ms)
        else:
            self._leave(is_tidy=not is_owing)

    def _leave(self, *, is_tidy: bool) -> None:
        self.reports.spool_output()
        if not is_tidy:
            self.slots.untell()
            if self.slots.has_returned:
                self.outbox.do(SpoolReturned(self.slots.take_returned(self.session.beats + 1), self._broker))
        self.departure.stage = Stage.GONE
        self.outbox.do(Leave(self.departure.code, is_tidy and not len(self.reports.results)))

    # --- time ---

    def tick(self, now: Now) -> None:
        """Do what is due."""
        if self.departure.stage is Stage.GONE:
            return
        self._tend_session(now)
        self.slots.tick(now)
        self.reports.tick(now)
        match self.departure.stage:
            case Stage.DRAINING if not len(self.slots):
                self._try_to_leave(now)
            case Stage.LEAVING if self.departure.is_bye_overdue(now.mono_ms):
                self._leave(is_tidy=not self.slots.is_owing)
            case _:
                pass

    def _tend_session(self, now: Now) -> None:
        session = self.session
        if session.connect_at_ms is not None:
            if now.mono_ms >= session.connect_at_ms:
                self.start(now)
        elif now.mono_ms >= session.heard_at_ms + session.patience_ms:
            if session.is_open:
                self._lose_session("silence", now)
            self._pause(now)
        elif session.number is None:
            if now.mono_ms >= session.hello_at_ms:
                self._hello(now)
        else:
            returned, gone = self.reports.settle_boots(session.beats + 1)
            if returned:
                self.outbox.say(Release(session.number, returned))
            if gone:
                self.outbox.say(Gone(session.number, gone))
            if returned or gone or now.mono_ms >= session.beat_at_ms:
                self._beat(now)

    def next_deadline(self) -> int:
        """When `tick` wants to be called, on the monotonic clock in ms."""
        others = (self.slots.next_deadline(), self.reports.next_deadline(), self.departure.next_deadline())
        return min([self.session.next_deadline(), *(at_ms for at_ms in others if at_ms is not None)])
