"""What `queuectl top` shows, and what keys do to it: no terminal, no broker, no clock.

`State.key` takes the name of a key and returns what somebody else has to do; what comes of it returns by `take`,
`told` and `away`. The selection stays with a job, not with a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Row = dict[str, Any]

JOBS, WORKERS, DEAD = PANES = ("jobs", "workers", "dead")
FILTER_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the broker told at one moment: `at_s` by a clock that only goes forward, `at_ms` UTC."""

    at_s: float
    at_ms: int
    status: dict[str, Any]
    jobs: list[Row]
    dead: list[Row]


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """Ask for a new snapshot."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Show the output of a job as it comes."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Do:
    """Have the broker do something to a job: cancel, retry, hold, release; or say why."""

    op: str
    job_id: str


Effect: TypeAlias = "Quit | Refresh | Follow | Do"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before something is done."""

    text: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Page:
    """Text that stands over the panes until a key is pressed."""

    title: str
    text: str


@dataclass(slots=True)
class State:
    """All that is shown."""

    snapshot: Snapshot | None = None
    pane: str = JOBS
    paused: bool = False
    filter: str = ""
    is_typing: bool = False  # the filter
    question: Question | None = None
    page: Page | None = None
    message: str = ""  # what came of the last key
    obstacle: str = ""  # why there is nothing new
    done_per_s: float | None = None
    failed_per_s: float | None = None
    rows_shown: int = 10  # of the pane with the selection, which a page of it is
    _selected: dict[str, str] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    # --- what there is ---------------------------------------------------------------------------------

    def rows(self, pane: str) -> list[Row]:
        """The rows of a pane that the filter lets through."""
        if self.snapshot is None:
            return []
        if pane == WORKERS:
            return list(self.snapshot.status["workers"])
        return [job for job in getattr(self.snapshot, pane) if matches(job, self.filter)]

    def selected(self, pane: str | None = None) -> str | None:
        """The id of the selected row; None where there is none."""
        return self._selected.get(pane or self.pane)

    def selected_row(self) -> Row | None:
        """The selected row, if it is still there."""
        return next((row for row in self.rows(self.pane) if row["id"] == self.selected()), None)

    def place(self, pane: str) -> int:
        """Where the selected row of a pane is among its rows, or was."""
        return self._places.get(pane, 0)

    # --- what comes in ---------------------------------------------------------------------------------

    def take(self, snapshot: Snapshot) -> None:
        """Show this from now on. The selection does not move while a question is open."""
        self._measure(snapshot)
        self.snapshot = snapshot
        self.obstacle = ""
        if self.question is None:
            self._settle()

    def away(self, why: str) -> None:
        """There is nothing new; what was shown stays."""
        self.obstacle = why
        self.done_per_s = self.failed_per_s = None

    def told(self, message: str) -> None:
        """Say what came of something."""
        self.message = message

    def open(self, page: Page) -> None:
        """Show a page, unless somebody types just now."""
        if self.question is None and not self.is_typing:
            self.page = page

    def _measure(self, after: Snapshot) -> None:
        before = self.snapshot
        if before is None or after.at_s <= before.at_s:
            return
        seconds = after.at_s - before.at_s

        def per_s(*states: str) -> float:
            more = [_count(after, state) - _count(before, state) for state in states]
            return max(0, sum(more)) / seconds

        self.done_per_s, self.failed_per_s = per_s("completed"), per_s("failed", "dead")

    def _settle(self) -> None:
        """Have a row selected in each pane: the same one; where it has gone, what stands in its place now."""
        for pane in PANES:
            ids = [row["id"] for row in self.rows(pane)]
            if self._selected.get(pane) not in ids:
                self._select(pane, ids, self.place(pane))
            else:
                self._places[pane] = ids.index(self._selected[pane])

    def _select(self, pane: str, ids: list[str], place: int) -> None:
        if not ids:
            self._selected.pop(pane, None)
            self._places.pop(pane, None)
            return
        self._places[pane] = max(0, min(place, len(ids) - 1))
        self._selected[pane] = ids[self._places[pane]]

    # --- keys ------------------------------------------------------------------------------------------

    def key(self, name: str) -> list[Effect]:
        """Do what a key means now: a letter as itself, others by name (`up`, `tab`, `esc`); what is left to do."""
        if self.question is not None:
            return self._answer(self.question, name)
        self.message = ""
        if self.page is not None:
            self.page = None
            return [Quit()] if name == "q" else []
        if self.is_typing:
            self._type(name)
            return []
        return _KEYS[name](self) if name in _KEYS else []

    def _answer(self, question: Question, name: str) -> list[Effect]:
        if name not in _YES + _NO:
            return []
        self.question = None
        self._settle()
        return [question.effect] if name in _YES else []

    def _type(self, name: str) -> None:
        if name in ("esc", "enter"):
            self.is_typing = False
        if name == "esc":
            self.filter = ""
        elif name == "backspace":
            self.filter = self.filter[:-1]
        elif name == "ctrl-u":
            self.filter = ""
        elif len(name) == 1 and len(self.filter) < FILTER_CHARS_MAX:
            self.filter += name
        self._settle()

    def _go(self, lines: int) -> list[Effect]:
        self._select(self.pane, [row["id"] for row in self.rows(self.pane)], self.place(self.pane) + lines)
        return []

    def _turn(self, panes: int) -> list[Effect]:
        return self._show(PANES[(PANES.index(self.pane) + panes) % len(PANES)])

    def _show(self, pane: str) -> list[Effect]:
        self.pane = pane
        return []

    def _pause(self) -> list[Effect]:
        self.paused = not self.paused
        return [] if self.paused else [Refresh()]

    def _begin_filter(self) -> list[Effect]:
        self.is_typing = True
        return []

    def _clear_filter(self) -> list[Effect]:
        self.filter = ""
        self._settle()
        return []

    def _help(self) -> list[Effect]:
        self.page = Page("Keys", HELP)
        return []

    def _of_job(self, effect: Callable[[str], Effect]) -> list[Effect]:
        """Something about the selected job."""
        job = self._job()
        return [effect(job["id"])] if job is not None else []

    def _cancel(self) -> list[Effect]:
        job = self._job()
        if job is not None:
            self.question = Question(f"Cancel job {job['id']}?", Do("cancel", job["id"]))
        return []

    def _hold(self) -> list[Effect]:
        job = self._job()
        return [] if job is None else [Do("release" if job.get("held") else "hold", job["id"])]

    def _job(self) -> Row | None:
        row = self.selected_row() if self.pane != WORKERS else None
        if row is None:
            self.message = "No job is selected here." if self.pane == WORKERS else "There is no job to do this to."
        return row


