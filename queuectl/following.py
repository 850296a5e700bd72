"""Reading what a job prints: what is kept of it, or as it comes, across attempts and over restarts of the broker.

    for piece in client.logs("a17", follow=True):
        if isinstance(piece, Chunk):
            sys.stdout.buffer.write(piece.data)

Each attempt is read once, from its beginning. Offsets count every byte that the command wrote, so the size of what was
not kept is known, and is told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from queuectl.patience import Away, patiently

if TYPE_CHECKING:
    from queuectl.client import Client

STREAMS = {1: "stdout", 2: "stderr"}
NUMBERS = {name: number for number, name in STREAMS.items()}
WAIT_S = 10.0  # the broker holds a reply so long; then the client asks again
FIRST_WAIT_S = 2.0  # the first of an attempt
ALL = "all"
_NOTHING = {"outcome": None, "exit_code": None, "signal": None, "state": ""}  # what older brokers do not say


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that an attempt wrote to `stdout` or `stderr`; or so many that are not kept: `gap_bytes`."""

    attempt: int
    stream: str
    offset: int  # of the first byte, among all that the attempt wrote to the stream
    data: bytes
    at: float | None = None  # when it came to the broker, seconds since the epoch, true to a second
    gap_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """All of an attempt has been told. `is_last`: its job is over."""

    attempt: int
    outcome: str | None  # None: it never began
    exit_code: int | None
    signal: int | None
    state: str  # of the job
    is_last: bool


