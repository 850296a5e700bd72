"""The wall clock is set. Leases and heartbeats do not look at it; retries do, and are not to wait longer for it."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.memory import Setback
from broker.core.state import State
from broker.core.turn import Turn

STEP_MS = 2000  # a clock that is being slewed does not make such steps in one turn
HASTENED_PER_TURN = 1000  # some milliseconds


def mind(core: State, turn: Turn) -> None:
    """Has the clock been set since the last turn? If it went back, retries are due earlier, some more in each turn."""
    if core.storage_full:  # a turn that needs no disk is not to fail for it: it is seen when there is room again
        return
    clock_ms = turn.now.wall_ms - turn.now.mono_ms
    step_ms, core.clock_ms = clock_ms - core.clock_ms, clock_ms
    if abs(step_ms) >= STEP_MS:
        turn.log("warning", "clock_stepped", step_ms=step_ms)
    if step_ms <= -STEP_MS:
        core.setbacks = (*core.setbacks, Setback(-step_ms, core.next_seq - 1))
    if core.setbacks:
        _make_up(core, turn)


def leave(core: State, seqs: Iterable[int]) -> None:
    """The time of these jobs was said by the clock of now: no setback of before has made them late."""
    if core.setbacks:
        timed = frozenset(seqs)
        core.setbacks = tuple(each._replace(timed=each.timed | timed) for each in core.setbacks)


def _make_up(core: State, turn: Turn) -> None:
    """The next retries of the oldest setback, in the order of their numbers."""
    oldest, *others = core.setbacks
    found = core.store.jobs.retries(oldest.upto, oldest.last, HASTENED_PER_TURN, now_ms=turn.now.wall_ms)
    late = [seq for seq, waits in found if waits and seq not in oldest.timed]
    core.store.jobs.hasten(oldest.by_ms, late)
    if late:
        core.next_due_ms = core.store.jobs.next_due_ms()
    left = [oldest._replace(upto=found[-1][0])] if len(found) == HASTENED_PER_TURN else []
    core.setbacks = (*left, *others)
