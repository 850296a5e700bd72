"""What goes into the store and comes out of it: plain rows, and the codes that stand for words in it."""

from __future__ import annotations

from typing import NamedTuple

from broker.store.connection import StoreRefused
from queuectl.jobs import JobState

STATES = tuple(JobState)  # the code of a state is its place here: pending 0 … cancelled 5
CODES = {state: code for code, state in enumerate(STATES)}

RESTING = 0  # running or over: not to be leased
READY = 1  # to be leased now
DUE_LATER = 2  # to be leased when run_at has come
READY_ALONE = 3  # to be leased to a worker that runs no other such job (suspected poison)
HELD = 4  # not to be leased before it is released


# A job to store: what changes of it, and what does not. Plain tuples: SQLite's driver is slower with named ones.
# id, bucket, priority, ready, run_at_ms, now_ms, seq
NewJob = tuple[str, int, int, int, int, int, int]
# seq, command, max_retries, backoff_base, backoff_max, backoff_jitter, timeout_ms, output_limit, keep_children, env,
# cwd, on_lost, enqueued_by, event
NewSpec = tuple[int, str, int, float, float, str, int | None, int, int, bytes | None, str | None, str, int, int]


class Candidate(NamedTuple):
    """A job that may be leased, with all that a worker needs to run it."""

    priority: int
    run_at_ms: int
    seq: int
    id: str
    bucket: int
    state: int
    attempt: int
    attempts: int
    losses: int
    command: str
    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: str
    timeout_ms: int | None
    output_limit: int
    keep_children: int
    env: bytes | None
    cwd: str | None
    on_lost: str
    rules: bytes | None
    deadline_ms: int | None
    stdin: bytes | None
    until_ms: int | None

    @property
    def size(self) -> int:
        """Characters and bytes of what is of any length."""
        if self.env is None and self.stdin is None:  # as most are
            return len(self.command)
        return len(self.command) + len(self.env or b"") + len(self.stdin or b"")


class LeaseRow(NamedTuple):
    """A leased job, as it is read back when the broker starts or adopts a lease."""

    seq: int
    id: str
    bucket: int
    priority: int
    state: int
    run_at_ms: int
    attempt: int
    attempts: int
    losses: int
    lease: int
    worker: int
    slot: int
    updated_at_ms: int
    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: str
    output_limit: int
    on_lost: str
    rules: bytes | None
    deadline_ms: int | None
    until_ms: int | None


class Move(NamedTuple):
    """A leased job to its next state. Applied only where `lease` and `from_state` still hold."""

    state: int
    ready: int
    run_at_ms: int
    attempt: int
    attempts: int
    losses: int
    keep_lease: int | None
    reason: str | None
    exit_code: int | None
    signal: int | None
    now_ms: int
    finished_at_ms: int | None
    seq: int
    lease: int
    from_state: int


class Completion(NamedTuple):
    """A leased job whose command exited 0. Applied only where it is still leased so."""

    exit_code: int | None
    signal: int | None
    updated_at_ms: int
    finished_at_ms: int
    seq: int
    lease: int


class AttemptRow(NamedTuple):
    """One ended attempt."""

    seq: int
    attempt: int
    lease: int
    worker: int | None
    started_at_ms: int
    finished_at_ms: int
    duration_ms: int
    outcome: str
    exit_code: int | None
    signal: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    last_line: str
    note: str


class WorkerRow(NamedTuple):
    """One start of a worker."""

    worker: int
    boot: str
    name: str
    host: str
    home: str
    pid: int
    slots: int
    software: str
    actor: int | None  # who it is; None: from before there were keys


class StopRow(NamedTuple):
    """A worker that was told to stop."""

    worker: int
    at_once: int  # 1: without finishing what runs
    at_ms: int


class KeyRow(NamedTuple):
    """A key that somebody comes in with, or came in with."""

    key: int
    name: str
    role: str
    queues: tuple[str, ...]  # globs; none: all queues
    public_key: str
    added_at_ms: int
    added_by: int
    revoked_at_ms: int | None
    revoked_by: int | None


class JobRow(NamedTuple):
    """A job with everything that its view shows."""

    seq: int
    id: str
    bucket: int
    priority: int
    state: int
    ready: int
    run_at_ms: int
    attempt: int
    attempts: int
    losses: int
    reason: str | None
    exit_code: int | None
    signal: int | None
    created_at_ms: int
    updated_at_ms: int
    finished_at_ms: int | None
    worker: str | None
    command: str
    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: str
    timeout_ms: int | None
    output_limit: int
    keep_children: int
    env: bytes | None
    cwd: str | None
    on_lost: str
    enqueued_by: int | None
    rules: bytes | None
    tags: bytes | None
    expires_ms: int | None
    deadline_ms: int | None
    retry_of: str | None
    stdin_bytes: int | None
    unique_key: str | None
    cancelling: int | None
    last_line: str | None

    @property
    def size(self) -> int:
        """Characters and bytes of what is of any length."""
        texts = (self.command, self.env, self.tags, self.cwd, self.last_line)
        return sum(len(text) for text in texts if text is not None)


class EndingRow(NamedTuple):
    """How a job has ended, or where it stands."""

    id: str
    state: int
    exit_code: int | None
    signal: int | None
    reason: str | None


class Known(NamedTuple):
    """What is known of an id: enough to refuse or to go on."""

    seq: int
    id: str
    bucket: int
    state: int
    attempt: int
    lease: int | None
    ready: int


def expect(changed: int, wanted: int, verb: str) -> None:
    """Refuse what has not changed as many rows as it was to. Raises StoreRefused."""
    if changed != wanted:
        raise StoreRefused(f"{verb}: {wanted} rows were to change, {changed} did")
