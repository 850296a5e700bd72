"""The Python client: enqueue jobs and ask about them from any program. It blocks, and belongs to one thread.

    with Client() as client:
        job_id = client.enqueue("echo hello", priority=5)
        client.wait([job_id])

Every call raises a QueuectlError: BrokerUnreachable if nothing was sent, OutcomeUnknown if a request was sent
and no reply came (repeating with its request id is safe), else the error that the broker answered with. Jobs are
plain dicts with the keys of `queuectl list --json`: times are RFC 3339 in UTC, durations are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from queuectl.config import Config, load_config
from queuectl.errors import BadJob, BadRequest, QueuectlError, from_wire
from queuectl.following import Follows
from queuectl.home import Home, find_home
from queuectl.ids import new_request_id
from queuectl.link import Begun, Link, Reply
from queuectl.packed import pack
from queuectl.verbs import Verbs, selection
from queuectl.waiting import Waits
from queuectl.ways import IPC, Ways, ways_of

if TYPE_CHECKING:
    from queuectl.feed import Event
    from queuectl.jobs import JobSpec

REPLY_TIMEOUT_S = 5.0  # for each of four tries
JOBS_PER_REQUEST = 1000
REQUEST_BYTES = 2**20  # of jobs in one request: one transaction of the broker stays short
ROWS_PER_REPLY = 500

JobView = dict[str, Any]
JobInput: TypeAlias = "str | Mapping[str, Any] | JobSpec"
Ids = list[str]


@dataclass(frozen=True, slots=True)
class JobRefused:
    """One job of many that was not stored: its place among those given, from 0, and why."""

    index: int
    error: QueuectlError


@dataclass(slots=True)
class EnqueueResult:
    """What became of many jobs: an id or None for each in the order given, and the errors of those refused.

    `repeated` counts jobs that an earlier call with the same request id had stored; `found` are the places of jobs
    that were there already, by their unique key.
    """

    ids: list[str | None] = field(default_factory=list)
    errors: list[JobRefused] = field(default_factory=list)
    repeated: int = 0
    found: list[int] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return len(self.ids) - self.ids.count(None)


class Client(Follows, Verbs, Waits):
    """A connection to one broker. Connects on the first request; close it, or use it in a with statement.

    `endpoint` is `local`, `tcp://HOST:PORT` (of the workers' port, as in the configuration) or the `ipc://PATH` of
    a client socket; `credentials` is the file that lets one in at a broker on another machine, and `context` the name
    of one that `queuectl context` keeps. What is left out, the configuration of `home` says. `timeout` is the seconds
    to wait for each reply. Raises BadConfig, BadCredentials, NotAllowed.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        credentials: Path | str | None = None,
        context: str | None = None,
        home: Home | Path | str | None = None,
        timeout: float = REPLY_TIMEOUT_S,
    ) -> None:
        self.timeout = timeout
        if endpoint is not None and endpoint.startswith(IPC):
            self._link = Link(Ways([endpoint]))
            return
        place = home if isinstance(home, Home) else find_home(None if home is None else str(home))
        flags = {"endpoint": endpoint, "credentials": credentials, "context": context}
        self._link = Link(ways_of(load_config(place, flags), place, for_workers=False))

    @classmethod
    def of(cls, config: Config, home: Home, *, timeout: float = REPLY_TIMEOUT_S) -> Client:
        """A client of the broker that this configuration names. Raises BadCredentials, NotAllowed."""
        client = cls.__new__(cls)
        client.timeout = timeout
        client._link = Link(ways_of(config, home, for_workers=False))
        return client

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return self._link.endpoint

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        self._link.close()

    def connect(self) -> bool:
        """Connect now rather than on the first request; False if nobody listens at the endpoint.

        Raises BrokerUnreachable where somebody does, but does not answer, and NotAllowed.
        """
        return self._link.connect()

    def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send one operation of `docs/protocol.md` and return its reply.

        A request id (8 to 64 of A-Z a-z 0-9 . _ : -) makes a changing operation safe to repeat for 24 hours.
        """
        return self.exchange(op, args, request_id=request_id, timeout=timeout).value

    def exchange(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Do what `request` does, and return the reply together with how it came about."""
        return self.finish(self.begin(op, args, request_id=request_id), timeout=timeout)

    def begin(self, op: str, args: Mapping[str, Any] | None = None, *, request_id: str | None = None) -> Begun:
        """Send a request and return without its reply, so that the next one can be prepared meanwhile.

        `finish` gets the reply; until then nothing else may be asked. Raises BrokerUnreachable.
        """
        begun = self.prepare(op, args, request_id=request_id)
        self._link.send(begun)
        return begun

    def prepare(self, op: str, args: Mapping[str, Any] | None = None, *, request_id: str | None = None) -> Begun:
        """Make a request ready, as `begin` does, but do not send it yet. Raises BadRequest, TooLarge."""
        return self._link.prepare(op, dict(args or {}), request_id=request_id or new_request_id())

    def send(self, begun: Begun) -> None:
        """Send what was prepared. Raises BrokerUnreachable."""
        self._link.send(begun)

    def finish(self, begun: Begun, *, timeout: float | None = None, until: float = math.inf) -> Reply:
        """Wait for the reply to what was begun, and return it together with how it came about.

        It goes out again where no reply comes within `timeout` seconds, a few times, but not after `until` (monotonic).
        """
        return self._link.finish(begun, timeout_s=self.timeout if timeout is None else timeout, until=until)

    def ping(self) -> dict[str, Any]:
        """Who answers: `broker` (its id), `version`, `pid`, `epoch`, `time` (RFC 3339), `data_dir`."""
        return self.request("ping")

    # --- jobs ------------------------------------------------------------------------------------

    def enqueue(self, job: JobInput, *, request_id: str | None = None, **fields: Any) -> str:
        """Store one job, given as shell text or as a mapping with a command, and return its id.

        Fields are those of JobSpec: `priority`, `queue`, `id`, `timeout` and `delay` in seconds, and so on.
        Raises BadJob, JobExists, DiskFull.
        """
        reply = self.request("enqueue", {"jobs": [{**_fields(job), **fields}]}, request_id=request_id)
        if reply["errors"]:
            raise from_wire(reply["errors"][0])
        return str(reply["ids"][0])

    def enqueue_many(self, jobs: Iterable[JobInput], *, request_id: str | None = None) -> EnqueueResult:
        """Store any number of jobs, in requests of up to 1000. Those refused are named in the result.

        Repeating the whole call with the same jobs and request id stores nothing twice.
        """
        result = EnqueueResult()
        request_id = request_id or new_request_id()
        for number, chunk in enumerate(_chunks(jobs)):
            try:
                reply = self.exchange("enqueue", {"jobs": chunk}, request_id=_derived(request_id, number))
            except QueuectlError as error:
                error.details = {**error.details, "request_id": request_id, "accepted": result.accepted}
                raise
            start = len(result.ids)
            result.ids += reply.value["ids"]
            result.found += [start + place for place in reply.value.get("found", [])]
            result.errors += [JobRefused(start + each["index"], from_wire(each)) for each in reply.value["errors"]]
            if reply.repeated and reply.tries == 1:
                result.repeated += len(reply.value["ids"]) - len(reply.value["errors"])
        return result

    def get(self, job_id: str) -> JobView:
        """One job by its id or a unique beginning of it. Raises UnknownJob, AmbiguousId."""
        job: JobView = self.request("job", {"id": job_id})["job"]
        return job

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """The attempts of a job, oldest first. Raises UnknownJob, AmbiguousId."""
        history: list[dict[str, Any]] = self.request("job", {"id": job_id})["history"]
        return history

    def output(
        self, job_id: str, *, attempt: int | None = None, stream: str | None = None, tail_bytes: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Yield what is kept of an attempt's output (the latest if none is named) as (stream, offset, bytes).

        `stream` limits it to `stdout` or `stderr`. Where an offset is larger than the bytes before it, some were
        not kept. Raises UnknownJob.
        """
        for reply in self.output_pages(job_id, attempt=attempt, stream=stream, tail_bytes=tail_bytes):
            for number, offset, data in reply["segments"]:
                yield ("stdout" if number == 1 else "stderr"), offset, data

    def output_pages(
        self, job_id: str, *, attempt: int | None = None, stream: str | None = None, tail_bytes: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the replies themselves: `attempt`, `segments`, `totals` of bytes written, `finished`."""
        args: dict[str, Any] = {"id": job_id}
        args |= {"attempt": attempt} if attempt is not None else {}
        args |= {"stream": {"stdout": 1, "stderr": 2}[stream]} if stream is not None else {}
        args |= {"tail_bytes": tail_bytes} if tail_bytes is not None else {}
        while True:
            reply = self.request("output", args)
            yield reply
            if reply["next"] is None:
                return
            args = {**args, "attempt": reply["attempt"], "cursor": reply["next"]}

    def events(
        self,
        job_id: str | None = None,
        *,
        since: str | None = None,
        types: Sequence[str] = (),
        follow: bool = False,
    ) -> Iterator[Event]:
        """Yield what has happened: all that is kept, or all that happened to one job.

        `since` is the `cursor` of an event, to go on after it. `follow` goes on with what happens from now on, over
        restarts of the broker; of one job until it is over. Raises UnknownJob, AmbiguousId, BadRequest.
        """
        from queuectl.feed import events

        return events(self, job_id, since=since, types=types, follow=follow)

    # --- the queue and its broker -----------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The `broker`, its `workers`, and the number of `jobs` in each state."""
        return self.request("status")

    def dlq_retry(self, ids: Sequence[str] = (), *, all_jobs: bool = False) -> Ids:
        """Move dead jobs back to pending with a fresh budget; returns their ids. Raises UnknownJob, WrongState."""
        return self._dlq("dlq_retry", ids, all_jobs)

    def dlq_purge(self, ids: Sequence[str] = (), *, all_jobs: bool = False) -> Ids:
        """Delete dead jobs with their history and output; returns their ids. Raises UnknownJob, WrongState."""
        return self._dlq("dlq_purge", ids, all_jobs)

    def config(self) -> dict[str, Any]:
        """The queue-wide `settings`, the keys `changed` from their defaults, and the broker's `data_dir`."""
        return self.request("config_show")

    def config_set(self, key: str, value: str | float | None) -> dict[str, Any]:
        """Change a queue-wide setting; returns `key`, `value`, `before`, `per_job`. Raises BadConfig."""
        return self.request("config_set", {"key": key, "value": value})

    def config_unset(self, key: str) -> dict[str, Any]:
        """Put a queue-wide setting back to its default. Raises BadConfig."""
        return self.request("config_unset", {"key": key})

    def stop_workers(self, ids: Sequence[str] = (), *, now: bool = False) -> Ids:
        """Tell workers (all if none is named) to finish and stop; `now` kills their jobs. Returns who was told."""
        told: Ids = self.request("worker_stop", {"workers": list(ids), "now": now})["workers"]
        return told

    def shutdown(self) -> dict[str, Any]:
        """Stop the broker; returns its `pid` and how many jobs workers still hold (`held`)."""
        return self.request("shutdown")

    def list(self, *, limit: int | None = None, **select: Any) -> Iterator[JobView]:
        """Yield jobs, newest first, page by page; all of them unless `limit` is given.

        `state`, `queue`, `tags`, `where` and `since` select as in `queuectl/verbs.py`. Raises BadRequest.
        """
        for page in self.list_pages(selection(**select), limit=limit):
            yield from page["jobs"]

    def list_pages(self, select: Mapping[str, Any], *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the replies to a selection of the wire: `jobs`, and `next` (not None if there may be more)."""
        is_old = select.keys() <= {"state", "queue"}  # what brokers before 0.5 understand, too
        args: dict[str, Any] = dict(select) if is_old else {"select": dict(select)}
        left = limit
        while left is None or left > 0:
            page = self.request("list", {**args, "limit": min(ROWS_PER_REPLY, left or ROWS_PER_REPLY)})
            yield page
            if page["next"] is None:
                return
            args["cursor"] = page["next"]
            left = None if left is None else left - len(page["jobs"])

    def _dlq(self, op: str, ids: Sequence[str], all_jobs: bool) -> Ids:
        if bool(ids) == all_jobs:
            raise BadRequest("name jobs, or say all, but not both")
        args: dict[str, Any] = {"all": True} if all_jobs else {"ids": [*ids]}
        done: Ids = []
        while True:
            reply = self.request(op, args)
            done += reply["ids"]
            if reply.get("next") is None:
                return done
            args["cursor"] = reply["next"]


def _fields(job: JobInput) -> dict[str, Any]:
    if isinstance(job, str):
        return {"command": job}
    if isinstance(job, Mapping):
        return dict(job)
    import msgspec

    if not isinstance(job, msgspec.Struct):
        raise BadJob(f"a job is text, a mapping with a command, or a JobSpec; this is of type {type(job).__name__}")

    plain: dict[str, Any] = msgspec.to_builtins(job, builtin_types=(bytes,))
    return plain


def _chunks(jobs: Iterable[JobInput]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    size = 0
    for job in jobs:
        fields = _fields(job)
        bytes_more = len(pack(fields))
        if chunk and (len(chunk) == JOBS_PER_REQUEST or size + bytes_more > REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(fields)
        size += bytes_more
    if chunk:
        yield chunk


def _derived(request_id: str, number: int) -> str:
    """The id of the n-th request of one call: always the same for the same call."""
    import hashlib

    return hashlib.blake2b(f"{request_id} {number}".encode(), digest_size=16).hexdigest()
