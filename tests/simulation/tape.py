"""What has happened, as a hash of every event, and the last of them in words."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Any

from tests.simulation.clock import Timeline

LINES_KEPT = 4000


class Violation(AssertionError):
    """A promise was broken."""


class Tape:
    """Takes down every event. Lines in words are kept only where somebody will read them."""

    def __init__(self, timeline: Timeline, *, is_readable: bool = False) -> None:
        self._timeline = timeline
        self._hash = hashlib.blake2b(digest_size=16)
        self.lines: deque[str] | None = deque(maxlen=LINES_KEPT) if is_readable else None

    def note(self, who: str, what: str, about: object = "", *, detail: object = "") -> None:
        """An event. `detail` is for readers only."""
        line = f"{self._timeline.now_ms:>9} {who:<12} {what} {about}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(f"{line} {detail}")

    def digest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()


class TapedLog:
    """The log of a node, on the tape."""

    def __init__(self, tape: Tape, who: str) -> None:
        self._tape, self._who = tape, who

    def info(self, event: str, /, **keys: Any) -> object:
        self._tape.note(self._who, event, detail=keys)
        return None

    debug = warning = error = info

    def many(self, records: Iterable[tuple[str, str, dict[str, Any]]], /) -> None:
        for level, event, keys in records:
            getattr(self, level)(event, **keys)

    def bind(self, **keys: Any) -> TapedLog:
        """The same log: nobody filters it."""
        return self
