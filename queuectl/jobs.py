"""What a job is: its states, the outcomes of its attempts, and the specification a user hands over.

`parse_job` is the one door for jobs from outside: the command line uses it on what people type, the
broker on what arrives by wire, so both refuse the same things in the same words.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import astuple

from queuectl.errors import BadJob
from queuectl.ids import JOB_ID, LAST, QUEUE_NAME
from queuectl.plain import in_plain_words
from queuectl.suggest import did_you_mean
from queuectl.times import parse_rfc3339

COMMAND_BYTES_MAX = 128 * 1024 - 1  # one argument of execve holds 128 KiB with its end mark (MAX_ARG_STRLEN)
ENV_BYTES_MAX = 128 * 1024  # all of a job's env; leaves room beside the worker's own under ARG_MAX
ENV_VARIABLES_MAX = 2000  # entries of one map, as the protocol has it
CWD_BYTES_MAX = 4095  # PATH_MAX less its end mark
PRIORITY_MAX = 1_000_000
SECONDS_MAX = 10 * 365 * 86400.0
DEFAULT_QUEUE = "default"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JobState(StrEnum):
    """Where a job stands. The same words in the store, on the wire, on the command line and in the logs."""

    PENDING = "pending"  # waiting for a worker, or for its time
    PROCESSING = "processing"  # leased to a worker
    COMPLETED = "completed"  # exit 0
    FAILED = "failed"  # failed, waiting for its retry
    DEAD = "dead"  # in the dead letter queue
    CANCELLED = "cancelled"  # stopped by a person


TERMINAL = frozenset({JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED})


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"  # exit 0
    EXIT = "exit"  # any other exit code
    SIGNAL = "signal"  # killed by a signal
    TIMEOUT = "timeout"  # ran longer than its timeout; the tree was killed
    CANCELLED = "cancelled"  # killed because the job was cancelled
    LOST = "lost"  # its worker died or was not heard of for longer than a lease
    RELEASED = "released"  # given back by the worker: costs nothing
    SPAWN_ERROR = "spawn_error"  # the command could not be started
    EXPIRED = "expired"  # its time was over before it started


class JobSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A job as it is handed over. Only `command` is required; what is left out takes the queue's settings."""

    command: str
    id: str | None = None
    queue: str | None = None
    priority: int = 0  # higher runs first
    max_retries: int | None = None  # attempts the job gets, the first one included
    backoff_base: float | None = None  # the n-th retry waits backoff_base ** n seconds
    backoff_max: float | None = None  # seconds; left out: as it is set, and no less than waits that the job names
    backoff_jitter: str | None = None  # none | full | equal
    timeout: float | None = None  # seconds, for each attempt
    delay: float | None = None  # seconds from the broker's receipt
    run_at: str | None = None  # RFC 3339
    env: Annotated[dict[str, str], Meta(max_length=ENV_VARIABLES_MAX)] | None = None
    cwd: str | None = None
    on_lost: str = "retry"  # retry | dead: if its worker is lost after it may have started
    keep_children: bool = False  # leave alone what the command left running
    output_limit: int | None = None  # bytes kept of each stream of each attempt
    backoff: str | list[float] | None = None  # exp | linear | fixed, or the waits themselves, in seconds
    retry_on: list[int] | None = None  # codes after which it is retried, and no others; a signal counts as 128 + N
    no_retry_on: list[int] | None = None  # codes after which it is dead at once
    expires: float | None = None  # seconds; not started for the first time by then: cancelled
    deadline: float | None = None  # seconds from the broker's receipt, over all attempts
    hold: bool = False  # to wait until it is released
    tags: dict[str, str] | None = None  # to be found by
    unique: str | None = None  # no two jobs that wait or run have the same
    on_conflict: str = "return"  # return | error | replace: if there is such a job already
    stdin: bytes | None = None  # what the command reads; JSON: text
    retry_of: str | None = None  # id of the job that it runs again, here or elsewhere


BACKOFFS = ("exp", "linear", "fixed")
ON_CONFLICT = ("return", "error", "replace")
CODES_MAX = 256
DELAYS_MAX = 100
TAGS_MAX = 32
STDIN_BYTES_MAX = 2**20
_STDIN_BASE64 = "stdin_base64"  # input that is no text, in JSON
_TAG_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")

JITTERS = ("none", "full", "equal")
ON_LOST = ("retry", "dead")


def parse_job(fields: Any) -> JobSpec:
    """Validate one job given as a mapping (from JSON or msgpack). Raises BadJob naming the field and the mend."""
    if not isinstance(fields, dict | Mapping):  # dict first: it is one nearly always, and cheap to tell
        raise BadJob("a job is an object with at least a command", hint='write {"command": "echo hello"}')
    for name in fields:
        if name not in _CHECKS and name != _STDIN_BASE64:
            raise _unknown(str(name)[:80])
    if _STDIN_BASE64 in fields or isinstance(fields.get("stdin"), str):
        fields = _with_input(fields)
    try:
        spec = msgspec.convert(fields, JobSpec)
    except msgspec.ValidationError as error:
        raise BadJob(in_plain_words(str(error))) from None
    _check(spec, fields)
    return spec


