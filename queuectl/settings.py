"""The queue-wide settings: one table with the type, default, bounds and meaning of each.

They live in the broker's database only and are changed by `queuectl config set`. Those that are copied
into a job at enqueue (`per_job`) change new jobs only. Keys may be written with dashes or underscores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from queuectl.errors import BadConfig
from queuectl.jobs import JITTERS, SECONDS_MAX
from queuectl.suggest import did_you_mean
from queuectl.times import parse_duration, parse_size

Value = int | float | str | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One queue-wide setting. `parse` takes what a person wrote; `low` and `high` bound numbers."""

    key: str
    default: Value
    parse: Callable[[str], Value]
    doc: str
    low: float = 0
    high: float = SECONDS_MAX
    choices: tuple[str, ...] = ()
    per_job: bool = False

    @property
    def is_time(self) -> bool:
        """Whether its value is in seconds."""
        return self.parse in (_seconds, _seconds_or_none, _age_or_none)

    @property
    def bounds(self) -> str:
        """Between which numbers it may be, with their unit."""
        unit = " seconds" if self.is_time else " bytes" if self.parse in (parse_size, _size_or_auto) else ""
        years = " (10 years)" if self.is_time and self.high == SECONDS_MAX else ""
        return f"between {self.low:.15g} and {self.high:.15g}{unit}{years}"


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None


def _number(text: str) -> float:
    try:
        return _tidy(float(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _tidy(value: float) -> float:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _integer_or_none(text: str) -> int | None:
    return None if text.strip().lower() in ("none", "off") else _integer(text)


def _seconds(text: str) -> float:
    return _tidy(parse_duration(text))


def _seconds_or_none(text: str) -> float | None:
    return None if text.strip().lower() in ("none", "off", "0") else _seconds(text)


def _age_or_none(text: str) -> float | None:
    """How long something is kept. 0 might be meant as not at all or as for ever."""
    if text.strip().lower() in ("none", "off"):
        return None
    seconds = _seconds(text)
    if seconds <= 0:
        raise ValueError("0 keeps nothing; write none to keep them for ever, or how long: 12h, 7d")
    return seconds


def _size_or_auto(text: str) -> int | None:
    return None if text.strip().lower() in ("auto", "none") else parse_size(text)


_TABLE = (
    Setting("max_retries", 3, _integer, "attempts a job gets, the first one included", high=1_000_000, per_job=True),
    Setting("backoff_base", 2, _number, "the n-th retry waits backoff_base ** n seconds", high=1_000_000, per_job=True),
    Setting("backoff_max", 3600, _seconds, "longest wait before a retry, in seconds", per_job=True),
    Setting("backoff_jitter", "none", str, "spread of retries: none, full or equal", choices=JITTERS, per_job=True),
    Setting("timeout", None, _seconds_or_none, "longest run of one attempt, in seconds, or none", 0.001, per_job=True),
    Setting("output_limit", 2**20, parse_size, "bytes kept of a stream of an attempt", high=64 * 2**20, per_job=True),
    Setting("max_losses", 3, _integer, "times a job may lose its worker before it is dead (poison)", 1, 1000),
    Setting("output_total", 2**30, parse_size, "bytes of output kept in all; the oldest goes first", high=2**50),
    Setting("keep_completed", 7 * 86400, _age_or_none, "seconds that completed jobs are kept; or none: for ever"),
    Setting("keep_cancelled", 7 * 86400, _age_or_none, "the same of cancelled jobs"),
    Setting("keep_dead", 180 * 86400, _age_or_none, "the same of dead jobs"),
    Setting("keep_dead_max", 10_000, _integer_or_none, "dead jobs kept; who died first goes first; or none", 1, 10**12),
    Setting("keep_events", 30 * 86400, _seconds, "seconds for which the feed of events reaches back", 60),
    Setting("heartbeat", 2, _seconds, "seconds between heartbeats of workers and broker", 0.05, 300),
    Setting("lease", 30, _seconds, "seconds of silence after which a worker's jobs go to another", 0.25, 86400),
    Setting("max_backlog", 10_000_000, _integer_or_none, "jobs that may wait or run, in all; or none", 1, 10**12),
    Setting("max_queue_backlog", None, _integer_or_none, "the same in each queue; or none", 1, 10**12),
    Setting("max_requests_per_second", 5000, _integer, "requests that each key may make in a second", 1, 1_000_000),
    Setting("max_sessions", 64, _integer, "workers that may be connected with one key", 1, 100_000),
    Setting("min_free", None, _size_or_auto, "free disk needed to take jobs; auto: 5 %, at most 256 MiB", high=2**50),
)

SETTINGS: dict[str, Setting] = {setting.key: setting for setting in _TABLE}
DEFAULTS: dict[str, Value] = {setting.key: setting.default for setting in _TABLE}
LEASE_HEARTBEATS_MIN = 5  # a lease must outlive a few lost heartbeats, or a hiccup costs an attempt


def canonical(key: str) -> str:
    """`max-retries` → `max_retries`."""
    return key.strip().lower().replace("-", "_")


def find_setting(key: str) -> Setting:
    """The setting of this name. Raises BadConfig with a did-you-mean."""
    setting = SETTINGS.get(canonical(key))
    if setting is None:
        hint = did_you_mean(canonical(key), SETTINGS) or f"known: {', '.join(SETTINGS)}"
        raise BadConfig(f"unknown setting '{key}'", hint=hint)
    return setting


def parse_setting(key: str, given: Value) -> tuple[str, Value]:
    """The canonical key and the checked value of what was given as text or number. Raises BadConfig."""
    setting = find_setting(key)
    if isinstance(given, bool):
        raise BadConfig(f"{setting.key}: {json.dumps(given)} is not a value of it: {setting.doc}")
    try:
        value = setting.parse(given if isinstance(given, str) else "none" if given is None else f"{given!r}")
    except ValueError as error:
        raise BadConfig(f"{setting.key}: {error}") from None
    if setting.choices and value not in setting.choices:
        raise BadConfig(f"{setting.key}: must be one of {', '.join(setting.choices)}")
    if isinstance(value, int | float) and not setting.low <= value <= setting.high:  # so NaN is refused as well
        raise BadConfig(f"{setting.key}: must be {setting.bounds}, not {str(value)[:40]}")
    return setting.key, value


def check_relations(values: Mapping[str, Any]) -> None:
    """Check what one value alone cannot tell. Raises BadConfig."""
    heartbeat, lease = float(values["heartbeat"]), float(values["lease"])
    if lease < LEASE_HEARTBEATS_MIN * heartbeat:
        raise BadConfig(
            f"lease ({lease:g} s) must be at least {LEASE_HEARTBEATS_MIN} heartbeats ({heartbeat:g} s each)",
            hint=f"lengthen lease to {LEASE_HEARTBEATS_MIN * heartbeat:g} or more first, or shorten heartbeat first",
        )
