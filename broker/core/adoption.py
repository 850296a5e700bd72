"""A lease that was given up as lost goes on, if its worker is back before anybody else has taken the job."""

from __future__ import annotations

from broker.core import feed, writing
from broker.core.memory import Holder, Lease, Session, lease_from_row
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import Event, after
from broker.store.rows import CODES, LeaseRow
from queuectl.ids import lease_text
from queuectl.jobs import JobState


def adopt_to_end(core: State, turn: Turn, number: int, job: str, attempt: int, session: Session) -> Lease | None:
    """The lost lease whose result has come, whoever of its home brought it: it is live with the boot that had it."""
    row = _find_lost(core, turn, number, job, attempt, session)
    if row is None:
        return None
    holder = next((holder for holder in core.holders.values() if holder.worker.worker == row.worker), None)
    return _adopt(core, turn, row, holder or Holder(core.store.ledger.workers([row.worker])[0], turn.now.mono_ms))


def adopt_lost(core: State, turn: Turn, number: int, job: str, attempt: int, session: Session) -> Lease | None:
    """The lost lease of this number, live again with this session; None if the job has gone on without it."""
    row = _find_lost(core, turn, number, job, attempt, session)
    return None if row is None else _adopt(core, turn, row, session.holder)


def _find_lost(core: State, turn: Turn, number: int, job: str, attempt: int, session: Session) -> LeaseRow | None:
    writing.flush(core, turn)
    row = core.store.jobs.lease_of(job)
    if row is None or (row.lease, row.attempt, row.state) != (number, attempt, CODES[JobState.PENDING]):
        return None
    return row if core.trusts(session.by, core.store.ledger.workers([row.worker])[0]) else None


def _adopt(core: State, turn: Turn, row: LeaseRow, holder: Holder) -> Lease:
    core.store.jobs.adopt(row.seq, row.lease, holder.worker.worker, turn.now.wall_ms)
    core.store.history.unrecord_loss(row.seq, row.attempt, row.lease)
    core.tally.move(row.bucket, row.state, CODES[after(JobState.PENDING, Event.ADOPT)])
    lease = lease_from_row(row._replace(losses=max(row.losses - 1, 0), slot=1), holder)
    core.leases[row.lease] = holder.leases[row.lease] = lease
    core.has_changed(holder)
    turn.note(feed.ADOPTED, row.id, row.attempt, holder.worker.worker)
    turn.log("info", "lease_adopted", job_id=row.id, attempt=row.attempt, lease_id=lease_text(row.lease))
    return lease
