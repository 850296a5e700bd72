"""What keys do to the state of `queuectl top`, and what a refresh leaves as it is."""

from __future__ import annotations

from typing import Any

import pytest

from cli.top.keys import Keys
from cli.top.state import DEAD, JOBS, WORKERS, Do, Follow, Page, Question, Quit, Refresh, Snapshot, State, matches
from tests.harness_client import job_view, status_view, worker_view


def snapshot(*ids: str, at_s: float = 0.0, **counts: int) -> Snapshot:
    view = status_view(workers=[worker_view(id="w1"), worker_view(id="w2")])
    view["jobs"] |= counts
    jobs = [job_view(id=job_id) for job_id in ids]
    return Snapshot(at_s, 1_764_000_000_000, view, jobs, [job_view(id=job_id, state="dead") for job_id in ("d1", "d2")])


def shown(*ids: str, **how: Any) -> State:
    state = State()
    state.take(snapshot(*ids, **how))
    return state


def press(state: State, *keys: str) -> list[Any]:
    return [effect for key in keys for effect in state.key(key)]


def has_page(state: State) -> bool:
    return state.page is not None


def typed(state: State, text: str) -> None:
    press(state, "/", *text)


# --- the selection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "selected"),
    [
        ([], "a"),
        (["down"], "b"),
        (["j", "j"], "c"),
        (["j", "j", "k"], "b"),
        (["up"], "a"),
        (["G"], "e"),
        (["end", "down"], "e"),
        (["G", "home"], "a"),
        (["end", "g"], "a"),
        (["pgdn"], "c"),
        (["pgdn", "pgdn", "pgdn"], "e"),
        (["G", "pgup"], "c"),
    ],
)
def test_keys_move_the_selection(keys: list[str], selected: str) -> None:
    state = shown("a", "b", "c", "d", "e")
    state.rows_shown = 2

    assert press(state, *keys) == []
    assert state.selected() == selected


@pytest.mark.parametrize(
    ("keys", "pane", "selected"),
    [
        (["tab"], WORKERS, "w1"),
        (["tab", "tab"], DEAD, "d1"),
        (["tab", "tab", "tab"], JOBS, "a"),
        (["shift-tab", "down"], DEAD, "d2"),
        (["2"], WORKERS, "w1"),
        (["3", "1"], JOBS, "a"),
    ],
)
def test_keys_change_the_pane(keys: list[str], pane: str, selected: str) -> None:
    state = shown("a", "b")

    assert press(state, *keys) == []
    assert (state.pane, state.selected()) == (pane, selected)


def test_each_pane_keeps_its_selection() -> None:
    state = shown("a", "b")

    press(state, "down", "3", "down", "1")

    assert (state.selected(), state.selected(DEAD)) == ("b", "d2")


def test_a_refresh_keeps_the_job_selected_wherever_it_stands_now() -> None:
    state = shown("a", "b", "c")
    press(state, "down")

    state.take(snapshot("x", "y", "a", "b"))

    assert (state.selected(), state.place(JOBS)) == ("b", 3)


def test_when_the_selected_job_has_gone_its_neighbour_is_selected() -> None:
    state = shown("a", "b", "c")
    press(state, "down")

    state.take(snapshot("a", "c"))
    assert state.selected() == "c"
    state.take(snapshot("a"))
    assert state.selected() == "a"
    state.take(snapshot())
    assert state.selected() is None
    assert press(state, "down", "f", "c", "h") == []
    state.take(snapshot("z"))
    assert state.selected() == "z"


def test_before_the_first_answer_keys_do_no_harm() -> None:
    state = State()

    assert press(state, "down", "tab", "c", "1", "c", "r", "h", "w", "f", "/", "a", "enter", "esc") == []
    assert press(state, "q") == [Quit()]


# --- acting on jobs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "effect"), [("f", Follow("b")), ("w", Do("why", "b")), ("r", Do("retry", "b")), ("h", Do("hold", "b"))]
)
def test_keys_act_on_the_selected_job(key: str, effect: object) -> None:
    assert press(shown("a", "b"), "down", key) == [effect]


def test_a_held_job_is_released() -> None:
    state = shown("a")
    assert state.snapshot is not None
    state.snapshot.jobs[0]["held"] = True

    assert press(state, "h") == [Do("release", "a")]


def test_dead_jobs_can_be_acted_on() -> None:
    assert press(shown("a"), "3", "down", "r") == [Do("retry", "d2")]


@pytest.mark.parametrize("key", ["f", "w", "r", "h", "c"])
def test_a_worker_is_no_job(key: str) -> None:
    state = shown("a")

    assert press(state, "2", key) == []
    assert (state.message, state.question) == ("No job is selected here.", None)


@pytest.mark.parametrize(("answer", "effects"), [("y", [Do("cancel", "a")]), ("n", []), ("esc", [])])
def test_cancel_asks_first(answer: str, effects: list[object]) -> None:
    state = shown("a", "b")

    assert press(state, "c") == []
    assert state.question == Question("Cancel job a?", Do("cancel", "a"))
    assert press(state, answer) == effects
    assert state.question is None


def test_a_question_waits_for_its_answer() -> None:
    state = shown("a", "b")
    press(state, "c")

    assert press(state, "down", "q", "tab", "enter", "c", " ") == []
    assert (state.pane, state.selected(), state.paused) == (JOBS, "a", False)
    assert state.question is not None


