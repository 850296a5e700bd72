"""Workers that were told to stop: remembered until they are known to have ended, over restarts of the broker, too.

A worker that is away is told when it is back, whatever has happened to its leases and to the broker meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.memory import Holder
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import StopRow

REMEMBERED_MS = 86_400_000  # of one that is not heard of any more: it may have ended without a word


def remember(core: State, turn: Turn, holders: Iterable[Holder], *, at_once: bool) -> None:
    """These are told to stop. What was to be at once stays so."""
    told = []
    for holder in holders:
        holder.stop = at_once or bool(holder.stop)
        told.append(StopRow(holder.worker.worker, int(holder.stop), core.steady_wall_ms(turn.now)))
    core.stops = {**core.stops, **{row.worker: row for row in told}}
    if not core.storage_full:  # they are told all the same
        core.store.ledger.note_stops(told)


def has_ended(core: State, holder: Holder) -> None:
    """This one is gone for good."""
    _forget(core, [holder.worker.worker])


def tidy(core: State, turn: Turn) -> None:
    """Forget those that have not been heard of for long."""
    before_ms = core.surely_ms(turn.now) - REMEMBERED_MS
    here = {holder.worker.worker for holder in core.holders.values()}
    _forget(core, [row.worker for row in core.stops.values() if row.at_ms < before_ms and row.worker not in here])


def _forget(core: State, workers: Iterable[int]) -> None:
    ended = core.stops.keys() & set(workers)
    if ended and not core.storage_full:
        core.store.ledger.forget_stops(ended)
        core.stops = {worker: row for worker, row in core.stops.items() if worker not in ended}
