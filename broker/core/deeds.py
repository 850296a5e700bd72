"""Changes that clients ask for, other than enqueueing."""

from __future__ import annotations

from typing import Any

from broker.core import again, deletion, farewells, feed, sessions
from broker.core.access import Actor
from broker.core.find import find_many
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import STATES, Known
from queuectl.errors import BadRequest, QueuectlError, UnknownWorker, WrongState
from queuectl.jobs import JobState
from queuectl.messages import Stop
from queuectl.requests import ConfigSet, ConfigUnset, DlqPurge, DlqRetry, Shutdown, WorkerStop
from queuectl.settings import DEFAULTS, SETTINGS, Value, check_relations, find_setting, parse_setting

JOBS_PER_SLICE = 200
_FAR = 2**62


# --- dead letters ----------------------------------------------------------------------------------


def dlq_retry(core: State, turn: Turn, by: Actor, args: DlqRetry) -> dict[str, Any]:
    """Dead jobs back to the queue with a fresh budget; their history stays."""
    meant, following = _dead(core, by, args)
    taken = again.keys_taken(core, meant)
    surplus = again.surplus(core, [job for job in meant if job.seq not in taken])
    refused = taken | surplus
    if refused and not args.all:
        raise next(iter(refused.values()))
    if surplus and len(refused) == len(meant):  # of all: as many as there is room for
        raise next(iter(surplus.values()))
    jobs = [job for job in meant if job.seq not in refused]
    again.revive(core, turn, list(enumerate(jobs)), again.Due(turn.now.wall_ms))
    again.note_retry(core, turn, by, jobs)
    for job in jobs:
        turn.log("info", "dlq_retried", job_id=job.id, by=by.name)
    skipped = [{"id": job.id, **refused[job.seq].to_wire()} for job in meant if job.seq in refused]
    return {"ids": [job.id for job in jobs], "next": following} | ({"skipped": skipped} if skipped else {})


def dlq_purge(core: State, turn: Turn, by: Actor, args: DlqPurge) -> dict[str, Any]:
    """Dead jobs are deleted, with their history and output."""
    jobs, following = _dead(core, by, args)
    deletion.delete(core, turn, jobs, by)
    for job in jobs:
        turn.log("info", "dlq_purged", job_id=job.id, by=by.name)
    return {"ids": [job.id for job in jobs], "next": following}


def _dead(core: State, by: Actor, args: DlqRetry) -> tuple[list[Known], int | None]:
    """The dead jobs that are meant: those named, all of which must be dead, or one slice of all."""
    if args.all == bool(args.ids):
        raise BadRequest("give either ids or all")
    if not args.all:
        return _named_dead(core, by, args.ids), None
    jobs = core.store.jobs.dead(_FAR if args.cursor is None else args.cursor, JOBS_PER_SLICE)
    return jobs, jobs[-1].seq if len(jobs) == JOBS_PER_SLICE else None


def _named_dead(core: State, by: Actor, ids: list[str]) -> list[Known]:
    jobs: dict[int, Known] = {}
    for found in find_many(core, ids, by).values():
        if isinstance(found, QueuectlError):
            raise found
        if STATES[found.state] is not JobState.DEAD:
            state = STATES[found.state].value
            raise WrongState(
                f"job '{found.id}' is {state}, not dead",
                hint="only dead jobs are in the dead letter queue; see: queuectl dlq list",
                details={"id": found.id, "state": state},
            )
        jobs[found.seq] = found
    return list(jobs.values())


# --- settings ----------------------------------------------------------------------------------------


def config_set(core: State, turn: Turn, by: Actor, args: ConfigSet) -> dict[str, Any]:
    """Change a setting, at once."""
    key, value = parse_setting(args.key, args.value)
    return _change(core, turn, by, key, value)


def config_unset(core: State, turn: Turn, by: Actor, args: ConfigUnset) -> dict[str, Any]:
    """A setting back to its default."""
    setting = find_setting(args.key)
    return _change(core, turn, by, setting.key, setting.default)


def _change(core: State, turn: Turn, by: Actor, key: str, value: Value) -> dict[str, Any]:
    check_relations({**core.settings, key: value})
    before = core.settings[key]
    if value == DEFAULTS[key]:
        core.store.ledger.unset_setting(key)
    else:
        core.store.ledger.set_setting(key, value)
    lease_ms = core.lease_ms
    core.settings[key] = value
    core.read_pace()
    if key in ("heartbeat", "lease"):
        sessions.retime(core, turn, lease_ms)
    turn.note(feed.SETTING_CHANGED, core.actor_number(by.name), key, value, before)
    turn.log("info", "setting_changed", key=key, value=value, before=before, by=by.name)
    return {"key": key, "value": value, "before": before, "per_job": SETTINGS[key].per_job}


# --- processes -----------------------------------------------------------------------------------------


def worker_stop(core: State, turn: Turn, by: Actor, args: WorkerStop) -> dict[str, Any]:
    """Tell workers to stop; the reply names them."""
    chosen = {holder.worker.name: holder for holder in core.holders.values()}
    if args.workers:
        boots = {holder.worker.boot: name for name, holder in chosen.items()}  # as jobs see it in their environment
        named = [boots.get(text) or _worker_named(set(chosen), text) for text in args.workers]
        chosen = {name: chosen[name] for name in named}
    farewells.remember(core, turn, chosen.values(), at_once=args.now)
    for name, holder in chosen.items():
        if holder.session is not None:  # one that is away is told when it is back
            turn.send(holder.session.route, Stop(holder.session.number, args.now))
            core.rooms.touch(holder.session)
        turn.log("info", "worker_told_to_stop", worker_id=name, now=args.now, by=by.name)
    return {"workers": sorted(chosen), "held": sum(len(holder.leases) for holder in chosen.values())}


def _worker_named(names: set[str], text: str) -> str:
    matches = [name for name in names if name == text] or [name for name in names if name.startswith(text)]
    if len(matches) != 1:
        problem = "there is no worker" if not matches else "more than one worker is"
        raise UnknownWorker(f"{problem} '{text}'", hint="see: queuectl worker list")
    return matches[0]


def shutdown(core: State, turn: Turn, by: Actor, args: Shutdown) -> dict[str, Any]:
    """Stop after this turn. Workers keep their jobs and look for the broker."""
    core.stopping = True
    turn.log("info", "shutdown_asked", by=by.name)
    return {"pid": core.identity.pid, "held": len(core.leases), "workers": len(core.sessions)}
