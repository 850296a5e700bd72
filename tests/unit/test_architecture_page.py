"""ARCHITECTURE.md draws the states and lists the rooms: the drawing must be the table, and the rooms must be there."""

import re
from pathlib import Path

from broker.lifecycle import TRANSITIONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"


def test_state_drawing_is_the_table_of_transitions() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (\w+)$", PAGE.read_text(), flags=re.MULTILINE)

    assert {(state, event, following) for state, following, event in drawn} == {
        (state.value, event.value, following.value) for (state, event), following in TRANSITIONS.items()
    }


def test_every_room_of_the_list_is_there() -> None:
    [listed] = re.findall(r"^## The rooms\n\n```\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    paths, room = [], ROOT
    for line in listed.splitlines():
        if not line.startswith(" "):
            room = ROOT / line.split()[0]
            paths.append(room)
        paths += [room / name for name in re.findall(r"[\w/]+(?:\.py|/)(?=\s)", line) if line.startswith(" ")]
        if " · " in line:
            paths += [room / name for name in line.split(maxsplit=1)[1].split(" · ")]

    assert len(paths) > 25
    assert [str(path) for path in paths if not path.exists()] == []
