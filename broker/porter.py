"""The porter: lets in who may come in, tells who could not, sees who has gone, and shuts the doors when told to."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Collection, Sequence

import zmq

from broker.core import Core
from broker.doors import OpenDoors
from broker.gate import Gate
from broker.sockets import CAME, LET_IN, LOST, Router, read_monitor
from queuectl.clock import Now
from queuectl.credentials import fingerprint
from queuectl.errors import QueuectlError
from queuectl.logs import Log

PROBE_SOON_MS, PROBE_AGAIN_MS = 20, 1000  # after the end of a connection; many end together when a host goes
CUT_AFTER_MS = 100  # the reply to whoever asked for it is to be out
OPEN_AGAIN_MS, OPEN_LATER_MS = 20, 1000  # where a port cannot be had again: libzmq lets go of it a moment later
OPEN_TRIES = 50  # in a hurry
DESCRIPTORS_LEFT = 16  # a number above that is one of the last: the lowest that is free is taken
GARBAGE_LOGGED_PER_SECOND = 10  # a flood of nonsense must not fill the disk by way of the log


class GarbageLog:
    """How much of what strangers and fools do is told: a little of each kind each second, and how much was not."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._second = 0
        self._seen: Counter[str] = Counter()  # in this second

    def may_log(self, now: Now, event: str) -> bool:
        """Whether one more record of this event may be written."""
        second = now.mono_ms // 1000
        if second != self._second:
            for kind, count in self._seen.items():
                if count > GARBAGE_LOGGED_PER_SECOND:
                    self._log.warning("events_left_out", failed_event=kind, count=count - GARBAGE_LOGGED_PER_SECOND)
            self._second = second
            self._seen.clear()
        self._seen[event] += 1
        return self._seen[event] <= GARBAGE_LOGGED_PER_SECOND


class Probes:
    """When to look for routes that are gone. ZeroMQ says that a connection has ended, but not whose it was.

    It says so a moment before it lets go of it, and may be held up in between: hence soon, and again. Where it was
    nobody's of ours, as when strangers knock, the next look waits longer.
    """

    def __init__(self) -> None:
        self.at_ms: list[int] = []
        self._pause_ms = PROBE_SOON_MS

    def expect(self, now: Now) -> None:
        """A connection has ended."""
        soon_ms = now.mono_ms + self._pause_ms
        if not self.at_ms or self.at_ms[0] > soon_ms:
            self.at_ms.insert(0, soon_ms)
        self.at_ms[1:] = [now.mono_ms + PROBE_AGAIN_MS]

    def take(self, now: Now) -> bool:
        """Whether it is time to look; then that is done."""
        is_time = bool(self.at_ms) and self.at_ms[0] <= now.mono_ms
        if is_time:
            del self.at_ms[0]
        return is_time

    def found(self, *, anybody: bool) -> None:
        """Whether the look has found somebody gone."""
        self._pause_ms = PROBE_SOON_MS if anybody else min(2 * self._pause_ms, PROBE_AGAIN_MS)


class Knocks:
    """Who came to one of the sockets and was not let in: a connection that ends in its handshake, however it does.

    ZeroMQ has no event for everything that may be said there. It tells whose connection has come and whose has ended,
    by descriptor, but not whose handshake has succeeded: that is taken for the last one that came. So the number is
    never too high; where many come at once one of them may be counted only when another, who was let in, goes.
    """

    def __init__(self) -> None:
        self._knocking: dict[int, None] = {}  # in the order in which they came

    def take(self, event: int, descriptor: int) -> bool:
        """Take note of an event; whether somebody was turned away."""
        if event == CAME:
            self._knocking[descriptor] = None
        elif event == LET_IN and self._knocking:
            self._knocking.popitem()
        elif event == LOST and descriptor in self._knocking:
            del self._knocking[descriptor]
            return True
        return False


class Porter:
    """Between the sockets and the loop. Without a gate (in a simulation) nobody has to be let in."""

    def __init__(
        self,
        workers: Router,
        clients: Router,
        *,
        core: Core,
        log: Log,
        garbage: GarbageLog,
        gate: Gate | None = None,
        doors: OpenDoors | None = None,
    ) -> None:
        self._routers = (workers, clients)
        self._core, self._log, self._garbage = core, log, garbage
        self.gate = gate
        self._doors = doors
        self.probes = Probes()
        self.monitors = (workers.watch(CAME | LET_IN | LOST), clients.watch(CAME | LET_IN | LOST))
        self._knocks = (Knocks(), Knocks())
        self._cut_at_ms: int | None = None
        self._tries = 0

    def mind(self, now: Now, woken: Collection[object]) -> None:
        """See to those who knock, and to what the monitors tell."""
        if self.gate is not None and self.gate.socket in woken:
            self.gate.serve()
            self._tell_refused(now, self.gate)
        for router, monitor, knocks in zip(self._routers, self.monitors, self._knocks, strict=True):
            if monitor in woken:
                self._read(now, monitor, knocks, are_workers=router is self._routers[0])

    def _read(self, now: Now, monitor: zmq.Socket[bytes], knocks: Knocks, *, are_workers: bool) -> None:
        events = read_monitor(monitor)
        self._core.turned_away += sum(knocks.take(event, descriptor) for event, descriptor in events)
        if are_workers and any(event == LOST for event, _ in events):
            self.probes.expect(now)
        self._tell_of_descriptors(now, [descriptor for event, descriptor in events if event == CAME])

    def _tell_of_descriptors(self, now: Now, came: Sequence[int]) -> None:
        """Say that there are hardly any left. ZeroMQ's own event for that comes ten thousand times a second."""
        last = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_LEFT
        if (count := sum(descriptor >= last for descriptor in came)) and self._garbage.may_log(now, "accept_failed"):
            self._log.error("accept_failed", count=count)

    def _tell_refused(self, now: Now, gate: Gate) -> None:
        for knock in gate.take_refused():
            if self._garbage.may_log(now, "connection_refused"):
                key = {} if knock.public_key is None else {"fingerprint": fingerprint(knock.public_key)}
                self._log.warning("connection_refused", address=knock.address, reason=knock.domain, **key)

    def due_ms(self) -> list[int]:
        """When it has something to do that no message brings, monotonic."""
        return [*self.probes.at_ms, *([] if self._cut_at_ms is None else [self._cut_at_ms])]

    def cut(self, now: Now) -> None:
        """End all TCP connections if that was asked for, a moment after the reply has gone out."""
        if self._doors is None or not self._doors.is_to_be_cut:
            return
        if self._cut_at_ms is None:
            self._cut_at_ms = now.mono_ms + CUT_AFTER_MS
        elif self._cut_at_ms <= now.mono_ms:
            self._cut_now(now, self._doors)

    def _cut_now(self, now: Now, doors: OpenDoors) -> None:
        """One try to have the ports again, and no wait: others are served meanwhile."""
        doors.shut()
        try:
            doors.open_again()
        except QueuectlError as error:
            self._tries += 1
            is_late = self._tries >= OPEN_TRIES
            self._cut_at_ms = now.mono_ms + (OPEN_LATER_MS if is_late else OPEN_AGAIN_MS)
            if is_late:
                self._log.error("listen_failed", error=error)
            return
        self._cut_at_ms, self._tries = None, 0
        self._log.warning("connections_cut")

    def close(self) -> None:
        """Watch no more."""
        for router, monitor in zip(self._routers, self.monitors, strict=True):
            router.socket.disable_monitor()
            monitor.close(0)
