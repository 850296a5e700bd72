"""Cancelling: jobs that wait are over at once; those that run are asked to end, until they have.

That a running job is to end stands in the store. Its worker is told again with every heartbeat that names it, so a
lost message, a broken connection or a restart of either side changes nothing. Whatever ends the attempt then ends
the job, unless it was success: that came first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from broker.core import feed
from broker.core.access import Actor
from broker.core.asks import CANCELLED
from broker.core.endings import end_waiting
from broker.core.memory import Cancellation, Lease, Session
from broker.core.selection import choose
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import TRANSITIONS, Event
from broker.store.rows import STATES
from queuectl import messages
from queuectl.jobs import JobState
from queuectl.requests import Cancel

CANCELLABLE = frozenset(state for state, event in TRANSITIONS if event is Event.CANCEL)


def cancel(core: State, turn: Turn, by: Actor, args: Cancel) -> dict[str, Any]:
    """End the jobs that are meant."""
    chosen = choose(core, by, args, CANCELLABLE, CANCELLED)
    running = [job for job in chosen.jobs if STATES[job.state] is JobState.PROCESSING]
    waiting = [job for job in chosen.jobs if STATES[job.state] is not JobState.PROCESSING]
    if not args.dry:
        end_waiting(core, turn, waiting, Event.CANCEL, CANCELLED)
        for job in waiting:
            turn.note(feed.CANCELLED, job.id, core.actor_number(by.name), args.reason or None)
            turn.log("info", "job_cancelled", job_id=job.id, reason=args.reason, by=by.name)
        for job in running:
            assert job.lease is not None
            _ask_to_end(core, turn, by, core.leases[job.lease], args)
        actor = core.actor_number(by.name)
        core.store.history.note_deed(chosen.jobs, turn.now.wall_ms, CANCELLED, actor, args.reason)
    return chosen._replace(jobs=waiting).answer(stopping=[job.id for job in running])


def _ask_to_end(core: State, turn: Turn, by: Actor, lease: Lease, args: Cancel) -> None:
    lease.cancel = Cancellation(args.signal, args.grace_ms, args.reason)
    core.store.changes.ask_to_end(lease.seq, *lease.cancel)
    turn.note(feed.CANCEL_ASKED, lease.job, core.actor_number(by.name), args.reason or None, lease.attempt)
    turn.log("info", "job_cancel_asked", job_id=lease.job, signal=args.signal, reason=args.reason, by=by.name)
    if lease.holder.session is not None:
        remind(turn, lease.holder.session, [lease])


def remind(turn: Turn, session: Session, leases: Iterable[Lease]) -> None:
    """Tell a worker which of these leases of its are to end, and how."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for lease in leases:
        if lease.cancel is not None:
            alike[lease.cancel.signal, lease.cancel.grace_ms].append(lease.lease)
    for (signal, grace_ms), numbers in alike.items():
        turn.send(session.route, messages.Cancel(session.number, numbers, grace_ms, signal))
