"""The leases in the worker's hands: which wait, which run in which slot, which are being ended and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from queuectl.clock import Now
from queuectl.jobs import Outcome
from queuectl.messages import Grant, Held, Returned
from worker.core.effects import SIGKILL, SIGTERM, Kill, Start
from worker.core.lease import Ending, Lease
from worker.core.outbox import Outbox
from worker.core.reports import Reports

BUSY_MS = 250  # a lease that waits while no slot changes hands goes back, so that another worker may run it
GRACE_MS = 10_000  # between SIGTERM and SIGKILL of a job that ran out of time
STOP_GRACE_MS = 2000  # the same where the worker itself was told to end now
TIMEOUTS_SPARE = 1000  # entries of leases that are over, before they are cleared away
FAULT_PAUSE_MS = 500
FAULT_PAUSE_MAX_MS = 30_000
_OUTCOMES = {Ending.TIMEOUT: Outcome.TIMEOUT, Ending.CANCELLED: Outcome.CANCELLED}  # of the others nothing is reported


class Slots:
    """The leases of one worker. A lease leaves when its command has ended, or when it is given back unstarted."""

    def __init__(self, count: int, outbox: Outbox, reports: Reports) -> None:
        self._outbox = outbox
        self._reports = reports
        self._count = count
        self._leases: dict[int, Lease] = {}
        self._waiting: deque[int] = deque()
        self._free = list(range(1, count + 1))  # a heap: the lowest is taken first
        self._changed_ms = 0
        self._timeouts: list[tuple[int, int]] = []  # (when, lease); those of leases that are over stay until due
        self._returned: dict[int, tuple[Lease, str]] = {}
        self._told: dict[int, tuple[Lease, str, int]] = {}  # given back after a run, and the heartbeat that proves it
        self._fault_pause_ms = 0
        self._fault_until_ms = 0
        self.is_draining = False

    # --- what is held ---

    def __len__(self) -> int:
        """Leases that wait or run, and commands that are only waited for until they are dead."""
        return len(self._leases)

    def __contains__(self, number: int) -> bool:
        return number in self._leases or number in self._returned or number in self._told

    def held(self) -> Iterable[Held]:
        """The leases as HELLO names them; one given back is held until the broker was told so."""
        yield from (lease.to_held() for lease in self._leases.values() if lease.is_held)
        yield from (lease.to_held() for lease, _ in self._returned.values())

    def numbers(self) -> list[int]:
        """The leases as heartbeats name them."""
        return [number for number, lease in self._leases.items() if lease.is_held]

    @property
    def has_plenty(self) -> bool:
        """Whether as many leases wait as results are untold: so the slots stay busy until those are answered for."""
        return len(self._waiting) >= max(self._count, self._reports.results.unsent) > 0

    @property
    def has_returned(self) -> bool:
        return bool(self._returned)

    @property
    def is_owing(self) -> bool:
        """Whether a lease was given back and the broker may not know."""
        return bool(self._returned or self._told)

    def take_returned(self, next_beat: int) -> list[Returned]:
        """The leases given back since the last time, to be told to the broker before this heartbeat.

        Those that had run are kept until its echo: if nobody names it any more, the broker takes a lease for one
        that never arrived, and would not count its run, nor know that it must not be repeated.
        """
        returned = [Returned(number, reason) for number, (_, reason) in self._returned.items()]
        for number, (lease, reason) in self._returned.items():
            if lease.ending is not None:
                self._told[number] = (lease, reason, next_beat)
        self._returned.clear()
        return returned

    def on_echo(self, beat: int) -> None:
        """What was said before this heartbeat has arrived."""
        self._told = {number: told for number, told in self._told.items() if told[2] > beat}

    def untell(self) -> None:
        """The connection is lost: whether what was said last has arrived, nobody knows, so it will be said again."""
        if self._told:
            self._returned = {number: told[:2] for number, told in self._told.items()} | self._returned
            self._told = {}
            self._outbox.is_dirty = True

    # --- in ---

    def add(self, grants: Sequence[Grant], now: Now) -> None:
        """Take grants; one that is here already, or done, is not taken again."""
        for grant in grants:
            if grant.lease in self or self._reports.results.is_ours(grant.lease):
                continue
            lease = Lease(grant, now.mono_ms)
            if self.is_draining:
                self._return(lease, "draining")
            elif now.mono_ms < self._fault_until_ms:
                self._return(lease, "worker_fault")
            else:
                self._leases[grant.lease] = lease
                self._waiting.append(grant.lease)
        self._fill(now)

    def _fill(self, now: Now) -> None:
        while self._free and self._waiting:
            lease = self._leases[self._waiting.popleft()]
            lease.slot = heappop(self._free)
            lease.started = now
            self._changed_ms = now.mono_ms
            if lease.grant.timeout_ms is not None:
                self._set_timeout(now.mono_ms + lease.grant.timeout_ms, lease.grant.lease)
            self._outbox.do(Start(lease.grant, lease.slot))
            lease.let_go_of_stdin()

    def _set_timeout(self, at_ms: int, number: int) -> None:
        heappush(self._timeouts, (at_ms, number))
        if len(self._timeouts) > 2 * len(self._leases) + TIMEOUTS_SPARE:
            self._timeouts = [entry for entry in self._timeouts if entry[1] in self._leases]
            heapify(self._timeouts)

    # --- out ---

    def on_output(self, number: int, stream: int, data: bytes) -> None:
        lease = self._leases[number]
        if lease.is_held:
            self._reports.write(lease, stream, data)

    def on_exit(self, number: int, exit_code: int | None, signal: int | None, note: str, now: Now) -> None:
        """The leader of a command has ended, and with it the attempt."""
        lease = self._free_slot(number)
        self._fault_pause_ms = 0
        self._fill(now)  # the next command first: what is to be said and written of this one need not delay it
        outcome = _outcome(exit_code) if lease.ending is None else _OUTCOMES.get(lease.ending)
        if outcome is not None:
            self._reports.finish(lease, outcome, now, exit_code=exit_code, signal=signal, note=note)
        else:
            self._reports.forget(number)
        if lease.ending is Ending.STOPPED:
            self._return(lease, "stopped")

    def on_spawn_error(self, number: int, note: str, now: Now) -> None:
        """The command cannot be started, here or anywhere: a failed attempt."""
        lease = self._free_slot(number)
        self._outbox.tell("warning", "spawn_failed", **lease.keys(), detail=note)
        self._reports.finish(lease, Outcome.SPAWN_ERROR, now, exit_code=None, signal=None, note=note)
        self._fill(now)

    def on_worker_fault(self, number: int, note: str, now: Now) -> None:
        """This machine cannot start commands now: take nothing for a growing while. No attempt was made."""
        lease = self._free_slot(number)
        self._fault_pause_ms = min(max(FAULT_PAUSE_MS, 2 * self._fault_pause_ms), FAULT_PAUSE_MAX_MS)
        self._fault_until_ms = now.mono_ms + self._fault_pause_ms
        self._outbox.tell("error", "spawn_failed", **lease.keys(), detail=note, retry_ms=self._fault_pause_ms)
        self._return(lease, "worker_fault")
        self.return_waiting("worker_fault")

    def _free_slot(self, number: int) -> Lease:
        lease = self._leases.pop(number)
        heappush(self._free, lease.slot)
        return lease

    # --- back ---

    def _return(self, lease: Lease, reason: str) -> None:
        self._returned[lease.grant.lease] = (lease, reason)
        self._outbox.is_dirty = True
        self._outbox.tell("debug", "lease_returned", **lease.keys(), reason=reason)

    def return_waiting(self, reason: str) -> None:
        for number in self._waiting:
            self._return(self._leases.pop(number), reason)
        self._waiting.clear()

    # --- force ---

    def drop(self, numbers: Sequence[int], now: Now) -> None:
        """These are not ours any more: kill and forget. A result that waits still goes out, for its verdict."""
        for number in numbers:
            self._returned.pop(number, None)
            self._told.pop(number, None)
            lease = self._leases.get(number)
            if lease is None:
                self._reports.forget(number)
            elif lease.is_held:
                self._outbox.tell("warning", "lease_dropped", **lease.keys())
                self._reports.forget(number)
                if not lease.slot:
                    del self._leases[number]
                    self._waiting.remove(number)
                elif self._outbox.take_back(number):  # granted and dropped in one turn: it never ran
                    self._free_slot(number)
                else:
                    self._kill(lease, Ending.DROPPED, 0, hard=True)
        self._fill(now)

    def cancel(self, numbers: Sequence[int], signal: int, grace_ms: int, now: Now) -> None:
        """Kill these kindly, by this signal first. One that ends for another reason already is left to it.

        Said again it can only hasten the end. The same signal is not sent twice: many a command takes the second
        for an order to drop everything.
        """
        kill_at_ms = now.mono_ms + (0 if signal == SIGKILL else grace_ms)
        for number in numbers:
            lease = self._leases.get(number)
            if lease is None or lease.ending not in (None, Ending.CANCELLED):
                continue
            if not lease.slot:
                self._cancel_waiting(lease, now)
            elif kill_at_ms < lease.kill_at_ms:
                new = signal if signal != lease.asked_by else None
                self._kill(lease, Ending.CANCELLED, kill_at_ms, hard=signal == SIGKILL, signal=new)

    def _cancel_waiting(self, lease: Lease, now: Now) -> None:
        self._waiting.remove(lease.grant.lease)
        del self._leases[lease.grant.lease]
        lease.started = now
        note = "cancelled before it started"
        self._reports.finish(lease, Outcome.CANCELLED, now, exit_code=None, signal=None, note=note)

    def stop_all(self, now: Now, *, hard: bool) -> None:
        """End what runs, to be given back at no cost; what is cancelled or timed out keeps its outcome."""
        for lease in self._leases.values():
            self._kill(lease, lease.ending or Ending.STOPPED, now.mono_ms + STOP_GRACE_MS, hard=hard)

    def lose_all(self) -> None:
        """Kill what runs at once and give it back as lost."""
        for lease in self._leases.values():
            if lease.is_held:
                self._return(lease, "lost")
            self._kill(lease, Ending.LOST, 0, hard=True)

    def _kill(
        self, lease: Lease, ending: Ending, kill_at_ms: int, *, hard: bool = False, signal: int | None = SIGTERM
    ) -> None:
        if lease.ending is not ending:
            lease.ending = ending
            event = "job_timed_out" if ending is Ending.TIMEOUT else "job_killed"
            sent = SIGKILL if hard else signal
            with_signal = {} if sent is None else {"signal": int(sent)}
            self._outbox.tell("info", event, **lease.keys(), reason=ending.value, **with_signal)
        lease.kill_at_ms = min(lease.kill_at_ms, kill_at_ms)
        lease.asked_by = lease.asked_by if signal is None else signal
        self._outbox.do(Kill(lease.grant.lease, hard, kill_at_ms, signal))

    # --- time ---

    def tick(self, now: Now) -> None:
        """Time out what ran too long, give back what waited too long."""
        while self._timeouts and self._timeouts[0][0] <= now.mono_ms:
            lease = self._leases.get(heappop(self._timeouts)[1])
            if lease is not None and lease.ending is None:
                self._kill(lease, Ending.TIMEOUT, now.mono_ms + GRACE_MS)
        while self._waiting and now.mono_ms >= self._busy_at_ms():
            self._return(self._leases.pop(self._waiting.popleft()), "busy")

    def _busy_at_ms(self) -> int:
        return max(self._leases[self._waiting[0]].arrived_ms, self._changed_ms) + BUSY_MS

    def next_deadline(self) -> int | None:
        due = [self._timeouts[0][0]] if self._timeouts else []
        if self._waiting:
            due.append(self._busy_at_ms())
        return min(due, default=None)


def _outcome(exit_code: int | None) -> Outcome:
    if exit_code is None:
        return Outcome.SIGNAL
    return Outcome.COMPLETED if exit_code == 0 else Outcome.EXIT
