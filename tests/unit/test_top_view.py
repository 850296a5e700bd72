"""How `queuectl top` looks: whole screens of any size, and nothing from a job that a terminal would obey."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from cli.top.state import Page, Snapshot, State
from cli.top.view import frame
from tests.harness_client import job_view, status_view, worker_view

NOW_MS = 1_795_341_612_000  # 2026-11-22T10:00:12Z
PENDING, RUNNING, FAILED = (
    job_view(id="a3", command="echo hello"),
    job_view(id="a1", state="processing", worker="w1", updated_at="2026-11-22T10:00:05.000Z", command="make"),
    job_view(id="a2", state="failed", reason="backoff", run_at="2026-11-22T10:00:16.000Z", attempts=2),
)
DEAD = job_view(id="d1", state="dead", reason="exit", exit_code=3, attempts=3, last_line="no space left")


def told(*jobs: dict[str, Any], dead: tuple[dict[str, Any], ...] = (DEAD,), **counts: int) -> State:
    view = status_view(workers=[worker_view(id="w1", busy=1, slots=4), worker_view(id="w2", queues=["mail"])])
    view["jobs"] |= {"pending": len(jobs), "processing": 0, "failed": 0, "dead": len(dead), **counts}
    state = State()
    state.take(Snapshot(0.0, NOW_MS, view, list(jobs), list(dead)))
    return state


def lines(state: State, width: int = 80, height: int = 24) -> list[str]:
    screen = frame(state, width, height)
    return screen.plain.split("\n")


def line_with(state: State, text: str, width: int = 80) -> str:
    return next(line for line in lines(state, width) if text in line)


def words(line: str) -> list[str]:
    return line.split()


def test_every_job_has_a_line() -> None:
    state = told(RUNNING, PENDING, FAILED)

    assert words(line_with(state, "a1")) == [">", "a1", "processing", "0/3", "default", "7s", "make"]
    assert words(line_with(state, "a3")) == ["a3", "pending", "0/3", "default", "12s", "echo", "hello"]
    assert words(line_with(state, "a2")) == ["a2", "failed", "2/3", "default", "in", "4s", "echo", "hello"]
    assert line_with(state, "COMMAND").index("COMMAND") == line_with(state, "a1").index("make")


@pytest.mark.parametrize(("changed", "word"), [({"held": True}, "held"), ({"cancelling": True}, "ending")])
def test_what_is_done_to_a_job_is_its_state(changed: dict[str, Any], word: str) -> None:
    assert words(line_with(told(PENDING | changed), "a3"))[2] == word


def test_head_says_how_all_stands() -> None:
    state = told(RUNNING, completed=1_234_567, pending=123_456)

    first, second, third = lines(state)[:3]

    assert first.startswith("queuectl 0.6.0")
    assert "up 1m15s" in first
    assert "pending 123k" in second
    assert "completed 1.2M" in second
    assert third.rstrip() == "2 of 8 slots busy  done -  failed -"
    assert "the newest 1 of 123k" in lines(state)[3]


def test_head_says_what_is_wrong() -> None:
    state = told(RUNNING)
    assert state.snapshot is not None
    state.snapshot.status["broker"]["accepting"] = False
    assert "takes no new jobs" in lines(state)[2]

    state.away("waiting for the broker: gone")
    assert lines(state)[2].rstrip() == "waiting for the broker: gone"
    assert "as of " in lines(state)[0]
    state.paused = True
    assert "paused, as of " in lines(state)[0]


def test_workers_say_what_they_run() -> None:
    state = told(RUNNING, PENDING)
    state.key("2")

    assert words(line_with(state, "> w1")) == [">", "w1", "active", "1/4", "0s", "ago", "all", "a1"]
    assert words(line_with(state, "  w2"))[-1] == "mail"


def test_dead_jobs_say_of_what() -> None:
    state = told(RUNNING)
    state.key("3")

    assert words(line_with(state, "> d1"))[:4] == [">", "d1", "exit", "3"]
    assert line_with(state, "> d1").rstrip().endswith("echo hello: no space left")


def test_nothing_is_said_to_be_nothing() -> None:
    state = told(dead=())
    assert {"No job waits or runs.", "No job is dead."} <= {line.strip() for line in lines(state)}
    state.key("/")
    state.key("x")
    assert "No job waits or runs." in {line.strip() for line in lines(state)}
    matching = told(PENDING)
    matching.key("/")
    matching.key("!")
    assert "Nothing matches." in {line.strip() for line in lines(matching)}


@pytest.mark.parametrize("size", [(40, 10), (59, 11), (80, 24), (120, 18), (200, 60), (39, 10), (5, 2), (40, 9)])
@pytest.mark.parametrize("keys", ["", "2", "3", "?", "c", "/long text", "w", "G"])
def test_every_screen_fits_its_terminal(size: tuple[int, int], keys: str) -> None:
    jobs = [job_view(id=f"job-{n}", command="echo 日本語 🙂 " * n, queue="a-long-queue" * 3) for n in range(50)]
    state = told(*jobs, dead=tuple(jobs))
    for key in keys:
        state.key(key)
    if keys == "w":
        state.open(Page("Why job-1", "Job job-1 is pending:\n  " + "it waits " * 40))

    drawn = lines(state, *size)

    assert len(drawn) <= size[1]
    assert max(map(cell_len, drawn)) <= size[0]


@pytest.mark.parametrize("height", [10, 16, 24, 40])
def test_the_selected_job_is_always_on_the_screen(height: int) -> None:
    state = told(*[job_view(id=f"job-{n}") for n in range(100)])
    seen = []

    for _ in range(100):
        seen += [words(line)[1] for line in lines(state, 80, height) if line.startswith("> ")]
        state.key("down")

    assert seen == [f"job-{n}" for n in range(100)]


def test_a_page_of_the_selection_is_what_is_shown() -> None:
    state = told(*[job_view(id=f"job-{n}") for n in range(100)])
    before = [words(line)[0] for line in lines(state) if "job-" in line]

    state.key("pgdn")

    assert line_with(state, "> ").split()[1] == f"job-{len(before)}"


def test_what_came_from_a_job_is_escaped_and_no_markup() -> None:
    nasty = job_view(id="a1", command="[bold]x[/bold] \x1b[2J\n\u202ey", queue="[link=x]", last_line="\x07")
    state = told(nasty, dead=(nasty | {"id": "d1"},))

    screen = frame(state, 200, 24)

    assert "[bold]x[/bold] \\x1b[2J\\n\\u202ey" in screen.plain
    assert "[link=x]" in screen.plain
    assert all(letter.isprintable() or letter == "\n" for letter in screen.plain)
    assert not [span for span in screen.spans if "link" in str(span.style)]


def test_the_foot_asks_and_tells() -> None:
    state = told(PENDING)
    assert lines(state)[-1].startswith("? help  q quit")
    state.key("c")
    assert lines(state)[-1].rstrip() == "Cancel job a3?  y / n"
    state.key("n")
    state.told("Job a3 held.\x1b")
    assert lines(state)[-1].rstrip() == "Job a3 held.\\x1b"
    for key in "/a long text that goes on and on":
        state.key(key)
    assert lines(state, 40)[-1].rstrip().endswith("that goes on and on")


def test_before_the_first_answer_it_says_what_it_waits_for() -> None:
    state = State()
    assert lines(state) == [f"{'Asking the broker':<80}"]
    state.away("waiting for the broker: gone")
    assert lines(state)[0].rstrip() == "waiting for the broker: gone"
    assert isinstance(frame(state, 80, 24), Text)
