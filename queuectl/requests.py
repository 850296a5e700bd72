"""What a client asks of the broker: one struct of arguments an operation.

A request is a msgpack map `{"v": 1, "id": …, "op": …, "args": {…}}`, a reply `{"v": 1, "id": …, "ok": …}`
or `{"v": 1, "id": …, "error": {…}}`: easy to write from any language with a plain REQ socket. The id of a
changing request makes it safe to repeat: the broker stores the reply with the effect for 24 hours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from queuectl.credentials import Z85_KEY
from queuectl.ids import KEY_NAME, QUEUE_GLOB
from queuectl.jobs import JobSpec, are_sound
from queuectl.packed import CLIENT_MESSAGE_BYTES_MAX, PROTOCOL_VERSION

JOBS_PER_REQUEST_MAX = 1000
ROWS_PER_REPLY_MAX = 500
WORKERS_NAMED_MAX = 1000
WORKERS_AWAITED_MAX = 10_000  # as many as may have been told to stop
SHORT_TEXT_MAX = 256

RequestIdField = Annotated[str, Meta(min_length=8, max_length=64, pattern=r"\A[A-Za-z0-9._:-]*\Z")]
ShortText = Annotated[str, Meta(max_length=SHORT_TEXT_MAX)]
IdText = Annotated[str, Meta(min_length=1, max_length=256)]
KeyName = Annotated[str, Meta(pattern=rf"\A{KEY_NAME.pattern}\Z")]
Role = Literal["worker", "submit", "read", "admin"]
PublicKey = Annotated[str, Meta(pattern=rf"\A{Z85_KEY.pattern}\Z")]
Glob = Annotated[str, Meta(pattern=rf"\A{QUEUE_GLOB.pattern}\Z")]
Globs = Annotated[list[Glob], Meta(max_length=64)]
Cursor = Annotated[int, Meta(ge=0, le=2**62)]  # what SQLite takes for an integer, and some room
Attempt = Annotated[int, Meta(ge=1, le=2**62)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The envelope of every request."""

    v: int
    id: RequestIdField
    op: Annotated[str, Meta(max_length=64)]
    args: dict[str, Any] = {}


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class Ping(_Args, frozen=True):
    """Is the broker there? → `{broker, version, pid, epoch, time, data_dir}`."""


class Enqueue(_Args, frozen=True):
    """Store jobs (each is a JobSpec). → `{ids: [id | null], errors: [{index, code, message, …}], found: [index]}`.

    `found`: those that were there already, by their `unique`: their ids are of the jobs that have it.
    """

    jobs: Annotated[list[Any], Meta(min_length=1, max_length=JOBS_PER_REQUEST_MAX)]  # stored in this order


class SoundJobs(_Args, frozen=True):
    """The arguments of an enqueue with nothing wrong in them."""

    jobs: Annotated[list[JobSpec], Meta(min_length=1, max_length=JOBS_PER_REQUEST_MAX)]


