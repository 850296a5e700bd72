"""Bytes of a terminal as names of keys: letters as themselves, others as `up`, `pgdn`, `esc`, `tab`."""

from __future__ import annotations

import codecs
import re

_NAMES = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "ctrl-u",
}
_LETTERS = {"A": "up", "B": "down", "H": "home", "F": "end", "Z": "shift-tab"}
_NUMBERS = {"1": "home", "4": "end", "5": "pgup", "6": "pgdn", "7": "home", "8": "end"}
# CSI with its parameters, SS3 with its letter; what begins as one of them but is not at its end
_WHOLE = re.compile(r"\x1b(?:\[([0-9;?<>=]*)([@-~])|O(.))", re.DOTALL)
_BEGUN = re.compile(r"\x1b(?:\[[0-9;?<>=]*|O)?\Z")


class Keys:
    """Keys as they arrive. An Esc may be the beginning of another key: `pending` until `flush` says that it is not."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._text = ""

    @property
    def pending(self) -> bool:
        """Whether something may be half a key."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are whole with these bytes."""
        self._text += self._decoder.decode(data)
        names = []
        while self._text and not _BEGUN.match(self._text):
            name = self._take()
            if name is not None:
                names.append(name)
        return names

    def flush(self) -> list[str]:
        """Nothing more has come: what is left is Esc."""
        is_esc = self._text == "\x1b"
        self._text = ""
        return ["esc"] if is_esc else []

    def _take(self) -> str | None:
        """Take the first key; None for one without a name."""
        whole = _WHOLE.match(self._text)
        if whole is not None:
            self._text = self._text[whole.end() :]
            parameters, last, single = whole.groups()
            return _NUMBERS.get(parameters) if last == "~" else _LETTERS.get(single or last)
        letter, self._text = self._text[0], self._text[1:]
        if letter == "\x1b":
            return "esc"
        return _NAMES.get(letter) or (letter if letter.isprintable() else None)