class Reader:
    """The output of one attempt after the other, of one job. To iterate again goes on where an exception ended it."""

    def __init__(
        self,
        client: Client,
        job_id: str,
        *,
        attempt: int | str | None = None,
        stream: str | None = None,
        follow: bool = False,
        tail_bytes: int | None = None,
        on_away: Away | None = None,
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        """`attempt`: its number, "all", or None for the latest, and what follows it. `tail_bytes`: of the first one.

        `on_wait` is called some seconds after the attempt that is followed has not begun, or when its worker was lost,
        and now and then while nothing follows.
        """
        self._client = client
        self._args: dict[str, Any] = {"id": job_id}
        self._args |= {} if stream is None else {"stream": NUMBERS[stream]}
        self._attempt = 1 if attempt == ALL else attempt
        self._is_one = isinstance(attempt, int)
        self._stream = stream
        self._follow = follow
        self._tail = {} if tail_bytes is None else {"tail_bytes": tail_bytes}
        self._on_away = on_away
        self._on_wait = on_wait
        self._is_over = False
        self._begin(is_tail=tail_bytes is not None)

    def _begin(self, *, is_tail: bool) -> None:
        """An attempt is read from its beginning, or from where its tail begins."""
        self._is_tail = is_tail
        self._reached: dict[int, int] = {}
        self._place: dict[str, Any] = {}

    def go_on(self) -> Iterator[Chunk | AttemptEnd]:
        """After what there was: what comes from now on, until the job is over."""
        self._follow, self._tail = True, {}
        return iter(self)

    def __iter__(self) -> Iterator[Chunk | AttemptEnd]:
        while not self._is_over:
            reply = yield from self._one_attempt()
            number = int(reply["attempt"])
            if not reply["finished"]:
                return
            self._is_over = self._is_one or bool(reply["over"])
            self._attempt, self._tail = number + 1, {}
            self._begin(is_tail=False)
            if self._is_one and reply["outcome"] is None:
                return  # there was no such attempt
            yield AttemptEnd(
                number, reply["outcome"], reply["exit_code"], reply["signal"], reply["state"], bool(reply["over"])
            )
            if not self._follow and number >= reply["latest"]:
                return

    def _one_attempt(self) -> Generator[Chunk, None, dict[str, Any]]:
        """Yield the output of the attempt, as far as it is there or until it has ended; the last reply."""
        wait_s = 0.0
        while True:
            reply = self._ask(wait_s)
            self._attempt = reply["attempt"] or 1
            times = reply.get("times") or [0] * len(reply["segments"])
            for (number, offset, data), at_ms in zip(reply["segments"], times, strict=True):
                reached = self._reached.get(number, 0)
                if offset > reached and not (self._is_tail and number not in self._reached):
                    yield self._gap(number, offset)
                start, end = max(offset, reached), offset + len(data)
                if start < end:  # else told already, before an exception
                    self._reached[number] = end
                    at = at_ms / 1000 if at_ms else None
                    yield Chunk(self._attempt, STREAMS[number], start, bytes(data[start - offset :]), at)
            self._place = {"cursor": reply["next"] or reply.get("cursor")}
            if reply["next"] is not None:
                continue
            if reply["finished"] or not self._follow:
                break
            is_idle = reply.get("latest", self._attempt) < self._attempt or reply.get("outcome") == "lost"
            if wait_s and is_idle and self._on_wait is not None:
                self._on_wait()
            wait_s = WAIT_S if wait_s else FIRST_WAIT_S
        if reply["finished"]:
            for key, total in (reply["totals"] or {}).items():
                number = int(key)
                if self._stream in (None, STREAMS[number]) and total > self._reached.get(number, 0):
                    yield self._gap(number, total)
        return {"over": False, "latest": 0, **_NOTHING, **reply, "attempt": self._attempt}

    def _gap(self, number: int, end: int) -> Chunk:
        assert isinstance(self._attempt, int)
        start, self._reached[number] = self._reached.get(number, 0), end
        return Chunk(self._attempt, STREAMS[number], start, b"", None, end - start)

    def _ask(self, wait_s: float) -> dict[str, Any]:
        args = {**self._args, **self._tail, **self._place} | ({"wait_ms": int(wait_s * 1000)} if wait_s else {})
        args |= {} if self._attempt is None else {"attempt": self._attempt}

        def ask() -> dict[str, Any]:
            return self._client.request("output", args, timeout=wait_s + self._client.timeout)

        return patiently(ask, self._on_away) if self._follow else ask()


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a command that was run through the queue has ended."""

    id: str
    state: str  # completed, dead or cancelled
    exit_code: int | None  # of the last attempt
    signal: int | None
    stdout: bytes  # of the last attempt, as far as it is kept
    stderr: bytes
    missing_bytes: int = 0  # that the last attempt has printed besides: --output-limit says how many are kept

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: the exit code, or minus the signal; None if the last attempt had neither."""
        return self.exit_code if self.signal is None else -self.signal


class Follows:
    """The part of a Client that reads what jobs print, as they print it."""

    def logs(
        self,
        job_id: str,
        *,
        follow: bool = False,
        attempt: int | str | None = None,
        stream: str | None = None,
        tail_bytes: int | None = None,
        on_away: Away | None = None,
        on_wait: Callable[[], object] | None = None,
    ) -> Iterator[Chunk | AttemptEnd]:
        """Yield what is kept of a job's output: Chunks, and an AttemptEnd after each attempt that has ended.

        `attempt` is a number, "all", or None for the latest. With `follow` what is printed from now on comes as it is
        printed, of the attempts that follow, too, until the job is over; it goes on over restarts of the broker.
        `on_away` hears of the error when the broker is away, `on_wait` now and then while the job waits.
        Raises UnknownJob, AmbiguousId.
        """
        return iter(
            Reader(
                cast("Client", self),
                job_id,
                attempt=attempt,
                stream=stream,
                follow=follow,
                tail_bytes=tail_bytes,
                on_away=on_away,
                on_wait=on_wait,
            )
        )

    def run(self, command: str, *, on_output: Callable[[Chunk], object] | None = None, **fields: Any) -> RunResult:
        """Enqueue a command, wait until it is over, attempts and all, and say how it ended.

        Fields are those of `enqueue`. `on_output` gets what it prints, as it comes. Raises BadJob.
        """
        client = cast("Client", self)
        job_id = client.enqueue(command, **fields)
        kept = last = _Kept()
        for piece in self.logs(job_id, follow=True, attempt=ALL):
            if isinstance(piece, Chunk):
                kept.add(piece)
                if on_output is not None:
                    on_output(piece)
            elif piece.outcome is not None:  # else it never began: the one before it is the last
                last, kept = kept, _Kept()
        [job] = client.wait([job_id])["jobs"]
        out, err = bytes(last.stdout), bytes(last.stderr)
        return RunResult(job_id, job["state"], job["exit_code"], job["signal"], out, err, last.missing_bytes)


@dataclass(slots=True)
class _Kept:
    """What an attempt has printed, as far as it is kept."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    missing_bytes: int = 0

    def add(self, piece: Chunk) -> None:
        (self.stdout if piece.stream == "stdout" else self.stderr).extend(piece.data)
        self.missing_bytes += piece.gap_bytes
