"""Conditions that jobs are chosen by: `exit_code=3`, `attempts>=2`, `command~backup`.

A condition is a field, a comparison and a value; several hold together. `~` is for text: it contains the value,
whatever the case. Where a job has none (no exit code yet), a text is empty, and of a number or instant only `!=` holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from queuectl.errors import BadRequest
from queuectl.suggest import did_you_mean
from queuectl.times import parse_rfc3339

CONTAINS = "~"
_SHAPE = re.compile(r"\s*([a-z_]+)\s*(!=|<=|>=|=|<|>|~)\s*(.*)", re.DOTALL)
_HINT = "write --where 'exit_code=3', 'attempts>=2', 'command~backup' or 'finished_at>2026-11-01T00:00:00Z'"


class Condition(NamedTuple):
    """One condition, checked. Instants are ms UTC."""

    field: str
    op: str
    value: int | str


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if abs(value) >= 2**62:
        raise ValueError("is too large")
    return value


_KINDS: dict[Callable[[str], int | str], tuple[str, ...]] = {
    str: ("id", "reason", "command", "cwd", "unique", "retry_of", "worker", "last_line"),
    _whole: ("priority", "attempt", "attempts", "losses", "exit_code", "signal", "max_retries"),
    parse_rfc3339: ("run_at", "created_at", "updated_at", "finished_at"),
}
FIELDS: dict[str, Callable[[str], int | str]] = {name: parse for parse, names in _KINDS.items() for name in names}


def parse_condition(text: str) -> Condition:
    """The condition of this text. Raises BadRequest saying what is wrong with it."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise BadRequest(f"where: {text[:80]!r} is not a condition", hint=_HINT)
    field, op, written = match[1], match[2], match[3].strip()
    if field not in FIELDS:
        raise BadRequest(
            f"where: there is no field '{field}' to ask for",
            hint=did_you_mean(field, FIELDS) or f"known: {', '.join(sorted(FIELDS))}",
        )
    if op == CONTAINS and FIELDS[field] is not str:
        raise BadRequest(f"where: ~ is for text, and {field} is none", hint=_HINT)
    try:
        return Condition(field, op, FIELDS[field](written))
    except ValueError as error:
        raise BadRequest(f"where: {field}: {error}", hint=_HINT) from None
