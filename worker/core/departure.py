"""How a worker leaves: it takes nothing new, waits until all is told, says BYE, and does not wait for ever."""

from __future__ import annotations

from enum import IntEnum

BYE_MS = 2000  # how long the answer to BYE is waited for
TELL_MS = 10_000  # how long a connected broker may take to answer for the last results


class Stage(IntEnum):
    """How far the departure has come."""

    WORKING = 0
    DRAINING = 1  # takes nothing new, finishes what runs
    LEAVING = 2  # BYE is said
    GONE = 3


class Departure:
    """The worker's way out."""

    def __init__(self, patience_ms: int) -> None:
        self._patience_ms = patience_ms  # how long a broker that is away is waited for
        self.stage = Stage.WORKING
        self.code = 0
        self._urgency = 0
        self._is_refused = False
        self._since_ms: int | None = None  # no job runs since then
        self._leave_at_ms: int | None = None

    def begin(self, code: int = 0) -> None:
        """Take nothing new from now on."""
        self.code = self.code or code
        if self.stage is Stage.WORKING:
            self.stage = Stage.DRAINING

    def refuse(self, code: int) -> None:
        """No broker will ever want to hear from us: end as soon as no job runs."""
        self._is_refused = True
        self.begin(code)

    def escalate(self) -> bool:
        """Someone insists. Whether it is the second time that force was asked for."""
        self._urgency += 1
        return self._urgency > 1

    def reconsider(self) -> None:
        """The connection came or went: patience starts anew, and a BYE must be said again."""
        self._since_ms = self._leave_at_ms = None
        if self.stage is Stage.LEAVING:
            self.stage = Stage.DRAINING

    def may_leave(self, now_ms: int, *, is_connected: bool, is_owing: bool) -> bool:
        """Whether it is time, now that no job runs: nothing is left to tell, or patience is at its end."""
        if self._since_ms is None:
            self._since_ms = now_ms
        self._leave_at_ms = self._since_ms + (TELL_MS if is_connected else self._patience_ms)
        return not is_owing or self._is_refused or now_ms >= self._leave_at_ms

    def bye_said(self, now_ms: int) -> None:
        self.stage = Stage.LEAVING
        self._leave_at_ms = now_ms + BYE_MS

    def is_bye_overdue(self, now_ms: int) -> bool:
        return self._leave_at_ms is not None and now_ms >= self._leave_at_ms

    def next_deadline(self) -> int | None:
        return self._leave_at_ms if self.stage in (Stage.DRAINING, Stage.LEAVING) else None
