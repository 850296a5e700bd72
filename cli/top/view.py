"""Draws the State of `queuectl top`: lines of rich Text, as many and as wide as the screen. All text is escaped here.

Texts are made of plain strings and never of markup, so that a job named `[red]` is just that.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from cli.endings import ending
from cli.escape import visible
from cli.render import STATE_COLOURS, distance
from cli.top.state import DEAD, JOBS, PANES, WORKERS, Row, State
from queuectl.times import human_duration, parse_rfc3339

WIDTH_MIN, HEIGHT_MIN = 40, 10
OTHERS_SHARE = 6  # a pane that has not the selection shows rows on so small a part of the room
OTHERS_FROM = 18  # lines for all panes, from which on the others show rows at all
STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")
TITLES = {JOBS: "Jobs", WORKERS: "Workers", DEAD: "Dead"}
KEYS = "? help  q quit  f follow  w why  c cancel  r retry  h hold  / filter  p pause"
_NOTHING = {JOBS: "No job waits or runs.", WORKERS: "No worker runs.", DEAD: "No job is dead."}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a pane: at most `widest` cells, the last one takes the rest; narrower screens go without some."""

    head: str
    text: Callable[[Row, State], str]
    widest: int = 0
    from_width: int = 0
    is_state: bool = False


def frame(state: State, width: int, height: int) -> Text:
    """The whole screen. Sets `rows_shown`, which a page of the selection is."""
    if width < WIDTH_MIN or height < HEIGHT_MIN:
        lines = [_line(f"Too small: {WIDTH_MIN}x{HEIGHT_MIN} are needed, q quits", width)]
    elif state.snapshot is None:
        lines = [_line(state.obstacle or "Asking the broker", width)]
    else:
        head, foot = _head(state, width), _foot(state, width)
        room = height - len(head) - 1
        body = _page(state, width, room) if state.page is not None else _panes(state, width, room)
        lines = [*head, *body, *[Text("")] * (room - len(body)), foot]
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)


# --- head and foot -------------------------------------------------------------------------------------


def _head(state: State, width: int) -> list[Text]:
    assert state.snapshot is not None
    broker, workers = state.snapshot.status["broker"], state.snapshot.status["workers"]
    counts = state.snapshot.status["jobs"]
    at = f"{datetime.fromtimestamp(state.snapshot.at_ms / 1000).astimezone():%H:%M:%S}"
    right = f"paused, as of {at}" if state.paused else f"as of {at}" if state.obstacle else at
    left = f"queuectl {visible(broker['version'])}  {visible(_host(broker))}  up {human_duration(broker['uptime_s'])}"
    first = _line(left, width - len(right) - 1, "bold")
    first.append(f" {right}", "bold yellow" if state.paused or state.obstacle else "bold")
    jobs = Text("  ").join(
        Text.assemble((f"{name} ", ""), (_short(counts.get(name, 0)), f"bold {STATE_COLOURS[name]}")) for name in STATES
    )
    jobs.truncate(width, overflow="ellipsis")
    busy, slots = sum(each["busy"] for each in workers), sum(each["slots"] for each in workers)
    third = _line(
        f"{busy} of {slots} slots busy  done {_rate(state.done_per_s)}  failed {_rate(state.failed_per_s)}", width
    )
    if state.obstacle:
        third = _line(state.obstacle, width, "bold red")
    elif broker.get("accepting") is False:
        third = _line("takes no new jobs now (disk nearly full, or stopping)", width, "bold yellow")
    return [first, jobs, third]


def _host(broker: Row) -> str:
    return f"pid {broker['pid']}" if broker.get("pid") is not None else str(broker["id"])


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"


def _short(count: int) -> str:
    """`99999`, `100k`, `1.2M`: the exact number as long as there is room."""
    if count < 100_000:
        return str(count)
    return f"{count // 1000}k" if count < 1_000_000 else f"{count / 1_000_000:.1f}M"


