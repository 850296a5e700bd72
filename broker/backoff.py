"""How long to wait before a retry: exponential, capped, with jitter only where it was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What was copied into the job at enqueue: how failures and losses are dealt with."""

    max_retries: int
    backoff_base: float
    backoff_max: float  # seconds
    backoff_jitter: str
    on_lost: str = "retry"  # "dead": never run again after a worker was lost, or told to stop, with it


def backoff_ms(attempts: int, policy: Policy, chance: float) -> int:
    """Milliseconds until the next run after this many failed attempts: backoff_base ** attempts seconds.

    Capped by backoff_max. Jitter `full` spreads over the whole delay, `equal` over its second half (the
    names of the AWS architecture blog, 2015). `chance` is a random number in [0, 1).
    """
    delay_s = min(_power(policy.backoff_base, attempts), policy.backoff_max)
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
