"""Held replies: a client asks to be told when something has come true, and nobody polls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from broker.core import views
from broker.core.access import SUBMIT
from broker.core.envelope import failed, ok
from broker.core.memory import Holder
from broker.core.state import State, Waiter
from broker.core.turn import Turn
from broker.store import OF_THE_STORE
from queuectl.errors import KeyNotAccepted, QueuectlError

WAITERS_MAX = 10_000
WAITERS_OF_KEY_MAX = 1000
READS_PER_TURN = 16  # some 10 ms; the others come first in the next turns


@dataclass(slots=True)
class Condition(Waiter):
    """A client that waits for jobs to be over, for workers to be gone, or for the queue to be empty."""

    jobs: frozenset[int] = frozenset()  # seqs it still waits for
    named: tuple[int, ...] = ()  # seqs of all that it asked for, in its order
    any: bool = False  # one of them is enough
    seen: int | None = None  # it wants to hear, too, when fewer than so many are left
    workers: frozenset[str] = frozenset()
    empty: bool = False

    def look(self, core: State, turn: Turn) -> dict[str, Any] | Waiter:
        left = self if turn.over.isdisjoint(self.jobs) else replace(self, jobs=self.jobs - turn.over)
        if left._is_over(core):
            return left._answer(core, done=True)
        return left._answer(core, done=False) if left._has_news() else left

    def give_up(self, core: State, turn: Turn) -> dict[str, Any]:
        return self._answer(core, done=False)

    def _is_over(self, core: State) -> bool:
        if self.empty:
            return not core.tally.unfinished()
        if self.any and len(self.jobs) < len(self.named):
            return True
        return not self.jobs and not any(_is_there(holder, self.workers) for holder in core.holders.values())

    def _has_news(self) -> bool:
        return self.seen is not None and len(self.jobs) < self.seen

    def _answer(self, core: State, *, done: bool) -> dict[str, Any]:
        counts = None if self.by.role == SUBMIT else core.counts()  # how many jobs others have is their business
        jobs = [views.ending(row) for row in core.store.jobs.endings(self.named)]
        return {"done": done, "jobs_left": len(self.jobs), "jobs": jobs, "counts": counts}


def _is_there(holder: Holder, names: frozenset[str]) -> bool:
    """Whether it is one of these workers: connected, or away with jobs in its hands."""
    return holder.worker.name in names and (holder.session is not None or bool(holder.leases))


def answer(core: State, turn: Turn) -> None:
    """Answer those whose wait is over or has lasted long enough."""
    core.reads_left = False
    if not core.waiters and not turn.held:
        return
    left: list[Waiter] = []
    reads = 0
    for waiter in chain(core.waiters, turn.held):
        if waiter.is_next or waiter.must_read(turn):
            reads += 1
            if reads > READS_PER_TURN and not core.stopping:
                left.append(waiter if waiter.is_next else replace(waiter, is_next=True))
                core.reads_left = True
                continue
        try:
            found = _look(core, turn, waiter)
        except OF_THE_STORE:
            raise
        except QueuectlError as error:  # what it waits for is not there any more
            turn.reply(waiter.envelope, failed(waiter.request_id, error))
            continue
        if isinstance(found, Waiter):
            left.append(found)
            core.reads_left |= found.is_next
        else:
            turn.reply(waiter.envelope, ok(waiter.request_id, found))
    core.waiters = left


def end_waits_of(core: State, turn: Turn, keys: frozenset[int]) -> None:
    """These keys are good for nothing any more: whoever waits with one is told so."""
    for waiter in chain(core.waiters, turn.held):
        if waiter.by.key in keys:
            turn.reply(waiter.envelope, failed(waiter.request_id, KeyNotAccepted("this key was revoked")))
    core.waiters, turn.held = (
        [waiter for waiter in waiters if waiter.by.key not in keys] for waiters in (core.waiters, turn.held)
    )


def _look(core: State, turn: Turn, waiter: Waiter) -> dict[str, Any] | Waiter:
    found = waiter.look(core, turn)
    if isinstance(found, Waiter) and (found.deadline_ms <= turn.now.mono_ms or core.stopping):
        return found.give_up(core, turn)
    return found
