"""ARCHITECTURE.md draws the states; the drawing must be the table."""

import re
from pathlib import Path

from broker.lifecycle import TRANSITIONS

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def test_state_drawing_is_the_table_of_transitions() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (\w+)$", PAGE.read_text(), flags=re.MULTILINE)

    assert {(state, event, following) for state, following, event in drawn} == {
        (state.value, event.value, following.value) for (state, event), following in TRANSITIONS.items()
    }
