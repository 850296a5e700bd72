"""The wall clock is set. Leases and heartbeats do not look at it; retries do, and are not to wait longer for it."""

from __future__ import annotations

from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import LateRetry

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
        core.hastening = _made_late(core, turn, -step_ms)
    if core.hastening:
        core.store.jobs.hasten(core.hastening[:HASTENED_PER_TURN])
        core.hastening = core.hastening[HASTENED_PER_TURN:]
        core.next_due_ms = core.store.jobs.next_due_ms()


def _made_late(core: State, turn: Turn, step_ms: int) -> list[LateRetry]:
    """The retries that wait, among them those that are late already because the clock went back a moment ago."""
    before = {(late.seq, late.run_at_ms): late.by_ms for late in core.hastening}
    waiting = core.store.jobs.waiting_retries(turn.now.wall_ms)
    return [LateRetry(step_ms + before.get(retry, 0), *retry) for retry in waiting]
