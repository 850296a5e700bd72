"""Jobs of which there is to be one at a time: what becomes of another that asks for the same key."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core import feed
from broker.core.access import Actor
from broker.core.endings import end_waiting
from broker.core.find import in_use, may_see
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import Event
from broker.store.rows import STATES, Known
from queuectl.errors import QueuectlError, UniqueKeyTaken
from queuectl.jobs import DEFAULT_QUEUE, JobSpec, JobState

REPLACED = "replaced"
WAITING = frozenset({JobState.PENDING, JobState.FAILED})


def rounds(places: Iterable[tuple[int, JobSpec]]) -> Iterable[list[tuple[int, JobSpec]]]:
    """Jobs in their order, in lists in which no key and no id occurs twice: each list can be looked at as one."""
    now: list[tuple[int, JobSpec]] = []
    names: set[tuple[str, str]] = set()
    for place, spec in places:
        own = {(kind, name) for kind, name in (("key", spec.unique), ("id", spec.id)) if name is not None}
        if own & names:
            yield now
            now, names = [], set()
        now.append((place, spec))
        names |= own
    yield now


def more(core: State, jobs: list[tuple[int, JobSpec]]) -> tuple[list[JobSpec], list[JobSpec]]:
    """Those of which there will be one job more, because their keys are free; and one more in their queue only:

    whoever has their key is replaced, and stands in another one.
    """
    holders = core.store.changes.holding({spec.unique for _, spec in jobs if spec.unique is not None})
    stays = {key for key, holder in holders.items() if STATES[holder.state] not in WAITING}  # nothing replaces these
    queue_of = {key: core.queues[holder.bucket] for key, holder in holders.items()}
    new: list[JobSpec] = []
    moved: list[JobSpec] = []
    for _, spec in jobs:
        key, queue = spec.unique, spec.queue or DEFAULT_QUEUE
        if key is None:
            new.append(spec)
        elif key not in queue_of:
            new.append(spec)
            queue_of[key] = queue
        elif spec.on_conflict == "replace" and key not in stays and queue_of[key] != queue:
            moved.append(spec)
            queue_of[key] = queue
    return new, moved


def settle(
    core: State, turn: Turn, by: Actor, jobs: list[tuple[int, JobSpec]]
) -> tuple[list[tuple[int, JobSpec]], dict[int, str], dict[int, QueuectlError]]:
    """Of jobs whose keys differ: those to be stored, the ids of those that are there, and what is wrong with others.

    Those that are to be replaced are over when this returns.
    """
    holders = core.store.changes.holding({spec.unique for _, spec in jobs if spec.unique is not None})
    new: list[tuple[int, JobSpec]] = []
    found: dict[int, str] = {}
    refused: dict[int, QueuectlError] = {}
    ids = core.store.jobs.known(spec.id for _, spec in jobs if spec.id is not None)
    for place, spec in jobs:
        holder = holders.get(spec.unique or "")
        if holder is None:
            new.append((place, spec))
        elif not may_see(core, by, holder):
            refused[place] = UniqueKeyTaken(f"the unique key '{spec.unique}' is in use", hint="choose another")
        elif spec.on_conflict == "return":
            found[place] = holder.id
        elif spec.on_conflict == "replace" and spec.id in ids:  # none is ended for one that cannot be stored
            refused[place] = in_use(core, str(spec.id), by)
        elif spec.on_conflict == "replace" and STATES[holder.state] in WAITING:
            end_waiting(core, turn, [holder], Event.CANCEL, REPLACED)
            core.store.history.note_deed([holder], turn.now.wall_ms, REPLACED, core.actor_number(by.name))
            turn.note(feed.REPLACED, holder.id, core.actor_number(by.name))
            turn.log("info", "job_cancelled", job_id=holder.id, reason=REPLACED, by=by.name)
            new.append((place, spec))
        else:
            refused[place] = _taken(spec, holder)
    return new, found, refused


def _taken(spec: JobSpec, holder: Known) -> UniqueKeyTaken:
    state = STATES[holder.state].value
    return UniqueKeyTaken(
        f"job '{holder.id}' has the unique key '{spec.unique}' already; it is {state}",
        hint=f"see: queuectl show {holder.id}",
        details={"id": holder.id, "state": state},
    )
