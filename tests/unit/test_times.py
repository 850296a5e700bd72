"""Durations, sizes and instants, in and out."""

from __future__ import annotations

import pytest

from queuectl.times import human_duration, parse_duration, parse_rfc3339, parse_size, rfc3339


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
