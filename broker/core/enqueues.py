"""New jobs: read and checked one by one, stored as one set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import CODES, DUE_LATER, READY, STATES, JobRow, NewJob
from queuectl.errors import DiskFull, JobExists, QueuectlError
from queuectl.ids import job_id_of
from queuectl.jobs import DEFAULT_QUEUE, JobSpec, JobState, parse_job
from queuectl.requests import Enqueue
from queuectl.times import parse_rfc3339

_PENDING = CODES[JobState.PENDING]


@dataclass(slots=True)
class Wanted:
    """The jobs of one request: what was asked for, and what became of each."""

    specs: list[JobSpec | None]
    ids: list[str | None] = field(default_factory=list)
    errors: dict[int, QueuectlError] = field(default_factory=dict)

    def answer(self) -> dict[str, Any]:
        """The data of the reply."""
        errors = [{"index": index, **error.to_wire()} for index, error in sorted(self.errors.items())]
        return {"ids": self.ids, "errors": errors}


def read(core: State, args: Enqueue) -> Wanted:
    """Check each job of a request. What is wrong with one does not touch the others. Raises DiskFull."""
    if core.disk_low:
        raise DiskFull(hint="free some space where the database is; running jobs and results are not affected")
    wanted = Wanted([])
    for index, fields in enumerate(args.jobs):
        try:
            wanted.specs.append(parse_job(fields))
        except QueuectlError as error:
            wanted.specs.append(None)
            wanted.errors[index] = error
    wanted.ids = [None] * len(wanted.specs)
    return wanted


def is_repeat(core: State, args: Enqueue, ids: list[str | None]) -> bool:
    """Whether these are the jobs that got these ids before, as far as the store can still tell."""
    if len(args.jobs) != len(ids):
        return False
    known = core.store.jobs.known(job_id for job_id in ids if job_id is not None)
    return all(
        _is_job(core, fields, core.store.jobs.row(known[job_id].seq))
        for fields, job_id in zip(args.jobs, ids, strict=True)
        if job_id in known
    )


_AS_SAID = ("command", "priority", "on_lost", "keep_children", "cwd")
_IF_SAID = ("id", "max_retries", "backoff_base", "backoff_max", "backoff_jitter", "output_limit")  # else as it was set


def _is_job(core: State, fields: Any, row: JobRow) -> bool:
    """Whether what is asked for is this job; when it was to run is not compared."""
    try:
        spec = parse_job(fields)
    except QueuectlError:
        return False
    return (
        all(getattr(spec, name) == getattr(row, name) for name in _AS_SAID)
        and all(getattr(spec, name) in (None, getattr(row, name)) for name in _IF_SAID)
        and (spec.timeout is None or _timeout_ms(spec.timeout) == row.timeout_ms)
        and (spec.queue or DEFAULT_QUEUE) == core.queues[row.bucket]
        and (spec.env or {}) == (msgpack.unpackb(row.env) if row.env is not None else {})
    )


def _timeout_ms(timeout: float) -> int:
    return max(1, round(timeout * 1000))


def store(core: State, turn: Turn, requests: list[Wanted]) -> None:
    """Store the jobs of these requests, in order; ids in use are refused, each by itself."""
    todo = [
        (request, index, spec) for request in requests for index, spec in enumerate(request.specs) if spec is not None
    ]
    while todo:
        terms = _terms(core)
        jobs = [_new_job(core, turn, seq, spec, terms) for seq, (_, _, spec) in enumerate(todo, core.next_seq)]
        core.next_seq += len(jobs)
        refused = core.store.jobs.enqueue(jobs)
        again = []
        for job, (request, index, spec) in zip(jobs, todo, strict=True):
            if job.seq not in refused:
                request.ids[index] = job.id
            elif spec.id is None:
                again.append((request, index, spec))  # somebody gave another job the name that was its turn
            else:
                request.errors[index] = _exists(core, spec.id)
        _count(core, [job for job in jobs if job.seq not in refused] if refused else jobs)
        todo = again


def _count(core: State, jobs: list[NewJob]) -> None:
    for (bucket, ready), count in Counter((job.bucket, job.ready) for job in jobs).items():
        core.tally.add(bucket, _PENDING, count)
        if ready == READY:
            core.ready.add(bucket)
        else:
            core.wait_until(min(job.run_at_ms for job in jobs if job.ready == ready))


def _exists(core: State, job_id: str) -> QueuectlError:
    known = core.store.jobs.known([job_id])[job_id]
    state = STATES[known.state].value
    return JobExists(
        f"a job with id '{job_id}' exists already; it is {state}",
        hint=f"choose another id, or leave it out to get one; see: queuectl show {job_id}",
        details={"id": job_id, "state": state},
    )


class Terms(NamedTuple):
    """The settings of this moment that a job takes over where it leaves them open."""

    max_retries: Any
    backoff_base: Any
    backoff_max: Any
    backoff_jitter: Any
    timeout: Any
    output_limit: Any


def _terms(core: State) -> Terms:
    return Terms(*(core.settings[name] for name in Terms._fields))


def _new_job(core: State, turn: Turn, seq: int, spec: JobSpec, terms: Terms) -> NewJob:
    """The row of a new job."""
    now_ms = run_at_ms = turn.now.wall_ms
    if spec.run_at is not None:
        run_at_ms = parse_rfc3339(spec.run_at)
    elif spec.delay:
        run_at_ms += round(spec.delay * 1000)
    timeout = spec.timeout if spec.timeout is not None else terms.timeout
    return NewJob(
        spec.id if spec.id is not None else job_id_of(seq),
        core.bucket_of(spec.queue or DEFAULT_QUEUE),
        spec.priority,
        DUE_LATER if run_at_ms > now_ms else READY,
        run_at_ms,
        now_ms,
        seq,
        spec.command,
        spec.max_retries if spec.max_retries is not None else terms.max_retries,
        spec.backoff_base if spec.backoff_base is not None else terms.backoff_base,
        spec.backoff_max if spec.backoff_max is not None else terms.backoff_max,
        spec.backoff_jitter or terms.backoff_jitter,
        None if timeout is None else _timeout_ms(timeout),
        spec.output_limit if spec.output_limit is not None else terms.output_limit,
        spec.keep_children,
        msgpack.packb(spec.env) if spec.env else None,
        spec.cwd,
        spec.on_lost,
    )


def note(turn: Turn, request_id: str, wanted: Wanted) -> None:
    """Log what a request has brought."""
    stored = [(job_id, spec) for job_id, spec in zip(wanted.ids, wanted.specs, strict=True) if job_id and spec]
    if len(stored) == 1:
        [(job_id, spec)] = stored
        turn.log("info", "job_enqueued", job_id=job_id, queue=spec.queue or DEFAULT_QUEUE, request_id=request_id)
    elif stored:
        turn.log("info", "jobs_enqueued", count=len(stored), request_id=request_id)
    if wanted.errors:
        turn.log("info", "jobs_refused", count=len(wanted.errors), request_id=request_id)
