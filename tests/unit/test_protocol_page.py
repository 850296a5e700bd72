"""docs/protocol.md against the code: the generated parts, and that nothing is left unsaid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from broker.core.operations import OPERATIONS
from broker.core.sessions import DEAF_BEATS_MAX, SUSPECT_HEARTBEATS
from queuectl.errors import BY_CODE
from queuectl.messages import ToBroker, ToWorker
from queuectl.requests import Wait
from tests.protocol_page import refreshed, sections

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
MESSAGES = [*get_args(ToBroker), *get_args(ToWorker)]


def by_hand() -> str:
    """The page without what is made from the code."""
    return re.sub(r"<!-- ([a-z ]+): begin -->.*?<!-- \1: end -->", "", PAGE, flags=re.DOTALL)


def test_generated_parts_are_fresh() -> None:
    assert refreshed(PAGE) == PAGE, "run: python -m tests.protocol_page docs/protocol.md"


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_has_its_place(op: str) -> None:
    assert f"#### `{op}`" in sections()["operations"]
    assert OPERATIONS[op].changes == (f"#### `{op}` (changes)" in PAGE)
    assert "→" in (OPERATIONS[op].args.__doc__ or ""), "its docstring says what the reply is"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message.__struct_config__.tag))
def test_every_message_has_its_place_and_its_situations(message: Any) -> None:
    name = message.__struct_config__.tag

    assert f"#### `{name}`" in PAGE
    assert f"\n| `{name}` |" in by_hand(), "the tables of situations leave it out"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message.__struct_config__.tag))
def test_every_field_says_what_it_means(message: Any) -> None:
    part = PAGE.partition(f"#### `{message.__struct_config__.tag}`")[2].partition("####")[0]

    assert part
    assert not re.findall(r"^\| \d+ \|.*\|\s*\|$", part, re.MULTILINE)


@pytest.mark.parametrize("code", [code for code, cls in BY_CODE.items() if cls.__module__ == "queuectl.errors"])
def test_every_error_has_its_row(code: str) -> None:
    cls = BY_CODE[code]
    retryable = "yes" if cls.retryable else "no"

    assert f"| `{code}` | {cls.exit_code} | {retryable} |" in PAGE


def test_numbers_in_the_prose_are_those_of_the_code() -> None:
    assert (SUSPECT_HEARTBEATS, DEAF_BEATS_MAX) == (3, 3)
    assert Wait.__struct_fields__[-1] == "timeout_ms"
    assert "(60 000 at most)" in PAGE
