"""A lease that was given up as lost goes on, if its worker is back before anybody else has taken the job."""

from __future__ import annotations

from broker.core import writing
from broker.core.memory import Holder, Lease, lease_from_row
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import Event, after
from broker.store.rows import CODES
from queuectl.ids import lease_text
from queuectl.jobs import JobState


def adopt_to_end(core: State, turn: Turn, number: int, job: str, attempt: int) -> Lease | None:
    """The same for a lease whose result has come, whoever brought it: it is live with the boot that had it."""
    row = core.store.jobs.lease_of(job)
    if row is None:
        return None
    holder = next((holder for holder in core.holders.values() if holder.worker.worker == row.worker), None)
    if holder is None:
        holder = Holder(core.store.ledger.workers([row.worker])[0], turn.now.mono_ms)
    return adopt_lost(core, turn, number, job, attempt, holder)


def adopt_lost(core: State, turn: Turn, number: int, job: str, attempt: int, holder: Holder) -> Lease | None:
    """The lost lease of this number, live again with this holder; None if the job has gone on without it."""
    writing.flush(core, turn)
    row = core.store.jobs.lease_of(job)
    if row is None or (row.lease, row.attempt, row.state) != (number, attempt, CODES[JobState.PENDING]):
        return None
    core.store.jobs.adopt(row.seq, number, holder.worker.worker, turn.now.wall_ms)
    core.store.history.unrecord_loss(row.seq, attempt, number)
    core.tally.move(row.bucket, row.state, CODES[after(JobState.PENDING, Event.ADOPT)])
    lease = lease_from_row(row._replace(losses=max(row.losses - 1, 0), slot=1), holder)
    core.leases[number] = holder.leases[number] = lease
    turn.log("info", "lease_adopted", job_id=job, attempt=attempt, lease_id=lease_text(number))
    return lease
