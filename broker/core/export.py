"""All that was asked for of jobs, so that they can be handed over again, here or elsewhere."""

from __future__ import annotations

from typing import Any

import msgpack

from broker.core.access import Actor
from broker.core.find import find_many
from broker.core.memory import rules_of
from broker.core.selection import FAR, filter_of
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import Candidate, Known
from queuectl.errors import QueuectlError
from queuectl.requests import Export

JOBS_PER_SLICE = 200
BYTES_PER_SLICE = 2**20  # of commands, environments and input; one job more may come on top
_PLAIN = ("command", "priority", "max_retries", "backoff_base", "backoff_max", "backoff_jitter", "output_limit")
_IF_THERE = ("cwd", "stdin")


def export(core: State, turn: Turn, by: Actor, args: Export) -> dict[str, Any]:
    """One slice of the jobs that are meant, as they were asked for."""
    jobs, following = _chosen(core, by, args)
    specs = core.store.jobs.specified((job.id for job in jobs), bytes_max=BYTES_PER_SLICE)
    if len(specs) < len(jobs):
        jobs = jobs[: len(specs)]
        following = jobs[-1].seq
    tags = core.store.changes.tags_of(job.seq for job in jobs)
    return {"jobs": [_fields(core, specs[job.id], tags.get(job.seq)) for job in jobs], "next": following}


def _chosen(core: State, by: Actor, args: Export) -> tuple[list[Known], int | None]:
    below = min(FAR if args.cursor is None else args.cursor, core.next_seq)
    if args.select.ids:
        found = find_many(core, list(dict.fromkeys(args.select.ids)), by).values()
        for job in found:
            if isinstance(job, QueuectlError):
                raise job
        jobs = [job for job in found if isinstance(job, Known) and job.seq < below]
        return sorted(jobs, key=lambda job: -job.seq), None
    wanted = filter_of(core, by, args.select)
    return ([], None) if wanted is None else core.store.listing.known(wanted, below_seq=below, limit=JOBS_PER_SLICE)


def _fields(core: State, spec: Candidate, tags: bytes | None) -> dict[str, Any]:
    """A job as `enqueue` takes it, without what was for one time only: its id, its time, its limits in time."""
    backoff, retry_on, no_retry_on = rules_of(spec.rules)
    fields: dict[str, Any] = {name: getattr(spec, name) for name in _PLAIN}
    fields |= {name: value for name in _IF_THERE if (value := getattr(spec, name)) is not None}
    fields |= {"queue": core.queues[spec.bucket], "on_lost": spec.on_lost, "keep_children": bool(spec.keep_children)}
    fields |= {"backoff": backoff} if backoff != "exp" else {}
    fields |= {name: codes for name, codes in (("retry_on", retry_on), ("no_retry_on", no_retry_on)) if codes}
    fields |= {"timeout": spec.timeout_ms / 1000} if spec.timeout_ms is not None else {}
    fields |= {"env": msgpack.unpackb(spec.env)} if spec.env is not None else {}
    fields |= {"tags": msgpack.unpackb(tags)} if tags is not None else {}
    return fields | {"retry_of": spec.id}