def matches(job: Row, text: str) -> bool:
    """Whether an id, command, queue or tag of a job contains the text, whatever the case."""
    wanted = text.casefold()
    tags = (f"{name}={value}" for name, value in (job.get("tags") or {}).items())
    return not wanted or any(wanted in part.casefold() for part in (job["id"], job["command"], job["queue"], *tags))


def _count(snapshot: Snapshot, state: str) -> int:
    return int(snapshot.status["jobs"].get(state, 0))


HELP = """\
Tab  1 2 3    the next pane; jobs, workers, dead jobs
↑ ↓  j k      one line; PgUp PgDn a page, Home End g G to the ends
f             follow the output of the job; Ctrl-C comes back
w             why the job is not running
c             cancel it
r             run it again
h             hold it, or release it
/             show only what has this in its id, command, queue or tags
              (of the newest 500 of each state); Esc shows all
p  Space      pause, and go on
q             quit"""

_YES, _NO = ("y", "Y"), ("n", "N", "esc")
_FAR = 2**31
_KEYS: dict[str, Callable[[State], list[Effect]]] = {
    "q": lambda _: [Quit()],
    "tab": lambda state: state._turn(1),
    "shift-tab": lambda state: state._turn(-1),
    "1": lambda state: state._show(JOBS),
    "2": lambda state: state._show(WORKERS),
    "3": lambda state: state._show(DEAD),
    "pgup": lambda state: state._go(-state.rows_shown),
    "pgdn": lambda state: state._go(state.rows_shown),
    **dict.fromkeys(("up", "k"), lambda state: state._go(-1)),
    **dict.fromkeys(("down", "j"), lambda state: state._go(1)),
    **dict.fromkeys(("home", "g"), lambda state: state._go(-_FAR)),
    **dict.fromkeys(("end", "G"), lambda state: state._go(_FAR)),
    "f": lambda state: state._of_job(Follow),
    "w": lambda state: state._of_job(lambda job_id: Do("why", job_id)),
    "r": lambda state: state._of_job(lambda job_id: Do("retry", job_id)),
    "c": State._cancel,
    "h": State._hold,
    "/": State._begin_filter,
    "esc": State._clear_filter,
    **dict.fromkeys(("p", " "), State._pause),
    "?": State._help,
}
