"""Whether an enqueue that comes again is the same one: it is compared with the jobs that it brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from broker.core.asks import RETRIED
from broker.core.enqueues import EDITED, timeout_ms_of
from broker.core.extras import rules_of
from broker.core.state import State
from broker.store.changes import Particulars
from broker.store.rows import Candidate
from queuectl.jobs import DEFAULT_QUEUE, JobSpec

_CHANGED = frozenset({EDITED, RETRIED})  # deeds after which a job is not what was asked for
_AS_SAID = ("command", "priority", "on_lost", "keep_children", "cwd", "stdin")
_IF_SAID = ("id", "max_retries", "backoff_base", "backoff_max", "backoff_jitter", "output_limit")  # else as it was set


def is_repeat(core: State, specs: Sequence[JobSpec | None], answer: dict[str, Any]) -> bool:
    """Whether these are the jobs that were answered so before, as far as the store can still tell.

    When they were to run is not compared, and of a job that was changed since or deleted, nothing is.
    """
    ids, found = answer["ids"], set(answer.get("found", ()))
    if len(specs) != len(ids):
        return False
    stored = core.store.jobs.specified(job_id for job_id in ids if job_id is not None)
    particulars = core.store.changes.particulars(job.seq for job in stored.values())
    return all(
        spec is not None
        and _is_job(core, spec, stored[job_id], particulars[stored[job_id].seq], was_found=place in found)
        for place, (spec, job_id) in enumerate(zip(specs, ids, strict=True))
        if job_id in stored
    )


def _is_job(core: State, spec: JobSpec, row: Candidate, few: Particulars, *, was_found: bool) -> bool:
    if was_found:  # another's job, which had the same key
        return spec.unique == few.unique_key
    return (_has_terms(core, spec, row) and _has_particulars(spec, few)) or _was_changed(core, row.seq)


def _was_changed(core: State, seq: int) -> bool:
    return any(deed.action in _CHANGED for deed in core.store.history.deeds(seq))


def _has_terms(core: State, spec: JobSpec, row: Candidate) -> bool:
    return (
        all(getattr(spec, name) == getattr(row, name) for name in _AS_SAID)
        and all(getattr(spec, name) in (None, getattr(row, name)) for name in _IF_SAID)
        and (spec.timeout is None or timeout_ms_of(spec.timeout) == row.timeout_ms)
        and (spec.queue or DEFAULT_QUEUE) == core.queues[row.bucket]
        and (spec.env or {}) == _unpacked(row.env)
        and rules_of(spec) == row.rules
    )


def _has_particulars(spec: JobSpec, few: Particulars) -> bool:
    return (
        (spec.unique, spec.retry_of) == (few.unique_key, few.retry_of)
        and (spec.tags or {}) == _unpacked(few.tags)
        and _in_ms(spec.expires) == few.expires_in_ms
        and _in_ms(spec.deadline) == few.deadline_in_ms
    )


def _unpacked(packed: bytes | None) -> Any:
    return {} if packed is None else msgpack.unpackb(packed)


def _in_ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