class SoundEnqueue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to store jobs with nothing wrong in it."""

    v: Annotated[int, Meta(ge=PROTOCOL_VERSION, le=PROTOCOL_VERSION)]
    id: RequestIdField
    op: Literal["enqueue"]
    args: SoundJobs


_SOUND_ENQUEUE = msgspec.msgpack.Decoder(SoundEnqueue)


def sound_enqueue(body: bytes) -> SoundEnqueue | None:
    """The request of a body that stores jobs and has nothing wrong in it; None for every other body.

    Most bodies are of this kind. It is read straight into structs, several times as fast as step by step; what this
    takes, `convert` and `parse_job` take, and make the same of it.
    """
    if len(body) > CLIENT_MESSAGE_BYTES_MAX:
        return None
    try:
        request = _SOUND_ENQUEUE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return request if are_sound(request.args.jobs) else None


Reason = ShortText
TagText = Annotated[str, Meta(min_length=1, max_length=330)]  # key, or key=value
Milliseconds = Annotated[int, Meta(ge=0, le=2**50)]


UNFINISHED = "unfinished"  # in a selection: of all states that are not the last


class Select(_Args, frozen=True):
    """Which jobs are meant: all that have all of this. `ids` are ids or unique prefixes, and stand alone.

    `state` is one, or `unfinished`: those that wait, run, or wait for a retry. One that goes from one of these to
    another state between two slices is not missed.
    """

    ids: Annotated[list[IdText], Meta(max_length=JOBS_PER_REQUEST_MAX)] = []
    state: ShortText | None = None
    queue: ShortText | None = None
    tags: Annotated[list[TagText], Meta(max_length=32)] = []  # "key=value", or "key" with any value
    where: Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(max_length=32)] = []  # queuectl/where.py
    since: Milliseconds | None = None  # created at this instant or later


class _Chosen(_Args, frozen=True):
    """A change of selected jobs, in slices: ask again with `cursor` = `next` until it is null."""

    select: Select
    cursor: Cursor | None = None
    dry: bool = False  # tell what would happen, and change nothing


class Cancel(_Chosen, frozen=True):
    """End jobs. → `{ids, stopping, skipped, next}`.

    Those that wait are over at once (`ids`); of those that run (`stopping`) the whole tree gets the signal, and after
    the grace SIGKILL: `wait` tells when they are over. `skipped`: `[{id, code, message}]`, named ones that are over.
    """

    reason: Reason = ""
    signal: Annotated[int, Meta(ge=1, le=64)] = 15
    grace_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 10_000


class Hold(_Chosen, frozen=True):
    """Let waiting jobs wait until they are released. → `{ids, skipped, next}`."""

    reason: Reason = ""


class Release(_Chosen, frozen=True):
    """Let held jobs run again. → `{ids, skipped, next}`."""


class Edits(_Args, frozen=True):
    """What is to be another; what is left out stays. Times in seconds; `timeout` 0: none.

    As in a job that is enqueued, what is too long or too large is refused as a bad job.
    """

    command: str | None = None
    queue: str | None = None
    priority: int | None = None
    delay: float | None = None  # from now
    run_at: str | None = None  # RFC 3339
    max_retries: int | None = None
    timeout: float | None = None


class Edit(_Chosen, frozen=True, kw_only=True):
    """Change waiting jobs. → `{ids, skipped, next}`."""

    changes: Edits


class Retry(_Chosen, frozen=True):
    """Run jobs again. → `{ids, copies, skipped, next}`.

    One that waits for its retry runs now; a dead one is pending again with a fresh budget; of one that is completed or
    cancelled there is a copy (`copies`: old id → new id) that says whose retry it is. `delay` and `interval` count
    within a slice: for even steps over more jobs than that, ask slice by slice with the `delay` of its first.
    """

    delay: Annotated[float, Meta(ge=0, le=10 * 365 * 86400.0)] = 0.0  # seconds until the first of the slice runs
    interval: Annotated[float, Meta(ge=0, le=86400.0)] = 0.0  # seconds from each of the slice to the next
    hold: bool = False  # they wait until they are released


class Purge(_Chosen, frozen=True):
    """Delete jobs that are over, with their history and output. → `{ids, skipped, next}`."""


class Export(_Args, frozen=True):
    """All that was asked for of selected jobs, values of the environment included. → `{jobs, next}`.

    Each is as `enqueue` takes it, with `retry_of` for its id; `next` as in the changes of selected jobs.
    """

    select: Select
    cursor: Cursor | None = None


class Why(_Args, frozen=True):
    """Why a job is not running. → `{id, state, reasons: [{code, text}], position, ahead_capped, estimate_s}`.

    `position`: jobs of its queue that come before it, counted up to 10,000; null where it is not in line.
    """

    id: IdText


class Events(_Args, frozen=True):
    """What has happened, oldest first, in slices. → `{events, cursor, more, missed}`.

    Each event has `{at, type, job_id, attempt, worker, by, cursor}` and what its type adds. Go on with `cursor` of the
    reply, or of an event, and at once if there is `more`. Without a cursor the reply says where the feed is now, and
    `[0]` is the oldest event that is kept; `missed`: some after the cursor were forgotten. With `wait_ms` the reply to
    a request with a cursor is held until there is an event. With `id` and no cursor it is all that happened to the
    job, from what is stored of it. A submit key names a job of its own.
    """

    cursor: Annotated[list[Cursor], Meta(min_length=1, max_length=2)] | None = None
    limit: Annotated[int, Meta(ge=1, le=ROWS_PER_REPLY_MAX)] = 100
    types: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)] = []  # of these only
    id: IdText | None = None  # of this job only
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


class Job(_Args, frozen=True):
    """One job by id or unique prefix. → `{job, history, events}`; `{…, env_values}` if asked for."""

    id: IdText
    state: ShortText | None = None  # refuse unless it is in this state
    env: bool = False  # tell the values of its environment, too; for admins


class Output(_Args, frozen=True):
    """Kept output of one attempt, in slices. → `{id, attempt, segments, totals, next, cursor, finished, state, …}`.

    `segments` are `[stream, offset, bytes]`, `times` when the first byte of each came, in ms UTC (0: not noted).
    `latest` is the number of the job's latest attempt; `over`: nothing more will ever come of this job; `outcome`,
    `exit_code` and `signal` are of this attempt. One that has not begun is `finished` only if the job is over.
    Go on with `cursor` = `next`; null there means that this was all there is now, and `cursor` of the reply is where to
    go on later. With `wait_ms` the reply is held until there is more, or the attempt has `finished` and all of its
    output is here.
    """

    id: IdText
    attempt: Attempt | None = None  # default: the latest
    stream: Annotated[int, Meta(ge=1, le=2)] | None = None  # default: both
    cursor: Annotated[list[int], Meta(max_length=2)] | None = None
    tail_bytes: Annotated[int, Meta(ge=0)] | None = None  # only the last so many bytes of each stream
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0


class List(_Args, frozen=True):
    """Jobs, newest first, in slices. → `{jobs, next}`; ask again with `cursor` = `next` until it is null."""

    state: ShortText | None = None
    queue: ShortText | None = None
    select: Select | None = None  # instead of those two
    limit: Annotated[int, Meta(ge=1, le=ROWS_PER_REPLY_MAX)] = 50
    cursor: Cursor | None = None


class Status(_Args, frozen=True):
    """The broker, its workers and the number of jobs in each state. → `{broker, workers, jobs, …}`."""


class DlqRetry(_Args, frozen=True):
    """Dead jobs back to pending with a fresh budget. → `{ids, next}`.

    Either `ids`, or `all` in slices: ask again with `cursor` = `next` until it is null. Of all jobs some may be
    `skipped`, as by `retry`: those for which there is no room, and those whose unique key is in use.
    """

    ids: Annotated[list[IdText], Meta(max_length=JOBS_PER_REQUEST_MAX)] = []
    all: bool = False
    cursor: Cursor | None = None


class DlqPurge(DlqRetry, frozen=True):
    """Delete dead jobs with their history and output. → `{ids, next}`."""


class ConfigShow(_Args, frozen=True):
    """The queue-wide settings. → `{settings, changed, data_dir}`."""


class ConfigSet(_Args, frozen=True):
    """Change one setting, for new jobs. → `{key, value, before, per_job}`."""

    key: Annotated[str, Meta(max_length=64)]
    value: Annotated[str, Meta(max_length=1024)] | int | float | None


class ConfigUnset(_Args, frozen=True):
    """Back to the default. → `{key, value, before, per_job}`."""

    key: Annotated[str, Meta(max_length=64)]


class WorkerStop(_Args, frozen=True):
    """Tell workers to stop (all if none is named). → `{workers: [id]}`; `wait` tells when they are gone.

    One that is away is told when it is back within a day, also by a broker that was started anew meanwhile.
    """

    workers: Annotated[list[IdText], Meta(max_length=WORKERS_NAMED_MAX)] = []
    now: bool = False


class Wait(_Args, frozen=True):
    """A held reply: answered when the condition holds, or after `timeout_ms`. → `{done, jobs_left, jobs, counts}`.

    Exactly one of: `jobs` (all of them terminal), `empty` (no job pending, processing or failed),
    `workers` (none of them connected). `jobs` of the reply: `[{id, state, exit_code, signal, reason}]`.
    """

    jobs: Annotated[list[IdText], Meta(max_length=JOBS_PER_REQUEST_MAX)] | None = None
    empty: bool = False
    workers: Annotated[list[IdText], Meta(max_length=WORKERS_AWAITED_MAX)] | None = None
    any: bool = False  # one of the jobs is enough
    seen: Annotated[int, Meta(ge=0, le=JOBS_PER_REQUEST_MAX)] | None = None  # answer, too, when fewer jobs are left
    timeout_ms: Annotated[int, Meta(ge=0, le=60_000)] = 10_000


class Shutdown(_Args, frozen=True):
    """Stop the broker; workers and their jobs go on. → `{pid, held}` (jobs that workers hold)."""


class Whoami(_Args, frozen=True):
    """Who asks, to the broker, and how it is reached. → `{name, role, queues, endpoints, server_keys}`.

    `endpoints` are of the workers' port, as others reach it; clients use the next one. `server_keys` are public: the
    one in use, and the one that will take its place, if there is one.
    """


class KeyAdd(_Args, frozen=True):
    """Let a key in. → `{name, role, queues, fingerprint}`."""

    name: KeyName
    role: Role
    public_key: PublicKey
    queues: Globs = []  # globs of the queues it may serve (worker) or enqueue into (submit); none: all


class KeyRotate(_Args, frozen=True):
    """A second key for a name; the first stays good until it is revoked. → `{name, role, queues, fingerprint, old}`."""

    name: KeyName
    public_key: PublicKey


class KeyRevoke(_Args, frozen=True):
    """Let a name in no more, at once, its open sessions included. → `{name, revoked, sessions, cut}`."""

    name: KeyName
    old: bool = False  # only the keys before its newest
    cut: bool = False  # end all TCP connections: the key fails in the handshake then, all others come back


class KeyList(_Args, frozen=True):
    """Who may come in, or might once. → `{keys: [{name, role, queues, sessions, keys}]}`."""

    name: KeyName | None = None


class Reload(_Args, frozen=True):
    """Read the server's keys again. → `{server_keys}`. If the one in use is another now, all TCP connections end."""
