"""Which jobs a request means: named ones, or those that have something in common, a slice at a time."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from broker.core.access import SUBMIT, Actor
from broker.core.find import find_many, parse_state
from broker.core.state import State
from broker.store.listing import Filter
from broker.store.rows import CODES, STATES, Known
from queuectl.errors import BadRequest, QueuectlError, WrongState
from queuectl.jobs import TERMINAL, JobState
from queuectl.requests import UNFINISHED, Select
from queuectl.where import parse_condition

FAR = 2**62
CHANGED_PER_SLICE = 200  # jobs; each is some statements
SHOWN_PER_SLICE = 2000  # where nothing is changed
_NOBODY = 0  # no actor has this number
_UNFINISHED = frozenset(JobState) - TERMINAL


class Request(Protocol):
    """What a change of selected jobs has in common with the others."""

    @property
    def select(self) -> Select: ...
    @property
    def cursor(self) -> int | None: ...
    @property
    def dry(self) -> bool: ...


class Chosen(NamedTuple):
    """One slice of the jobs that are meant."""

    jobs: list[Known]
    skipped: list[dict[str, Any]]  # named ones that this cannot be done to, and why
    following: int | None  # where the next slice begins; None: that was all

    def answer(self, **more: Any) -> dict[str, Any]:
        """The data of the reply."""
        return {"ids": [job.id for job in self.jobs], **more, "skipped": self.skipped, "next": self.following}

    def without(self, refused: dict[int, QueuectlError]) -> Chosen:
        """The same but for these (by seq), which are skipped."""
        skipped = [{"id": job.id, **refused[job.seq].to_wire()} for job in self.jobs if job.seq in refused]
        return Chosen([job for job in self.jobs if job.seq not in refused], self.skipped + skipped, self.following)


def choose(
    core: State, by: Actor, args: Request, states: AbstractSet[JobState], verb: str, *, held: bool | None = None
) -> Chosen:
    """The jobs that are meant, of those in a state in which this can be done. `verb`: what is done, as in `held`.

    `held`: of jobs that are not named, only those that are held, or are not.
    """
    if args.select.ids:
        return _named(core, by, args.select, states, verb)
    wanted = filter_of(core, by, args.select, states, verb)
    if wanted is None:
        return Chosen([], [], None)
    wanted = replace(wanted, held=held)
    below = min(FAR if args.cursor is None else args.cursor, core.next_seq)
    limit = SHOWN_PER_SLICE if args.dry else CHANGED_PER_SLICE
    jobs, following = core.store.listing.known(wanted, below_seq=below, limit=limit)
    return Chosen(jobs, [], following)


def _named(core: State, by: Actor, select: Select, states: AbstractSet[JobState], verb: str) -> Chosen:
    if select != Select(ids=select.ids):
        raise BadRequest("select: ids stand alone", hint="name jobs, or say what they have in common")
    jobs: dict[int, Known] = {}
    skipped = []
    for text, found in find_many(core, list(dict.fromkeys(select.ids)), by).items():
        if isinstance(found, Known) and STATES[found.state] not in states:
            skipped.append({"id": found.id, **wrong_state(found, verb).to_wire()})
        elif isinstance(found, Known):
            jobs[found.seq] = found
        else:
            skipped.append({"id": text, **found.to_wire()})
    return Chosen(list(jobs.values()), skipped, None)


def wrong_state(job: Known, verb: str) -> WrongState:
    """This cannot be done to a job in the state in which it is."""
    state = STATES[job.state].value
    return WrongState(f"job '{job.id}' is {state}: it cannot be {verb}", details={"id": job.id, "state": state})


def filter_of(
    core: State, by: Actor, select: Select, states: AbstractSet[JobState] | None = None, verb: str = ""
) -> Filter | None:
    """What jobs must have in common; None: there can be none. Raises BadRequest, WrongState."""
    if select.state == UNFINISHED:
        states = _UNFINISHED & states if states is not None else _UNFINISHED
        if not states:
            raise WrongState(f"jobs that are not over cannot be {verb}")
    elif select.state is not None:
        state = parse_state(select.state)
        if states is not None and state not in states:
            raise WrongState(f"jobs that are {state} cannot be {verb}")
        states = {state}
    conditions = tuple(parse_condition(text) for text in select.where)
    if select.queue is not None and select.queue not in core.buckets:
        return None
    return Filter(
        states=None if states is None else frozenset(CODES[state] for state in states),
        bucket=None if select.queue is None else core.buckets[select.queue],
        owner=core.actors.get(by.name, _NOBODY) if by.role == SUBMIT else None,
        tags=tuple(_tag(text) for text in select.tags),
        conditions=conditions,
        since_ms=select.since,
        unserved=_unserved(core) if any(condition.field == "reason" for condition in conditions) else frozenset(),
    )


def _unserved(core: State) -> frozenset[int]:
    """The buckets of which no worker takes anything new, as jobs are shown."""
    served = {session.queues for session in core.sessions.values() if session.is_working}
    return frozenset(
        bucket for queue, bucket in core.buckets.items() if not any(queues.has(queue) for queues in served)
    )


def _tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value
