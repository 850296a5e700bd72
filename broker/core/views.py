"""How jobs, attempts and workers look to clients: the JSON shapes of the command line, on the wire."""

from __future__ import annotations

from typing import Any

import msgpack

from broker.core.memory import Holder, Lease, rules_of
from broker.core.state import State
from broker.store.history import AttemptView, DeedView
from broker.store.rows import DUE_LATER, HELD, STATES, EndingRow, JobRow
from queuectl.ids import lease_text
from queuectl.jobs import JobState
from queuectl.times import rfc3339

_OF_ALL_EVENTS = dict.fromkeys(("job_id", "attempt", "worker", "by"))


def job(core: State, row: JobRow) -> dict[str, Any]:
    """A job. Only the names of its environment are told: the values may be secrets."""
    state = STATES[row.state]
    backoff, retry_on, no_retry_on = rules_of(row.rules)
    return {
        "id": row.id,
        "command": row.command,
        "state": state.value,
        "reason": _reason(core, state, row),
        "queue": core.queues[row.bucket],
        "priority": row.priority,
        "attempt": row.attempt,
        "attempts": row.attempts,
        "losses": row.losses,
        "max_retries": row.max_retries,
        "backoff_base": _tidy(row.backoff_base),
        "backoff_max": _tidy(row.backoff_max),
        "backoff_jitter": row.backoff_jitter,
        "timeout": None if row.timeout_ms is None else row.timeout_ms / 1000,
        "exit_code": row.exit_code,
        "signal": row.signal,
        "run_at": rfc3339(row.run_at_ms),
        "created_at": rfc3339(row.created_at_ms),
        "updated_at": rfc3339(row.updated_at_ms),
        "finished_at": None if row.finished_at_ms is None else rfc3339(row.finished_at_ms),
        "worker": row.worker,
        "cwd": row.cwd,
        "env": sorted(env_values(row)),
        "on_lost": row.on_lost,
        "keep_children": bool(row.keep_children),
        "output_limit": row.output_limit,
        "last_line": row.last_line or "",
        "enqueued_by": core.actor_name(row.enqueued_by),
        "tags": msgpack.unpackb(row.tags) if row.tags is not None else {},
        "unique": row.unique_key,
        "held": row.ready == HELD,
        "cancelling": row.cancelling is not None,
        "expires_at": None if row.expires_ms is None else rfc3339(row.expires_ms),
        "deadline_at": None if row.deadline_ms is None else rfc3339(row.deadline_ms),
        "backoff": backoff,
        "retry_on": retry_on,
        "no_retry_on": no_retry_on,
        "retry_of": row.retry_of,
        "stdin_bytes": row.stdin_bytes,
    }


def env_values(row: JobRow) -> dict[str, str]:
    """The environment of a job with its values: for those who may see secrets."""
    values: dict[str, str] = msgpack.unpackb(row.env) if row.env is not None else {}
    return values


def deed(core: State, entry: DeedView) -> dict[str, Any]:
    """What somebody did to a job."""
    who = core.actor_name(entry.actor)
    return {"at": rfc3339(entry.at_ms), "by": who, "action": entry.action, "note": entry.note}


def event(at_ms: int, kind: str, fields: dict[str, Any], *, cursor: tuple[int, int] | None = None) -> dict[str, Any]:
    """Something that has happened, with `fields` of its kind. `cursor`: where the feed goes on after it."""
    return {"at": rfc3339(at_ms), "type": kind, **_OF_ALL_EVENTS, **fields, "cursor": cursor}


def _reason(core: State, state: JobState, row: JobRow) -> str | None:
    """Why a job stands where it stands. What depends on the moment is computed, never stored."""
    if row.ready == HELD:
        return "held"
    if state is JobState.PENDING and row.ready == DUE_LATER:
        return "delayed"
    if state is JobState.FAILED and row.ready == DUE_LATER:
        return "backoff"
    if state in (JobState.PENDING, JobState.FAILED):
        queue = core.queues[row.bucket]
        served = any(session.serves(queue) and session.is_working for session in core.sessions.values())
        return row.reason if served else "no_worker"
    return row.reason


def ending(row: EndingRow) -> dict[str, Any]:
    """How a job has ended, or where it stands, in as few words as those need who wait for it."""
    return {
        "id": row.id,
        "state": STATES[row.state].value,
        "exit_code": row.exit_code,
        "signal": row.signal,
        "reason": row.reason,
    }


def _tidy(number: float) -> float:
    return int(number) if number == int(number) else number


def attempt(entry: AttemptView) -> dict[str, Any]:
    """An attempt that has ended."""
    return {
        "attempt": entry.attempt,
        "worker": entry.worker,
        "started_at": rfc3339(entry.started_at_ms),
        "finished_at": rfc3339(entry.finished_at_ms),
        "duration_s": entry.duration_ms / 1000,
        "outcome": entry.outcome,
        "exit_code": entry.exit_code,
        "signal": entry.signal,
        "stdout_bytes": entry.stdout_bytes,
        "stderr_bytes": entry.stderr_bytes,
        "last_line": entry.last_line,
        "note": entry.note,
        "lease": lease_text(entry.lease),
    }


def running(lease: Lease) -> dict[str, Any]:
    """The attempt that a worker holds now."""
    return {
        "attempt": lease.attempt,
        "worker": lease.holder.worker.name,
        "started_at": rfc3339(lease.granted_at_ms),
        "finished_at": None,
        "duration_s": None,
        "outcome": None,
        "exit_code": None,
        "signal": None,
        "stdout_bytes": None,
        "stderr_bytes": None,
        "last_line": "",
        "note": "",
        "lease": lease_text(lease.lease),
    }


def worker(core: State, holder: Holder, mono_ms: int) -> dict[str, Any]:
    """A worker, connected or not, that holds leases or could."""
    session = holder.session
    return {
        "id": holder.worker.name,
        "host": holder.worker.host,
        "pid": holder.worker.pid,
        "slots": holder.worker.slots,
        "busy": min(len(holder.leases), holder.worker.slots),
        "state": _worker_state(holder),
        "last_seen_s": max(0, mono_ms - holder.heard_ms) / 1000,
        "queues": sorted(session.queues.names) if session is not None else [],
        "key": core.actor_name(holder.worker.actor),
        "version": holder.worker.software,
        "boot": holder.worker.boot,
    }


def _worker_state(holder: Holder) -> str:
    session = holder.session
    if session is None:
        return "away"
    if session.silent:
        return "silent"
    if not session.is_working:
        return "draining"
    return "busy" if len(holder.leases) >= session.slots else "idle" if not holder.leases else "running"
