"""Which job is meant: an exact id, or the start of one that no other id has."""

from __future__ import annotations

from broker.core.state import State
from broker.store.rows import Known
from queuectl.errors import AmbiguousId, BadRequest, QueuectlError, UnknownJob
from queuectl.ids import JOB_ID
from queuectl.jobs import JobState
from queuectl.suggest import did_you_mean

_SHOWN = 5


def find(core: State, text: str) -> Known:
    """The job of an id or unique prefix. Raises UnknownJob or AmbiguousId."""
    found = find_many(core, [text])[text]
    if isinstance(found, QueuectlError):
        raise found
    return found


def find_many(core: State, texts: list[str]) -> dict[str, Known | QueuectlError]:
    """The job of each, or why there is none."""
    known = core.store.jobs.known(texts)
    return {text: known.get(text) or _by_prefix(core, text) for text in texts}


def _by_prefix(core: State, text: str) -> Known | QueuectlError:
    matches = core.store.jobs.prefixed(text, _SHOWN + 1) if JOB_ID.fullmatch(text) else []
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
