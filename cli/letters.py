"""Output as text: pieces that end between letters, though the broker's end between bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuectl.following import Chunk

_LETTER_BYTES_MAX = 4


class Letters:
    """Cuts pieces of output where a letter of UTF-8 ends; what has begun stands at the beginning of the next."""

    def __init__(self) -> None:
        self._begun: dict[str, Chunk] = {}  # by stream

    def cut(self, chunk: Chunk) -> list[Chunk]:
        """What can be shown now that this has come."""
        begun = self._begun.pop(chunk.stream, None)
        if begun is None:
            whole: list[Chunk] = []
        elif begun.attempt == chunk.attempt and begun.offset + len(begun.data) == chunk.offset and chunk.data:
            chunk, whole = replace(chunk, data=begun.data + chunk.data, offset=begun.offset), []
        else:
            whole = [begun]
        end = len(chunk.data) - begun_bytes(chunk.data)
        if end < len(chunk.data):
            self._begun[chunk.stream] = replace(chunk, data=chunk.data[end:], offset=chunk.offset + end)
        if end or chunk.gap_bytes:
            whole.append(replace(chunk, data=chunk.data[:end]))
        return whole

    def rest(self) -> list[Chunk]:
        """What has begun and will not end: the attempt is over."""
        rest, self._begun = list(self._begun.values()), {}
        return rest


def begun_bytes(data: bytes) -> int:
    """How many bytes at the end are the beginning of a letter of UTF-8 that has not ended."""
    for count in range(1, min(_LETTER_BYTES_MAX, len(data) + 1)):
        byte = data[-count]
        if byte & 0xC0 != 0x80:  # it begins a letter
            letter = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return count if letter > count else 0
    return 0
