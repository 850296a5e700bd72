"""How long to wait before a retry: capped, with jitter only where it was asked for; and whether there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What was copied into the job at enqueue: how failures and losses are dealt with."""

    max_retries: int
    backoff_base: float
    backoff_max: float  # seconds
    backoff_jitter: str
    on_lost: str = "retry"  # "dead": never run again after a worker was lost, or told to stop, with it
    backoff: str | tuple[float, ...] = "exp"  # exp, linear, fixed, or the delays themselves in seconds
    retry_on: frozenset[int] = frozenset()  # codes; if there are any, no other failure is retried
    no_retry_on: frozenset[int] = frozenset()

    def retries(self, code: int | None) -> bool:
        """Whether an attempt that ended with this code is to be followed by another (None: it did not start)."""
        return code not in self.no_retry_on and (not self.retry_on or code in self.retry_on)


_DELAYS: dict[str, Callable[[float, int], float]] = {
    "exp": lambda base, attempts: _power(base, attempts),
    "linear": lambda base, attempts: base * attempts,
    "fixed": lambda base, _: base,
}


def backoff_ms(attempts: int, policy: Policy, chance: float) -> int:
    """Milliseconds until the next run after this many failed attempts: backoff_base ** attempts seconds.

    Or as `backoff` has it: linear is backoff_base * attempts, fixed backoff_base, and of a list the last holds for
    all that follow. Capped by backoff_max. Jitter `full` spreads over the whole delay, `equal` over its second half
    (the names of the AWS architecture blog, 2015). `chance` is a random number in [0, 1).
    """
    if isinstance(policy.backoff, str):
        delay_s = _DELAYS[policy.backoff](policy.backoff_base, attempts)
    else:
        delay_s = policy.backoff[min(attempts, len(policy.backoff)) - 1]
    delay_s = min(delay_s, policy.backoff_max)
    if policy.backoff_jitter == "full":
        delay_s *= chance
    elif policy.backoff_jitter == "equal":
        delay_s *= 0.5 + chance / 2
    return round(delay_s * 1000)


def _power(base: float, exponent: int) -> float:
    try:
        return float(base) ** exponent
    except OverflowError:
        return math.inf
