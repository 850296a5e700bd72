"""New jobs: read and checked one by one, stored as one set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgpack

from broker.core import extras, feed, unique
from broker.core.access import Actor
from broker.core.backlog import Backlog
from broker.core.find import in_use
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import CODES, DUE_LATER, HELD, READY, NewJob, NewSpec
from queuectl.errors import NotAllowed, QueuectlError, QueueFull
from queuectl.ids import job_ids
from queuectl.jobs import DEFAULT_QUEUE, JobSpec, JobState, in_common, parse_job, refuse_over_before
from queuectl.requests import Enqueue, SoundJobs
from queuectl.times import parse_rfc3339

EDITED = "edited"  # of the deeds of people
_PENDING = CODES[JobState.PENDING]
_OPEN = itemgetter("max_retries", "backoff_base", "backoff_max", "backoff_jitter", "timeout", "output_limit")
_BUCKET_AND_READY, _RUN_AT = itemgetter(1, 3), itemgetter(4)  # of a row


@dataclass(slots=True)
class Wanted:
    """The jobs of one request: what was asked for, and what became of each."""

    specs: Sequence[JobSpec | None]
    by: Actor
    ids: list[str | None] = field(default_factory=list)
    errors: dict[int, QueuectlError] = field(default_factory=dict)
    found: dict[int, str] = field(default_factory=dict)  # those that were there already, by their unique key

    @property
    def sound(self) -> list[tuple[int, JobSpec]]:
        """Those with nothing wrong, each with its place."""
        return [(place, spec) for place, spec in enumerate(self.specs) if spec is not None]

    @property
    def has_unique(self) -> bool:
        """Whether it matters to one of them which other jobs there are."""
        return any(spec is not None and spec.unique is not None for spec in self.specs)

    def settle(self, core: State, ids: list[str | None]) -> None:
        """Take the ids that its specs got; where there is none, it asked for one that is in use."""
        if not self.errors and None not in ids:
            self.ids = ids
            return
        self.ids = [None] * len(self.specs)
        for (index, spec), job_id in zip(self.sound, ids, strict=True):
            self.ids[index] = job_id
            if job_id is None:
                self.errors[index] = in_use(core, str(spec.id), self.by)

    def answer(self) -> dict[str, Any]:
        """The data of the reply."""
        errors = [{"index": index, **error.to_wire()} for index, error in sorted(self.errors.items())]
        return {"ids": self.ids, "errors": errors} | ({"found": sorted(self.found)} if self.found else {})


def read(args: Enqueue | SoundJobs, by: Actor, now_ms: int) -> Wanted:
    """The jobs of a request, each of them checked. What is wrong with one does not touch the others."""
    if isinstance(args, SoundJobs) and not by.queues.globs and all(spec.run_at is None for spec in args.jobs):
        return Wanted(args.jobs, by)
    specs: list[JobSpec | None] = []
    wanted = Wanted(specs, by)
    for index, fields in enumerate(args.jobs):
        try:
            spec = fields if isinstance(fields, JobSpec) else parse_job(fields)
            _refuse_queue(by, spec.queue or DEFAULT_QUEUE)
            _refuse_hopeless(spec, now_ms)
            specs.append(spec)
        except QueuectlError as error:
            specs.append(None)
            wanted.errors[index] = error
    return wanted


def _refuse_queue(by: Actor, queue: str) -> None:
    if not by.queues.has(queue):
        raise NotAllowed(
            f"'{by.name}' may not enqueue into '{queue}'", hint=f"its queues: {', '.join(by.queues.globs)}"
        )


def _refuse_hopeless(spec: JobSpec, now_ms: int) -> None:
    """A job whose time is over before it comes. (One with a delay was looked at by `parse_job`.)"""
    if spec.run_at is not None:
        refuse_over_before(spec, (parse_rfc3339(spec.run_at) - now_ms) / 1000, f"run_at {spec.run_at}")


def timeout_ms_of(timeout: float | None) -> int | None:
    """A time-out in seconds, as the store has it."""
    return None if timeout is None else max(1, round(timeout * 1000))


class Batch:
    """The jobs of requests that came together, stored in their order; ids in use are refused, each by itself."""

    def __init__(self, core: State, turn: Turn) -> None:
        self._core = core
        self._turn = turn
        self._backlog = Backlog(core)
        self._plain: list[Wanted] = []  # not stored yet: neighbours are stored in one go

    def take(self, wanted: Wanted) -> None:
        """Store the jobs of a request, by the next `store` at the latest. Raises QueueFull, then none of them is."""
        if not wanted.has_unique:
            self._make_room(wanted)
            self._plain.append(wanted)
            return
        self.store()  # its keys may be those of jobs before it
        self._backlog.take(*map(_queues, unique.more(self._core, wanted.sound)))
        _store_unique(self._core, self._turn, wanted)

    def _make_room(self, wanted: Wanted) -> None:
        """A job whose id is in use needs none, whatever else is to be told of it."""
        specs = [spec for spec in wanted.specs if spec is not None]
        try:
            self._backlog.take(_queues(specs))
        except QueueFull:
            self.store()
            taken = self._core.store.jobs.known(spec.id for spec in specs if spec.id is not None)
            if not taken:
                raise
            self._backlog.take(_queues(spec for spec in specs if spec.id not in taken))

    def store(self) -> None:
        """Store what is taken and not stored yet."""
        if self._plain:
            _store_all(self._core, self._turn, self._plain)
            self._plain = []


def _queues(specs: Iterable[JobSpec]) -> Counter[str]:
    """How many of them there are for each queue."""
    return Counter(spec.queue or DEFAULT_QUEUE for spec in specs)


def _store_all(core: State, turn: Turn, requests: Sequence[Wanted]) -> None:
    specs = [spec for wanted in requests for spec in wanted.specs if spec is not None]
    actors: list[int] = []
    for wanted in requests:
        actors += [core.actor_number(wanted.by.name)] * (len(wanted.specs) - len(wanted.errors))
    ids = _insert_named(core, turn, specs, actors)
    start = 0
    for wanted in requests:
        end = start + len(wanted.specs) - len(wanted.errors)
        wanted.settle(core, ids[start:end])
        start = end


def _store_unique(core: State, turn: Turn, wanted: Wanted) -> None:
    """The jobs of a request, each as its key allows."""
    wanted.ids = [None] * len(wanted.specs)
    actor = core.actor_number(wanted.by.name)
    for jobs in unique.rounds(wanted.sound):
        new, found, refused = unique.settle(core, turn, wanted.by, jobs)
        wanted.found |= found
        wanted.errors |= refused
        ids = _insert_named(core, turn, [spec for _, spec in new], [actor] * len(new))
        for (place, spec), job_id in zip(new, ids, strict=True):
            found[place] = job_id or ""
            if job_id is None:
                wanted.errors[place] = in_use(core, str(spec.id), wanted.by)
        for place, job_id in found.items():
            wanted.ids[place] = job_id or None


def _insert_named(core: State, turn: Turn, specs: list[JobSpec], actors: list[int]) -> list[str | None]:
    """Store jobs under the ids that they ask for or get; None where an id that was asked for is in use."""
    ids = _insert(core, turn, specs, actors) if specs else []
    while again := _again(specs, ids):
        found = _insert(core, turn, [specs[place] for place in again], [actors[place] for place in again])
        for place, job_id in zip(again, found, strict=True):
            ids[place] = job_id
    return ids


def _again(specs: list[JobSpec], ids: list[str | None]) -> list[int]:
    """The places of those whose turn it was to get a name that somebody gave another job."""
    if None not in ids:
        return []
    return [place for place, spec in enumerate(specs) if ids[place] is None and spec.id is None]


def _insert(core: State, turn: Turn, specs: list[JobSpec], actors: list[int]) -> list[str | None]:
    """Store jobs; the id of each, None where it is in use."""
    jobs, rest, special = _rows(core, turn, specs, actors)
    core.next_seq += len(jobs)
    refused = core.store.jobs.enqueue(jobs, rest)
    if special:
        extras.add(core, turn.now.wall_ms, [(seq, spec) for seq, spec in special if seq not in refused])
    feed.note_enqueued(turn, jobs, specs, actors, refused)
    _count(core, [job for job in jobs if job[-1] not in refused] if refused else jobs)
    return [None if job[-1] in refused else job[0] for job in jobs]


def _rows(
    core: State, turn: Turn, specs: Sequence[JobSpec], actors: Sequence[int]
) -> tuple[list[NewJob], list[NewSpec], list[tuple[int, JobSpec]]]:
    """The rows of new jobs, and those of which that is not all. What neighbours have in common is worked out once."""
    now_ms, first = turn.now.wall_ms, core.next_seq
    jobs: list[NewJob] = []
    rest: list[NewSpec] = []
    special: list[tuple[int, JobSpec]] = []
    known: tuple[Any, ...] | None = None
    seqs = range(first, first + len(specs))
    for seq, job_id, spec, actor in zip(seqs, job_ids(first, len(specs)), specs, actors, strict=True):
        if (common := in_common(spec)) != known:
            known, is_special = common, extras.has_extras(spec)
            (bucket, priority, ready, run_at_ms), terms = _place(core, now_ms, spec), _terms(core, spec)
        jobs.append((spec.id or job_id, bucket, priority, ready, run_at_ms, now_ms, seq))
        rest.append((seq, spec.command, *terms, actor, core.next_event))
        if is_special:
            special.append((seq, spec))
    return jobs, rest, special


def _place(core: State, now_ms: int, spec: JobSpec) -> tuple[int, int, int, int]:
    """Where a new job stands: its bucket, its priority, whether it is ready, and when it is to run."""
    run_at_ms = now_ms
    if spec.run_at is not None:
        run_at_ms = parse_rfc3339(spec.run_at)
    elif spec.delay:
        run_at_ms += round(spec.delay * 1000)
    ready = HELD if spec.hold else DUE_LATER if run_at_ms > now_ms else READY
    return core.bucket_of(spec.queue or DEFAULT_QUEUE), spec.priority, ready, run_at_ms


def _terms(core: State, spec: JobSpec) -> tuple[Any, ...]:
    """The rest of a new job's spec; what it leaves open is as the settings are now."""
    max_retries, backoff_base, backoff_max, backoff_jitter, timeout, output_limit = _OPEN(core.settings)
    if spec.timeout is not None:
        timeout = spec.timeout
    return (
        spec.max_retries if spec.max_retries is not None else max_retries,
        spec.backoff_base if spec.backoff_base is not None else backoff_base,
        spec.backoff_max if spec.backoff_max is not None else max(backoff_max, *_waits(spec)),
        spec.backoff_jitter or backoff_jitter,
        timeout_ms_of(timeout),
        spec.output_limit if spec.output_limit is not None else output_limit,
        int(spec.keep_children),
        msgpack.packb(spec.env) if spec.env else None,
        spec.cwd,
        spec.on_lost,
    )


