"""What msgspec says of a value that does not fit its type, in our words."""

from __future__ import annotations

import re
from collections.abc import Callable

_TYPE_WORDS = {
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "bytes": "bytes",
    "null": "null",
    "array": "a list",
}
_COUNTED = {"str": "characters", "bytes": "bytes", "array": "items", "object": "items"}
_PATH = r"(?: - at `\$\.?(?P<path>[^`]*)`)?"


def _type(match: re.Match[str]) -> str:
    kinds = [word.strip() for word in match["wanted"].split("|") if "null" not in word]
    wanted = " or ".join(_TYPE_WORDS.get(kind, kind) for kind in kinds)
    return f"expected {wanted}, got {_TYPE_WORDS.get(match['got'], match['got'])}"


def _length(match: re.Match[str]) -> str:
    if (match["bound"], match["count"]) == (">=", "1"):
        return "is empty"
    most = "at most" if match["bound"] == "<=" else "at least"
    return f"must have {most} {match['count']} {_COUNTED.get(match['kind'], 'items')}"


def _range(match: re.Match[str]) -> str:
    return f"must be at {'most' if match['bound'] == '<=' else 'least'} {match['limit']}"


_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`" + _PATH), _type),
    (re.compile(r"Expected `(?P<kind>\w+)` of length (?P<bound>[<>]=) (?P<count>\d+)" + _PATH), _length),
    (re.compile(r"Expected `\w+` (?P<bound>[<>]=) (?P<limit>[-\d.]+)" + _PATH), _range),
    (re.compile(r"Object missing required field `(?P<path>[^`]+)`"), lambda _: "is missing"),
    (re.compile(r"(?P<other>.+) - at `\$\.(?P<path>[^`]+)`"), lambda match: _lowered(match["other"])),
)


def in_plain_words(text: str) -> str:
    """``Expected `int`, got `str` - at `$.timeout` `` becomes `timeout: expected an integer, got text`."""
    for pattern, words in _PATTERNS:
        if match := pattern.match(text):
            return f"{match['path']}: {words(match)}" if match["path"] else words(match)
    return text.replace("`", "'")


def _lowered(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}".replace("`", "'")
