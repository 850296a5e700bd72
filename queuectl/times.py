"""Durations, sizes and instants as people write them: `90`, `1h30m`, `10MiB`, RFC 3339.

Inside the program an instant is an integer of milliseconds since the epoch (UTC) and ends in `_ms`;
seconds stand only at the edges (command line, configuration, JSON).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  UTC, as is everything that it is compared with
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_AHEAD_S_MAX = 10_000 * 366 * 86400.0  # beyond the years that have a number, and yet one that can be added
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY_LETTERS_MIN = 3
_DATE_T = re.compile(r"(\d{4}-\d\d-\d\d)t(?=\d)")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)


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


def rfc3339_local(instant_ms: int) -> str:
    """`2026-11-24T03:00:00+01:00`: the instant by the clock here, in whole seconds."""
    instant = _EPOCH.replace(tzinfo=UTC) + timedelta(milliseconds=instant_ms)
    return instant.astimezone().isoformat(timespec="seconds")


def parse_when(text: str, now_ms: int) -> int:
    """The moment that a person means, in ms UTC; it may be over. Raises ValueError, which shows what can be written.

    RFC 3339 with its zone, `now`, `+1h30m`; and by the clock here `18:00`, `today 18:00`, `tomorrow 03:00`, `friday`,
    `fri 22:30`, `2026-12-24 18:00`. A time alone means its next moment, and a weekday the next day of that name that
    is not over; a day alone means its midnight. A time that the clocks skip is as much later as they skip (02:30 is
    03:30 then); of one that they show twice, the first moment counts that is still to come.
    """
    written = text.strip().lower()
    moment_ms = _fixed(written, now_ms)
    if moment_ms is None:
        moment_ms = _by_the_clock_here(_DATE_T.sub(r"\1 ", written).split(), now_ms)
    if moment_ms is None:
        raise ValueError(
            f"{text[:60]!r} is not a moment; write +2h, 18:00, tomorrow 03:00, fri 22:30, 2026-12-24 18:00 "
            "or 2026-12-24T18:00:00Z"
        )
    try:
        rfc3339(moment_ms)
    except OverflowError:
        raise ValueError(f"{text[:60]!r} is too far away") from None
    return moment_ms


def _fixed(written: str, now_ms: int) -> int | None:
    """A moment that needs no clock on the wall; None if it is written in another way."""
    if written == "now":
        return now_ms
    try:
        if written.startswith("+"):
            return now_ms + round(min(parse_duration(written[1:]), _AHEAD_S_MAX) * 1000)
        if datetime.fromisoformat(written.upper()).tzinfo is None:
            return None
    except ValueError:
        return None
    return parse_rfc3339(written.upper())


def _by_the_clock_here(words: list[str], now_ms: int) -> int | None:
    """The moment of a day and a time, or of one of them; None if it is neither."""
    clock = _clock(words[-1]) if words else None
    day_words = words if clock is None else words[:-1]
    if not words or len(day_words) > 1:
        return None
    today = datetime.fromtimestamp(now_ms / 1000).date()  # noqa: DTZ006  by the clock here
    days = _days(day_words[0], today) if day_words else [today, today + timedelta(days=1)]
    moments = [moment_ms for day in days for moment_ms in _moments(day, clock or time())]
    to_come = [moment_ms for moment_ms in moments if moment_ms > now_ms]
    return next(iter([*to_come, *moments]), None)


def _clock(word: str) -> time | None:
    match = _CLOCK.fullmatch(word)
    try:
        return time(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
    except ValueError:
        return None


def _days(word: str, today: date) -> list[date]:
    """The days that a word may mean, in their order."""
    if word in ("today", "tomorrow"):
        return [today + timedelta(days=word == "tomorrow")]
    numbers = [number for number, name in enumerate(_WEEKDAYS) if name.startswith(word)]
    if len(word) >= _WEEKDAY_LETTERS_MIN and numbers:
        ahead = (numbers[0] - today.weekday()) % 7
        return [today + timedelta(days=ahead), today + timedelta(days=ahead + 7)]
    try:
        return [date.fromisoformat(word)] if "-" in word else []
    except ValueError:
        return []


def _moments(day: date, clock: time) -> list[int]:
    """When the clocks here show this: once, or twice where they are set back. Raises ValueError."""
    try:
        first, second = (round(datetime.combine(day, clock.replace(fold=fold)).timestamp() * 1000) for fold in (0, 1))
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"{day} is too far away") from None
    return [first, second] if first < second else [first]  # of a time that is skipped, the second lies before it


def human_duration(seconds: float) -> str:
    """A duration for people: `5ms`, `0.25s`, `42s`, `3m20s`, `2h05m`, `3d04h`."""
    if 0.0005 <= seconds < 0.1:
        return f"{seconds * 1000:.0f}ms"
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
