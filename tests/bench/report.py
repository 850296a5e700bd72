"""Results: what each run read, kept as JSON from one call to the next, and the table for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.crew import ROOT
from tests.bench.figures import FIGURES, Bar, Figure, Row
from tests.bench.machine import commit, description
from tests.bench.measuring import Readings

RESULTS = Path("build/bench.json")
QUICK = Path("build/bench-quick.json")  # those of quick runs prove nothing but that all works


def load(path: Path) -> dict[str, Any]:
    """The results so far, by figure."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def save(path: Path, figure: Figure, size: int, runs: Sequence[Readings], *, noisy: int) -> None:
    """Put the readings of one figure in the place of its former ones."""
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(ROOT),
        "machine": description(),
        "size": size,
        "noisy": noisy,  # times that something was measured though others were busy
        "rows": [_row(row, runs) for row in figure.rows],
        "readings": runs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({**load(path), figure.name: entry}, indent=2) + "\n")
    fresh.replace(path)


def _row(row: Row, runs: Sequence[Readings]) -> dict[str, Any]:
    ours = _spread([run[row.ours] for run in runs if row.ours in run])
    bars = [_bar(row, bar, runs) for bar in row.bars]
    verdicts = [bar["reached"] for bar in bars if bar["reached"] is not None]
    if row.most is not None:
        verdicts.append(ours["median"] <= row.most)
    reached = all(verdicts) if verdicts else None
    return {"what": row.what, "unit": row.unit, "ours": ours, "most": row.most, "bars": bars, "reached": reached}


def _bar(row: Row, bar: Bar, runs: Sequence[Readings]) -> dict[str, Any]:
    """The other's readings, and ours as a share of them run by run; none of that if it was not there."""
    said: dict[str, Any] = {"beside": bar.beside, "asked": _asked(row, bar), "reached": None}
    both = [(run[row.ours], run[bar.beside]) for run in runs if row.ours in run and bar.beside in run]
    if not both:
        return said
    ratio = _spread([ours / other for ours, other in both])
    if bar.share is not None:
        said["reached"] = ratio["median"] >= bar.share if row.more_is_better else ratio["median"] <= bar.share
    elif bar.more is not None:
        said["reached"] = median(ours - other for ours, other in both) <= bar.more
    return {**said, "other": _spread([other for _, other in both]), "ratio": ratio}


def _asked(row: Row, bar: Bar) -> str:
    if bar.share is not None:
        return f"{'>=' if row.more_is_better else '<='} {bar.share:g}"
    return "" if bar.more is None else f"<= {bar.more:g} more"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


# --- for people --------------------------------------------------------------------------------------


def table(path: Path, names: Sequence[str]) -> str:
    """What is known of these figures, in the order of the table."""
    results = load(path)
    lines = [f"{'':46}{'median':>12}  {'spread':26}{'ratio':>6}  {'spread':14}{'asked':10}"]
    for figure in FIGURES:
        if figure.name in names and figure.name in results:
            lines += _figure_lines(figure, results[figure.name])
    return "\n".join(lines)


def markdown(path: Path, names: Sequence[str]) -> str:
    """The same for a page: a line for each row."""
    results = load(path)
    lines = ["| | queuectl | beside it, same rounds | ratio | asked | |", "|---|---|---|---|---|---|"]
    for figure in FIGURES:
        if figure.name in names and figure.name in results:
            lines += [_page_line(_row(row, results[figure.name]["readings"])) for row in figure.rows]
    return "\n".join(lines)


def _page_line(row: dict[str, Any]) -> str:
    bars = [bar for bar in row["bars"] if "other" in bar]
    others = "<br>".join(f"{bar['beside']}: {_number(bar['other']['median'])}" for bar in bars)
    ratios = "<br>".join("{median:.2f} ({least:.2f} - {most:.2f})".format(**bar["ratio"]) for bar in bars)
    asked = "<br>".join(bar["asked"] for bar in bars) if row["most"] is None else f"<= {row['most']:g}"
    ours = f"{_number(row['ours']['median'])} {_brackets(row['ours'])} {row['unit']}"
    verdict = {True: "reached", False: "**not reached**", None: ""}[row["reached"]]
    return f"| {row['what']} | {ours} | {others} | {ratios} | {asked} | {verdict} |"


def _figure_lines(figure: Figure, entry: dict[str, Any]) -> Iterator[str]:
    code = entry.get("commit") or "commit not known"
    noise = f", {entry['noisy']} times on a busy machine" if entry["noisy"] else ""
    yield ""
    yield f"{figure.name}: size {entry['size']:,}, {len(entry['readings'])} rounds, {entry['date']}, {code}{noise}"
    for row in (_row(each, entry["readings"]) for each in figure.rows):
        yield f"  {row['what']}, {row['unit']}"
        most = "" if row["most"] is None else f"<= {row['most']:g}"
        yield _line("queuectl", row["ours"], None, most)
        for bar in row["bars"]:
            if "other" in bar:
                yield _line(bar["beside"], bar["other"], bar["ratio"], bar["asked"])
            else:
                yield f"    {bar['beside']:42}  not installed, skipped"
        if row["reached"] is not None:
            yield f"    {'reached' if row['reached'] else 'NOT REACHED'}"


def _line(name: str, values: dict[str, float], ratio: dict[str, float] | None, asked: str) -> str:
    line = f"    {name:42}{_number(values['median']):>12}  {_brackets(values):26}"
    if ratio is None:
        return f"{line}{'':22}{asked}".rstrip()
    return f"{line}{ratio['median']:6.2f}  {'({least:.2f} - {most:.2f})'.format(**ratio):14}{asked}".rstrip()


def _brackets(values: dict[str, float]) -> str:
    return f"({_number(values['least'])} - {_number(values['most'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
