"""Which job is meant: an exact id, or the start of one that no other id has."""

from __future__ import annotations

from collections.abc import Collection

from broker.core.access import SUBMIT, Actor
from broker.core.state import State
from broker.store.rows import STATES, Known
from queuectl.errors import AmbiguousId, BadRequest, JobExists, QueuectlError, UnknownJob
from queuectl.ids import JOB_ID
from queuectl.jobs import JobState
from queuectl.suggest import did_you_mean

LOOKED_THROUGH = 50  # ids of all owners, for the few that somebody may see
_SHOWN = 5


def find(core: State, text: str, by: Actor) -> Known:
    """The job of an id or unique prefix, of those that somebody may see. Raises UnknownJob or AmbiguousId."""
    found = find_many(core, [text], by)[text]
    if isinstance(found, QueuectlError):
        raise found
    return found


def find_many(core: State, texts: list[str], by: Actor) -> dict[str, Known | QueuectlError]:
    """The job of each, or why there is none. Jobs that somebody may not see are not there for it."""
    known = {job.id: job for job in _visible(core, by, core.store.jobs.known(texts).values())}
    return {text: known.get(text) or _by_prefix(core, text, by) for text in texts}


def may_see(core: State, by: Actor, job: Known) -> bool:
    """Whether a job is there for somebody."""
    return bool(_visible(core, by, [job]))


def in_use(core: State, job_id: str, by: Actor) -> QueuectlError:
    """What is to be said to one who wants an id for a new job that another job has."""
    known = find_many(core, [job_id], by)[job_id]
    if isinstance(known, QueuectlError):  # somebody else's, who is no business of this one
        return JobExists(f"the id '{job_id}' is in use", hint="choose another, or leave it out to get one")
    state = STATES[known.state].value
    return JobExists(
        f"a job with id '{job_id}' exists already; it is {state}",
        hint=f"choose another id, or leave it out to get one; see: queuectl show {job_id}",
        details={"id": job_id, "state": state},
    )


def _visible(core: State, by: Actor, jobs: Collection[Known]) -> Collection[Known]:
    if by.role != SUBMIT:
        return jobs
    own = core.actors.get(by.name)
    if own is None:  # it has never done anything; jobs from before version 4 have no owner either
        return []
    owners = core.store.jobs.owners(job.seq for job in jobs)
    return [job for job in jobs if owners[job.seq] == own]


def _by_prefix(core: State, text: str, by: Actor) -> Known | QueuectlError:
    is_like_one = JOB_ID.fullmatch(text) is not None
    most = LOOKED_THROUGH if by.role == SUBMIT else _SHOWN + 1
    found = core.store.jobs.prefixed(text, most) if is_like_one else []
    if by.role == SUBMIT and len(found) == most:
        return UnknownJob(f"there is no job '{text}'", hint="write the whole id", details={"id": text})
    matches = list(_visible(core, by, found))
    if len(matches) == 1:
        return matches[0]
    if not matches:
        return UnknownJob(f"there is no job '{text}'", hint="see: queuectl list", details={"id": text})
    names = ", ".join(known.id for known in matches[:_SHOWN]) + (" …" if len(matches) > _SHOWN else "")
    return AmbiguousId(f"'{text}' could be {names}", hint="write more of the id", details={"id": text})


def parse_state(text: str) -> JobState:
    """The state of this name. Raises BadRequest."""
    try:
        return JobState(text)
    except ValueError:
        hint = did_you_mean(text, list(JobState)) or f"known: {', '.join(JobState)}"
        raise BadRequest(f"unknown state '{text}'", hint=hint) from None
