"""Holding jobs that wait, and releasing them."""

from __future__ import annotations

from typing import Any

from broker.core import feed
from broker.core.access import Actor
from broker.core.selection import Chosen, choose
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.unique import WAITING
from broker.lifecycle import ALONE_FROM_LOSSES
from broker.store.changes import Editable
from broker.store.rows import DUE_LATER, HELD, READY, READY_ALONE
from queuectl.errors import WrongState
from queuectl.requests import Hold, Release

HELD_BACK, RELEASED = "held", "released"


def hold(core: State, turn: Turn, by: Actor, args: Hold) -> dict[str, Any]:
    """Let waiting jobs wait until they are released."""
    chosen = choose(core, by, args, WAITING, HELD_BACK, held=False)
    chosen = chosen.without({job.seq: _as_it_is(job.id, "held already") for job in chosen.jobs if job.ready == HELD})
    if not args.dry:
        now_ms = turn.now.wall_ms
        core.store.changes.set_ready([(HELD, now_ms, job.seq) for job in chosen.jobs])
        _note(core, turn, by, chosen, HELD_BACK, args.reason)
    return chosen.answer()


def release(core: State, turn: Turn, by: Actor, args: Release) -> dict[str, Any]:
    """Let held jobs run again, those whose time has not come when it has."""
    chosen = choose(core, by, args, WAITING, RELEASED, held=True)
    chosen = chosen.without({job.seq: _as_it_is(job.id, "not held") for job in chosen.jobs if job.ready != HELD})
    if not args.dry:
        now_ms = turn.now.wall_ms
        jobs = core.store.changes.editable(job.seq for job in chosen.jobs)
        core.store.changes.set_ready([(readiness(core, turn, job), now_ms, job.seq) for job in jobs])
        _note(core, turn, by, chosen, RELEASED, "")
    return chosen.answer()


def readiness(core: State, turn: Turn, job: Editable) -> int:
    """Whether a waiting job that nobody holds may be leased now; the core looks for it from then on.

    One that was ready when it was enqueued is, even if the clock has been set back since.
    """
    if job.run_at_ms > turn.now.wall_ms and job.run_at_ms != job.created_at_ms:
        core.wait_until(job.run_at_ms)
        return DUE_LATER
    return ready_now(core, job)


def ready_now(core: State, job: Editable) -> int:
    """How a waiting job may be leased, now that it may; the core looks for it."""
    core.ready.add(job.bucket)
    if job.losses < ALONE_FROM_LOSSES:
        return READY
    core.suspects.add(job.bucket)
    return READY_ALONE


def _as_it_is(job_id: str, words: str) -> WrongState:
    return WrongState(f"job '{job_id}' is {words}", details={"id": job_id})


def _note(core: State, turn: Turn, by: Actor, chosen: Chosen, deed: str, reason: str) -> None:
    actor = core.actor_number(by.name)
    core.store.history.note_deed(chosen.jobs, turn.now.wall_ms, deed, actor, reason)
    event = "job_held" if deed == HELD_BACK else "job_released"
    for job in chosen.jobs:
        turn.note(feed.HELD if deed == HELD_BACK else feed.RELEASED, job.id, actor, reason or None)
        turn.log("info", event, job_id=job.id, by=by.name)
