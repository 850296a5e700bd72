"""The registry of log events: which there are, who emits them at which level, with which keys, and what they mean.

Dashboards and alerts are built on these names, so they are a promise: an event or a key that is not here
is an error in the tests, and a key has one type wherever it occurs (stores that index JSON refuse a key
that changes its type). The tables of docs/logs.md are made from this file: `python -m queuectl.events docs/logs.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from queuectl.logs import HEAD, LOG_SCHEMA

BROKER = "queuectl-broker"
WORKER = "queuectl-worker"

SCALAR = (int, float, str)
_KIND_WORDS: dict[Any, str] = {str: "text", int: "integer", bool: "true or false", list: "list", SCALAR: "any"}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a record: its one type, what it means, and what it looks like."""

    kind: type | tuple[type, ...]
    doc: str
    sample: Any


KEYS: dict[str, Key] = {
    "log_schema": Key(int, "version of this schema; grows only when a key goes away or changes its type", LOG_SCHEMA),
    "timestamp": Key(str, "RFC 3339, UTC, microseconds", "2026-11-22T16:02:11.482913Z"),
    "level": Key(str, "debug, info, warning or error", "info"),
    "event": Key(str, "name of the event", ""),
    "service": Key(str, "queuectl-broker or queuectl-worker", BROKER),
    "instance": Key(str, "this start of the process", "7f3c9a12"),
    "seq": Key(int, "number of the record, from 1 in each instance: a gap is a record lost on its way", 42),
    "host": Key(str, "name of the machine", "build-3"),
    "pid": Key(int, "process id", 2817),
    "version": Key(str, "version of queuectl", "0.6.0"),
    "truncated": Key(bool, "the record was over 8 KiB: its longest values were cut", True),
    "error_type": Key(str, "class of the exception", "OperationalError"),
    "error_message": Key(str, "text of the exception", "database or disk is full"),
    "error_stack": Key(
        str, "traceback, at most its last 4 KiB, without variables", "Traceback (most recent call last): …"
    ),
    "address": Key(str, "where a connection came from", "10.0.0.7"),
    "attempt": Key(int, "number of the run, from 1", 1),
    "attempts": Key(int, "failed attempts in this budget", 3),
    "before": Key(SCALAR, "the value until now", 3),
    "boots": Key(int, "process starts of a worker that are over", 1),
    "by": Key(str, "who asked for it: the name of a key, or a user of the broker's machine", "uid:1000"),
    "bytes": Key(int, "size", 65536),
    "boot": Key(str, "one start of a worker", "0f3c9a12b7d84e5f8a1b2c3d4e5f6071"),
    "child_pid": Key(int, "process id of the command's leader, or of the process found", 3120),
    "code": Key(str, "code of the error, as in docs/protocol.md", "bad_job"),
    "command": Key(str, "the command of the job", "make nightly"),
    "count": Key(int, "how many", 500),
    "database": Key(str, "file of the database", "/var/lib/queuectl/queue.db"),
    "detail": Key(str, "the same in words, for people", "id: 'a b' is not an id"),
    "digest": Key(str, "hash of the message, to recognise it by", "9a0364b9e99bb480"),
    "dropped_count": Key(int, "records that could not be written", 12),
    "duration_ms": Key(int, "how long it took", 1874),
    "endpoint": Key(str, "where the broker is", "tcp://broker.example:7710"),
    "endpoints": Key(list, "where workers and clients are served", ["ipc:///var/lib/queuectl/run/worker.sock"]),
    "epoch": Key(int, "number of the broker's start on this database", 7),
    "existed": Key(bool, "whether there was a database before", True),
    "exit_code": Key(int, "exit code of the command", 1),
    "fields": Key(str, "what of a job was changed", "priority, queue"),
    "failed_event": Key(str, "the event that was not told", "job_finished"),
    "fingerprint": Key(str, "of a public key", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"),
    "free_bytes": Key(int, "free space on the file system", 201326592),
    "held": Key(int, "leases that the worker brought along", 0),
    "hint": Key(str, "what to do about it", "is a broker running there with --listen?"),
    "job_id": Key(str, "id of the job", "a1"),
    "jobs": Key(int, "how many jobs", 3),
    "key": Key(str, "name of the setting", "max_retries"),
    "key_name": Key(str, "name of a key that somebody comes in with", "builder"),
    "lease_id": Key(str, "the right to run this one attempt; 16 hex digits", "5be1f20c93a7d604"),
    "leases": Key(int, "how many leases", 2),
    "losses": Key(int, "how often the job has lost its worker", 1),
    "messages": Key(int, "how many messages", 12),
    "now": Key(bool, "whether to kill its jobs rather than finish them", False),
    "outcome": Key(str, "completed, exit, signal, timeout, cancelled, spawn_error …", "completed"),
    "queue": Key(str, "queue of the job", "default"),
    "reason": Key(str, "why, in a few words", "draining"),
    "request_id": Key(str, "id of the request, chosen by the client", "06c1v2rk8x5t9m3q7n0b4d6f8h"),
    "retry_ms": Key(int, "time until the next try", 1000),
    "role": Key(str, "what a key is good for: worker, submit, read, admin", "worker"),
    "run_at": Key(str, "when the job runs again; RFC 3339, UTC", "2026-11-22T16:02:13.482Z"),
    "signal": Key(int, "number of the signal", 15),
    "slots": Key(int, "jobs that the worker runs at once", 4),
    "step_ms": Key(int, "by how much the wall clock was set, back if negative", -3600000),
    "stall_ms": Key(int, "time for which the process did not run", 41230),
    "state": Key(str, "state of the job after the event", "completed"),
    "stderr_bytes": Key(int, "bytes the command wrote to stderr, kept or not", 0),
    "stdout_bytes": Key(int, "bytes the command wrote to stdout, kept or not", 5120),
    "value": Key(SCALAR, "the new value", 5),
    "worker_id": Key(str, "the worker: its machine and the beginning of its instance", "build-3-7f3c9a"),
    "workers": Key(int, "how many workers", 2),
}
OPTIONAL_ALWAYS = frozenset({"truncated", "error_type", "error_message", "error_stack"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one service. `optional` keys may be missing or null; the others are always there."""

    service: str
    name: str
    levels: tuple[str, ...]
    keys: tuple[str, ...]
    optional: frozenset[str]
    doc: str


def _event(service: str, name: str, levels: str, keys: str, doc: str) -> Event:
    """An event written short: words separated by spaces, optional keys end in a question mark."""
    names = tuple(key.rstrip("?") for key in keys.split())
    optional = frozenset(key.rstrip("?") for key in keys.split() if key.endswith("?"))
    return Event(service, name, tuple(levels.split()), names, optional, doc)


_JOB = "job_id attempt lease_id"
_BROKER = (
    # its own life
    ("broker_started", "info", "database existed", "The database is open; nobody is let in yet."),
    ("database_shut", "warning", "database", "The file could be read by others; now it cannot."),
    ("broker_recovered", "info", "leases workers", "Jobs ran when the last broker ended; they have a lease's time."),
    ("broker_ready", "info", "endpoints database epoch jobs", "Workers and clients can come."),
    ("broker_stopping", "info", "leases", "It takes no more messages; workers and their jobs go on."),
    ("broker_stopped", "info", "", "It has ended, and the database is closed."),
    ("clock_stepped", "warning", "step_ms", "The wall clock was set; retries wait as long as they were to wait."),
    ("broker_stalled", "warning", "stall_ms", "It did not run for a while: no lease expires for that time."),
    # workers
    ("session_opened", "info", "worker_id slots held by", "A worker came, or came back."),
    ("session_closed", "info", "worker_id reason", "A worker left, or another session took its place."),
    ("worker_lost", "warning", "worker_id leases", "A worker was not heard of for longer than a lease."),
    ("worker_told_to_stop", "info", "worker_id now by", "Someone asked that this worker end."),
    ("boot_gone", "warning", "worker_id leases", "A process of a worker is dead: its leases are lost at once."),
    ("push_undelivered", "warning", "reason", "A worker does not read; heartbeats sort out what it missed."),
    # jobs
    ("job_enqueued", "info", "job_id queue request_id by", "A job is on disk."),
    ("jobs_enqueued", "info", "count request_id by", "The jobs of one request are on disk."),
    ("jobs_refused", "info", "count request_id by", "Some jobs of a request were refused."),
    ("job_leased", "debug", f"{_JOB} worker_id", "A worker got the right to run an attempt."),
    ("job_finished", "info warning",
     f"{_JOB} worker_id queue outcome exit_code? signal? duration_ms state run_at?",
     "An attempt was reported and is recorded: one line per attempt. The job runs again if `run_at` is not null."),
    ("job_requeued", "info", "job_id attempt reason", "A lease was given back: the job waits again, at no cost."),
    ("job_dead", "warning", "job_id attempts? reason", "A job went to the dead letter queue."),
    ("job_expired", "warning", "job_id reason", "A job was not started in the time that it was given: cancelled."),
    ("job_cancelled", "info", "job_id reason by", "Somebody ended a job that waited."),
    ("job_held", "info", "job_id by", "Somebody lets a job wait until it is released."),
    ("job_released", "info", "job_id by", "Somebody let a held job run again."),
    ("job_edited", "info", "job_id fields by", "Somebody changed a job that waits."),
    ("job_purged", "info", "job_id by", "Somebody deleted a job that was over."),
    ("jobs_retired", "info", "state count", "Jobs that were over had been kept long enough, and were deleted."),
    ("job_cancel_asked", "info", "job_id signal reason by", "Somebody wants a running job to end."),
    ("lease_expired", "warning", f"{_JOB} worker_id reason losses",
     "An attempt was lost with its worker: the job waits again, or is dead if that happened too often."),
    ("lease_adopted", "info", _JOB, "A running job came back with its worker and was kept."),
    ("result_stale", "warning", f"{_JOB} outcome", "A late worker reported: its result was refused."),
    ("result_repeated", "debug", "job_id attempt", "A result that had been recorded came again."),
    ("dlq_retried", "info", "job_id by", "A dead job was put back by a person."),
    ("dlq_purged", "info", "job_id by", "A dead job was deleted by a person."),
    ("output_evicted", "info", "bytes", "The oldest output of finished jobs made room for new output."),
    # requests and peers
    ("setting_changed", "info", "key value? before? by", "A queue-wide setting has a new value."),
    ("request_refused", "info warning error", "code reason request_id? by?",
     "A request was refused (info), could not be understood or was not let in (warning), or met a bug (error)."),
    ("message_malformed", "warning", "count reason",
     "A message could not be understood; at most ten of these a second are logged, `count` goes on."),
    # who may come in
    ("connection_refused", "warning", "address reason fingerprint?",
     "Somebody was not let in: `reason` names the door (keys, local)."),
    ("accept_failed", "error", "count", "Connections were taken with the last descriptors: more of them have to wait."),
    ("worker_denied", "warning", "code reason by?", "Somebody was let in, but not as a worker."),
    ("report_denied", "warning", "job_id lease_id by", "A worker told of a lease of another key's: it was refused."),
    ("key_added", "info", "key_name role fingerprint by", "A key lets its holder in from now on."),
    ("key_revoked", "warning", "key_name fingerprint by", "A key lets nobody in any more; its sessions are over."),
    ("server_keys_read", "info", "count by", "The server's keys were read again."),
    ("events_left_out", "warning", "failed_event count",
     "So many records of this event were not written in the second before: each kind has ten a second."),
    ("server_key_made", "warning", "fingerprint", "There was no server key; credentials that name another are void."),
    ("connections_cut", "warning", "", "All TCP connections were ended, as asked for; whoever may come in comes back."),
    ("listen_failed", "error", "", "A TCP port could not be had again; it is tried each second."),
    ("shutdown_asked", "info", "by", "Somebody asked the broker to stop."),
    # storage
    ("disk_low", "warning", "free_bytes", "Too little space: no new jobs are taken; results are."),
    ("disk_recovered", "info", "free_bytes", "There is space again: jobs are taken."),
    ("storage_full", "error", "", "The disk is full: what could not be written was not acknowledged."),
    ("storage_failed", "error", "", "The database failed: the broker stops before it answers."),
    ("batch_replayed", "error", "messages", "A turn failed and was undone; its messages are done again one by one."),
    ("message_failed", "error", "digest", "This message made its turn fail; it was left out. A bug: please report it."),
    ("checkpointed", "debug", "", "The write-ahead log was moved into the database."),
)  # fmt: skip
_WORKER = (
    # its own life
    ("worker_started", "info", "endpoint slots", "The process began."),
    ("worker_connected", "info", "worker_id epoch leases", "A session with the broker began."),
    ("worker_disconnected", "warning", "reason leases", "The session is over; jobs go on."),
    ("connect_failed", "warning", "code detail hint?",
     "No broker is to be reached; it is tried again. Said at first, and each minute that it lasts."),
    ("worker_refused", "warning error", "code detail hint? retry_ms?",
     "The worker is not let in, and tries again (error: never). Said at first, and each minute that it lasts."),
    ("message_malformed", "warning", "count reason",
     "A message could not be understood and was left out; at most one of these a second is logged, `count` goes on."),
    ("worker_draining", "info", "leases", "It takes nothing new and finishes what runs."),
    ("worker_stopped", "info", "exit_code", "It has ended; what the broker does not know yet is in the spool."),
    ("worker_process_died", "error", "detail", "The worker, or the process that watches it, died; its jobs are ended."),
    # jobs
    ("job_started", "debug", f"{_JOB} queue command", "A command was started."),
    ("job_finished", "info warning",
     f"{_JOB} queue outcome exit_code? signal? duration_ms stdout_bytes stderr_bytes",
     "An attempt is over: one line per attempt, a warning unless it completed."),
    ("job_timed_out", "info", f"{_JOB} queue reason signal?", "A job ran longer than its timeout and is ended."),
    ("job_killed", "info", f"{_JOB} queue reason signal?", "The processes of a job are ended."),
    ("spawn_failed", "warning error", f"{_JOB} queue detail retry_ms?",
     "A command could not be started: its own fault (warning), or this machine's (error)."),
    ("output_dropped", "info", f"{_JOB} queue bytes", "More output than is kept, or than there was room for."),
    ("lease_dropped", "warning", f"{_JOB} queue", "The lease is not this worker's any more: the job is killed."),
    ("lease_returned", "debug", f"{_JOB} queue reason", "A lease was given back; it costs the job nothing."),
    # what others left behind
    ("orphan_swept", "warning", "child_pid", "A process of a dead worker's job was killed."),
    ("spool_torn", "warning", "boot bytes",
     "The end of what a dead worker left cannot be read; jobs whose ends it told count as lost."),
    ("boot_adopted", "info", "boots", "What dead processes of this worker left to be told was taken over."),
    ("result_spooled", "warning", "count reason", "Results wait on disk for another broker than this."),
    ("spool_failed", "error", "", "The disk refused what waits to be told; it waits in memory."),
)  # fmt: skip
_BOTH = (
    ("log_dropped", "warning", "dropped_count", "Records could not be written; now they can."),
    ("log_failed", "debug info warning error", "failed_event error_type", "An event could not be told."),
)
_TABLE = (
    *(_event(BROKER, *row) for row in (*_BROKER, *_BOTH)),
    *(_event(WORKER, *row) for row in (*_WORKER, *_BOTH)),
)
EVENTS: dict[tuple[str, str], Event] = {(event.service, event.name): event for event in _TABLE}


def faults(service: str, level: str, event: str, keys: Mapping[str, Any]) -> list[str]:
    """What is wrong with a log call or a record, against the registry; empty if nothing is. Head keys are let pass."""
    entry = EVENTS.get((service, event))
    if entry is None:
        return [f"{service} has no event {event}"]
    found = [] if level in entry.levels else [f"{event}: level {level}, not {' or '.join(entry.levels)}"]
    given = {key: value for key, value in keys.items() if key not in HEAD and key != "exc_info"}
    if isinstance(given.get("error"), BaseException):
        del given["error"]
    allowed = {*entry.keys, *OPTIONAL_ALWAYS}
    found += [f"{event}: key {key} is not registered" for key in given if key not in allowed]
    found += [f"{event}: key {key} is missing" for key in entry.keys if key not in given and key not in entry.optional]
    return found + [f"{event}: {fault}" for key, value in given.items() for fault in _misfits(entry, key, value)]


def _misfits(entry: Event, key: str, value: object) -> list[str]:
    if value is None:
        return [] if key in entry.optional else [f"{key} is null"]
    if key not in KEYS or (isinstance(value, KEYS[key].kind) and isinstance(value, bool) == (KEYS[key].kind is bool)):
        return []
    return [f"{key} is {type(value).__name__}, not {_KIND_WORDS[KEYS[key].kind]}"]


# --- the documentation -----------------------------------------------------------------------------

# Where the sample value of a key would not fit the event; None leaves out a key that may be missing.
_SAMPLES: dict[str, dict[str, Any]] = {
    "connection_refused": {"reason": "keys"},
    "disk_recovered": {"free_bytes": 5368709120},
    "job_dead": {"reason": "exit"},
    "job_finished": {"level": "warning", "outcome": "exit", "exit_code": 1, "signal": None, "state": "failed"},
    "job_killed": {"reason": "cancelled", "signal": 15},
    "job_timed_out": {"reason": "timeout", "signal": 15},
    "lease_expired": {"reason": "its worker was not heard of for 30.1 s"},
    "message_malformed": {"count": 1, "reason": "not msgpack"},
    "push_undelivered": {"reason": "the worker does not read"},
    "request_refused": {"reason": "command: is empty"},
    "result_spooled": {"count": 2, "reason": "other_broker"},
    "session_closed": {"reason": "left"},
    "spawn_failed": {"detail": "cwd /srv/app: No such file or directory"},
    "worker_denied": {"code": "too_many_sessions", "reason": "'builder' has 64 workers connected"},
    "worker_disconnected": {"reason": "silence"},
    "worker_process_died": {"detail": "the worker process was killed by signal 9"},
    "worker_refused": {"code": "key_not_accepted", "detail": "this key was revoked", "hint": "queuectl auth list"},
    "connect_failed": {"code": "broker_unreachable", "detail": "no broker answers at tcp://broker.example:7710"},
}
_WITH_ERROR = ("batch_replayed", "listen_failed", "message_failed", "spool_failed", "storage_failed", "storage_full")


def sample(event: Event) -> dict[str, Any]:
    """A record of this event, made of the sample values of its keys."""
    own = _SAMPLES.get(event.name, {})
    names = (*HEAD, *event.keys, *(("error_type", "error_message", "error_stack") if event.name in _WITH_ERROR else ()))
    values = {key: KEYS[key].sample for key in names}
    values |= {"level": event.levels[0], "event": event.name, "service": event.service}
    return values | {key: value for key, value in own.items() if key in values}


def refreshed(text: str) -> str:
    """The text of docs/logs.md with its tables made anew, each between its two marks."""
    parts = {"head": _key_table(HEAD), "keys": _key_table(tuple(key for key in KEYS if key not in HEAD))}
    parts |= {"broker": _event_list(BROKER), "worker": _event_list(WORKER)}
    for name, lines in parts.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = "\n".join([f"{before}{begin}", *lines, f"\n{end}{rest.split(end)[1]}"])
    return text


def _key_table(names: tuple[str, ...]) -> Iterator[str]:
    yield "| Key | Type | Meaning |"
    yield "|---|---|---|"
    for name in names:
        yield f"| `{name}` | {_KIND_WORDS[KEYS[name].kind]} | {KEYS[name].doc} |"


def _event_list(service: str) -> Iterator[str]:
    for event in _TABLE:
        if event.service == service:
            keys = ", ".join(f"`{key}`{'?' * (key in event.optional)}" for key in event.keys)
            yield f"**`{event.name}`** ({' or '.join(event.levels)}). {event.doc}{keys and f' Keys: {keys}.'}"
            yield f"\n```json\n{msgspec.json.encode(sample(event)).decode()}\n```\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