def test_the_selection_does_not_move_while_a_question_is_open() -> None:
    state = shown("a", "b", "c")
    press(state, "down", "c")

    state.take(snapshot("a", "c"))
    state.open(Page("Why", "late"))

    assert (state.selected(), state.selected_row(), state.page) == ("b", None, None)
    assert press(state, "y") == [Do("cancel", "b")]
    assert state.selected() == "c"


# --- the filter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        ("", True),
        ("job-1", True),
        ("TAR", True),
        ("mail", True),
        ("customer=42", True),
        ("[red]", True),
        ("tarx", False),
        ("customer=43", False),
    ],
)
def test_the_filter_looks_at_id_command_queue_and_tags(text: str, is_match: bool) -> None:
    job = job_view(id="job-1", command="tar c / # [red]", queue="Mail", tags={"customer": "42"})

    assert matches(job, text) is is_match


def test_typed_text_filters_at_once() -> None:
    state = shown("abc", "abd", "xyz")

    typed(state, "abd")

    assert [job["id"] for job in state.rows(JOBS)] == ["abd"]
    assert state.selected() == "abd"
    assert [row["id"] for row in state.rows(WORKERS)] == ["w1", "w2"]
    press(state, "backspace", "up")
    assert (state.filter, [job["id"] for job in state.rows(JOBS)]) == ("ab", ["abc", "abd"])
    assert state.selected() == "abd"  # letters are text now, and other keys are nothing


def test_enter_keeps_the_filter_and_esc_clears_it() -> None:
    state = shown("abc", "q1", "q2")

    typed(state, "q")
    assert press(state, "enter", "down") == []
    assert (state.filter, state.is_typing, state.selected()) == ("q", False, "q2")
    press(state, "esc")
    assert (state.filter, state.selected()) == ("", "q2")

    typed(state, "nothing")
    assert state.selected() is None
    press(state, "ctrl-u")
    assert (state.filter, state.is_typing) == ("", True)
    press(state, "x", "esc")
    assert (state.filter, state.is_typing, state.selected()) == ("", False, "abc")


def test_the_filter_holds_for_what_comes() -> None:
    state = shown("abc")
    typed(state, "ab")

    state.take(snapshot("xyz", "abd", "abc"))

    assert [job["id"] for job in state.rows(JOBS)] == ["abd", "abc"]
    assert state.selected() == "abc"


# --- the rest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["p", " "])
def test_pause_and_go_on(key: str) -> None:
    state = shown("a")

    assert press(state, key) == []
    assert [state.paused, press(state, key), state.paused] == [True, [Refresh()], False]


def test_a_page_closes_by_any_key() -> None:
    state = shown("a", "b")

    press(state, "?")
    assert has_page(state)
    assert press(state, "down") == []
    assert not has_page(state)
    assert state.selected() == "a"
    state.open(Page("Why a", "it runs"))
    assert press(state, "q") == [Quit()]


def test_a_message_stays_until_the_next_key() -> None:
    state = shown("a")

    state.told("Job a runs again.")
    state.take(snapshot("a"))
    assert state.message == "Job a runs again."
    press(state, "down")
    assert state.message == ""


def test_rates_are_of_the_time_between_two_answers() -> None:
    state = shown("a", at_s=10.0, completed=100, failed=3, dead=1)
    assert (state.done_per_s, state.failed_per_s) == (None, None)

    state.take(snapshot("a", at_s=14.0, completed=120, failed=2, dead=4))
    assert (state.done_per_s, state.failed_per_s) == (5.0, 0.5)

    state.take(snapshot("a", at_s=15.0, completed=20, failed=0, dead=0))  # some were purged
    assert (state.done_per_s, state.failed_per_s) == (0, 0)


def test_what_was_shown_stays_while_the_broker_is_away() -> None:
    state = shown("a", "b")
    press(state, "down")

    state.away("waiting for the broker")
    assert (state.obstacle, state.selected(), state.done_per_s) == ("waiting for the broker", "b", None)
    state.take(snapshot("a", "b", at_s=1.0))
    assert (state.obstacle, state.selected()) == ("", "b")


# --- keys as bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"jk/", ["j", "k", "/"]),
        (b"\t\r\n\x7f\x08\x15 ", ["tab", "enter", "enter", "backspace", "backspace", "ctrl-u", " "]),
        (b"\x1b[A\x1b[B\x1bOA\x1bOB\x1b[Z", ["up", "down", "up", "down", "shift-tab"]),
        (b"\x1b[5~\x1b[6~\x1b[1~\x1b[4~\x1b[H\x1b[F", ["pgup", "pgdn", "home", "end", "home", "end"]),
        (b"\x1b[1;5A", ["up"]),
        (b"\x1b[200~\x1b[15~\x1b[I\x00\x01q", ["q"]),
        ("äß日".encode(), ["ä", "ß", "日"]),
        (b"\xff\xfea", ["a"]),
        (b"\x1b\x1b[A", ["esc", "up"]),
    ],
)
def test_bytes_become_names(data: bytes, names: list[str]) -> None:
    at_once, by_bytes = Keys(), Keys()

    assert at_once.feed(data) == names
    assert [name for byte in data for name in by_bytes.feed(bytes([byte]))] == names
    assert not at_once.pending


def test_an_esc_is_one_when_nothing_follows() -> None:
    keys = Keys()

    assert [keys.feed(b"a\x1b"), keys.pending, keys.flush(), keys.pending] == [["a"], True, ["esc"], False]
    assert [keys.feed(b"\x1b["), keys.flush(), keys.feed(b"q")] == [[], [], ["q"]]