def _foot(state: State, width: int) -> Text:
    if state.question is not None:
        answers = "  y / n"
        return _line(visible(state.question.text), width - len(answers), "bold yellow", pad=False).append(
            answers, "bold"
        )
    if state.is_typing:
        room = width - len("/ ")
        text = visible(state.filter)
        while cell_len(text) > room:  # the end is where one types
            text = text[1:]
        return Text.assemble(("/", "bold"), text, (" ", "reverse"))
    if state.message:
        return _line(visible(state.message), width, "bold")
    return _line("Press a key" if state.page is not None else KEYS, width, "dim")


# --- panes ---------------------------------------------------------------------------------------------


def _panes(state: State, width: int, room: int) -> list[Text]:
    rows = {pane: state.rows(pane) for pane in PANES}
    others = room // OTHERS_SHARE if room >= OTHERS_FROM else 0
    lines_of = {pane: 1 + min(others, max(1, len(rows[pane]))) for pane in PANES if pane != state.pane}
    lines_of[state.pane] = room - sum(lines_of.values())
    state.rows_shown = max(1, lines_of[state.pane] - 2)  # without title and head
    return [line for pane in PANES for line in _pane(state, pane, rows[pane], width, lines_of[pane])]


def _pane(state: State, pane: str, rows: list[Row], width: int, lines: int) -> list[Text]:
    """So many lines: the title; with the selection, the heads of the columns; rows."""
    is_open = pane == state.pane
    drawn = [_title(state, pane, rows, width)]
    room = lines - 1 - is_open
    first = state.place(pane) // room * room if is_open else 0
    shown = rows[first : first + room] if room > 0 else []
    columns = [column for column in _COLUMNS[pane] if width >= column.from_width]
    most = 2 * width  # letters: some take no room, and more than that is not looked at
    cells = [[visible(column.text(row, state)[:most]) for column in columns] for row in shown]
    widths = _widths(columns, cells)
    if is_open:
        drawn.append(_row([column.head for column in columns], widths, width, marker="  ", style="dim"))
    for row, texts in zip(shown, cells, strict=True):
        is_selected = is_open and row["id"] == state.selected(pane)
        line = _row(texts, widths, width, marker="> " if is_selected else "  ", colour=_colour(row, columns))
        if is_selected:
            line.stylize("reverse")
        drawn.append(line)
    if not rows and room > 0:
        drawn.append(_line(f"  {_nothing(state, pane)}", width, "dim"))
    return drawn + [Text("")] * (lines - len(drawn))


def _nothing(state: State, pane: str) -> str:
    is_filtered = pane != WORKERS and bool(getattr(state.snapshot, pane))
    return "Nothing matches." if is_filtered else _NOTHING[pane]


def _title(state: State, pane: str, rows: list[Row], width: int) -> Text:
    number = PANES.index(pane) + 1
    text = f"{number} {TITLES[pane]} {_how_many(state, pane, rows)} "
    line = Text("─" * width, "dim")
    title = Text(f"{text}", "bold reverse" if pane == state.pane else "bold")
    title.truncate(width, overflow="ellipsis")
    return title.append_text(line[: width - cell_len(title.plain)])


def _how_many(state: State, pane: str, rows: list[Row]) -> str:
    assert state.snapshot is not None
    if pane == WORKERS:
        return str(len(rows))
    counts = state.snapshot.status["jobs"]
    total = (
        counts.get("dead", 0)
        if pane == DEAD
        else sum(counts.get(each, 0) for each in ("pending", "processing", "failed"))
    )
    if state.filter:
        return f"{len(rows)} of {_short(total)} with {visible(state.filter)!r}"
    return _short(total) if len(rows) >= total else f"the newest {len(rows)} of {_short(total)}"


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """The widths of all columns but the last."""
    longest = [max([cell_len(column.head), *(cell_len(row[n]) for row in cells)]) for n, column in enumerate(columns)]
    return [min(column.widest, most) for column, most in zip(columns[:-1], longest, strict=False)]


