"""Moves bytes and time between the core and the outside: wait, read, decide, act, send.

What has piled up is sent when nothing more can be read at once. So under a stream of very short jobs many
results share a message, and the next command starts before the end of the last one is written down and told.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from queuectl.clock import Now, read_clock
from queuectl.errors import QueuectlError
from queuectl.ids import lease_text
from queuectl.logs import Log
from queuectl.messages import Beat, Hello
from worker.adopt import Adoption
from worker.children import Children
from worker.core import Effect, WorkerCore, effects
from worker.link import Link
from worker.signals import STOP_NOW, SignalPipe, StopRequests
from worker.spool import Spool

FLUSH_MS = 8  # while there is always more to read, what there is to say waits at most so long
COMPANY_MS = 25  # reports of short jobs travel together for so long: each message costs the broker a commit
P = ParamSpec("P")
T = TypeVar("T")
Ready = Mapping[int, int]  # the descriptors that can be read, as an epoll tells it
Turns = Generator[int, Ready, T]
END_MS = 5000  # how long the processes that are left are waited for at the end
MALFORMED_EVERY_MS = 1000  # a broker that speaks in riddles must not fill the log
COMPLAIN_EVERY_MS = 10_000  # of a disk that refuses, which may last for hours
_WAIT_MS_MAX = 3_600_000
_EVENTS_MAX = 256  # in one turn


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the loop drives. `guardian`: readable when the process that watches over this one is dead."""

    link: Link
    children: Children
    spool: Spool
    adoption: Adoption
    signals: SignalPipe
    poller: select.epoll
    log: Log
    guardian: int | None = None


