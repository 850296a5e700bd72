"""Tables fit the terminal, and colour comes only where it is welcome."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cli import render
from cli.escape import width
from tests.harness_client import Terminal

NOW_MS = 1_795_341_600_000  # 2026-11-22T10:00:00Z
ROWS = [("a1", "pending", "echo " + "x" * 200), ("b22", "dead", "漢字" * 60)]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "sys", SimpleNamespace(stdout=Terminal(is_terminal=True)))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def table() -> list[str]:
    return render.table(("ID", "STATE", "COMMAND"), ROWS, state_column=1).splitlines()


@pytest.mark.usefixtures("terminal")
def test_table_on_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert [width(line) <= 80 for line in table()] == [True] * 3
    assert table()[1].endswith("…")


def test_table_off_a_terminal_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "sys", SimpleNamespace(stdout=Terminal()))
    monkeypatch.delenv("COLUMNS", raising=False)

    assert table()[1].endswith("x" * 200)
    assert "\x1b" not in "".join(table())


@pytest.mark.usefixtures("terminal")
def test_columns_go_in_their_order_where_the_last_has_no_room() -> None:
    row = ("i" * 36, "pending", "q" * 30, "now", "echo hello")

    lines = render.table(("ID", "STATE", "QUEUE", "SEEN", "COMMAND"), [row], dispensable=(2, 3)).splitlines()

    assert lines[1].split() == ["i" * 36, "pending", "now", "echo", "hello"]


@pytest.mark.usefixtures("terminal")
def test_long_id_is_never_cut() -> None:
    lines = render.table(("ID", "COMMAND"), [("i" * 128, "echo hello")]).splitlines()

    assert lines[1] == "i" * 128 + "  echo hello"


@pytest.mark.usefixtures("terminal")
def test_states_are_coloured_on_a_terminal() -> None:
    assert "\x1b[31mdead" in table()[2]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    assert "\x1b" not in "".join(table())


def test_cells_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "sys", SimpleNamespace(stdout=Terminal()))

    assert render.table(("ID", "COMMAND"), [("a1", "x\n\x1b[2J")]).splitlines()[1] == "a1  x\\n\\x1b[2J"


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        ("2026-11-22T10:00:00.400Z", "now"),
        ("2026-11-22T09:56:40Z", "3m20s ago"),
        ("2026-11-22T10:00:04Z", "in 4s"),
        (None, "-"),
        ("nonsense", "nonsense"),
        ("\x1b[2J", "\\x1b[2J"),
    ],
)
def test_instants_are_shown_as_distances(instant: str | None, shown: str) -> None:
    assert render.distance(instant, NOW_MS) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (65536, "64.0 KiB"), (2**31, "2.0 GiB")])
def test_sizes_are_shown_in_units(count: int, shown: str) -> None:
    assert render.bytes_text(count) == shown


@pytest.mark.parametrize(
    ("counted", "text"),
    [
        (render.counted(1, "job"), "1 job"),
        (render.counted(0, "job"), "0 jobs"),
        (render.counted(1, "process", "processes"), "1 process"),
        (render.counted(2, "process", "processes"), "2 processes"),
    ],
)
def test_things_are_counted_in_their_plural(counted: str, text: str) -> None:
    assert counted == text
