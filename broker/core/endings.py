"""The end of jobs that wait: cancelled, replaced, expired, or overrun by their deadline."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core import feed
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import OVERDUE, Event, after
from broker.store.changes import Overdue
from broker.store.rows import CODES, STATES, Known
from queuectl.jobs import Outcome

EXPIRED = Outcome.EXPIRED.value
SWEPT_PER_TURN = 500


def end_waiting(core: State, turn: Turn, jobs: Sequence[Known | Overdue], event: Event, reason: str) -> None:
    """Jobs that wait are over, as of now."""
    now_ms = turn.now.wall_ms
    rows = []
    for job in jobs:
        state = CODES[after(STATES[job.state], event)]
        rows.append((state, reason, now_ms, now_ms, job.seq))
        core.tally.move(job.bucket, job.state, state)
        turn.over.add(job.seq)
        turn.written.add(job.seq)
    core.store.changes.end_waiting(rows)


def sweep(core: State, turn: Turn) -> None:
    """End what has waited too long, some of it in each turn."""
    now_ms = turn.now.wall_ms
    overrun: list[Overdue] = []
    expired: list[Overdue] = []
    later: list[tuple[int | None, int]] = []
    for job in core.store.changes.overdue(now_ms, SWEPT_PER_TURN):
        if job.deadline_ms is not None and job.deadline_ms <= now_ms:
            overrun.append(job)
        elif job.attempt == 0:
            expired.append(job)
        else:
            later.append((job.deadline_ms, job.seq))
    end_waiting(core, turn, overrun, Event.OVERRUN, OVERDUE)
    end_waiting(core, turn, expired, Event.EXPIRE, EXPIRED)
    core.store.changes.set_until(later)
    for job in expired:
        turn.note(feed.EXPIRED, job.id)
        turn.log("warning", "job_expired", job_id=job.id, reason=EXPIRED)
    for job in overrun:
        turn.note(feed.DEAD, job.id, OVERDUE)
        turn.log("warning", "job_dead", job_id=job.id, reason=OVERDUE)
    core.next_until_ms = core.store.changes.next_until_ms()
