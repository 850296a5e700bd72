"""Output on its way to the broker: what to keep, what to drop, what may be sent now.

Each stream of an attempt is a row of bytes with offsets. Its head (the first half of the limit) is always
kept; of what lies beyond, as much as the byte credit lets through goes out and at most the second half of
the limit waits, the oldest dropped first. A dropped piece leaves a jump in the offsets, which says exactly
how much is missing. What was sent is kept until the broker has taken it, for it may have to go again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from queuectl.messages import CHUNK_BYTES_MAX, STDERR, STDOUT, Piece

LEASE_WINDOW_BYTES = 256 * 1024  # one job may not use up the credit of the session
MESSAGE_BYTES_MAX = 512 * 1024  # of output in one message: heartbeats must not queue for long behind it
MESSAGE_PIECES_MAX = 1000
PACE_MS = 100  # beyond its head a stream sends at most a lease's window in this time: a flood drops its middle here
_LINE_WINDOW_BYTES = 2048  # the last line is looked for in as many bytes
_LINE_CHARS_MAX = 512


class Stream:
    """One stream of one attempt."""

    __slots__ = (
        "_burst_bytes",
        "_head_bytes",
        "_last",
        "_paced_until_ms",
        "_tail_bytes",
        "_waiting_tail_bytes",
        "dropped",
        "head",
        "sent",
        "sent_bytes",
        "tail",
        "total",
    )

    def __init__(self, limit: int) -> None:
        self._head_bytes = (limit + 1) // 2
        self._tail_bytes = limit // 2
        self._waiting_tail_bytes = 0
        self._last = b""
        self.total = 0
        self.dropped = 0
        self.head: deque[tuple[int, bytearray]] = deque()
        self.tail: deque[tuple[int, bytearray]] = deque()
        self.sent: deque[tuple[int, bytes]] = deque()
        self.sent_bytes = 0
        self._burst_bytes = 0
        self._paced_until_ms = 0

    def write(self, data: bytes) -> None:
        """Take what the command wrote."""
        self._last = (self._last + data)[-_LINE_WINDOW_BYTES:]
        room = self._head_bytes - self.total
        if room > 0:
            _append(self.head, self.total, data[:room])
        if len(data) > room:
            beyond = data[room:] if room > 0 else data
            _append(self.tail, self.total + len(data) - len(beyond), beyond)
            self._waiting_tail_bytes += len(beyond)
            self._trim()
        self.total += len(data)

    def _trim(self) -> None:
        surplus = self._waiting_tail_bytes - self._tail_bytes
        while surplus > 0:
            offset, data = self.tail[0]
            cut = min(surplus, len(data))
            if cut == len(data):
                self.tail.popleft()
            else:
                del data[:cut]
                self.tail[0] = (offset + cut, data)
            surplus -= cut
            self.dropped += cut
            self._waiting_tail_bytes -= cut

    def take(self, size: int, now_ms: int, *, is_finished: bool) -> tuple[int, bytes] | None:
        """The next piece to send, of at most `size` bytes, which from now on counts as sent."""
        if self.head:
            piece = _split(self.head, size)
        elif self.tail and (is_finished or self._may_send_tail(now_ms)):
            piece = _split(self.tail, size)
            self._waiting_tail_bytes -= len(piece[1])
            self._burst_bytes -= len(piece[1])
        else:
            return None
        self.sent.append(piece)
        self.sent_bytes += len(piece[1])
        return piece

    def _may_send_tail(self, now_ms: int) -> bool:
        if self._burst_bytes <= 0 and now_ms >= self._paced_until_ms:
            self._burst_bytes = LEASE_WINDOW_BYTES
            self._paced_until_ms = now_ms + PACE_MS
        return self._burst_bytes > 0

    def due_at_ms(self) -> int:
        """When what waits may go, if there is credit: 0 for at once."""
        return 0 if self.head or self._burst_bytes > 0 else self._paced_until_ms

    def acknowledge(self, upto: int) -> int:
        """Forget what lies below `upto`; returns how many of the sent bytes that were."""
        before = self.sent_bytes
        while self.sent and self.sent[0][0] + len(self.sent[0][1]) <= upto:
            self.sent_bytes -= len(self.sent.popleft()[1])
        for waiting in (self.head, self.tail):
            while waiting and waiting[0][0] + len(waiting[0][1]) <= upto:
                _, data = waiting.popleft()
                if waiting is self.tail:
                    self._waiting_tail_bytes -= len(data)
        return before - self.sent_bytes

    def rewind(self) -> None:
        """Let what was sent and not taken wait again, in front of the rest."""
        for offset, data in reversed(self.sent):
            if offset < self._head_bytes:
                self.head.appendleft((offset, bytearray(data)))
            else:
                self.tail.appendleft((offset, bytearray(data)))
                self._waiting_tail_bytes += len(data)
        self.sent.clear()
        self.sent_bytes = 0
        self._trim()

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """All pieces that the broker has not taken."""
        yield from self.sent
        for offset, data in (*self.head, *self.tail):
            for start in range(0, len(data), CHUNK_BYTES_MAX):
                yield offset + start, bytes(data[start : start + CHUNK_BYTES_MAX])

    def last_line(self) -> str:
        """The last line with something in it, for people."""
        for line in reversed(self._last.splitlines()):
            if line.strip():
                return _readable(line)
        return ""

    @property
    def is_waiting(self) -> bool:
        return bool(self.head or self.tail)


def _append(pieces: deque[tuple[int, bytearray]], offset: int, data: bytes) -> None:
    """Lengthen the last piece where it fits: many small writes must not become many small pieces."""
    if pieces:
        start, last = pieces[-1]
        if start + len(last) == offset and len(last) + len(data) <= CHUNK_BYTES_MAX:
            last += data
            return
    pieces.append((offset, bytearray(data)))


def _split(pieces: deque[tuple[int, bytearray]], size: int) -> tuple[int, bytes]:
    offset, data = pieces[0]
    if len(data) <= min(size, CHUNK_BYTES_MAX):
        pieces.popleft()
        return offset, bytes(data)
    size = min(size, CHUNK_BYTES_MAX)
    piece = bytes(data[:size])
    del data[:size]
    pieces[0] = (offset + size, data)
    return offset, piece


def _readable(line: bytes) -> str:
    text = line.strip().decode("utf-8", "backslashreplace")[: 2 * _LINE_CHARS_MAX]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text[:_LINE_CHARS_MAX]


class Attempt:
    """The two streams of one attempt, and who it is."""

    __slots__ = ("attempt", "is_adopted", "is_finished", "is_spooled", "job", "lease", "streams")

    def __init__(self, lease: int, job: str, attempt: int, limit: int) -> None:
        self.lease = lease
        self.job = job
        self.attempt = attempt
        self.streams = {STDOUT: Stream(limit), STDERR: Stream(limit)}
        self.is_finished = False
        self.is_spooled = False
        self.is_adopted = False

    @property
    def sent_bytes(self) -> int:
        return sum(stream.sent_bytes for stream in self.streams.values())

    @property
    def is_empty(self) -> bool:
        return not any(stream.sent or stream.is_waiting for stream in self.streams.values())

    def totals(self) -> tuple[int, int]:
        """Bytes written to stdout and to stderr, kept or not."""
        return self.streams[STDOUT].total, self.streams[STDERR].total

    def dropped(self) -> int:
        """Bytes that were not kept, of both streams."""
        return sum(stream.dropped for stream in self.streams.values())

    def last_line(self) -> str:
        """The last line of stderr, or of stdout if stderr is empty."""
        return self.streams[STDERR].last_line() or self.streams[STDOUT].last_line()

    def rest(self) -> list[Piece]:
        """All that the broker has not taken, as it would be sent."""
        return [
            Piece(self.lease, self.job, self.attempt, number, offset, data)
            for number, stream in self.streams.items()
            for offset, data in stream.rest()
        ]


class OutputBook:
    """The output of all attempts, and the byte credit of the session."""

    def __init__(self) -> None:
        self.window_bytes = 0
        self._in_flight = 0
        self._attempts: dict[int, Attempt] = {}
        self._waiting: dict[int, Attempt] = {}  # those with something to send; a dict keeps their order

    def write(self, attempt: Attempt, stream: int, data: bytes) -> None:
        """Take what a command wrote; an attempt is known from its first byte on."""
        attempt.streams[stream].write(data)
        self._attempts[attempt.lease] = attempt
        self._waiting[attempt.lease] = attempt

    def adopt(self, piece: Piece) -> None:
        """Take a piece that a dead worker had not got rid of."""
        attempt = self._attempts.get(piece.lease)
        if attempt is None:
            attempt = Attempt(piece.lease, piece.job, piece.attempt, 2**62)
            attempt.is_finished = attempt.is_spooled = attempt.is_adopted = True
            self._attempts[piece.lease] = attempt
        attempt.streams[piece.stream].head.append((piece.offset, bytearray(piece.data)))
        self._waiting[piece.lease] = attempt

    def finish(self, lease: int) -> None:
        """No more will be written for this lease."""
        attempt = self._attempts.get(lease)
        if attempt is not None:
            attempt.is_finished = True
            self._forget_if_taken(attempt)

    def forget(self, lease: int) -> None:
        """Nobody wants the output of this lease any more."""
        attempt = self._attempts.pop(lease, None)
        self._waiting.pop(lease, None)
        if attempt is not None:
            self._in_flight -= attempt.sent_bytes

    def acknowledge(self, lease: int, stream: int, upto: int) -> None:
        """The broker has taken all of this stream below `upto`."""
        attempt = self._attempts.get(lease)
        if attempt is not None:
            self._in_flight -= attempt.streams[stream].acknowledge(upto)
            self._forget_if_taken(attempt)

    def _forget_if_taken(self, attempt: Attempt) -> None:
        if attempt.is_empty:
            self._waiting.pop(attempt.lease, None)
            if attempt.is_finished:
                self._attempts.pop(attempt.lease, None)

    def restart(self, window_bytes: int) -> None:
        """A new session: full credit, and what was not taken goes again."""
        self.window_bytes = window_bytes
        self._in_flight = 0
        for attempt in self._attempts.values():
            for stream in attempt.streams.values():
                stream.rewind()
        self._waiting = {lease: attempt for lease, attempt in self._attempts.items() if not attempt.is_empty}

    def suspend(self) -> None:
        """There is no session: nothing may be sent."""
        self.window_bytes = 0

    def collect(self, now_ms: int) -> list[Piece]:
        """The pieces that may be sent now, for one message. Call again until there are none."""
        pieces: list[Piece] = []
        budget = min(self.window_bytes - self._in_flight, MESSAGE_BYTES_MAX)
        for attempt in list(self._waiting.values()):
            if budget <= 0 or len(pieces) >= MESSAGE_PIECES_MAX:
                break
            sent = self._collect_one(attempt, pieces, budget, now_ms)
            self._in_flight += sent
            budget -= sent
        return pieces

    def _collect_one(self, attempt: Attempt, pieces: list[Piece], budget: int, now_ms: int) -> int:
        room = credit = min(budget, LEASE_WINDOW_BYTES - attempt.sent_bytes)
        for number, stream in attempt.streams.items():
            while room > 0 and len(pieces) < MESSAGE_PIECES_MAX:
                taken = stream.take(room, now_ms, is_finished=attempt.is_finished)
                if taken is None:
                    break
                pieces.append(Piece(attempt.lease, attempt.job, attempt.attempt, number, *taken))
                room -= len(taken[1])
        if not any(stream.is_waiting for stream in attempt.streams.values()):
            self._waiting.pop(attempt.lease, None)
        else:
            self._waiting[attempt.lease] = self._waiting.pop(attempt.lease)  # the others first, next time
        return credit - room

    def next_deadline(self) -> int | None:
        """When pieces that only wait for their pace may go; None if none do."""
        if self._in_flight >= self.window_bytes:
            return None
        return min((at_ms for attempt in self._waiting.values() for at_ms in _paces(attempt)), default=None)

    def finished(self) -> list[Attempt]:
        """The attempts that are over and whose output is not all taken."""
        return [attempt for attempt in self._attempts.values() if attempt.is_finished]

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)


def _paces(attempt: Attempt) -> Iterator[int]:
    if attempt.sent_bytes < LEASE_WINDOW_BYTES:
        for stream in attempt.streams.values():
            if stream.is_waiting:
                yield 0 if attempt.is_finished else stream.due_at_ms()
