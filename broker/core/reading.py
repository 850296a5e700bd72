"""Reading what commands have printed: in slices, and held until there is more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from broker.core.access import Actor
from broker.core.find import find
from broker.core.state import BACKOFF_MAX_MS, State, Waiter
from broker.core.turn import Turn
from broker.store.history import Chunk, Ended
from broker.store.rows import STATES, Known
from queuectl.errors import BadRequest
from queuectl.jobs import TERMINAL, Outcome
from queuectl.messages import STDERR, STDOUT
from queuectl.requests import Output

LATE_OUTPUT_MS = 60_000  # from the end of an attempt; what comes later is found by those who ask again
OUTPUT_BYTES_PER_REPLY = 128 * 1024  # many followers leave room for others
_CHUNKS_PER_REPLY = 256
_FAR = 2**62


@dataclass(slots=True)
class Follower(Waiter):
    """A client that waits for more output of one attempt, or for its end."""

    seq: int
    args: Output

    def must_read(self, turn: Turn) -> bool:
        return self.seq in turn.written

    def look(self, core: State, turn: Turn) -> dict[str, Any] | Waiter:
        if not self.is_next and not self.must_read(turn):
            return self
        reply = output(core, turn, self.by, self.args)
        is_lost = reply["outcome"] == Outcome.LOST  # it may go on yet, but may be over as well
        return reply if reply["segments"] or reply["finished"] or is_lost else replace(self, is_next=False)

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
    exact = msgspec.structs.replace(args, id=reply["id"], attempt=reply["attempt"] or 1)
    seq = find(core, reply["id"], by).seq
    return Follower(envelope, request_id, turn.now.mono_ms + args.wait_ms, by, seq, exact)


def output(core: State, turn: Turn, by: Actor, args: Output) -> dict[str, Any]:
    """One slice of an attempt's kept output, in order of arrival, and how the attempt and its job stand."""
    known = find(core, args.id, by)
    state = STATES[known.state]
    number = args.attempt if args.attempt is not None else known.attempt
    ended = core.store.history.ended(known.seq, number)
    starts = _tail_starts(core, known.seq, number, args.tail_bytes)
    segments, times, place, more = _slice(core, known.seq, number, args, starts)
    finished = _has_ended(known, number) and not _is_coming(core, turn, known.seq, number, ended)
    return {
        "id": known.id,
        "attempt": number,
        "segments": segments,
        "times": times,
        "totals": _totals(ended),
        "next": place if more else None,
        "cursor": place,
        "finished": finished,
        "state": state.value,
        "latest": known.attempt,
        "over": finished and state in TERMINAL and number >= known.attempt,
        "outcome": ended.outcome if ended is not None else None,
        "exit_code": ended.exit_code if ended is not None else None,
        "signal": ended.signal if ended is not None else None,
    }


def _slice(
    core: State, seq: int, number: int, args: Output, starts: dict[int, int]
) -> tuple[list[list[Any]], list[int], list[int], bool]:
    """Segments, when each came, the place behind them, and whether there is more."""
    from_chunk, skip = _cursor(args.cursor)
    wanted: list[tuple[Chunk, int]] = []  # and from which of its bytes on
    size, place = 0, [from_chunk, skip]
    chunks = core.store.history.chunks(seq, number, from_chunk, _CHUNKS_PER_REPLY)
    for chunk in chunks:
        start = max(skip if chunk.chunk == from_chunk else 0, starts.get(chunk.stream, 0) - chunk.offset)
        if start < chunk.length and args.stream in (None, chunk.stream):
            wanted.append((chunk, start))
            size += chunk.length - start
        place = [chunk.chunk, chunk.length]
        if size >= OUTPUT_BYTES_PER_REPLY:
            break
    data = core.store.history.data_of([chunk.chunk for chunk, _ in wanted])
    segments = [[chunk.stream, chunk.offset + start, data[chunk.chunk][start:]] for chunk, start in wanted]
    is_cut = len(chunks) == _CHUNKS_PER_REPLY or size >= OUTPUT_BYTES_PER_REPLY
    return segments, [chunk.at_ms for chunk, _ in wanted], place, is_cut


def _has_ended(known: Known, number: int) -> bool:
    """Whether nothing will run under this number any more. A lost run may go on while nobody else has taken its job."""
    if number == 0 or number > known.attempt:
        return STATES[known.state] in TERMINAL
    return number < known.attempt or known.lease is None


def _is_coming(core: State, turn: Turn, seq: int, number: int, ended: Ended | None) -> bool:
    """Whether some output of an ended attempt is still on its way from a worker that is there, or may be back soon."""
    if any((kept.seq, kept.attempt) == (seq, number) and kept.boot in core.holders for kept in core.closing.values()):
        return True
    if ended is None or ended.finished_at_ms >= core.started_ms + core.steady_ms:
        return False
    since_start_ms = turn.now.mono_ms - core.started_ms  # it had ended before, and its worker may not be back yet
    is_recent = turn.now.wall_ms - ended.finished_at_ms < LATE_OUTPUT_MS
    is_expected = is_recent and since_start_ms < core.silence_ms + BACKOFF_MAX_MS
    return is_expected and not _is_whole(core, seq, number, ended)


def _is_whole(core: State, seq: int, number: int, ended: Ended) -> bool:
    """Whether the end of each stream is there, up to where its worker has said that it goes."""
    totals = {STDOUT: ended.stdout_bytes or 0, STDERR: ended.stderr_bytes or 0}
    ends = {stream: core.store.history.extents(seq, number, stream)[-1:] for stream, total in totals.items() if total}
    return all(found and sum(found[0]) >= totals[stream] for stream, found in ends.items())


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
