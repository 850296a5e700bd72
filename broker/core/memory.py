"""What the broker keeps in memory: who is connected, who holds which lease, how many jobs stand where.

All of it mirrors the store or can be rebuilt by workers that come back. A Holder is one boot of a worker:
leases belong to it and live on its heartbeats. A Session is its connection of the moment.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import msgpack
import msgspec

from broker.backoff import Policy
from broker.core.access import Actor, Queues
from broker.lifecycle import ALONE_FROM_LOSSES
from broker.store.rows import STATES, Candidate, LeaseRow, WorkerRow
from queuectl.jobs import TERMINAL

AHEAD_MAX = 128  # leases a worker may have beyond its slots, however short its jobs are
AHEAD_MS = 40  # as many as keep its slots busy for so long: results that wait for others, and a few turns of the loop
PATIENCE_BEATS = 2
SHORT_JOB_MS = 100  # longer jobs are never leased ahead


@dataclass(slots=True)
class Stream:
    """What is known of one output stream of an attempt: all below `received` has been dealt with."""

    received: int = 0
    head_bytes: int = 0
    tail: deque[tuple[int, int]] = field(default_factory=deque)  # (offset, length) of kept pieces after the head
    tail_bytes: int = 0


class LastPiece(NamedTuple):
    """The piece of an attempt that was stored last: what follows it may be added to it."""

    stream: int
    offset: int
    length: int
    in_tail: bool
    at_ms: int  # when its first byte came


@dataclass(slots=True)
class Kept:
    """The kept output of one attempt. It outlives the lease while output is still on its way."""

    seq: int
    attempt: int
    limit: int  # bytes of each stream
    is_new: bool = False  # nothing of it was stored before: no need to look
    streams: dict[int, Stream] = field(default_factory=dict)
    last: LastPiece | None = None
    totals: tuple[int, int] | None = None  # bytes of both streams, once the attempt has ended
    boot: str = ""  # whose output it is

    @property
    def grain(self) -> int:
        """Longest piece of a tail: trimming takes whole pieces, and must not take much more than it has to."""
        return max(1, self.limit // 16)

    def is_complete(self) -> bool:
        """Whether all that the command wrote has been dealt with."""
        if self.limit < 2:  # nothing is kept, so nothing may come
            return self.totals is not None
        received = [self.streams[number].received if number in self.streams else 0 for number in (1, 2)]
        return self.totals is not None and all(total <= got for total, got in zip(self.totals, received, strict=True))


class Cancellation(NamedTuple):
    """How a running job is to end: as the store has it, so that it is not forgotten."""

    signal: int
    grace_ms: int  # from the signal to SIGKILL
    reason: str  # what a person said


class Setback(NamedTuple):
    """The wall clock went back: retries that wait since before are late by that, unless they get another time."""

    by_ms: int
    last: int  # the newest job of then
    upto: int = 0  # retries up to this one are late no more
    timed: frozenset[int] = frozenset()  # those that have got another time since


class Lease(msgspec.Struct, eq=False):
    """The right of one boot to one attempt of one job. A struct, because one is made for each run of a job."""

    lease: int
    seq: int
    job: str
    bucket: int
    attempt: int
    attempts: int
    losses: int
    slot: bool  # granted into a free slot
    granted_at_ms: int
    run_at_ms: int
    policy: Policy
    holder: Holder
    output_limit: int
    is_new: bool  # granted by this broker: nothing of its output was stored before
    session: int = 0  # session it was pushed in; 0: before this one
    push: int = 0  # number of that push
    kept: Kept | None = None
    deadline_ms: int | None = None  # of the job, over all attempts
    until_ms: int | None = None  # when the job is to be looked at, if it waits then
    cancel: Cancellation | None = None  # it is to end

    @property
    def output(self) -> Kept:
        """Its kept output, of which most attempts have none."""
        if self.kept is None:
            self.kept = Kept(self.seq, self.attempt, self.output_limit, is_new=self.is_new)
        return self.kept

    @property
    def alone(self) -> bool:
        """Whether it must not share its worker with another such job."""
        return self.losses >= ALONE_FROM_LOSSES


@dataclass(slots=True)
class Holder:
    """One boot of a worker and the leases it holds. `heard_ms` is monotonic."""

    worker: WorkerRow
    heard_ms: int
    leases: dict[int, Lease] = field(default_factory=dict)
    session: Session | None = None
    stop: bool | None = None  # it was told to stop; True: at once
    hello: int = 0  # number of its latest HELLO
    route: bytes = b""  # of its latest session
    patience_ms: int = 0  # the lease it may still count on, until it beats at a new pace
    patience_beats: int = 0

    def be_patient(self, lease_ms: int) -> None:
        """The lease has become shorter, and the worker does not know yet."""
        self.patience_ms = max(self.patience_ms, lease_ms)
        self.patience_beats = PATIENCE_BEATS

    def has_beaten(self) -> None:
        """A heartbeat has come; the second after a change was sent at the new pace."""
        self.patience_beats -= 1
        if self.patience_beats <= 0:
            self.patience_ms = 0


@dataclass(slots=True)
class Session:
    """A worker's connection of the moment."""

    number: int
    route: bytes
    holder: Holder
    slots: int
    queues: Queues
    by: Actor  # whose connection it is
    pushes: int = 0  # number of the last push
    received: int = 0  # the last push that it had seen by its last heartbeat
    deaf_beats: int = 0  # heartbeats in a row that missed a push and had seen none since the one before
    draining: bool = False
    silent: bool = False  # not heard of for some heartbeats: nothing new for it
    incomplete: bool = False  # a message of it could not be taken: those after it may rest on that
    paused_until_ms: int = 0  # its last lease came back through its own fault
    no_ahead_until_ms: int = 0  # a lease granted ahead came back unused
    run_ms: float | None = None  # moving average of its jobs' durations
    credit: int = 0  # its room, and its place among those with room, when that was last looked at
    place: Place | None = None

    @property
    def has_suspect(self) -> bool:
        """Whether it runs a job that must not share its worker with another such job."""
        return any(lease.alone for lease in self.holder.leases.values())

    @property
    def is_working(self) -> bool:
        """Whether it takes anything new, as far as its worker is concerned."""
        return not self.draining and self.holder.stop is None

    def room(self, mono_ms: int) -> int:
        """How many more leases it may have now: credit is absolute, so lost messages cannot leak it."""
        if not self.is_working or self.silent or self.incomplete or mono_ms < self.paused_until_ms:
            return 0
        ahead = self._ahead() if mono_ms >= self.no_ahead_until_ms else 0
        return self.slots + ahead - len(self.holder.leases)

    def _ahead(self) -> int:
        if self.run_ms is None or self.run_ms >= SHORT_JOB_MS:
            return 0
        return min(AHEAD_MAX, int(self.slots * AHEAD_MS / max(self.run_ms, 1.0)))

    def observe(self, duration_ms: int) -> None:
        """Learn how long jobs run here."""
        self.run_ms = duration_ms if self.run_ms is None else self.run_ms * 0.8 + duration_ms * 0.2

    def back_in_ms(self, mono_ms: int) -> int | None:
        """Milliseconds until a pause of this session is over; None: there is no pause."""
        ends = [end for end in (self.paused_until_ms, self.no_ahead_until_ms) if end > mono_ms]
        return min(ends) - mono_ms if ends else None

    def serves(self, queue: str) -> bool:
        """Whether it takes jobs of this queue."""
        return self.queues.has(queue)


