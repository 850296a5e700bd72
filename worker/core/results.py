"""Results that the broker has not answered for yet, this boot's own and those of dead boots.

A result is sent, and sent again, until the broker says `recorded` or `stale`; nothing else settles it. It
goes only to the broker whose database granted the lease.
"""

from __future__ import annotations

from collections.abc import Iterable

from queuectl.messages import Held, Result

RESULTS_PER_MESSAGE = 200  # each may have 4 KiB, and a message holds 1 MiB
RESEND_MS = 1000
RESEND_MAX_MS = 15_000


class Pending:
    """One result and where it belongs."""

    __slots__ = ("broker", "is_ours", "result")

    def __init__(self, result: Result, broker: str, *, is_ours: bool) -> None:
        self.result = result
        self.broker = broker
        self.is_ours = is_ours


class Unsettled:
    """The results awaiting a verdict, in the order in which they came."""

    def __init__(self) -> None:
        self._pending: dict[int, Pending] = {}
        self._unsent: list[int] = []
        self._broker = ""
        self._resend_ms = RESEND_MS
        self._resend_at_ms: int | None = None

    def add(self, result: Result, broker: str, *, is_ours: bool = True) -> None:
        """Keep a result until it is settled."""
        self._pending[result.lease] = Pending(result, broker, is_ours=is_ours)
        if broker == self._broker:
            self._unsent.append(result.lease)

    def settle(self, lease: int) -> Pending | None:
        """The broker has answered; the result it answered for, or None if it had done so before."""
        pending = self._pending.pop(lease, None)
        self._resend_ms = RESEND_MS
        if not self.is_owing:
            self._resend_at_ms = None
        return pending

    def restart(self, broker: str) -> None:
        """A new session with this broker: everything that is for it goes again."""
        self._broker = broker
        self._unsent = [lease for lease, pending in self._pending.items() if pending.broker == broker]
        self._resend_ms = RESEND_MS
        self._resend_at_ms = None

    def suspend(self) -> None:
        """There is no session: nothing can be sent again."""
        self._resend_at_ms = None

    def take_batch(self, now_ms: int) -> list[Result]:
        """Results for one message; call again until there are none."""
        batch, self._unsent = self._unsent[:RESULTS_PER_MESSAGE], self._unsent[RESULTS_PER_MESSAGE:]
        if batch and self._resend_at_ms is None:
            self._resend_at_ms = now_ms + self._resend_ms
        return [self._pending[lease].result for lease in batch if lease in self._pending]

    def resend_due(self, now_ms: int) -> None:
        """Send again what has waited for its verdict too long, each time after a longer pause."""
        if self._resend_at_ms is not None and now_ms >= self._resend_at_ms:
            resend_ms = min(2 * self._resend_ms, RESEND_MAX_MS)
            self.restart(self._broker)
            self._resend_ms = resend_ms

    def next_deadline(self) -> int | None:
        return self._resend_at_ms

    def held(self) -> Iterable[Held]:
        """This boot's own results for this broker, as HELLO names them."""
        for result in self._ours():
            yield Held(result.lease, result.job, result.attempt, done=True)

    def leases(self) -> list[int]:
        """This boot's own results for this broker, as heartbeats name them."""
        return [result.lease for result in self._ours()]

    def _ours(self) -> Iterable[Result]:
        for pending in self._pending.values():
            if pending.is_ours and pending.broker == self._broker:
                yield pending.result

    def is_ours(self, lease: int) -> bool:
        """Whether a lease of this boot is done and awaits its verdict."""
        pending = self._pending.get(lease)
        return pending is not None and pending.is_ours

    @property
    def unsent(self) -> int:
        """How many are to be sent to this broker as soon as may be."""
        return len(self._unsent)

    @property
    def is_owing(self) -> bool:
        """Whether a verdict is awaited from this broker."""
        return any(pending.broker == self._broker for pending in self._pending.values())

    @property
    def has_adopted(self) -> bool:
        """Whether this broker has still to answer for results of dead boots."""
        return any(not p.is_ours and p.broker == self._broker for p in self._pending.values())

    def __len__(self) -> int:
        return len(self._pending)
