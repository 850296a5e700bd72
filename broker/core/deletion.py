"""Deleting jobs that are over: because somebody asks for it, or because they were kept long enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from broker.core import feed, outputs
from broker.core.access import Actor
from broker.core.selection import choose
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import CODES, Known
from queuectl.jobs import TERMINAL, JobState
from queuectl.requests import Purge

LOOKED_AT_PER_STEP = 1000  # jobs
DELETED_PER_STEP = 200
STEP_MS = 50  # between two steps
REST_MS = 600_000  # between two walks over all jobs that are over
KEPT_FOR = {
    JobState.COMPLETED: "keep_completed",
    JobState.DEAD: "keep_dead",
    JobState.CANCELLED: "keep_cancelled",
}
_STATES = tuple(KEPT_FOR)


def purge(core: State, turn: Turn, by: Actor, args: Purge) -> dict[str, Any]:
    """Delete the jobs that are meant, of those that are over."""
    chosen = choose(core, by, args, TERMINAL, "purged")
    if not args.dry:
        delete(core, turn, chosen.jobs, by)
        for job in chosen.jobs:
            turn.log("info", "job_purged", job_id=job.id, by=by.name)
    return chosen.answer()


def delete(core: State, turn: Turn, jobs: Sequence[Known], by: Actor | None = None) -> None:
    """Delete jobs that are over; their history and output go after them, in steps. `by`: None if nobody has asked."""
    if not jobs:
        return
    seqs = [job.seq for job in jobs]
    tags = core.store.changes.tags_of(seqs)
    core.store.changes.untag([(seq, msgpack.unpackb(packed)) for seq, packed in tags.items()])
    core.store.history.doom(seqs)
    core.has_doomed = True
    outputs.forget(core, set(seqs))
    turn.written.update(seqs)
    core.store.jobs.delete(seqs)
    core.store.ledger.note({"next_seq": core.next_seq})  # or the numbers of the newest jobs would be given again
    actor = None if by is None else core.actor_number(by.name)
    for job in jobs:
        core.tally.add(job.bucket, job.state, -1)
        turn.note(feed.PURGED, job.id, actor)


def retire(core: State, turn: Turn) -> None:
    """Walk on over the jobs that are over, the oldest first, and delete those that were kept long enough."""
    state = _STATES[core.retiring]
    surplus = min(_surplus(core), DELETED_PER_STEP) if state is JobState.DEAD else 0
    upto: int | None = core.retired_upto
    if surplus:
        due = core.store.changes.died_first(surplus)
    else:
        due, upto = _next_due(core, turn, state)
    delete(core, turn, due)
    if due:
        turn.log("info", "jobs_retired", state=state.value, count=len(due))
    core.next_retire_ms = turn.now.mono_ms + STEP_MS
    core.retired_upto = upto or 0
    if upto is None:
        core.retiring = (core.retiring + 1) % len(_STATES)
        core.next_retire_ms = turn.now.mono_ms + (STEP_MS if core.retiring else REST_MS)


def _surplus(core: State) -> int:
    """How many dead jobs there are beyond those that are kept whatever their age."""
    most = core.settings["keep_dead_max"]
    assert isinstance(most, int | None)
    return 0 if most is None else max(0, core.tally.total(CODES[JobState.DEAD]) - most)


def _next_due(core: State, turn: Turn, state: JobState) -> tuple[list[Known], int | None]:
    """Jobs of the next step that were kept long enough, and where the step ends (None: there are no more)."""
    kept_s = core.settings[KEPT_FOR[state]]
    assert isinstance(kept_s, int | float | None)
    if kept_s is None:
        return [], None
    before_ms = core.surely_ms(turn.now) - round(kept_s * 1000)
    jobs = core.store.changes.ended(CODES[state], core.retired_upto, LOOKED_AT_PER_STEP)
    due = [job for job, finished_at_ms in jobs if finished_at_ms <= before_ms]
    if len(due) > DELETED_PER_STEP:
        due = due[:DELETED_PER_STEP]
        return due, due[-1].seq
    return due, jobs[-1][0].seq if len(jobs) == LOOKED_AT_PER_STEP else None
