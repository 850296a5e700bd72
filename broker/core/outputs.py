"""Output of attempts: what to keep of it, and what to forget when it gets too much.

Of each stream the first half of `output_limit` and the last half are kept, as pieces with their offsets; the
pieces between go. Offsets count every byte the command wrote, so the size of every gap is known.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core import writing
from broker.core.memory import Kept, LastPiece, Session, Stream
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.history import ChunkKey
from broker.store.rows import WorkerRow
from queuectl.jobs import Outcome
from queuectl.messages import STDERR, STDOUT, Output, Piece, Taken

SAME_TIME_MS = 1000  # what comes later gets a time of its own
SMALL_BYTES = 4096  # a piece that follows a smaller one is added to it: rows stay few
CLOSING_MAX = 10_000
EVICTED_PER_TURN = 200  # pieces that are looked at
JOBS_CLEARED_PER_TURN = 200
CLEARED_PER_TURN = 32  # pieces, of 64 KiB at most: a few milliseconds


def on_output(core: State, turn: Turn, session: Session, message: Output) -> None:
    """Pieces of output: kept, and acknowledged after the commit."""
    taken: dict[tuple[int, int], int] = {}
    for piece in message.pieces:
        kept = _kept(core, turn, session, piece)
        upto = piece.offset + len(piece.data) if kept is None else _take(core, turn, kept, piece)
        taken[piece.lease, piece.stream] = max(upto, taken.get((piece.lease, piece.stream), 0))
        if kept is not None and kept.is_complete():
            core.closing.pop(piece.lease, None)
        if kept is not None:
            turn.written.add(kept.seq)
    turn.tell(session).taken.extend(Taken(lease, stream, upto) for (lease, stream), upto in taken.items())


def forget(core: State, seqs: set[int]) -> None:
    """Output of these jobs was deleted: what memory knows of it is not true any more."""
    for lease in [lease for lease, kept in core.closing.items() if kept.seq in seqs]:
        del core.closing[lease]


def has_begun(core: State, kept: Kept) -> bool:
    """Whether the command has written anything: then its attempt did run, whatever its worker says."""
    return any(_stream(core, kept, number).received for number in (STDOUT, STDERR))


def expect_more(core: State, lease: int, kept: Kept, boot: str) -> None:
    """An attempt has ended, and some of its output is still on its way from this boot."""
    kept.boot = boot
    core.closing[lease] = kept
    if len(core.closing) > CLOSING_MAX:
        core.closing.pop(next(iter(core.closing)))


def _kept(core: State, turn: Turn, session: Session, piece: Piece) -> Kept | None:
    """Where a piece belongs; None if its attempt's output is not wanted any more."""
    if (lease := core.leases.get(piece.lease)) is not None:
        return lease.output if core.trusts(session.by, lease.holder.worker) else None
    if (kept := core.closing.get(piece.lease)) is not None:
        boot = kept.boot
        return kept if _may_add(core, session, lambda: core.store.ledger.worker_of(boot)) else None
    if not core.may_puzzle(session.by, turn.now):
        return None
    writing.flush(core, turn)
    known = core.store.jobs.known([piece.job]).get(piece.job)
    ended = core.store.history.ended(known.seq, piece.attempt) if known else None
    if known is None or ended is None or ended.lease != piece.lease or ended.outcome == Outcome.LOST:
        return None
    if not _may_add(core, session, lambda: next(iter(core.store.ledger.workers([ended.worker])), None)):
        return None
    limit = core.store.listing.row(known.seq).output_limit
    kept = Kept(known.seq, piece.attempt, limit, totals=(ended.stdout_bytes or 0, ended.stderr_bytes or 0))
    expect_more(core, piece.lease, kept, session.holder.worker.boot)
    return kept


def _may_add(core: State, session: Session, find: Callable[[], WorkerRow | None]) -> bool:
    """Whether this session may add to the output of an attempt of that worker, which is looked up if need be."""
    if session.by.is_admin:
        return True
    worker = find()
    return worker is not None and core.trusts(session.by, worker)


def _take(core: State, turn: Turn, kept: Kept, piece: Piece) -> int:
    """Keep what is new of a piece; up to where the stream has been dealt with."""
    stream = _stream(core, kept, piece.stream)
    data = piece.data[max(0, stream.received - piece.offset) :]
    end = piece.offset + len(piece.data)
    if data:
        _keep(core, turn, kept, piece.stream, end - len(data), data)
    stream.received = max(stream.received, end)
    return stream.received


