"""The kept output of an attempt as one sequence of bytes and gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.render import counted

if TYPE_CHECKING:
    from queuectl.client import Client

TAIL_BYTES = 64 * 1024
STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a stream, or a gap of so many bytes that are not there."""

    stream: str
    offset: int
    data: bytes
    gap_bytes: int = 0


def pieces(pages: Iterable[dict[str, Any]], *, stream: str | None = None) -> Iterator[Piece]:
    """Yield the output of the replies in order, with a gap wherever bytes are missing.

    Of a tail, what came before its first byte is a gap as well. `stream`: the only one that was asked for.
    """
    reached: dict[int, int] = {}
    page: dict[str, Any] = {}
    for page in pages:
        for number, offset, data in page["segments"]:
            if offset > reached.get(number, 0):
                yield Piece(STREAMS[number], reached.get(number, 0), b"", offset - reached.get(number, 0))
            yield Piece(STREAMS[number], offset, data)
            reached[number] = offset + len(data)
    if not page.get("finished"):
        return
    for key, total in (page.get("totals") or {}).items():
        if stream in (None, STREAMS[int(key)]) and total > reached.get(int(key), 0):
            yield Piece(STREAMS[int(key)], reached.get(int(key), 0), b"", total - reached.get(int(key), 0))


def mark(gap_bytes: int, words: str = "were not kept") -> str:
    """The line that stands for a gap."""
    return f"[queuectl: {counted(gap_bytes, 'byte')} {words}]\n"


def attempt_text(
    client: Client, job_id: str, attempt: int, *, tail_bytes: int = TAIL_BYTES, mark_start: bool = True
) -> dict[str, str]:
    """The end of both streams of an attempt as text: `{"stdout": …, "stderr": …}`, gaps as marked lines.

    Without `mark_start` nothing says that there is more before it.
    """
    raw = {"stdout": bytearray(), "stderr": bytearray()}
    for piece in pieces(client.output_pages(job_id, attempt=attempt, tail_bytes=tail_bytes)):
        text = raw[piece.stream]
        if piece.gap_bytes and text:
            text += (b"" if text.endswith(b"\n") else b"\n") + mark(piece.gap_bytes).encode()
        elif piece.gap_bytes and mark_start:
            text += mark(piece.gap_bytes, "before this are not shown").encode()
        text += piece.data
    return {name: bytes(data).decode(errors="backslashreplace") for name, data in raw.items()}
