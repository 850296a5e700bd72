"""Durations, sizes and instants as people write them: `90`, `1h30m`, `10MiB`, RFC 3339.

Inside the program an instant is an integer of milliseconds since the epoch (UTC) and ends in `_ms`;
seconds stand only at the edges (command line, configuration, JSON).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  UTC, as is everything that it is compared with
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_duration(text: str) -> float:
    """Seconds of `90`, `1.5`, `250ms`, `90s`, `1h30m`, `2d`. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 90, 90s, 5m, 1h30m or 2d")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Bytes of `4096`, `64KiB`, `10MB`, `1.5GiB`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is not a size; write 4096, 64KiB, 10MB or 1GiB")
    try:
        return int(float(match[1]) * _SIZES[match[2].upper()])
    except OverflowError:
        raise ValueError(f"{text[:40]!r}… is too large") from None


def rfc3339(instant_ms: int) -> str:
    """`2026-11-22T16:28:00.123Z`: UTC, milliseconds."""
    instant = _EPOCH + timedelta(milliseconds=instant_ms)
    return instant.isoformat(timespec="milliseconds") + "Z"


def parse_rfc3339(text: str) -> int:
    """Milliseconds since the epoch; the time zone must be given. Raises ValueError."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise ValueError(f"{text!r} is not a time with its zone; write it like 2026-11-22T03:00:00Z")
    try:
        return (instant.astimezone(UTC).replace(tzinfo=None) - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:  # in UTC it lies outside the years 1 to 9999
        raise ValueError(f"{text!r} is too far away") from None


def human_duration(seconds: float) -> str:
    """A duration for people: `0.25s`, `42s`, `3m20s`, `2h05m`, `3d04h`."""
    if seconds < 10:
        return f"{seconds:.2f}s".replace(".00s", "s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