def _row(
    texts: Sequence[str],
    widths: Sequence[int],
    width: int,
    *,
    marker: str,
    style: str = "",
    colour: tuple[int, str] | None = None,
) -> Text:
    line = Text(marker, style)
    for number, text in enumerate(texts[:-1]):
        own = colour[1] if colour is not None and colour[0] == number else ""
        line.append_text(_line(text, widths[number], own)).append("  ")
    line.append_text(_line(texts[-1], max(0, width - cell_len(line.plain))))
    line.truncate(width)
    return line


def _colour(row: Row, columns: Sequence[Column]) -> tuple[int, str] | None:
    """The column that is coloured by the state of a job, and its colour."""
    number = next((number for number, column in enumerate(columns) if column.is_state), None)
    colour = STATE_COLOURS.get(row["state"])
    return (number, colour) if number is not None and colour is not None else None


def _line(text: str, width: int, style: str = "", *, pad: bool = True) -> Text:
    line = Text(text, style)
    line.truncate(max(0, width), overflow="ellipsis", pad=pad)
    return line


def _page(state: State, width: int, room: int) -> list[Text]:
    assert state.page is not None
    title = Text(f"{visible(state.page.title)} ", "bold reverse")
    title.truncate(width, overflow="ellipsis")
    lines = [title, Text("")]
    for text in map(visible, state.page.text.split("\n")):
        indent = " " * (2 + len(text) - len(text.lstrip()))
        wrapped = textwrap.wrap(text.strip(), width - 1, initial_indent=indent, subsequent_indent=indent) or [""]
        lines += [_line(each, width) for each in wrapped] if cell_len(text) + 2 > width else [_line(f"  {text}", width)]
    return lines[:room]


# --- cells ---------------------------------------------------------------------------------------------


def _state(job: Row, _: State) -> str:
    return "ending" if job.get("cancelling") else "held" if job.get("held") else str(job["state"])


def _when(job: Row, state: State) -> str:
    """How long it runs or waits, or when it starts."""
    assert state.snapshot is not None
    if job["reason"] in ("delayed", "backoff"):
        return distance(job["run_at"], state.snapshot.at_ms)
    since = job["updated_at"] if job["state"] == "processing" else job["created_at"]
    try:
        return human_duration(max(0, round((state.snapshot.at_ms - parse_rfc3339(since)) / 1000)))
    except ValueError:
        return str(since)


def _running_on(worker: Row, state: State) -> str:
    assert state.snapshot is not None
    jobs = [job for job in state.snapshot.jobs if job["state"] == "processing" and job["worker"] == worker["id"]]
    return " ".join(job["id"] for job in jobs)


def _last_words(job: Row, _: State) -> str:
    return f"{job['command']}: {job['last_line']}" if job.get("last_line") else str(job["command"])


def _died(job: Row, state: State) -> str:
    assert state.snapshot is not None
    return distance(job["updated_at"], state.snapshot.at_ms)


_COLUMNS = {
    JOBS: (
        Column("ID", lambda job, _: job["id"], 20),
        Column("STATE", _state, 10, is_state=True),
        Column("FAILED", lambda job, _: f"{job['attempts']}/{job['max_retries']}", 9, from_width=70),
        Column("QUEUE", lambda job, _: job["queue"], 12, from_width=60),
        Column("FOR", _when, 10),
        Column("COMMAND", lambda job, _: job["command"]),
    ),
    WORKERS: (
        Column("ID", lambda worker, _: worker["id"], 24),
        Column("STATE", lambda worker, _: worker["state"], 8),
        Column("BUSY", lambda worker, _: f"{worker['busy']}/{worker['slots']}", 9),
        Column("SEEN", lambda worker, _: f"{human_duration(round(worker['last_seen_s']))} ago", 10, from_width=60),
        Column("QUEUES", lambda worker, _: ",".join(worker["queues"]) or "all", 12, from_width=70),
        Column("JOBS", _running_on),
    ),
    DEAD: (
        Column("ID", lambda job, _: job["id"], 20),
        Column("ENDED BY", lambda job, _: ending(job), 12),
        Column("FAILED", lambda job, _: str(job["attempts"]), 6, from_width=70),
        Column("DIED", _died, 10, from_width=60),
        Column("COMMAND: LAST OUTPUT", _last_words),
    ),
}
