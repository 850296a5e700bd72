"""What became of attempts: one row each, and the output that is kept of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from broker.store.connection import Connection
from broker.store.rows import AttemptRow, Known

ATTEMPTS_SHOWN = 1000  # a job may have a million of them, and a reply has an end

INSERT_ATTEMPT = "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# Takes back the record of a loss when the lost worker is back in time.
DELETE_LOSS = "DELETE FROM attempt WHERE seq = ? AND attempt = ? AND lease = ? AND outcome = 'lost'"

# The attempt that had this lease, if it has ended.
ENDED = """
SELECT lease, worker, outcome, stdout_bytes, stderr_bytes, exit_code, signal, finished_at_ms FROM attempt
WHERE seq = ? AND attempt = ?"""

# The latest attempts of a job.
ATTEMPTS = """
SELECT a.attempt, w.name, a.started_at_ms, a.finished_at_ms, a.duration_ms, a.outcome, a.exit_code, a.signal,
       a.stdout_bytes, a.stderr_bytes, a.last_line, a.note, a.lease
FROM attempt a LEFT JOIN worker w ON w.worker = a.worker WHERE a.seq = ? ORDER BY a.attempt DESC LIMIT ?"""

# One more deed, after all that were done to this job.
INSERT_DEED = """
INSERT INTO deed (seq, number, at_ms, action, actor, note, state, attempt)
VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM deed WHERE seq = ?1), ?2, ?3, ?4, ?5, ?6, ?7)"""

# What people did to a job, the latest first.
DEEDS = "SELECT at_ms, action, actor, note, state, attempt FROM deed WHERE seq = ? ORDER BY number DESC LIMIT ?"
DELETE_DEEDS = "DELETE FROM deed WHERE seq = ?"

INSERT_CHUNK = "INSERT INTO output (seq, attempt, stream, offset, data, at_ms) VALUES (?, ?, ?, ?, ?, ?)"

# More bytes for the piece that came last.
EXTEND_CHUNK = """
UPDATE output SET data = CAST(data || ? AS BLOB) WHERE seq = ? AND attempt = ? AND stream = ? AND offset = ?"""

DELETE_CHUNK = "DELETE FROM output WHERE seq = ? AND attempt = ? AND stream = ? AND offset = ?"

# Where the kept pieces of a stream lie.
EXTENTS = "SELECT offset, length(data) FROM output WHERE seq = ? AND attempt = ? AND stream = ? ORDER BY offset"

# Kept output of an attempt in order of arrival: which pieces there are, without a byte of them.
PIECES = """
SELECT chunk, stream, offset, length(data), at_ms FROM output
WHERE chunk IN (SELECT chunk FROM output WHERE seq = ? AND attempt = ? AND chunk >= ? ORDER BY chunk LIMIT ?)
ORDER BY chunk"""

# The bytes of these pieces.
DATA = "SELECT chunk, data FROM json_each(?) CROSS JOIN output ON chunk = json_each.value"

# The oldest output after a place, and whether its job is over.
OLDEST = """
SELECT chunk, size, o.seq, state IN (2, 4, 5)
FROM (SELECT chunk, seq, length(data) AS size FROM output WHERE chunk > ? ORDER BY chunk LIMIT ?) o
CROSS JOIN job j ON j.seq = o.seq"""

EVICT = "DELETE FROM output WHERE chunk = ?"
DOOM = "INSERT INTO doomed VALUES (?)"

# Whose history goes next?
NEXT_DOOMED = "SELECT seq FROM doomed ORDER BY seq LIMIT ?"

# Some of their output.
PIECES_OF = """
SELECT chunk, length(data) FROM json_each(?) CROSS JOIN output ON seq = json_each.value LIMIT ?"""

DELETE_ATTEMPTS = "DELETE FROM attempt WHERE seq = ?"
SPARE = "DELETE FROM doomed WHERE seq = ?"


class Ended(NamedTuple):
    """How an attempt ended, as far as late reports need to know."""

    lease: int
    worker: int | None
    outcome: str
    stdout_bytes: int | None
    stderr_bytes: int | None
    exit_code: int | None
    signal: int | None
    finished_at_ms: int


class AttemptView(NamedTuple):
    """One attempt as `show` tells it."""

    attempt: int
    worker: str | None
    started_at_ms: int
    finished_at_ms: int
    duration_ms: int
    outcome: str
    exit_code: int | None
    signal: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    last_line: str
    note: str
    lease: int


class DeedView(NamedTuple):
    """What somebody did to a job."""

    at_ms: int
    action: str
    actor: int
    note: str  # why, or what has changed
    state: int | None  # of the job when it was done; None: from before that was noted
    attempt: int | None  # runs started by then


class ChunkKey(NamedTuple):
    """Where a piece of output stands."""

    seq: int
    attempt: int
    stream: int
    offset: int


class Chunk(NamedTuple):
    """A kept piece of output, without its bytes."""

    chunk: int  # its number
    stream: int
    offset: int
    length: int
    at_ms: int  # when its first byte came; 0: nobody noted it


class Evicted(NamedTuple):
    """What went: how much, of which jobs; and after which piece to go on (0: from the start)."""

    freed: int
    seqs: set[int]
    after_chunk: int


class History:
    """The verbs on attempts and output. None of them commits."""

    def __init__(self, connection: Connection):
        self._db = connection

    def record(self, attempts: Sequence[AttemptRow]) -> None:
        """Write down ended attempts."""
        self._db.run_many(INSERT_ATTEMPT, attempts)

    def unrecord_loss(self, seq: int, attempt: int, lease: int) -> None:
        """Take back the record of a loss that was none."""
        self._db.run(DELETE_LOSS, (seq, attempt, lease))

    def ended(self, seq: int, attempt: int) -> Ended | None:
        """How this attempt ended, or None if it has not."""
        rows = self._db.query(ENDED, (seq, attempt))
        return Ended(*rows[0]) if rows else None

    def attempts(self, seq: int) -> list[AttemptView]:
        """The ended attempts of a job, at most ATTEMPTS_SHOWN of them, the latest one last."""
        return [AttemptView(*row) for row in reversed(self._db.query(ATTEMPTS, (seq, ATTEMPTS_SHOWN)))]

    def note_deed(self, jobs: Sequence[Known], now_ms: int, action: str, actor: int, note: str = "") -> None:
        """Somebody did something to these jobs, which were so until then."""
        rows = [(job.seq, now_ms, action, actor, note, job.state, job.attempt) for job in jobs]
        self._db.run_many(INSERT_DEED, rows)

    def deeds(self, seq: int) -> list[DeedView]:
        """What people did to a job, at most ATTEMPTS_SHOWN of it, the latest last."""
        return [DeedView(*row) for row in reversed(self._db.query(DEEDS, (seq, ATTEMPTS_SHOWN)))]

    def add_output(self, pieces: Sequence[tuple[ChunkKey, bytes]], now_ms: int) -> None:
        """Keep new pieces, which have come now."""
        self._db.run_many(INSERT_CHUNK, [(*key, data, now_ms) for key, data in pieces])

    def extend_output(self, pieces: Sequence[tuple[ChunkKey, bytes]]) -> None:
        """Add bytes to the end of pieces that are there."""
        self._db.run_many(EXTEND_CHUNK, [(data, *key) for key, data in pieces])

    def drop_output(self, keys: Sequence[ChunkKey]) -> None:
        """Forget pieces."""
        self._db.run_many(DELETE_CHUNK, keys)

    def extents(self, seq: int, attempt: int, stream: int) -> list[tuple[int, int]]:
        """(offset, length) of the kept pieces of a stream."""
        return [(offset, length) for offset, length in self._db.query(EXTENTS, (seq, attempt, stream))]

    def chunks(self, seq: int, attempt: int, from_chunk: int, limit: int) -> list[Chunk]:
        """Kept pieces of an attempt, in order of arrival."""
        return [Chunk(*row) for row in self._db.query(PIECES, (seq, attempt, from_chunk, limit))]

    def data_of(self, chunks: Sequence[int]) -> dict[int, bytes]:
        """The bytes of these pieces."""
        return dict(self._db.query(DATA, (json.dumps(chunks),))) if chunks else {}

    def evict(self, after_chunk: int, bytes_wanted: int, limit: int) -> Evicted:
        """Forget the oldest output of jobs that are over, among so many pieces after this one."""
        pieces = self._db.query(OLDEST, (after_chunk, limit))
        chosen, freed, seqs = [], 0, set()
        for chunk, length, seq, is_over in pieces:
            if freed >= bytes_wanted:
                break
            after_chunk = chunk
            if is_over:
                chosen.append((chunk,))
                seqs.add(seq)
                freed += length
        self._db.run_many(EVICT, chosen)
        return Evicted(freed, seqs, after_chunk if len(pieces) == limit else 0)

    def doom(self, seqs: Sequence[int]) -> None:
        """The history of these jobs goes, in steps of `clear`."""
        self._db.run_many(DOOM, [(seq,) for seq in seqs])

    def clear(self, jobs: int, limit: int) -> int | None:
        """Delete some history of deleted jobs; how many bytes of output went, None if there was nothing to do."""
        doomed = self._db.query(NEXT_DOOMED, (jobs,))
        if not doomed:
            return None
        pieces = self._db.query(PIECES_OF, (json.dumps([seq for (seq,) in doomed]), limit))
        self._db.run_many(EVICT, [(chunk,) for chunk, _ in pieces])
        if len(pieces) < limit:
            self._db.run_many(DELETE_ATTEMPTS, doomed)
            self._db.run_many(DELETE_DEEDS, doomed)
            self._db.run_many(SPARE, doomed)
        return sum(int(length) for _, length in pieces)