def parse_changes(changes: Mapping[str, Any]) -> JobSpec:
    """What is to become of a job that waits, in the fields of a job; a time-out of 0 is none. Raises BadJob."""
    none = {"timeout": None} if changes.get("timeout") == 0 else {}
    return parse_job({"command": "true", **changes, **none})


def in_common(spec: JobSpec) -> tuple[Any, ...]:
    """All of a job but its command and its id: what neighbours in a long list mostly have in common."""
    return astuple(spec)[2:]


def are_sound(specs: Iterable[JobSpec]) -> bool:
    """Whether `parse_job` would take these jobs, of which only the types are known to be right.

    What neighbours have in common is looked at once.
    """
    known = _PLAIN
    try:
        for spec in specs:
            _check_command(spec.command)
            if spec.id is not None:
                _check_id(spec.id)
            if (common := in_common(spec)) != known:
                _check(spec, _IN_COMMON)
                known = common
    except BadJob:
        return False
    return True


def _with_input(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with their input as bytes. JSON has text, or base64 under another name."""
    rest = {name: value for name, value in fields.items() if name not in (_STDIN_BASE64, "stdin")}
    if _STDIN_BASE64 not in fields:
        return {**rest, "stdin": _bytes_of("stdin", fields["stdin"])}
    if "stdin" in fields:
        raise BadJob(f"stdin and {_STDIN_BASE64} exclude each other")
    try:
        return {**rest, "stdin": base64.b64decode(fields[_STDIN_BASE64], validate=True)}
    except (ValueError, TypeError):
        raise BadJob(f"{_STDIN_BASE64}: is not base64") from None


def _check(spec: JobSpec, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(spec, name)
        if value is not None:
            _CHECKS[name](value)
    if spec.delay is not None and spec.run_at is not None:
        raise BadJob("delay and run_at exclude each other")
    if spec.retry_on and spec.no_retry_on and (both := set(spec.retry_on) & set(spec.no_retry_on)):
        raise BadJob(f"retry_on and no_retry_on both name {min(both)}")
    if spec.delay is not None:
        refuse_over_before(spec, spec.delay, f"delay {spec.delay:g} s")


def refuse_over_before(spec: JobSpec, starts_in_s: float, when: str) -> None:
    """A job whose time is over before it may start can never run. Raises BadJob."""
    for name in ("expires", "deadline"):
        limit_s = getattr(spec, name)
        if limit_s is not None and limit_s <= starts_in_s:
            raise BadJob(
                f"{name}: is over before the job may start ({name} {limit_s:g} s, {when})",
                hint=f"it counts from the enqueue: give {name} more time than the start has",
            )


def _unknown(word: str) -> BadJob:
    return BadJob(f"unknown field '{word}'", hint=did_you_mean(word, _CHECKS) or f"known: {', '.join(_CHECKS)}")


def _check_command(command: str) -> None:
    if not command.strip():
        raise BadJob("command: is empty")
    if "\0" in command:
        raise BadJob("command: contains a NUL character")
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        raise BadJob("command: is not valid UTF-8", hint="put it into a script and enqueue the script") from None
    if size > COMMAND_BYTES_MAX:
        raise BadJob(
            f"command: has {size} bytes, the system takes {COMMAND_BYTES_MAX} (128 KiB)",
            hint="put it into a script and enqueue the script",
        )


def _check_cwd(path: str) -> None:
    if "\0" in path or not path.startswith("/"):
        raise BadJob("cwd: must be an absolute path", hint="the job may run on another machine than yours")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise BadJob("cwd: is not valid UTF-8") from None
    if size > CWD_BYTES_MAX:
        raise BadJob(f"cwd: has {size} bytes, the system takes {CWD_BYTES_MAX}")


def _check_run_at(text: str) -> None:
    try:
        parse_rfc3339(text)
    except ValueError as error:
        raise BadJob(f"run_at: {error}") from None


def is_variable(name: str) -> bool:
    """Whether a variable of this name may be set."""
    return _ENV_NAME.fullmatch(name) is not None


def _check_env(env: dict[str, str]) -> None:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise BadJob(f"env: {name[:80]!r} is not a variable name", hint="A-Z a-z 0-9 _, not starting with a digit")
        if name.startswith("QUEUECTL_"):
            raise BadJob(f"env: {name}: names that start with QUEUECTL_ are set by queuectl itself")
        if "\0" in value:
            raise BadJob(f"env: {name} contains a NUL character")
    try:
        size = sum(len(name) + len(value.encode()) + 2 for name, value in env.items())
    except UnicodeEncodeError:
        raise BadJob("env: is not valid UTF-8") from None
    if size > ENV_BYTES_MAX:
        raise BadJob(f"env: has {size} bytes, the limit is {ENV_BYTES_MAX}")


def _check_id(job_id: str) -> None:
    if not JOB_ID.fullmatch(job_id) or job_id.startswith("-"):
        raise BadJob(f"id: {job_id[:140]!r} is not an id", hint="1 to 128 of A-Z a-z 0-9 . _ : -, and no - at first")
    if job_id == LAST:
        raise BadJob(f"id: {LAST!r} means the newest job wherever a job is named", hint="give it another id")


def _check_retry_of(job_id: str) -> None:
    if not JOB_ID.fullmatch(job_id):
        raise BadJob(f"retry_of: {job_id[:140]!r} is not an id")


def _check_queue(queue: str) -> None:
    if not QUEUE_NAME.fullmatch(queue) or queue.startswith("-"):
        raise BadJob(
            f"queue: {queue[:80]!r} is not a queue name", hint="1 to 64 of A-Z a-z 0-9 . _ -, and no - at first"
        )


def _check_priority(priority: int) -> None:
    if abs(priority) > PRIORITY_MAX:
        raise BadJob(f"priority: must be within ±{PRIORITY_MAX}")


def _bytes_of(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadJob(f"{name}: is not valid UTF-8") from None


def _check_backoff(backoff: str | list[float]) -> None:
    if isinstance(backoff, str):
        _one_of("backoff", BACKOFFS)(backoff)
        return
    if not 1 <= len(backoff) <= DELAYS_MAX:
        raise BadJob(f"backoff: a list has 1 to {DELAYS_MAX} delays")
    for delay in backoff:
        _seconds("backoff")(delay)


def _codes(name: str) -> Callable[[list[int]], None]:
    def check(codes: list[int]) -> None:
        if len(codes) > CODES_MAX or not all(1 <= code <= 255 for code in codes):
            raise BadJob(f"{name}: must be codes from 1 to 255", hint="a signal counts as 128 and its number")

    return check


def _more_than_nothing(name: str) -> Callable[[float], None]:
    def check(seconds: float) -> None:
        _seconds(name)(seconds)
        if seconds == 0:
            raise BadJob(f"{name}: must be more than 0 seconds", hint=f"leave it out for no {name}")

    return check


def _check_tags(tags: dict[str, str]) -> None:
    if len(tags) > TAGS_MAX:
        raise BadJob(f"tags: a job has at most {TAGS_MAX}")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key):
            raise BadJob(f"tags: {key[:80]!r} is not a tag's name", hint="1 to 64 of A-Z a-z 0-9 . _ / -")
        _printable(f"tags: {key}")(value)


def _printable(name: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        _bytes_of(name, text)
        if not _PRINTABLE.fullmatch(text):
            raise BadJob(f"{name}: must be 1 to 256 characters, none of them a control character")

    return check


def _check_stdin(data: bytes) -> None:
    if len(data) > STDIN_BYTES_MAX:
        raise BadJob(
            f"stdin: has {len(data)} bytes, at most {STDIN_BYTES_MAX} (1 MiB) may be handed over",
            hint="put it where the worker can read it, and let the command open it",
        )


def _within(name: str, high: float, unit: str = "") -> Callable[[float], None]:
    def check(value: float) -> None:
        if not 0 <= value <= high:  # so NaN is refused as well
            shown = str(value)
            shown = f"{value:.4g}" if "e" in shown else shown[:40].removesuffix(".0")
            raise BadJob(f"{name}: must be between 0 and {high:.0f}{unit}, not {shown}")

    return check


def _seconds(name: str) -> Callable[[float], None]:
    return _within(name, SECONDS_MAX, " seconds (10 years)")


def _one_of(name: str, words: tuple[str, ...]) -> Callable[[str], None]:
    def check(word: str) -> None:
        if word not in words:
            raise BadJob(f"{name}: must be one of {', '.join(words)}")

    return check


# What types cannot say of each field: lengths, ranges, characters. Only the fields that were given are looked at.
_CHECKS: dict[str, Callable[[Any], object]] = {
    "command": _check_command,
    "id": _check_id,
    "queue": _check_queue,
    "priority": _check_priority,
    "max_retries": _within("max_retries", 1_000_000),
    "backoff_base": _within("backoff_base", 1_000_000),
    "backoff_max": _seconds("backoff_max"),
    "backoff_jitter": _one_of("backoff_jitter", JITTERS),
    "timeout": _more_than_nothing("timeout"),
    "delay": _seconds("delay"),
    "run_at": _check_run_at,
    "env": _check_env,
    "cwd": _check_cwd,
    "on_lost": _one_of("on_lost", ON_LOST),
    "keep_children": bool,
    "output_limit": _within("output_limit", 64 * 2**20, " bytes (64 MiB)"),
    "backoff": _check_backoff,
    "retry_on": _codes("retry_on"),
    "no_retry_on": _codes("no_retry_on"),
    "expires": _more_than_nothing("expires"),
    "deadline": _more_than_nothing("deadline"),
    "hold": bool,
    "tags": _check_tags,
    "unique": _printable("unique"),
    "on_conflict": _one_of("on_conflict", ON_CONFLICT),
    "stdin": _check_stdin,
    "retry_of": _check_retry_of,
}
assert tuple(_CHECKS) == JobSpec.__struct_fields__
_IN_COMMON = JobSpec.__struct_fields__[2:]
assert JobSpec.__struct_fields__[:2] == ("command", "id")
_PLAIN = in_common(JobSpec(command="true"))
