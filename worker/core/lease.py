"""A lease in the hands of the worker, from the push to the end of its command."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

from msgspec.structs import replace

from queuectl.clock import Now
from queuectl.ids import lease_text
from queuectl.messages import Grant, Held


class Ending(Enum):
    """Why a running job is being killed. It decides what is reported when its leader has ended."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    STOPPED = "stopped"  # the worker was told to end now: given back at no cost
    LOST = "lost"  # the worker loses its ground: given back already, as a loss
    DROPPED = "dropped"  # not ours any more: nothing is reported


class Lease:
    """One lease: waiting for a slot while `slot` is 0, then running."""

    __slots__ = ("arrived_ms", "asked_by", "ending", "grant", "kill_at_ms", "slot", "started")

    def __init__(self, grant: Grant, arrived_ms: int) -> None:
        self.grant = grant
        self.arrived_ms = arrived_ms
        self.slot = 0
        self.started = Now(0, 0)
        self.ending: Ending | None = None
        self.asked_by: int | None = None  # the signal by which its command was asked to end
        self.kill_at_ms: float = math.inf  # when SIGKILL is due

    def let_go_of_stdin(self) -> None:
        """The command has what it is to read: a copy of up to a megabyte is of no more use here."""
        if self.grant.stdin is not None:
            self.grant = replace(self.grant, stdin=None)

    @property
    def is_held(self) -> bool:
        """Whether heartbeats name it: all but those that are only waited for until they are dead."""
        return self.ending is not Ending.DROPPED and self.ending is not Ending.LOST

    def to_held(self) -> Held:
        """The lease as HELLO names it."""
        return Held(self.grant.lease, self.grant.job, self.grant.attempt, done=False)

    def keys(self) -> dict[str, Any]:
        """The lease as the log names it."""
        grant = self.grant
        return {
            "job_id": grant.job,
            "attempt": grant.attempt,
            "lease_id": lease_text(grant.lease),
            "queue": grant.queue,
        }
