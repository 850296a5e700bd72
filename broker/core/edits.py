"""Editing jobs that wait: what they do, where and when they wait, how long and how often they may run."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.core import feed
from broker.core.access import Actor
from broker.core.backlog import Backlog
from broker.core.enqueues import EDITED, timeout_ms_of
from broker.core.holds import readiness, ready_now
from broker.core.selection import Chosen, choose
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.unique import WAITING
from broker.core.wall import leave
from broker.store.changes import Editable
from broker.store.rows import DUE_LATER, HELD, Known
from queuectl.errors import BadRequest, QueuectlError, WrongState
from queuectl.jobs import JobSpec, parse_changes
from queuectl.requests import Edit, Edits
from queuectl.times import parse_rfc3339, rfc3339


def edit(core: State, turn: Turn, by: Actor, args: Edit) -> dict[str, Any]:
    """Change the waiting jobs that are meant. Raises BadRequest, BadJob."""
    changes = _given(args.changes)
    if not changes:
        raise BadRequest("edit: nothing is to be changed", hint="say what: --priority, --queue, --command …")
    wanted = parse_changes(changes)
    core.refuse_new_queues({args.changes.queue} if args.changes.queue is not None else set())
    chosen = choose(core, by, args, WAITING, EDITED)
    if args.changes.max_retries is not None:
        chosen = chosen.without(_spent(core, chosen, args.changes.max_retries))
    if args.changes.queue is not None:
        chosen = chosen.without(_crowded(core, chosen, args.changes.queue))
    if wanted.delay is not None or wanted.run_at is not None:
        chosen = chosen.without(_over_before(core, turn, chosen, wanted))
    if not args.dry:
        before = core.store.changes.editable(job.seq for job in chosen.jobs)
        now = [_edited(core, turn, job, wanted, changes) for job in before]
        core.store.changes.edit(now, turn.now.wall_ms)
        if wanted.delay is not None or wanted.run_at is not None:
            leave(core, (job.seq for job in now))
        for old, new in zip(before, now, strict=True):
            core.tally.add(old.bucket, old.state, -1)
            core.tally.add(new.bucket, new.state, 1)
        _note(core, turn, by, chosen.jobs, changes)
    return chosen.answer()


def _given(edits: Edits) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(edits).items() if value is not None}


def _crowded(core: State, chosen: Chosen, queue: str) -> dict[int, QueuectlError]:
    """Those for which there is no room in this queue."""
    movers = [(job, queue) for job in chosen.jobs if core.queues[job.bucket] != queue]
    return Backlog(core).surplus(movers, are_new=False)


def _spent(core: State, chosen: Chosen, max_retries: int) -> dict[int, QueuectlError]:
    """Those that have had as many attempts as they would get: they wait for one more."""
    return {
        job.seq: WrongState(
            f"job '{job.id}' has failed {job.attempts} times already",
            hint=f"give it more attempts than that, or end it: queuectl cancel {job.id}",
            details={"id": job.id, "attempts": job.attempts},
        )
        for job in core.store.changes.editable(job.seq for job in chosen.jobs)
        if 0 < job.attempts >= max_retries
    }


def _over_before(core: State, turn: Turn, chosen: Chosen, wanted: JobSpec) -> dict[int, QueuectlError]:
    """Those whose time would be over before they may start."""
    refused: dict[int, QueuectlError] = {}
    for job in core.store.changes.editable(job.seq for job in chosen.jobs):
        run_at_ms = _run_at_ms(turn, job, wanted)
        for name, limit_ms in (("expires", job.expires_ms), ("deadline", job.deadline_ms)):
            if limit_ms is not None and limit_ms <= run_at_ms:
                words = f"job '{job.id}' would be over before it may start: its {name} is {rfc3339(limit_ms)}"
                refused[job.seq] = WrongState(words, details={"id": job.id, name: rfc3339(limit_ms)})
    return refused


def _edited(core: State, turn: Turn, job: Editable, wanted: JobSpec, changes: dict[str, Any]) -> Editable:
    job = job._replace(
        bucket=job.bucket if wanted.queue is None else core.bucket_of(wanted.queue),
        priority=changes.get("priority", job.priority),
        command=changes.get("command", job.command),
        max_retries=changes.get("max_retries", job.max_retries),
        timeout_ms=timeout_ms_of(wanted.timeout) if "timeout" in changes else job.timeout_ms,
        run_at_ms=_run_at_ms(turn, job, wanted),
    )
    if job.ready == HELD:
        return job
    is_due = job.ready != DUE_LATER and wanted.run_at is None and wanted.delay is None  # whatever the clock says now
    return job._replace(ready=ready_now(core, job) if is_due else readiness(core, turn, job))


def _run_at_ms(turn: Turn, job: Editable, wanted: JobSpec) -> int:
    if wanted.run_at is not None:
        return parse_rfc3339(wanted.run_at)
    return job.run_at_ms if wanted.delay is None else turn.now.wall_ms + round(wanted.delay * 1000)


def _note(core: State, turn: Turn, by: Actor, jobs: list[Known], changes: dict[str, Any]) -> None:
    fields = ", ".join(changes)
    actor = core.actor_number(by.name)
    core.store.history.note_deed(jobs, turn.now.wall_ms, EDITED, actor, fields)
    for job in jobs:
        turn.note(feed.EDITED, job.id, actor, fields)
        turn.log("info", "job_edited", job_id=job.id, fields=fields, by=by.name)
