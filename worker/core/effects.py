"""What the core wants done outside. The loop carries the effects out in the order in which they were collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from queuectl.errors import QueuectlError
from queuectl.messages import Grant, Piece, Result, Returned


class Start(NamedTuple):
    """Run this grant's command. Slots count from 1."""

    grant: Grant
    slot: int


SIGTERM, SIGKILL = 15, 9


class Kill(NamedTuple):
    """Signal the whole tree of a running lease: SIGKILL if hard, else `signal` and at `kill_at_ms` SIGKILL.

    `signal` may be a number that the system does not know; None: it has been sent, only the end comes sooner.
    """

    lease: int
    hard: bool
    kill_at_ms: int
    signal: int | None = SIGTERM


class Spool(NamedTuple):
    """Put a result on disk before it is sent."""

    result: Result
    broker: str


class SpoolOutput(NamedTuple):
    """Put output on disk that the broker could not be given yet."""

    pieces: Sequence[Piece]
    broker: str


class SpoolReturned(NamedTuple):
    """Put leases on disk that were given back, and that the broker could not be told of before the worker ends."""

    returned: Sequence[Returned]
    broker: str


class Settle(NamedTuple):
    """The broker has answered for these results: they need not be kept."""

    leases: Sequence[int]


class Connect(NamedTuple):
    """Throw the socket away, if there is one, and connect a fresh one."""


class Forget(NamedTuple):
    """The broker knows that these boots are dead, and has what they left: remove their spools."""

    boots: Sequence[str]


class Ready(NamedTuple):
    """The first session has begun."""

    worker: str
    broker: str


class Refused(NamedTuple):
    """There will be no first session: why."""

    error: QueuectlError


class Leave(NamedTuple):
    """All is done that can be done: end the process. `is_tidy`: the broker expects nothing more of this boot."""

    code: int
    is_tidy: bool


class Tell(NamedTuple):
    """Write a line into the log."""

    level: str
    event: str
    keys: Mapping[str, Any]


Effect = Start | Kill | Spool | SpoolOutput | SpoolReturned | Settle | Connect | Forget | Ready | Refused | Leave | Tell