class WorkerLoop:
    """The loop of one worker process."""

    def __init__(
        self,
        core: WorkerCore,
        rooms: Rooms,
        on_ready: Callable[[str, str], None],
        *,
        on_refused: Callable[[QueuectlError], object] | None = None,
        clock: Callable[[], Now] = read_clock,
    ) -> None:
        self.core = core
        self._clock = clock
        self._outbox = core.outbox
        self._rooms = rooms
        self._link, self._children, self._spool = rooms.link, rooms.children, rooms.spool
        self._log = rooms.log
        self._on_ready, self._on_refused = on_ready, on_refused
        self._requests = StopRequests()
        self._doing: Iterator[Effect] = iter(())
        self._flushed_ms = 0
        self._left: effects.Leave | None = None
        self._end_at_ms = 0
        self._due_ms = 0  # when the next tick is due, as far as was known before the last wait
        self._complain_at_ms = 0
        self._malformed_told = 0
        self._malformed_at_ms = 0
        self._has_guardian = rooms.guardian is not None
        self._do = {
            effects.Start: self._start,
            effects.Kill: self._kill,
            effects.Spool: self._spool_result,
            effects.SpoolOutput: self._spool_output,
            effects.SpoolReturned: self._spool_returned,
            effects.Settle: self._settle,
            effects.Connect: self._connect,
            effects.Forget: self._forget,
            effects.Ready: self._ready,
            effects.Refused: self._refused,
            effects.Leave: self._leave,
            effects.Tell: self._tell,
        }
        for fd in (rooms.signals.fileno(), rooms.guardian):
            if fd is not None:
                rooms.poller.register(fd, select.EPOLLIN)

    def run(self) -> int:
        """Work until the core has left and no process of its jobs runs any more. Returns the exit code."""
        turns, poll = self.turns(), self._rooms.poller.poll
        try:
            timeout_ms = next(turns)
            while True:
                timeout_ms = turns.send(dict(poll(timeout_ms / 1000, _EVENTS_MAX)))
        except StopIteration as end:
            code: int = end.value
            return code
        except Exception:
            self._rescue()
            raise

    def _rescue(self) -> None:
        """The end of this process is near: put on disk at least what has ended and was to be put there."""
        now = self._clock()
        for effect in (*self._doing, *self._outbox.effects):
            if isinstance(effect, effects.Spool | effects.SpoolOutput | effects.SpoolReturned):
                self._carry_out(effect, now)

    def turns(self) -> Turns[int]:
        """The loop but for its waiting: it yields for how many ms at most, is sent what is ready, returns the code."""
        now = self._clock()
        self.core.start(now)
        self._act(now)
        while self._left is None or not self._is_over(now):
            ready = yield from self._wait()
            now = self._clock()
            if self._is_of_commands_alone(ready, now):
                self._children.turn(ready, self.core, now)
            else:
                self._read(ready, now)
                self._tick(now)
            self._act(now)
        self._log.info("worker_stopped", exit_code=self._left.code)
        return self._left.code

    def _is_over(self, now: Now) -> bool:
        return self._children.tree.is_quiet or now.mono_ms >= self._end_at_ms

    def _is_of_commands_alone(self, ready: Ready, now: Now) -> bool:
        """Whether nothing has happened but to commands, and nothing is due: while short jobs stream, most turns."""
        return (
            len(ready) == 1
            and self._children.fileno() in ready
            and now.mono_ms < self._due_ms
            and not self._link.has_news
            and not self.core.is_draining
        )

    # --- wait ---

    def _wait(self) -> Turns[Ready]:
        """Wait for something to happen; before a longer wait, say what there is to say."""
        if not self._outbox.is_dirty:
            return (yield self._timeout_ms())
        has_time = self.core.slots.has_plenty
        say_at_ms = self._flushed_ms + (COMPANY_MS if has_time else FLUSH_MS)
        is_in_company = has_time and not self._link.has_news
        wake_at_ms = min(say_at_ms, self._children.next_watch() or say_at_ms)
        ready = yield max(0, wake_at_ms - self._clock().mono_ms) if is_in_company else 0
        now = self._clock()
        if (ready or is_in_company) and now.mono_ms < say_at_ms:
            return ready
        self._flushed_ms = now.mono_ms
        self.core.flush(now)
        self._send(now)
        timeout_ms = self._timeout_ms()
        return ready or (yield timeout_ms)

    def _timeout_ms(self) -> int:
        """For how long nothing is due. What is due while reports wait for company waits with them."""
        due = [self._children.next_deadline(), self._spool.next_deadline(), self._link.next_deadline()]
        due += [self._end_at_ms if self._left is not None else self.core.next_deadline()]
        self._due_ms = min(at_ms for at_ms in due if at_ms is not None)
        if self._link.has_news:
            return 0
        watch_at_ms = self._children.next_watch()
        wake_at_ms = self._due_ms if watch_at_ms is None else min(watch_at_ms, self._due_ms)
        return max(0, min(_WAIT_MS_MAX, wake_at_ms - self._clock().mono_ms))

    # --- read ---

    def _read(self, ready: Ready, now: Now) -> None:
        if self._rooms.signals.fileno() in ready:
            self._on_signals(now)
        if self._has_guardian and self._rooms.guardian in ready:
            self._on_guardian_lost()
        self._children.turn(ready, self.core, now)
        if self._left is None:
            self._read_link(ready, now)

    def _read_link(self, ready: Ready, now: Now) -> None:
        link, core = self._link, self.core
        for message in link.messages(ready):
            core.on_message(message, now)
        if link.was_lost(ready, now.mono_ms):
            core.on_disconnected(now, comes_back=link.comes_back)
        for cause in link.causes(ready):
            core.on_trouble(cause, now, is_everywhere=link.has_tried_all)
        if link.bad_messages > self._malformed_told and now.mono_ms >= self._malformed_at_ms:
            self._malformed_told = link.bad_messages
            self._malformed_at_ms = now.mono_ms + MALFORMED_EVERY_MS
            self._log.warning("message_malformed", count=link.bad_messages, reason=link.last_fault)
        if link.has_become_writable():
            core.on_writable(now)

    def _on_signals(self, now: Now) -> None:
        numbers = self._rooms.signals.take()
        for _ in range(self._requests.count(numbers)):
            self.core.on_signal(now)
        if signal.SIGQUIT in numbers or STOP_NOW in numbers:
            self.core.stop(now, hard=True)

    def _on_guardian_lost(self) -> None:
        assert self._rooms.guardian is not None
        self._has_guardian = False
        self._rooms.poller.unregister(self._rooms.guardian)
        self._log.error("worker_process_died", detail="the process that watches over the worker is gone")
        self.core.on_guardian_lost()

    def _tick(self, now: Now) -> None:
        self.core.tick(now)
        self._children.tick(now)
        self._on_disk(now, self._spool.tick, now.mono_ms)

    # --- act and send ---

    def _act(self, now: Now) -> None:
        """Carry out what the core wants, and what it wants after that, and say what it has to say."""
        waiting = self._outbox.effects
        while waiting:
            batch = waiting.copy()
            waiting.clear()
            self._doing = iter(batch)
            for effect in self._doing:
                self._carry_out(effect, now)
        if self._outbox.messages:
            self._send(now)
        if self._left is not None:
            self._link.hang_up()  # nobody reads it any more, and what it has to tell would wake the loop for ever

    def _carry_out(self, effect: Effect, now: Now) -> None:
        self._do[type(effect)](effect, now)  # type: ignore[operator]  # the table pairs each effect with its method

    def _send(self, now: Now) -> None:
        messages = self._outbox.messages.copy()
        self._outbox.messages.clear()
        for message in messages:
            if not self._link.send(message) and not isinstance(message, Hello | Beat) and self._left is None:
                self.core.on_disconnected(now)  # everything that matters goes again in the next session

    def _connect(self, effect: effects.Connect, now: Now) -> None:
        self._link.connect(now.mono_ms)

    def _start(self, effect: effects.Start, now: Now) -> None:
        grant = effect.grant
        self._children.start(grant, effect.slot, self.core, now)
        self._log.debug(
            "job_started",
            job_id=grant.job,
            attempt=grant.attempt,
            lease_id=lease_text(grant.lease),
            queue=grant.queue,
            command=grant.command,
        )

    def _kill(self, effect: effects.Kill, now: Now) -> None:
        self._children.kill(effect.lease, hard=effect.hard, kill_at_ms=effect.kill_at_ms, now=now, number=effect.signal)

    def _tell(self, effect: effects.Tell, now: Now) -> None:
        getattr(self._log, effect.level)(effect.event, **effect.keys)

    def _ready(self, effect: effects.Ready, now: Now) -> None:
        self._on_ready(effect.worker, effect.broker)

    def _refused(self, effect: effects.Refused, now: Now) -> None:
        if self._on_refused is not None:
            self._on_refused(effect.error)

    def _forget(self, effect: effects.Forget, now: Now) -> None:
        self._rooms.adoption.forget(effect.boots)
        self._log.info("boot_adopted", boots=len(effect.boots))

    def _leave(self, effect: effects.Leave, now: Now) -> None:
        self._left = effect
        self._end_at_ms = now.mono_ms + END_MS
        self._children.tree.end_all(now.mono_ms, hard=not self._has_guardian and self._rooms.guardian is not None)

    # --- the spool ---

    def _spool_result(self, effect: effects.Spool, now: Now) -> None:
        self._on_disk(now, self._spool.add_result, effect.result, effect.broker, now.mono_ms)

    def _spool_output(self, effect: effects.SpoolOutput, now: Now) -> None:
        self._on_disk(now, self._spool.add_output, effect.pieces, effect.broker, now.mono_ms)

    def _spool_returned(self, effect: effects.SpoolReturned, now: Now) -> None:
        self._on_disk(now, self._spool.add_returned, effect.returned, effect.broker)

    def _settle(self, effect: effects.Settle, now: Now) -> None:
        may_truncate = not self.core.reports.output.finished()
        self._on_disk(now, self._spool.settle, effect.leases, may_truncate=may_truncate)

    def _on_disk(self, now: Now, action: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Write to the spool. Where the disk refuses, memory has to do, and it is said now and then."""
        try:
            action(*arguments, **keywords)
        except OSError as error:
            if now.mono_ms >= self._complain_at_ms:
                self._complain_at_ms = now.mono_ms + COMPLAIN_EVERY_MS
                self._log.error("spool_failed", error=error)

    def close(self) -> None:
        """Let go of everything. What the broker does not know yet stays in the spool."""
        is_quiet = self._children.tree.is_quiet
        self._link.close()
        self._rooms.adoption.close()
        self._children.close()
        try:
            self._spool.close(is_tidy=self._left is not None and self._left.is_tidy, is_quiet=is_quiet)
        except OSError as error:
            self._log.error("spool_failed", error=error)
        self._rooms.signals.close()
