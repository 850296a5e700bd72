"""Which process belongs to which job, and the end of those that a job left behind.

The worker is a subreaper: whatever a command starts is a descendant of its leader, or, once its parent has
died, of an orphan among the worker's own direct children. So the list of direct children tells in
microseconds whether anything was left, and walking down from them finds everything; nothing that forks,
calls setsid or clears its environment can slip out of the list.

An orphan is its job's by its session, by its brand, or by the mark in its environment. One that has none of
the three any more is put down to all jobs that ran when it appeared, and is ended when the last of them has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from queuectl.ids import lease_text
from worker.brand import find_brand, is_of
from worker.proc import LEASE_MARK, OwnChildren, Stat, descendants_of, find_mark, find_stat, send_signal

GRACE_MS = 2000  # between SIGTERM and SIGKILL of what a job left behind
_AGAIN_MS = 100  # after SIGKILL: new orphans may have come up, and some need a while to die
_LOOKS_MAX = 100  # one after the other, while new orphans come up
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Leader:
    """The first process of a running command."""

    pid: int
    lease: int
    started: int  # in ticks since boot, as in Stat
    brand: int | None = None
    asked: set[int] = field(default_factory=set)  # processes that were asked to end; they are not asked twice


@dataclass(slots=True)
class Orphan:
    """A process that lost its parent and came to us. `owners`: the running jobs that it may belong to."""

    pid: int
    stat: Stat
    mark: str | None
    brand: int | None
    owners: set[int] = field(default_factory=set)
    lease: int | None = None  # the job it is known to belong to, or the last that it could belong to
    kill_at_ms: int | None = None  # set when it is being ended
    is_condemned: bool = False  # SIGKILL was sent, and goes at once to whatever else comes up of it
    is_kept: bool = False

    @property
    def is_known(self) -> bool:
        """Whether it carries anything that tells its job."""
        return self.mark is not None or self.brand is not None

    def is_relative(self, other: Orphan) -> bool:
        """Whether both are certainly of one job."""
        if self.stat.session == other.stat.session:
            return True
        if self.brand is not None and other.brand is not None:
            return self.brand == other.brand
        return self.mark is not None and self.mark == other.mark


class Tree:
    """All processes below this worker."""

    def __init__(self, first_brand: int | None = None) -> None:
        """`first_brand`: where the brands of this worker begin, if it has any."""
        self._own = OwnChildren()
        self._first_brand = first_brand
        self._leaders: dict[int, Leader] = {}
        self._orphans: dict[int, Orphan] = {}

    def close(self) -> None:
        self._own.close()

    def add_leader(self, pid: int, lease: int, brand: int | None = None) -> None:
        ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS_PER_S // 1_000_000_000
        self._leaders[pid] = Leader(pid, lease, ticks - 1, brand)

    # --- looking ---

    def look(self, now_ms: int) -> None:
        """Take in new orphans, and reap those that have died.

        Also those that are dead when they come, and none before its own children have been taken in: of a command
        that hops from process to process only this chain tells to which job it belongs, and since when it is to end.
        """
        for _ in range(_LOOKS_MAX):
            dead = [pid for pid in self._orphans if _is_dead(pid)] if self._orphans else []
            new = [pid for pid in self._own.read() if pid not in self._leaders and pid not in self._orphans]
            for pid in new:
                self._take_in(pid, now_ms)
            for pid in dead:
                _reap(pid)
                del self._orphans[pid]
            if not new:
                break

    def _take_in(self, pid: int, now_ms: int) -> None:
        stat = find_stat(pid)
        if stat is None:
            return
        brand = find_brand(pid)
        orphan = Orphan(pid, stat, find_mark(pid, LEASE_MARK), brand if is_of(brand, self._first_brand) else None)
        relative = self._find_relative(orphan)
        if relative is not None:
            orphan.owners = set(relative.owners)
            orphan.lease, orphan.kill_at_ms, orphan.is_kept = relative.lease, relative.kill_at_ms, relative.is_kept
            orphan.is_condemned = relative.is_condemned
        else:
            orphan.owners = self._owners(orphan)
            orphan.is_kept = not orphan.is_known and self._may_be_of_kept(stat)
        self._orphans[pid] = orphan
        if orphan.is_condemned:
            _signal_below(orphan, signal.SIGKILL)
        elif not orphan.owners and not orphan.is_kept:
            self._end(orphan, now_ms, orphan.kill_at_ms, is_asked=orphan.kill_at_ms is not None)

    def _find_relative(self, orphan: Orphan) -> Orphan | None:
        """An orphan of the same job, by its session, its brand or its mark."""
        if orphan.stat.session in self._leaders:
            return None
        return next((other for other in self._orphans.values() if other.is_relative(orphan)), None)

    def _owners(self, orphan: Orphan) -> set[int]:
        leader = self._leaders.get(orphan.stat.session)
        if leader is not None:
            return {leader.lease}
        # If it is the brand or the mark of a job that is over, the orphan has outstayed it, and nobody owns it.
        if orphan.brand is not None:
            return {leader.lease for leader in self._leaders.values() if leader.brand == orphan.brand}
        if orphan.mark is not None:
            return {leader.lease for leader in self._leaders.values() if lease_text(leader.lease) == orphan.mark}
        return {leader.lease for leader in self._leaders.values() if leader.started <= orphan.stat.started}

    def _may_be_of_kept(self, stat: Stat) -> bool:
        return any(other.is_kept and other.stat.started <= stat.started for other in self._orphans.values())

    # --- ending ---

    def signal_tree(self, leader: int, number: int) -> None:
        """Signal all processes of a running job. Whom no signal but SIGCONT has reached was not asked to end."""
        entry = self._leaders[leader]
        # The walk comes first: once the leader is dead, its children are not to be found below it any more.
        below = descendants_of(leader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, number)
        _signal_each(below, number, but_group=leader)
        reached = set(below)
        for orphan in self._orphans.values():
            if orphan.owners == {entry.lease}:
                _signal_below(orphan, number)
                reached.add(orphan.pid)
        if number != signal.SIGCONT:
            entry.asked |= reached

    def leader_ended(
        self, pid: int, now_ms: int, *, keep: bool, kill_at_ms: int | None, number: int = signal.SIGTERM
    ) -> int:
        """The leader is dead and not yet reaped: end what it left, unless it is to be kept. How many that were.

        `kill_at_ms`: when SIGKILL is due where the job was being killed already. `number`: the signal that asks.
        """
        self.look(now_ms)
        leader = self._leaders.pop(pid)
        if not self._orphans:
            return 0
        lease, count = leader.lease, 0
        for orphan in [orphan for orphan in self._orphans.values() if lease in orphan.owners]:
            is_sure = orphan.owners == {lease} and orphan.lease in (None, lease)
            orphan.owners.discard(lease)
            orphan.lease = lease
            orphan.is_kept = orphan.is_kept or (keep and kill_at_ms is None)
            if is_sure:
                count += 1 + len(descendants_of(orphan.pid))
            if not orphan.owners and not orphan.is_kept:
                self._end(orphan, now_ms, kill_at_ms, is_asked=orphan.pid in leader.asked, number=number)
        return count

    def _end(
        self,
        orphan: Orphan,
        now_ms: int,
        kill_at_ms: int | None,
        *,
        is_asked: bool = False,
        number: int = signal.SIGTERM,
    ) -> None:
        if not is_asked and (kill_at_ms is None or kill_at_ms > now_ms):
            _signal_below(orphan, number)
            _signal_below(orphan, signal.SIGCONT)
        orphan.kill_at_ms = now_ms + GRACE_MS if kill_at_ms is None else kill_at_ms

    def end_all(self, now_ms: int, *, hard: bool = False) -> None:
        """The worker ends: so does everything that is not kept on purpose."""
        self.look(now_ms)
        for orphan in self._orphans.values():
            if not orphan.is_kept and (orphan.kill_at_ms is None or hard):
                self._end(orphan, now_ms, now_ms if hard else None)

    def tick(self, now_ms: int) -> None:
        """Kill what did not end when it was asked to, again and again until it is gone."""
        due = [o for o in self._orphans.values() if o.kill_at_ms is not None and o.kill_at_ms <= now_ms]
        for orphan in due:
            _signal_below(orphan, signal.SIGKILL)
            orphan.is_condemned = True
            orphan.kill_at_ms = now_ms + _AGAIN_MS
        if due:
            self.look(now_ms)

    def next_deadline(self) -> int | None:
        return min((o.kill_at_ms for o in self._orphans.values() if o.kill_at_ms is not None), default=None)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is running or being ended; what is kept does not count."""
        return not self._leaders and all(orphan.is_kept for orphan in self._orphans.values())


def _signal_below(orphan: Orphan, number: int) -> None:
    """Signal an orphan, its group and its descendants. Our own child keeps its number until we reap it."""
    below = descendants_of(orphan.pid)
    stat = find_stat(orphan.pid)
    if stat is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if stat.group == os.getpgrp():
            os.kill(orphan.pid, number)
        else:
            os.killpg(stat.group, number)
    _signal_each(below, number, but_group=stat.group)


def _signal_each(pids: Iterable[int], number: int, *, but_group: int) -> None:
    for pid in pids:
        stat = find_stat(pid)
        if stat is not None and stat.group != but_group:
            send_signal(pid, number, stat.started)


def _is_dead(pid: int) -> bool:
    """Whether this child has ended, or is ours no more."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
