"""The queue-wide settings: what may be written for each, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadConfig
from queuectl.jobs import JobSpec
from queuectl.settings import DEFAULTS, SETTINGS, canonical, check_relations, find_setting, parse_setting


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("max_retries", "5", 5),
        ("max-retries", 5, 5),
        (" Max-Retries ", "5", 5),
        ("backoff_base", "1.5", 1.5),
        ("backoff_base", 2.0, 2),
        ("backoff_max", "1h", 3600),
        ("backoff_jitter", "full", "full"),
        ("timeout", "90", 90),
        ("timeout", "none", None),
        ("timeout", None, None),
        ("timeout", "off", None),
        ("output_limit", "64KiB", 65536),
        ("output_total", 10**9, 10**9),
        ("heartbeat", "500ms", 0.5),
        ("min_free", "auto", None),
        ("min_free", "1GiB", 2**30),
    ],
)
def test_value(key: str, given: Any, value: Any) -> None:
    assert parse_setting(key, given) == (canonical(key), value)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("max_retries", "x", "max_retries: 'x' is not an integer"),
        ("max_retries", 1.5, "max_retries: '1.5' is not an integer"),
        ("max_retries", None, "max_retries: 'none' is not an integer"),
        ("max_retries", True, "max_retries: true is not a value of it: attempts a job gets, the first one included"),
        ("max_retries", -1, "max_retries: must be between 0 and 1000000, not -1"),
        ("max_retries", 2**64, "max_retries: must be between 0 and 1000000, not 18446744073709551616"),
        ("backoff_base", "x", "backoff_base: 'x' is not a number"),
        ("backoff_base", "nan", "backoff_base: must be between 0 and 1000000, not nan"),
        ("backoff_base", float("inf"), "backoff_base: must be between 0 and 1000000, not inf"),
        ("backoff_jitter", "x", "backoff_jitter: must be one of none, full, equal"),
        ("timeout", "x", "timeout: 'x' is not a duration; write 90, 90s, 5m, 1h30m or 2d"),
        ("output_limit", "1GiB", "output_limit: must be between 0 and 67108864 bytes, not 1073741824"),
        ("keep_dead_max", "0", "keep_dead_max: must be between 1 and 1000000000000, not 0"),
        ("keep_dead", "9999d", "keep_dead: must be between 0 and 315360000 seconds (10 years), not 863913600"),
        ("heartbeat", "0", "heartbeat: must be between 0.05 and 300 seconds, not 0"),
    ],
    ids=str,
)
def test_refusal(key: str, given: Any, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_setting(key, given)
    assert caught.value.message == message


def test_number_too_large_to_be_shown_is_refused() -> None:
    with pytest.raises(BadConfig, match="max_retries: must be between"):
        parse_setting("max_retries", "9" * 400)


def test_unknown_setting_says_what_was_meant() -> None:
    with pytest.raises(BadConfig) as caught:
        find_setting("max_retry")
    assert caught.value.hint == "did you mean 'max_retries'?"
    with pytest.raises(BadConfig) as caught:
        find_setting("zzz")
    assert (caught.value.hint or "").startswith("known: max_retries")


@pytest.mark.parametrize("key", list(SETTINGS))
def test_default_is_a_value(key: str) -> None:
    assert parse_setting(key, DEFAULTS[key]) == (key, DEFAULTS[key])


def test_settings_of_jobs_are_fields_of_jobs() -> None:
    assert {key for key, setting in SETTINGS.items() if setting.per_job} <= set(JobSpec.__struct_fields__)


def test_defaults_fit_together() -> None:
    check_relations(DEFAULTS)


def test_lease_outlives_a_few_heartbeats() -> None:
    check_relations(DEFAULTS | {"heartbeat": 6})

    with pytest.raises(BadConfig, match=r"lease \(30 s\) must be at least 5 heartbeats \(6.1 s each\)") as caught:
        check_relations(DEFAULTS | {"heartbeat": 6.1})
    assert "lengthen lease to 30.5 or more first" in (caught.value.hint or "")
