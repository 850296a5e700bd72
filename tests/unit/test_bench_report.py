"""The benchmarks' report: what counts as reached, and what becomes of results that were there before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.figures import Bar, Figure, Row
from tests.bench.measuring import Readings, percentile


def figure(*rows: Row, name: str = "true") -> Figure:
    return Figure(name, lambda size: {}, 1, 1, rows)


def saved(tmp_path: Path, it: Figure, *runs: Readings) -> dict[str, object]:
    report.save(tmp_path / "bench.json", it, 1, runs, noisy=0)
    entry = report.load(tmp_path / "bench.json")[it.name]
    row: dict[str, object] = entry["rows"][0]
    return row


@pytest.mark.parametrize(
    ("row", "runs", "reached"),
    [
        (Row("r", "u", (Bar("limit", 0.8),)), [{"queuectl": 80, "limit": 100}], True),
        (Row("r", "u", (Bar("limit", 0.8),)), [{"queuectl": 79, "limit": 100}], False),
        (Row("r", "u", (Bar("limit", 0.8), Bar("peer", 1))), [{"queuectl": 80, "limit": 100, "peer": 81}], False),
        (Row("r", "u", (Bar("limit", 1.5),), more_is_better=False), [{"queuectl": 15, "limit": 10}], True),
        (Row("r", "u", (Bar("limit", 1.5),), more_is_better=False), [{"queuectl": 16, "limit": 10}], False),
        (Row("r", "u", (Bar("few", more=1),), more_is_better=False), [{"queuectl": 3, "few": 2}], True),
        (Row("r", "u", (Bar("few", more=1),), more_is_better=False), [{"queuectl": 3.1, "few": 2}], False),
        (Row("r", "u", most=120, more_is_better=False), [{"queuectl": 120}], True),
        (Row("r", "u", most=120, more_is_better=False), [{"queuectl": 121}], False),
        (Row("r", "u", (Bar("peer", 1),)), [{"queuectl": 1}], None),
        (Row("r", "u", (Bar("peer"),)), [{"queuectl": 1, "peer": 2}], None),
    ],
)
def test_row_is_reached_as_its_bars_say(tmp_path: Path, row: Row, runs: list[Readings], reached: bool | None) -> None:
    assert saved(tmp_path, figure(row), *runs)["reached"] is reached


def test_ratio_is_the_median_of_the_runs_own_ratios(tmp_path: Path) -> None:
    runs: list[Readings] = [
        {"queuectl": 1, "limit": 2},
        {"queuectl": 3, "limit": 4},
        {"queuectl": 9, "limit": 10},
    ]

    row = saved(tmp_path, figure(Row("r", "u", (Bar("limit", 0.8),))), *runs)

    assert row["bars"] == [
        {
            "beside": "limit",
            "asked": ">= 0.8",
            "reached": False,
            "other": {"median": 4, "least": 2, "most": 10},
            "ratio": {"median": 0.75, "least": 0.5, "most": 0.9},
        }
    ]


def test_figure_measured_again_replaces_its_own_entry_alone(tmp_path: Path) -> None:
    row = Row("r", "u")
    saved(tmp_path, figure(row, name="bulk"), {"queuectl": 1})
    saved(tmp_path, figure(row, name="true"), {"queuectl": 2})
    saved(tmp_path, figure(row, name="true"), {"queuectl": 3})

    results = report.load(tmp_path / "bench.json")

    assert {name: entry["readings"] for name, entry in results.items()} == {
        "bulk": [{"queuectl": 1}],
        "true": [{"queuectl": 3}],
    }


def test_table_says_which_peer_was_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = figure(Row("what", "jobs/s", (Bar("one", 1), Bar("other", 1))))
    monkeypatch.setattr(report, "FIGURES", (it,))
    saved(tmp_path, it, {"queuectl": 1234.5, "one": 1000})

    lines = report.table(tmp_path / "bench.json", ["true"]).splitlines()

    assert [line.split() for line in lines[3:]] == [
        ["what,", "jobs/s"],
        ["queuectl", "1,234", "(1,234", "-", "1,234)"],
        ["one", "1,000", "(1,000", "-", "1,000)", "1.23", "(1.23", "-", "1.23)", ">=", "1"],
        ["other", "not", "installed,", "skipped"],
        ["reached"],
    ]


def test_page_has_a_line_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = figure(Row("what", "MB", (Bar("peer"),), most=120, more_is_better=False))
    monkeypatch.setattr(report, "FIGURES", (it,))
    saved(tmp_path, it, {"queuectl": 60, "peer": 240})

    lines = report.markdown(tmp_path / "bench.json", ["true"]).splitlines()

    assert lines[2:] == ["| what | 60 (60 - 60) MB | peer: 240 | 0.25 (0.25 - 0.25) | <= 120 | reached |"]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentile_is_the_value_that_a_share_does_not_exceed(share: float, value: int) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value
