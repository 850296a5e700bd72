"""The next jobs over the queues of a worker, in the order of leasing; of jobs that are not next no more is read.

Order: priority (higher first), then due time, then arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from broker.core.state import State
from broker.lifecycle import ALONE_FROM_LOSSES
from broker.store.rows import Candidate

BYTES_AT_ONCE = 4 * 2**20  # of commands, environments and input; one job more may come on top
_FIRST_READ = 4  # jobs of one queue of many; then more and more at a time

_Key = tuple[int, int, int]


class Next(NamedTuple):
    """The jobs, and whether the queues have no others."""

    jobs: list[Candidate]
    is_all: bool


class _Line:
    """What is ready in one queue, or ready to run alone, read as it is needed and no further than `limit`."""

    def __init__(self, core: State, bucket: int, *, alone: bool, limit: int) -> None:
        self._core = core
        self._bucket = bucket
        self._alone = alone
        self._limit = limit
        self._step = _FIRST_READ
        self._read = 0
        self._jobs: deque[Candidate] = deque()

    def first(self) -> Candidate | None:
        """The first job that is left; None: there is none."""
        if not self._jobs and self._read < self._limit:
            wanted = min(self._step, self._limit - self._read)
            self._jobs += self._core.store.jobs.candidates(
                self._bucket, wanted, offset=self._read, alone=self._alone, bytes_max=BYTES_AT_ONCE
            )
            self._read += len(self._jobs)
            self._step *= 4
        return self._jobs[0] if self._jobs else None

    def pop(self) -> Candidate:
        return self._jobs.popleft()


def next_jobs(core: State, buckets: Sequence[int], limit: int) -> Next:
    """The first so many jobs of these queues, and those between them that must run alone.

    A queue that turns out to be empty is not asked again.
    """
    if not buckets:
        return Next([], True)
    if len(buckets) == 1 and core.suspects.isdisjoint(buckets):  # as mostly: it need not be asked where it stands
        return _of_one(core, buckets[0], limit, alone=False)
    heads = _heads(core, buckets)
    if len(heads) == 1:
        [(_, bucket, alone)] = heads
        return _of_one(core, bucket, limit, alone=alone)
    heap = [
        (key, number, _Line(core, bucket, alone=alone, limit=limit))
        for number, (key, bucket, alone) in enumerate(heads)
    ]
    heapify(heap)
    found: list[Candidate] = []
    plain = size = 0
    while heap and plain < limit and size < BYTES_AT_ONCE:
        _, number, line = heap[0]
        line.first()
        job = line.pop()
        found.append(job)
        plain += job.losses < ALONE_FROM_LOSSES
        size += job.size
        following = line.first()
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (_key(following), number, line))
    return Next(found, not heap and len(found) < limit)


def _of_one(core: State, bucket: int, limit: int, *, alone: bool) -> Next:
    jobs = core.store.jobs.candidates(bucket, limit, alone=alone, bytes_max=BYTES_AT_ONCE)
    return Next(jobs, len(jobs) < limit and sum(job.size for job in jobs) < BYTES_AT_ONCE)


def _key(job: Candidate) -> _Key:
    return -job.priority, job.run_at_ms, job.seq


def _heads(core: State, buckets: Sequence[int]) -> list[tuple[_Key, int, bool]]:
    """Where each queue stands that has jobs, once for those that run alone: the key of its first job."""
    suspects = [bucket for bucket in buckets if bucket in core.suspects]
    plain = core.store.jobs.heads(buckets)
    alone = core.store.jobs.heads(suspects, alone=True) if suspects else {}
    core.suspects.difference_update(set(suspects) - alone.keys())
    core.ready.difference_update(set(buckets) - plain.keys() - alone.keys())
    return [
        ((-priority, run_at_ms, seq), bucket, is_alone)
        for is_alone, heads in ((False, plain), (True, alone))
        for bucket, (priority, run_at_ms, seq) in heads.items()
    ]
