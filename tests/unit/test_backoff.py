"""How long a retry waits."""

from __future__ import annotations

import pytest

from broker.backoff import Policy, backoff_ms


def policy(base: float = 2, *, longest: float = 3600, jitter: str = "none") -> Policy:
    return Policy(max_retries=10, backoff_base=base, backoff_max=longest, backoff_jitter=jitter)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 16), (11, 2048), (12, 3600), (500, 3600)]
)
def test_delay_is_base_to_the_power_of_attempts_up_to_the_cap(attempts: int, seconds: int) -> None:
    assert backoff_ms(attempts, policy(), 0.99) == seconds * 1000


@pytest.mark.parametrize(
    ("base", "attempts", "ms"), [(1, 7, 1000), (0, 1, 0), (0.5, 1, 500), (1.5, 2, 2250), (10, 3, 1_000_000)]
)
def test_any_base_is_taken_literally(base: float, attempts: int, ms: int) -> None:
    assert backoff_ms(attempts, policy(base), 0.5) == ms


@pytest.mark.parametrize("attempts", [1024, 999_999])
def test_power_too_large_for_a_float_is_the_cap(attempts: int) -> None:
    assert backoff_ms(attempts, policy(1_000_000), 0.5) == 3_600_000


def test_cap_of_zero_is_no_delay() -> None:
    assert backoff_ms(3, policy(longest=0), 0.5) == 0


@pytest.mark.parametrize(
    ("jitter", "chance", "ms"),
    [
        ("none", 0.0, 8000),
        ("full", 0.0, 0),
        ("full", 0.5, 4000),
        ("full", 0.999, 7992),
        ("equal", 0.0, 4000),
        ("equal", 0.5, 6000),
        ("equal", 0.999, 7996),
    ],
)
def test_jitter_spreads_within_its_bounds(jitter: str, chance: float, ms: int) -> None:
    assert backoff_ms(3, policy(jitter=jitter), chance) == ms


def test_jitter_of_the_cap_stays_below_the_cap() -> None:
    assert backoff_ms(2000, policy(jitter="full"), 0.999) == 3_596_400
