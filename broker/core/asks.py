"""Questions of clients: they change nothing. Long answers go in slices, so that no question holds the loop."""

from __future__ import annotations

from typing import Any

from broker.core import views
from broker.core.find import find, find_many, parse_state
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.waits import Condition
from broker.store.rows import CODES, STATES
from queuectl.errors import BadRequest, QueuectlError, WrongState
from queuectl.jobs import TERMINAL
from queuectl.requests import ConfigShow, Job, List, Ping, Status, Wait
from queuectl.settings import DEFAULTS

JOB_CHARS_PER_REPLY = 2**20  # of commands; one job more may come on top
_FAR = 2**62


def ping(core: State, turn: Turn, args: Ping) -> dict[str, Any]:
    """The broker is there."""
    who = core.identity
    return {
        "broker": core.broker_id,
        "version": who.version,
        "pid": who.pid,
        "epoch": core.epoch,
        "data_dir": who.data_dir,
    }


def job(core: State, turn: Turn, args: Job) -> dict[str, Any]:
    """One job with its history."""
    known = find(core, args.id)
    if args.state is not None and STATES[known.state] is not parse_state(args.state):
        raise WrongState(f"job '{known.id}' is {STATES[known.state].value}, not {args.state}")
    history = [views.attempt(entry) for entry in core.store.history.attempts(known.seq)]
    running = next((lease for lease in core.leases.values() if lease.seq == known.seq), None)
    if running is not None:
        history.append(views.running(running))
    return {"job": views.job(core, core.store.jobs.row(known.seq)), "history": history}


def list_jobs(core: State, turn: Turn, args: List) -> dict[str, Any]:
    """One slice of a listing."""
    state = None if args.state is None else CODES[parse_state(args.state)]
    if args.queue is not None and args.queue not in core.buckets:
        return {"jobs": [], "next": None}
    bucket = None if args.queue is None else core.buckets[args.queue]
    below = _FAR if args.cursor is None else args.cursor
    rows, following = core.store.jobs.page(
        state=state, bucket=bucket, below_seq=min(below, core.next_seq), limit=args.limit
    )
    size = 0
    for place, row in enumerate(rows, 1):
        size += len(row.command)
        if size > JOB_CHARS_PER_REPLY and place < len(rows):
            rows, following = rows[:place], row.seq
            break
    return {"jobs": [views.job(core, row) for row in rows], "next": following}


def status(core: State, turn: Turn, args: Status) -> dict[str, Any]:
    """The broker, its workers, and how many jobs stand where."""
    who = core.identity
    broker = {
        "id": core.broker_id,
        "pid": who.pid,
        "version": who.version,
        "uptime_s": (turn.now.mono_ms - core.started_ms) / 1000,
        "endpoints": list(who.endpoints),
        "database": who.database,
        "data_dir": who.data_dir,
        "started": who.started,
        "accepting": not core.disk_low and not core.stopping,
        "output_bytes": core.output_bytes,
    }
    holders = sorted(core.holders.values(), key=lambda holder: holder.worker.worker)
    workers = [views.worker(holder, turn.now.mono_ms) for holder in holders]
    return {"broker": broker, "workers": workers, "jobs": core.counts()}


def config_show(core: State, turn: Turn, args: ConfigShow) -> dict[str, Any]:
    """The queue-wide settings in force."""
    changed = [key for key, value in core.settings.items() if value != DEFAULTS[key]]
    return {"settings": core.settings, "changed": changed, "data_dir": core.identity.data_dir}


def waiter(core: State, turn: Turn, envelope: tuple[bytes, ...], request_id: str, args: Wait) -> Condition:
    """A reply to be held. Raises what is wrong with the question at once."""
    if (args.jobs is not None) + args.empty + (args.workers is not None) != 1:
        raise BadRequest("wait: give exactly one of jobs, empty, workers")
    seqs: set[int] = set()
    for found in find_many(core, args.jobs or []).values():
        if isinstance(found, QueuectlError):
            raise found
        if STATES[found.state] not in TERMINAL:
            seqs.add(found.seq)
    return Condition(
        envelope=envelope,
        request_id=request_id,
        deadline_ms=turn.now.mono_ms + args.timeout_ms,
        jobs=frozenset(seqs),
        workers=frozenset(args.workers or ()),
        empty=args.empty,
    )
