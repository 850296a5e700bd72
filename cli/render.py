"""How things look to people: tables that fit the terminal, times as distances, states in colour.

Off a terminal nothing is cut and nothing is coloured. All text is escaped here, so callers pass it raw.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from cli.escape import shortened, visible, width
from queuectl.times import human_duration, parse_rfc3339, rfc3339_local

COLUMNS_MIN = 40
LAST_COLUMN_MIN, LAST_COLUMN_WANTED = 10, 20
STATE_COLOURS = {
    "pending": "yellow",
    "processing": "cyan",
    "completed": "green",
    "failed": "magenta",
    "dead": "red",
    "cancelled": "bright_black",
}


def colours_wanted() -> bool:
    """Whether stdout takes colour: a terminal that is not dumb, and nobody asked for none."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def state_word(state: str, padded: str | None = None) -> str:
    """A state, coloured where that is wanted, with what stands behind it; `padded` is the text to show for it."""
    text = visible(state) if padded is None else padded
    colour = STATE_COLOURS.get(state.partition(" ")[0])
    return coloured(text, colour) if colour else text


def coloured(text: str, colour: str) -> str:
    """The text in this colour, where colours are wanted."""
    return click.style(text, fg=colour) if colours_wanted() else text


def columns_wanted() -> int | None:
    """The width to fit: that of the terminal, or COLUMNS; None off a terminal, where nothing is cut."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    import shutil

    return max(COLUMNS_MIN, shutil.get_terminal_size((80, 24)).columns)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    state_column: int | None = None,
    dispensable: Sequence[int] = (),
    cuttable: Sequence[int] = (),
) -> str:
    """A table whose last column takes what width is left and is cut to it; of the others, the cuttable ones are.

    Where too little is left, the dispensable columns go, in the order given.
    """
    cells = [list(headers), *[[visible(cell) for cell in row] for row in rows]]
    last = len(headers) - 1
    widths = [max(width(row[number]) for row in cells) for number in range(last)]
    kept = _kept_columns(widths, dispensable)
    limit = columns_wanted()
    if limit is not None:
        _narrow(widths, [number for number in kept if number in cuttable], limit - 2 * len(kept) - LAST_COLUMN_WANTED)
    room = None if limit is None else max(LAST_COLUMN_MIN, limit - sum(widths[number] + 2 for number in kept))
    lines = []
    for row in cells:
        texts = [_pad(shortened(row[number], widths[number]), widths[number]) for number in kept]
        if state_column in kept and row is not cells[0]:
            place = kept.index(state_column)
            texts[place] = state_word(row[state_column], texts[place])
        texts.append(row[last] if room is None else shortened(row[last], room))
        lines.append("  ".join(texts).rstrip())
    return "\n".join(lines)


def _kept_columns(widths: Sequence[int], dispensable: Sequence[int]) -> list[int]:
    """The columns, without the last, that leave enough room for the last."""
    kept = list(range(len(widths)))
    limit = columns_wanted()
    for number in dispensable:
        if limit is None or limit - sum(widths[column] + 2 for column in kept) >= LAST_COLUMN_WANTED:
            break
        kept.remove(number)
    return kept


def _narrow(widths: list[int], cuttable: Sequence[int], room: int) -> None:
    """Take width from the widest of the columns that may be cut until all fit into the room, or none can give more."""
    over = sum(widths) - room
    while over > 0 and cuttable:
        widest = max(cuttable, key=lambda number: widths[number])
        others = [widths[number] for number in cuttable if number != widest]
        give = min(over, widths[widest] - max([LAST_COLUMN_MIN, *[each - 1 for each in others]]))
        if give <= 0:
            return
        widths[widest] -= give
        over -= give


def facts(pairs: Iterable[tuple[str, str | None]]) -> str:
    """Lines of `Label  value`; pairs without a value are left out. Values come escaped."""
    shown = [(label, value) for label, value in pairs if value is not None]
    column = max((len(label) for label, _ in shown), default=0)
    return "\n".join(f"{label:<{column}}  {value}".rstrip() for label, value in shown)


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def distance(instant: str | None, now_ms: int | None = None) -> str:
    """An RFC 3339 instant as seen from now: `3m20s ago`, `in 4s`, `now`."""
    if not instant:
        return "-"
    try:
        gap_s = (parse_rfc3339(instant) - (int(time.time() * 1000) if now_ms is None else now_ms)) / 1000
    except ValueError:
        return visible(instant)
    if abs(gap_s) < 1:
        return "now"
    return f"in {human_duration(round(gap_s))}" if gap_s > 0 else f"{human_duration(round(-gap_s))} ago"


def is_to_come(instant: str | None) -> bool:
    """Whether it is an RFC 3339 instant of the future."""
    return distance(instant).startswith("in ")


def local(instant: str) -> str:
    """An RFC 3339 instant by the clock here, in whole seconds and with its zone; what is none stays as it is."""
    try:
        return rfc3339_local(parse_rfc3339(instant))
    except (ValueError, OverflowError, OSError):
        return visible(instant)


def moment(instant: str | None) -> str | None:
    """An RFC 3339 instant by the clock here, and how far it is from now."""
    return f"{local(instant)} ({distance(instant)})" if instant else None


def bytes_text(count: int) -> str:
    """`512 B`, `64.0 KiB`, `1.5 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 job`, `3 jobs`; `plural` where that is not made with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
