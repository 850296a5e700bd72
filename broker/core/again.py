"""Running jobs again: those that wait for their retry now, dead ones with a fresh budget, others as a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from broker.core import feed
from broker.core.access import Actor
from broker.core.asks import RETRIED
from broker.core.backlog import Backlog
from broker.core.holds import readiness
from broker.core.selection import Chosen, choose
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.wall import leave
from broker.lifecycle import Event, after
from broker.store.changes import Copy
from broker.store.rows import CODES, DUE_LATER, HELD, READY, STATES, Known
from queuectl.errors import QueuectlError, UniqueKeyTaken, WrongState
from queuectl.ids import job_id_of
from queuectl.jobs import JobState
from queuectl.requests import Retry

AGAIN = frozenset({JobState.FAILED, JobState.DEAD, JobState.COMPLETED, JobState.CANCELLED})
_COPIED = (JobState.COMPLETED, JobState.CANCELLED)


class Due(NamedTuple):
    """When the first of some jobs is to run, and how long after it each of the others; or whether they are held."""

    first_ms: int
    interval_ms: float = 0.0
    is_held: bool = False

    def of(self, place: int) -> int:
        """When the job at this place is to run."""
        return self.first_ms + round(place * self.interval_ms)

    def readiness(self, now_ms: int, place: int) -> int:
        """Whether the job at this place may be leased now."""
        if self.is_held:
            return HELD
        return DUE_LATER if self.of(place) > now_ms else READY


def retry(core: State, turn: Turn, by: Actor, args: Retry) -> dict[str, Any]:
    """Run the jobs that are meant again, after the delay."""
    chosen = _without_held(choose(core, by, args, AGAIN, RETRIED))
    chosen = chosen.without(keys_taken(core, [job for job in chosen.jobs if STATES[job.state] is JobState.DEAD]))
    chosen = chosen.without(surplus(core, [job for job in chosen.jobs if STATES[job.state] is not JobState.FAILED]))
    copies: dict[str, str] = {}
    if not args.dry:
        due = Due(turn.now.wall_ms + round(args.delay * 1000), args.interval * 1000, args.hold)
        places = list(enumerate(chosen.jobs))
        _hasten(core, turn, [(place, job) for place, job in places if STATES[job.state] is JobState.FAILED], due)
        revive(core, turn, [(place, job) for place, job in places if STATES[job.state] is JobState.DEAD], due)
        for place, job in places:
            if STATES[job.state] in _COPIED:
                copies[job.id] = _copy(core, turn, by, job, due.of(place), due.readiness(turn.now.wall_ms, place))
        note_retry(core, turn, by, chosen.jobs, copies)
    return chosen.answer(copies=copies)


def _without_held(chosen: Chosen) -> Chosen:
    return chosen.without(
        {
            job.seq: WrongState(f"job '{job.id}' is held", hint=f"release it: queuectl release {job.id}")
            for job in chosen.jobs
            if job.ready == HELD
        }
    )


def surplus(core: State, jobs: Sequence[Known]) -> dict[int, QueuectlError]:
    """Those of jobs that are over for which the backlog has no room, and why."""
    return Backlog(core).surplus((job, core.queues[job.bucket]) for job in jobs)


def _hasten(core: State, turn: Turn, jobs: Sequence[tuple[int, Known]], due: Due) -> None:
    """Their next attempt comes now, or after the delay, and not when their backoff has passed."""
    places = {job.seq: place for place, job in jobs}
    waiting = [job._replace(run_at_ms=due.of(places[job.seq])) for job in core.store.changes.editable(places)]
    now = [job._replace(ready=HELD if due.is_held else readiness(core, turn, job)) for job in waiting]
    core.store.changes.edit(now, turn.now.wall_ms)
    leave(core, places)


def revive(core: State, turn: Turn, jobs: Sequence[tuple[int, Known]], due: Due) -> None:
    """Dead jobs, each with its place, back to the queue with a fresh budget. History stays, limits in time do not."""
    now_ms = turn.now.wall_ms
    core.store.jobs.revive([(due.readiness(now_ms, place), due.of(place), now_ms, job.seq) for place, job in jobs])
    core.store.changes.set_free([job.seq for _, job in jobs])
    for place, job in jobs:
        core.tally.move(job.bucket, job.state, CODES[after(JobState.DEAD, Event.REVIVE)])
        _expect(core, job.bucket, due.readiness(now_ms, place), due.of(place))


def _expect(core: State, bucket: int, ready: int, due_ms: int) -> None:
    if ready == READY:
        core.ready.add(bucket)
    elif ready == DUE_LATER:
        core.wait_until(due_ms)


def note_retry(
    core: State, turn: Turn, by: Actor, jobs: Sequence[Known], copies: Mapping[str, str] | None = None
) -> None:
    """Write down who had these jobs run again, themselves or their copies."""
    actor = core.actor_number(by.name)
    core.store.history.note_deed(jobs, turn.now.wall_ms, RETRIED, actor)
    for job in jobs:
        state = JobState.PENDING if STATES[job.state] is JobState.DEAD else STATES[job.state]
        turn.note(feed.RETRIED, job.id, actor, CODES[state], (copies or {}).get(job.id))


def keys_taken(core: State, jobs: Sequence[Known]) -> dict[int, QueuectlError]:
    """Those of jobs that are over whose unique key another one has now, and why they cannot run."""
    if not jobs:
        return {}
    keys = core.store.changes.keys_of(job.seq for job in jobs)
    holders = core.store.changes.holding(set(keys.values()))
    seen: set[str] = set()
    taken: dict[int, QueuectlError] = {}
    for job in jobs:
        key = keys.get(job.seq)
        if key is None:
            continue
        if key in holders or key in seen:
            other = f"; job '{holders[key].id}' has it" if key in holders else ""
            taken[job.seq] = UniqueKeyTaken(f"job '{job.id}' cannot run: its unique key '{key}' is in use{other}")
        seen.add(key)
    return taken


def _copy(core: State, turn: Turn, by: Actor, job: Known, due_ms: int, ready: int) -> str:
    """A new job that does the same, with the time limits counted from now; its id."""
    now_ms = turn.now.wall_ms
    old = core.store.listing.row(job.seq)
    shift_ms = now_ms - old.created_at_ms
    expires_ms = None if old.expires_ms is None else old.expires_ms + shift_ms
    deadline_ms = None if old.deadline_ms is None else old.deadline_ms + shift_ms
    until_ms = min((limit for limit in (expires_ms, deadline_ms) if limit is not None), default=None)
    seq, job_id = _next_id(core)
    core.store.changes.copy(
        Copy(
            of_seq=job.seq,
            seq=seq,
            id=job_id,
            ready=ready,
            run_at_ms=due_ms,
            until_ms=until_ms,
            now_ms=now_ms,
            expires_ms=expires_ms,
            deadline_ms=deadline_ms,
            retry_of=job.id,
            enqueued_by=core.actor_number(by.name),
            event=core.next_event,
        )
    )
    if old.tags is not None:
        core.store.changes.tag([(seq, msgpack.unpackb(old.tags))])
    core.tally.add(job.bucket, CODES[JobState.PENDING], 1)
    core.look_by(until_ms)
    _expect(core, job.bucket, ready, due_ms)
    turn.note(feed.ENQUEUED, job_id, job.bucket, core.actor_number(by.name))
    turn.log("info", "job_enqueued", job_id=job_id, queue=core.queues[job.bucket], request_id="", by=by.name)
    return job_id


def _next_id(core: State) -> tuple[int, str]:
    """The number and the name of the next job; names that somebody gave another job are passed over."""
    while True:
        seq, core.next_seq = core.next_seq, core.next_seq + 1
        job_id = job_id_of(seq)
        if not core.store.jobs.known([job_id]):
            return seq, job_id
