"""Durations, sizes and instants, in and out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from queuectl.times import (
    human_duration,
    parse_duration,
    parse_rfc3339,
    parse_size,
    parse_when,
    rfc3339,
    rfc3339_local,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        (" 250ms ", 0.25),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "1 h", "1x", "1h30", "h1", "1e3", "nan", "1,5"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 90"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("64KiB", 65536), ("10MB", 10**7), ("1.5GiB", 3 * 2**29), ("1 tib", 2**40), ("7b", 7)],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1 XB", "1KiBs", "0x10"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 4096"):
        parse_size(text)


def test_size_beyond_all_measure() -> None:
    with pytest.raises(ValueError, match="is too large"):
        parse_size("9" * 400)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-22T03:00:00.123Z", 1795316400123),
        ("2026-11-22T04:00:00.123+01:00", 1795316400123),
        ("2026-11-22T03:00:00.1239Z", 1795316400123),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00Z", -62135596800000),
        ("9999-12-31T23:59:59.999999Z", 253402300799999),
    ],
)
def test_instant(text: str, ms: int) -> None:
    assert parse_rfc3339(text) == ms


@pytest.mark.parametrize("text", ["", "now", "2026-11-22", "2026-11-22T03:00:00", "2026-13-01T00:00:00Z", "1795316400"])
def test_instant_without_its_zone_or_sense(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time with its zone"):
        parse_rfc3339(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_instant_outside_of_history(text: str) -> None:
    with pytest.raises(ValueError, match="is too far away"):
        parse_rfc3339(text)


@pytest.mark.parametrize("ms", [0, 1, 999, 1795316400123, -1, -62135596800000, 253402300799999])
def test_instant_is_read_as_it_was_written(ms: int) -> None:
    text = rfc3339(ms)

    assert parse_rfc3339(text) == ms
    assert len(text) == len("2026-11-22T03:00:00.123Z")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.25s"),
        (0.0004, "0s"),
        (0.0046, "5ms"),
        (0.1, "0.10s"),
        (9.999, "10s"),
        (42, "42s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (7500, "2h05m"),
        (273600, "3d04h"),
    ],
)
def test_duration_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


# --- moments ---------------------------------------------------------------------------------------


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


MONDAY = "2026-11-23T10:00:00+01:00"


def when(text: str, now: str = MONDAY) -> str:
    """The moment as the clock in Berlin shows it."""
    return rfc3339_local(parse_when(text, parse_rfc3339(now)))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", MONDAY),
        (" NOW ", MONDAY),
        ("+2h", "2026-11-23T12:00:00+01:00"),
        ("+1h30m", "2026-11-23T11:30:00+01:00"),
        ("+90", "2026-11-23T10:01:30+01:00"),
        ("2026-11-24T03:00:00Z", "2026-11-24T04:00:00+01:00"),
        ("2026-11-24t03:00:00z", "2026-11-24T04:00:00+01:00"),
        ("2026-11-24 03:00:00-05:00", "2026-11-24T09:00:00+01:00"),
        ("2001-01-01T00:00:00Z", "2001-01-01T01:00:00+01:00"),
        ("18:00", "2026-11-23T18:00:00+01:00"),
        ("18:00:30", "2026-11-23T18:00:30+01:00"),
        ("9:59", "2026-11-24T09:59:00+01:00"),
        ("10:00", "2026-11-24T10:00:00+01:00"),
        ("10:00:01", "2026-11-23T10:00:01+01:00"),
        ("today 18:00", "2026-11-23T18:00:00+01:00"),
        ("today 03:00", "2026-11-23T03:00:00+01:00"),
        ("today", "2026-11-23T00:00:00+01:00"),
        ("tomorrow", "2026-11-24T00:00:00+01:00"),
        ("Tomorrow  03:00", "2026-11-24T03:00:00+01:00"),
        ("friday", "2026-11-27T00:00:00+01:00"),
        ("fri 22:30", "2026-11-27T22:30:00+01:00"),
        ("thurs 7:05", "2026-11-26T07:05:00+01:00"),
        ("sun", "2026-11-29T00:00:00+01:00"),
        ("monday", "2026-11-30T00:00:00+01:00"),
        ("mon 09:00", "2026-11-30T09:00:00+01:00"),
        ("mon 11:00", "2026-11-23T11:00:00+01:00"),
        ("2026-12-24 18:00", "2026-12-24T18:00:00+01:00"),
        ("2026-12-24T18:00:05", "2026-12-24T18:00:05+01:00"),
        ("2026-07-01 18:00", "2026-07-01T18:00:00+02:00"),
        ("2026-12-24", "2026-12-24T00:00:00+01:00"),
    ],
)
def test_moment(text: str, moment: str) -> None:
    assert when(text) == moment


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "now", "moment"),
    [
        ("02:30", "2026-03-28T12:00:00+01:00", "2026-03-29T03:30:00+02:00"),
        ("2026-03-29 02:00", MONDAY, "2026-03-29T03:00:00+02:00"),
        ("sun 02:59:59", "2026-03-27T12:00:00+01:00", "2026-03-29T03:59:59+02:00"),
        ("tomorrow 03:00", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("+24h", "2026-03-28T12:00:00+01:00", "2026-03-29T13:00:00+02:00"),
    ],
)
def test_moment_that_the_clocks_skip_is_as_much_later(text: str, now: str, moment: str) -> None:
    assert when(text, now) == moment


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "now", "moment"),
    [
        ("02:30", "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("02:30", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
        ("today 02:30", "2026-10-25T02:15:00+01:00", "2026-10-25T02:30:00+01:00"),
        ("02:30", "2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"),
        ("today 02:30", "2026-10-25T09:00:00+01:00", "2026-10-25T02:30:00+02:00"),
        ("2026-10-25 02:30", "2026-10-01T09:00:00+02:00", "2026-10-25T02:30:00+02:00"),
    ],
)
def test_moment_that_the_clocks_show_twice_is_the_first_to_come(text: str, now: str, moment: str) -> None:
    assert when(text, now) == moment


NO_MOMENTS: tuple[str, ...] = (
    "",
    " ",
    "soon",
    "2h",
    "+",
    "+2x",
    "-2h",
    "24:00",
    "18:60",
    "18",
    "18:0",
    "fr",
    "friday 18:00 22:00",
)
NO_MOMENTS += ("someday 9:00", "2026-02-30", "2026-13-01 10:00", "26-12-24", "20261224", "2026-W50-1x")
NO_MOMENTS += ("18:00 tomorrow", "\u0661\u0668:\u0660\u0660", "x" * 500)


@pytest.mark.parametrize("text", NO_MOMENTS)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not a moment; write \+2h, 18:00, tomorrow 03:00, fri 22:30, 2026-12-24 18:"
    ):
        parse_when(text, parse_rfc3339(MONDAY))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("text", ["+99999999d", "+" + "9" * 400, "0001-01-01T00:00:00+14:00", "0001-01-01 00:00"])
def test_moment_outside_of_history(text: str) -> None:
    with pytest.raises(ValueError, match="is too far away"):
        parse_when(text, parse_rfc3339(MONDAY))