_UNFINISHED = frozenset(code for code, state in enumerate(STATES) if state not in TERMINAL)
Place = tuple[bool, float, int, Session]  # no slot is free, how busy, number of the session, the session


class Tally:
    """Number of jobs by (bucket, state code), with what has changed since it was last written."""

    def __init__(self, jobs: dict[tuple[int, int], int]):
        self._jobs = jobs
        self._open = sum(count for (_, code), count in jobs.items() if code in _UNFINISHED)
        self._changed: set[tuple[int, int]] = set()
        self._moves: dict[tuple[int, int, int], int] = {}  # not counted yet: a turn makes few kinds, and many of each

    def add(self, bucket: int, state: int, jobs: int) -> None:
        """Count jobs in (or out, if negative)."""
        key = (bucket, state)
        self._jobs[key] = self._jobs.get(key, 0) + jobs
        self._open += jobs * (state in _UNFINISHED)
        self._changed.add(key)

    def move(self, bucket: int, state: int, following: int, jobs: int = 1) -> None:
        """Count jobs from a state to the next."""
        key = (bucket, state, following)
        self._moves[key] = self._moves.get(key, 0) + jobs

    def _count_moves(self) -> None:
        moves, self._moves = self._moves, {}
        for (bucket, state, following), jobs in moves.items():
            self.add(bucket, state, -jobs)
            self.add(bucket, following, jobs)

    def total(self, state: int) -> int:
        """Jobs in a state, over all queues."""
        self._count_moves()
        return sum(jobs for (_, code), jobs in self._jobs.items() if code == state)

    def unfinished(self, bucket: int | None = None) -> int:
        """Jobs that wait or run, in one queue or over all."""
        self._count_moves()
        return self._open if bucket is None else sum(self._jobs.get((bucket, code), 0) for code in _UNFINISHED)

    def over(self) -> int:
        """Jobs that are over."""
        self._count_moves()
        return sum(jobs for (_, code), jobs in self._jobs.items() if code not in _UNFINISHED)

    def take_changes(self) -> list[tuple[int, int, int]]:
        """(bucket, state, jobs) of what changed; then nothing has."""
        if not self._changed and not self._moves:
            return []
        self._count_moves()
        changed, self._changed = self._changed, set()
        return [(bucket, state, self._jobs[bucket, state]) for bucket, state in sorted(changed)]


def policy_of(row: LeaseRow | Candidate) -> Policy:
    """What the job says of failures and losses."""
    return _policy(row.max_retries, row.backoff_base, row.backoff_max, row.backoff_jitter, row.on_lost, row.rules)


@lru_cache(maxsize=1024)  # most jobs share a few
def _policy(max_retries: int, base: float, longest: float, jitter: str, on_lost: str, packed: bytes | None) -> Policy:
    backoff, retry_on, no_retry_on = rules_of(packed)
    kind = backoff if isinstance(backoff, str) else tuple(backoff)
    return Policy(max_retries, base, longest, jitter, on_lost, kind, frozenset(retry_on), frozenset(no_retry_on))


def rules_of(packed: bytes | None) -> tuple[str | list[float], list[int], list[int]]:
    """backoff, retry_on and no_retry_on, as they are stored."""
    return ("exp", [], []) if packed is None else tuple(msgpack.unpackb(packed))


def lease_from_row(row: LeaseRow, holder: Holder) -> Lease:
    """A lease as memory keeps it."""
    return Lease(
        lease=row.lease,
        seq=row.seq,
        job=row.id,
        bucket=row.bucket,
        attempt=row.attempt,
        attempts=row.attempts,
        losses=row.losses,
        slot=bool(row.slot),
        granted_at_ms=row.updated_at_ms,
        run_at_ms=row.run_at_ms,
        policy=policy_of(row),
        holder=holder,
        output_limit=row.output_limit,
        is_new=False,
        deadline_ms=row.deadline_ms,
        until_ms=row.until_ms,
    )
