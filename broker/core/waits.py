"""Held replies: a client asks to be told when something has come true, and nobody polls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from broker.core.envelope import ok
from broker.core.turn import Turn
from broker.store.rows import CODES
from queuectl.jobs import JobState

if TYPE_CHECKING:
    from broker.core.core import Core

UNFINISHED = (JobState.PENDING, JobState.PROCESSING, JobState.FAILED)
WAITERS_MAX = 10_000


@dataclass(slots=True)
class Waiter:
    """A client that waits. `jobs` are the seqs it still waits for, `workers` the names."""

    envelope: tuple[bytes, ...]
    request_id: str
    deadline_ms: int  # monotonic
    jobs: set[int] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)
    empty: bool = False

    def is_over(self, core: Core) -> bool:
        """Whether what it waits for has come true."""
        if self.empty:
            return not any(core.tally.total(CODES[state]) for state in UNFINISHED)
        connected = {session.holder.worker.name for session in core.sessions.values()} if self.workers else set()
        return not self.jobs and not self.workers & connected

    def answer(self, core: Core, *, done: bool) -> dict[str, Any]:
        """The data of the reply."""
        return {"done": done, "jobs_left": len(self.jobs), "counts": core.counts()}


def answer(core: Core, turn: Turn) -> None:
    """Answer those whose wait is over or has lasted long enough."""
    if not core.waiters:
        return
    left = []
    for waiter in core.waiters:
        if not turn.over.isdisjoint(waiter.jobs):
            waiter = replace(waiter, jobs=waiter.jobs - turn.over)  # a new one: the turn may fail yet
        done = waiter.is_over(core)
        if done or waiter.deadline_ms <= turn.now.mono_ms or core.stopping:
            turn.reply(waiter.envelope, ok(waiter.request_id, waiter.answer(core, done=done)))
        else:
            left.append(waiter)
    core.waiters = left