def _stream(core: State, kept: Kept, number: int) -> Stream:
    stream = kept.streams.get(number)
    if stream is None:
        stream = kept.streams[number] = Stream() if kept.is_new else _read_back(core, kept, number)
    return stream


def _read_back(core: State, kept: Kept, number: int) -> Stream:
    """The state of a stream whose attempt is older than this broker, from what is kept of it."""
    stream = Stream()
    for offset, length in core.store.history.extents(kept.seq, kept.attempt, number):
        if not stream.tail and stream.head_bytes + length <= kept.limit // 2:
            stream.head_bytes += length
        else:
            stream.tail.append((offset, length))
            stream.tail_bytes += length
        stream.received = offset + length
    return stream


def _keep(core: State, turn: Turn, kept: Kept, number: int, offset: int, data: bytes) -> None:
    stream, half = kept.streams[number], kept.limit // 2
    head = data[: max(0, half - stream.head_bytes)]
    if head:
        stream.head_bytes += len(head)
        _write(core, turn, kept, LastPiece(number, offset, len(head), in_tail=False, at_ms=turn.now.wall_ms), head)
    grain = kept.grain
    for start in range(max(len(head), len(data) - half), len(data), grain):
        _keep_tail(core, turn, kept, number, offset + start, data[start : start + grain])
    _trim(core, turn, kept, number)


def _keep_tail(core: State, turn: Turn, kept: Kept, number: int, offset: int, data: bytes) -> None:
    stream = kept.streams[number]
    stream.tail_bytes += len(data)
    if _write(core, turn, kept, LastPiece(number, offset, len(data), in_tail=True, at_ms=turn.now.wall_ms), data):
        start, length = stream.tail.pop()
        stream.tail.append((start, length + len(data)))
    else:
        stream.tail.append((offset, len(data)))


def _write(core: State, turn: Turn, kept: Kept, piece: LastPiece, data: bytes) -> bool:
    """Store a piece; True if it was added to the one before, which it follows."""
    core.output_bytes += len(data)
    last = kept.last
    if (
        last is not None
        and (last.stream, last.in_tail) == (piece.stream, piece.in_tail)
        and last.offset + last.length == piece.offset
        and last.length < SMALL_BYTES
        and piece.at_ms - last.at_ms < SAME_TIME_MS
        and (not last.in_tail or last.length + piece.length <= kept.grain)
    ):
        key = ChunkKey(kept.seq, kept.attempt, piece.stream, last.offset)
        pending = turn.new_chunks if key in turn.new_chunks else turn.longer_chunks
        pending[key] = pending.get(key, b"") + data
        kept.last = last._replace(length=last.length + piece.length)
        return True
    turn.new_chunks[ChunkKey(kept.seq, kept.attempt, piece.stream, piece.offset)] = data
    kept.last = piece
    return False


def _trim(core: State, turn: Turn, kept: Kept, number: int) -> None:
    """Forget the oldest pieces of the tail beyond its half of the limit."""
    stream = kept.streams[number]
    while stream.tail and stream.tail_bytes > kept.limit // 2:
        offset, length = stream.tail.popleft()
        stream.tail_bytes -= length
        core.output_bytes -= length
        key = ChunkKey(kept.seq, kept.attempt, number, offset)
        turn.longer_chunks.pop(key, None)
        if turn.new_chunks.pop(key, None) is None:
            turn.dropped_chunks.append(key)


def evict(core: State, turn: Turn) -> None:
    """Beyond `output_total` the oldest output of finished jobs goes, some of it each turn."""
    limit = core.settings["output_total"]
    assert isinstance(limit, int)
    if core.output_bytes <= limit:
        return
    evicted = core.store.history.evict(core.evicted_upto, core.output_bytes - limit, EVICTED_PER_TURN)
    core.evicted_upto = evicted.after_chunk
    core.output_bytes -= evicted.freed
    forget(core, evicted.seqs)
    if evicted.freed:
        turn.log("info", "output_evicted", bytes=evicted.freed)


def clear(core: State) -> None:
    """Delete a step's worth of what deleted jobs have left."""
    freed = core.store.history.clear(JOBS_CLEARED_PER_TURN, CLEARED_PER_TURN)
    core.has_doomed = freed is not None
    core.output_bytes -= freed or 0
