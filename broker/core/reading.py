"""Reading what commands have printed: in slices, and held until there is more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from broker.core.access import Actor
from broker.core.find import find
from broker.core.state import State, Waiter
from broker.core.turn import Turn
from broker.store.history import Ended
from queuectl.errors import BadRequest
from queuectl.requests import Output

OUTPUT_BYTES_PER_REPLY = 512 * 1024
_CHUNKS_PER_REPLY = 64
_FAR = 2**62


@dataclass(slots=True)
class Follower(Waiter):
    """A client that waits for more output of one attempt, or for its end."""

    seq: int
    args: Output

    def look(self, core: State, turn: Turn) -> dict[str, Any] | Waiter:
        if self.seq not in turn.written:
            return self
        reply = output(core, turn, self.by, self.args)
        return reply if reply["segments"] or reply["finished"] else self

    def give_up(self, core: State, turn: Turn) -> dict[str, Any]:
        return output(core, turn, self.by, self.args)


def follower(
    core: State,
    turn: Turn,
    envelope: tuple[bytes, ...],
    by: Actor,
    request_id: str,
    args: Output,
    reply: dict[str, Any],
) -> Follower | None:
    """Who is to be answered later, because there is nothing to say now; None if the reply can go."""
    if not args.wait_ms or reply["segments"] or reply["finished"]:
        return None
    exact = msgspec.structs.replace(args, id=reply["id"], attempt=reply["attempt"] or None)
    seq = find(core, reply["id"], by).seq
    return Follower(envelope, request_id, turn.now.mono_ms + args.wait_ms, by, seq, exact)


def output(core: State, turn: Turn, by: Actor, args: Output) -> dict[str, Any]:
    """One slice of an attempt's kept output, in order of arrival."""
    known = find(core, args.id, by)
    number = args.attempt if args.attempt is not None else known.attempt
    ended = core.store.history.ended(known.seq, number)
    starts = _tail_starts(core, known.seq, number, args.tail_bytes)
    from_chunk, skip = _cursor(args.cursor)
    segments: list[list[Any]] = []
    size = 0
    chunks = core.store.history.chunks(known.seq, number, from_chunk, _CHUNKS_PER_REPLY)
    for chunk, stream, offset, data in chunks:
        start = max(skip if chunk == from_chunk else 0, starts.get(stream, 0) - offset)
        if start < len(data) and args.stream in (None, stream):
            segments.append([stream, offset + start, data[start:]])
            size += len(data) - start
        from_chunk, skip = chunk, len(data)
        if size >= OUTPUT_BYTES_PER_REPLY:
            break
    more = len(chunks) == _CHUNKS_PER_REPLY or size >= OUTPUT_BYTES_PER_REPLY
    is_over = known.lease is None or known.attempt != number
    is_coming = any(
        (kept.seq, kept.attempt) == (known.seq, number) and kept.boot in core.holders for kept in core.closing.values()
    )
    return {
        "id": known.id,
        "attempt": number,
        "segments": segments,
        "totals": _totals(ended),
        "next": [from_chunk, skip] if more else None,
        "cursor": [from_chunk, skip],
        "finished": is_over and not is_coming,
    }


def _totals(ended: Ended | None) -> dict[str, int] | None:
    """Bytes written to each stream, if a worker has told: one that is lost never does."""
    if ended is None or ended.stdout_bytes is None or ended.stderr_bytes is None:
        return None
    return {"1": ended.stdout_bytes, "2": ended.stderr_bytes}


def _cursor(cursor: list[int] | None) -> tuple[int, int]:
    if cursor is None:
        return 0, 0
    if len(cursor) != 2 or not all(0 <= number < _FAR for number in cursor):
        raise BadRequest("cursor: must be the `next` of an earlier reply")
    return cursor[0], cursor[1]


def _tail_starts(core: State, seq: int, attempt: int, tail_bytes: int | None) -> dict[int, int]:
    """From which offset on a stream is wanted."""
    if tail_bytes is None:
        return {}
    ends = {stream: core.store.history.extents(seq, attempt, stream)[-1:] for stream in (1, 2)}
    return {stream: max(0, sum(last[0]) - tail_bytes) for stream, last in ends.items() if last}
