"""Make text from elsewhere safe to show: what a terminal would obey, or what would mislead the eye, turns visible.

Commands, output and host names are written by others; printed raw they could move the cursor, set the
clipboard, or reverse the order of letters.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

# C0, DEL, C1; line separators; marks and overrides of direction; what takes no room, and so hides that two names
# differ (joiners and variation selectors stay: scripts and emoji need them); halves of surrogate pairs.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e"
    "\xad\u034f\u115f\u1160\u180e\u200b\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff"
)
_ALL, _BUT_LINES = f"[{_UNSAFE}]", f"(?![\n\t])[{_UNSAFE}]"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: object) -> str:
    """The text on one line, with everything unsafe as an escape such as `\\x1b` or `\\u202e`."""
    return _escaped(str(text), _ALL)


def visible_lines(text: str) -> str:
    """The same, but newlines and tabs stay."""
    return _escaped(text, _BUT_LINES)


def _escaped(text: str, unsafe: str) -> str:
    if text.isascii() and text.isprintable():  # nearly all text, and the patterns take a while to compile
        return text
    return _compiled(unsafe).sub(_escape, text)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    import re

    return re.compile(pattern)


def width(text: str) -> int:
    """How many columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shortened(text: str, columns: int) -> str:
    """The text cut to so many columns, with an ellipsis where something was cut."""
    if width(text) <= columns:
        return text
    taken: list[str] = []
    left = columns - 1
    for letter in text:
        left -= width(letter)
        if left < 0:
            break
        taken.append(letter)
    return "".join(taken) + "…"


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    return _SHORT.get(letter) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