def _waits(spec: JobSpec) -> Sequence[float]:
    """The waits that a job names itself: where it names no longest one, they are not cut to that of the settings."""
    if isinstance(spec.backoff, list):
        return spec.backoff
    return (spec.backoff_base or 0.0,) if spec.backoff in ("fixed", "linear") else (0.0,)


def _count(core: State, jobs: Iterable[NewJob]) -> None:
    for (bucket, ready), group in groupby(jobs, _BUCKET_AND_READY):
        alike = list(group)
        core.tally.add(bucket, _PENDING, len(alike))
        if ready == READY:
            core.ready.add(bucket)
        elif ready == DUE_LATER:
            core.wait_until(min(map(_RUN_AT, alike)))


def note(turn: Turn, request_id: str, wanted: Wanted) -> None:
    """Log what a request has brought."""
    count = len(wanted.ids) - wanted.ids.count(None) - len(wanted.found)
    keys = {"request_id": request_id, "by": wanted.by.name}
    if count == 1:
        [(job_id, spec)] = [
            (job_id, spec)
            for place, (job_id, spec) in enumerate(zip(wanted.ids, wanted.specs, strict=True))
            if job_id and spec and place not in wanted.found
        ]
        turn.log("info", "job_enqueued", job_id=job_id, queue=spec.queue or DEFAULT_QUEUE, **keys)
    elif count:
        turn.log("info", "jobs_enqueued", count=count, **keys)
    if wanted.errors:
        turn.log("info", "jobs_refused", count=len(wanted.errors), **keys)
