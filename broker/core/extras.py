"""What few jobs have: a unique key, tags, limits in time, rules of retries, input. Others pay nothing for it."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from broker.core.state import State
from broker.store.changes import Extras
from queuectl.jobs import JobSpec

_PLAIN = JobSpec(command="true")
_NAMES = (
    *("unique", "tags", "expires", "deadline"),
    *("backoff", "retry_on", "no_retry_on"),
    *("stdin", "retry_of"),
)


def has_extras(spec: JobSpec) -> bool:
    """Whether a job has any of this."""
    return any(getattr(spec, name) != getattr(_PLAIN, name) for name in _NAMES)


def add(core: State, now_ms: int, jobs: Iterable[tuple[int, JobSpec]]) -> None:
    """Write down what these jobs, which were just stored, have of this."""
    jobs = list(jobs)
    rows = [_extras(now_ms, seq, spec) for seq, spec in jobs]
    core.store.changes.add_extras(rows)
    core.store.changes.tag([(seq, spec.tags) for seq, spec in jobs if spec.tags])
    core.look_by(min((row.until_ms for row in rows if row.until_ms is not None), default=None))


def _extras(now_ms: int, seq: int, spec: JobSpec) -> Extras:
    expires_ms = None if spec.expires is None else now_ms + round(spec.expires * 1000)
    deadline_ms = None if spec.deadline is None else now_ms + round(spec.deadline * 1000)
    return Extras(
        seq=seq,
        until_ms=min((limit for limit in (expires_ms, deadline_ms) if limit is not None), default=None),
        unique_key=spec.unique,
        rules=rules_of(spec),
        tags=msgpack.packb(spec.tags) if spec.tags else None,
        expires_ms=expires_ms,
        deadline_ms=deadline_ms,
        stdin=spec.stdin,
        retry_of=spec.retry_of,
    )


def rules_of(spec: JobSpec) -> bytes | None:
    """Which failures are retried, and when, where that is not as it mostly is."""
    rules = (spec.backoff or "exp", spec.retry_on or [], spec.no_retry_on or [])
    return None if rules == ("exp", [], []) else msgpack.packb(rules)
