"""Questions of clients: they change nothing. Long answers go in slices, so that no question holds the loop."""

from __future__ import annotations

from typing import Any

from broker.core import selection, views
from broker.core.access import ADMIN, READ, SUBMIT, Actor
from broker.core.find import find, find_many, parse_state
from broker.core.state import State
from broker.core.turn import Turn
from broker.core.waits import Condition
from broker.store.rows import STATES
from queuectl.errors import BadRequest, NotAllowed, QueuectlError, WrongState
from queuectl.jobs import TERMINAL
from queuectl.requests import ConfigShow, Job, List, Ping, Select, Status, Wait, Whoami
from queuectl.settings import DEFAULTS
from queuectl.times import rfc3339

RETRIED, CANCELLED = "retried", "cancelled"  # what people do to jobs, as the store has it
_SEERS = (READ, ADMIN)


def ping(core: State, turn: Turn, by: Actor, args: Ping) -> dict[str, Any]:
    """The broker is there."""
    who = core.identity
    return {
        "broker": core.broker_id,
        "version": who.version,
        "pid": who.pid if by.role in _SEERS else None,
        "epoch": core.epoch,
        "time": rfc3339(turn.now.wall_ms),
        "data_dir": who.data_dir if by.role in _SEERS else None,
    }


def whoami(core: State, turn: Turn, by: Actor, args: Whoami) -> dict[str, Any]:
    """Who asks, and what its credentials are to say."""
    return {
        "name": by.name,
        "role": by.role,
        "queues": list(by.queues.globs),
        "endpoints": list(core.identity.advertised),
        "server_keys": list(core.doors.server_keys),
    }


def job(core: State, turn: Turn, by: Actor, args: Job) -> dict[str, Any]:
    """One job with its history, and what people did to it."""
    if args.env and not by.is_admin:
        raise NotAllowed(f"'{by.name}' ({by.role}) may see the names of a job's environment, but not its values")
    known = find(core, args.id, by)
    if args.state is not None and STATES[known.state] is not parse_state(args.state):
        raise WrongState(f"job '{known.id}' is {STATES[known.state].value}, not {args.state}")
    history = [views.attempt(entry) for entry in core.store.history.attempts(known.seq)]
    running = next((lease for lease in core.leases.values() if lease.seq == known.seq), None)
    if running is not None:
        history.append(views.running(running))
    row = core.store.listing.row(known.seq)
    events = [views.deed(core, entry) for entry in core.store.history.deeds(known.seq)]
    retried, cancelled = (_last(events, action) for action in (RETRIED, CANCELLED))
    shown = {
        **views.job(core, row),
        "retried_by": retried.get("by"),
        "cancelled_by": cancelled.get("by"),
        "cancel_reason": cancelled.get("note"),
    }
    reply = {"job": shown, "history": history, "events": events}
    return {**reply, "env_values": views.env_values(row)} if args.env else reply


def _last(events: list[dict[str, Any]], action: str) -> dict[str, Any]:
    return next((event for event in reversed(events) if event["action"] == action), {})


def list_jobs(core: State, turn: Turn, by: Actor, args: List) -> dict[str, Any]:
    """One slice of a listing; of its own jobs where somebody may see no others."""
    select = args.select or Select(state=args.state, queue=args.queue)
    if select.ids:
        raise BadRequest("list: jobs are listed by what they have in common", hint="ask for one with: job")
    wanted = selection.filter_of(core, by, select)
    if wanted is None:
        return {"jobs": [], "next": None}
    below = min(selection.FAR if args.cursor is None else args.cursor, core.next_seq)
    rows, following = core.store.listing.page(wanted, below_seq=below, limit=args.limit)
    return {"jobs": [views.job(core, row) for row in rows], "next": following}


def status(core: State, turn: Turn, by: Actor, args: Status) -> dict[str, Any]:
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
        "advertised": list(who.advertised),
        "turned_away": core.turned_away,
        "denied": core.denied,
        "malformed": core.malformed,
    }
    holders = sorted(core.holders.values(), key=lambda holder: holder.worker.worker)
    workers = [views.worker(core, holder, turn.now.mono_ms) for holder in holders]
    return {"broker": broker, "workers": workers, "jobs": core.counts()}


def config_show(core: State, turn: Turn, by: Actor, args: ConfigShow) -> dict[str, Any]:
    """The queue-wide settings in force."""
    changed = [key for key, value in core.settings.items() if value != DEFAULTS[key]]
    return {"settings": core.settings, "changed": changed, "data_dir": core.identity.data_dir}


def waiter(core: State, turn: Turn, envelope: tuple[bytes, ...], by: Actor, request_id: str, args: Wait) -> Condition:
    """A reply to be held. Raises what is wrong with the question at once."""
    if args.jobs is None and by.role == SUBMIT:
        raise NotAllowed(f"'{by.name}' ({by.role}) may wait for its own jobs, and for nothing else")
    if (args.jobs is not None) + args.empty + (args.workers is not None) != 1:
        raise BadRequest("wait: give exactly one of jobs, empty, workers")
    if args.jobs is None and (args.any or args.seen is not None):
        raise BadRequest("wait: any and seen are about jobs")
    named: dict[int, bool] = {}  # in their order, and whether it is over
    found_by_text = find_many(core, args.jobs or [], by)
    for text in args.jobs or []:
        found = found_by_text[text]
        if isinstance(found, QueuectlError):
            raise found
        named[found.seq] = STATES[found.state] in TERMINAL
    return Condition(
        envelope=envelope,
        request_id=request_id,
        deadline_ms=turn.now.mono_ms + args.timeout_ms,
        by=by,
        jobs=frozenset(seq for seq, is_over in named.items() if not is_over),
        named=tuple(named),
        any=args.any,
        seen=args.seen,
        workers=frozenset(args.workers or ()),
        empty=args.empty,
    )
