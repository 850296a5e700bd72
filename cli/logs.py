"""`queuectl logs`: what a job printed, or prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import click

from cli.endings import ending_words
from cli.escape import visible, visible_lines
from cli.letters import Letters
from cli.options import JOB, Whole, completed, shared, usage
from cli.output import mark
from cli.render import counted
from cli.selecting import named
from cli.session import Session
from cli.waiting import Reasons, away
from queuectl.following import AttemptEnd, Chunk, Reader
from queuectl.times import rfc3339, rfc3339_local

INTERRUPTED = 130
LINES_MAX = 1_000_000
LINE_BYTES = 4096  # of so long a line there is room at the end of the output, for each line that is wanted
ALL = "all"


@click.command()
@click.argument("job_id", type=JOB, metavar="ID", shell_complete=completed("jobs"))
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until it is over.")
@click.option("--attempt", metavar="N|all", help="Of this attempt rather than the latest, or of all.")
@click.option("--stdout", "only_stdout", is_flag=True, help="Only what went to its stdout.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Only what went to its stderr.")
@click.option("-n", "--lines", type=Whole(0, LINES_MAX), metavar="N", help="Begin with the last N lines.")
@click.option("--timestamps", is_flag=True, help="Before each line, when it came to the broker.")
@shared
def logs(
    session: Session,
    job_id: str,
    follow: bool,
    attempt: str | None,
    only_stdout: bool,
    only_stderr: bool,
    lines: int | None,
    timestamps: bool,
) -> int:
    """Print the kept output of a job, byte for byte.

    On a terminal, control characters are shown as escapes. Where bytes were not kept, a line says how many. With -f it
    goes on while the job runs, over its attempts, and over restarts of the broker. --json prints one object a line, and
    with -f or all attempts one more for the end of each: its outcome, and whether it is the last.

    \b
    Examples:
      queuectl logs job-1
      queuectl logs -f last
      queuectl logs job-1 --attempt 2 --stderr
    """
    if only_stdout and only_stderr:
        usage("--stdout and --stderr exclude each other", "leave both out for both streams")
    number = _attempt(attempt)
    if lines is not None and number == ALL:
        usage("-n is about one attempt, the latest if none is named")
    [job_id] = named(session, [job_id])
    stream = "stdout" if only_stdout else "stderr" if only_stderr else None
    reader = Reader(
        session.client(),
        job_id,
        follow=follow and lines is None,
        attempt=number,
        stream=stream,
        tail_bytes=None if lines is None else (lines + 1) * LINE_BYTES,
        on_away=lambda error: away(session, error),
        on_wait=Reasons(session, job_id).tell,
    )
    shows_ends = follow or number == ALL
    writer = (
        _JsonWriter(shows_ends=shows_ends)
        if session.as_json
        else _Writer(session.note, timestamps=timestamps, shows_ends=shows_ends)
    )
    try:
        if lines is not None:
            _write(writer, last_lines(reader, lines))
        _write(writer, reader.go_on() if follow else () if lines is not None else reader)
    except KeyboardInterrupt:
        if not follow:
            raise
        return INTERRUPTED  # that is how it ends: nothing to say about it
    finally:
        writer.end(None)
    if not writer.wrote_any and lines != 0:
        _say_why_there_is_none(session, job_id, number)
    return 0


def _say_why_there_is_none(session: Session, job_id: str, number: int | str | None) -> None:
    """Raises BadRequest for an attempt that there is not."""
    job = session.client().get(job_id)
    name, attempts = visible(job["id"]), job.get("attempt") or 0
    if isinstance(number, int) and number > attempts:
        usage(f"job '{name}' has had {counted(attempts, 'attempt')}", f"see them: queuectl show {name}")
    if not session.as_json:
        session.note("No output is kept." if attempts else f"{name} has not run; see: queuectl why {name}")


def _attempt(text: str | None) -> int | str | None:
    if text is None or text == ALL:
        return text
    if not text.isdigit() or not 1 <= int(text) < 2**62:
        usage(f"--attempt {text!r} is not the number of an attempt", "1, 2 … or all")
    return int(text)


def _write(writer: _JsonWriter | _Writer, pieces: Iterable[Chunk | AttemptEnd]) -> None:
    for piece in pieces:
        if isinstance(piece, AttemptEnd):
            writer.end(piece)
        else:
            writer.write(piece)


def last_lines(pieces: Iterable[Chunk | AttemptEnd], lines: int) -> list[Chunk]:
    """The pieces with the last lines of both streams together; of the first of them only its end."""
    wanted: list[Chunk] = []
    left = lines
    for piece in reversed([piece for piece in pieces if isinstance(piece, Chunk)]):
        is_end = not wanted and piece.data.endswith(b"\n")  # the last line ends there, and none begins
        cut = _start_of_last(piece.data[: len(piece.data) - is_end], left)
        if left == 0:
            break
        if piece.gap_bytes or cut < len(piece.data):
            wanted.append(replace(piece, data=piece.data[cut:], offset=piece.offset + cut))
        left -= piece.data.count(b"\n", 0, len(piece.data) - is_end)
        if cut or left <= 0:
            break
    return wanted[::-1]


def _start_of_last(data: bytes, lines: int) -> int:
    """Where the last so many lines of it begin; 0 if it has no more than these."""
    end = len(data)
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1


class _JsonWriter:
    """One JSON object for each piece, none of which ends within a letter."""

    def __init__(self, *, shows_ends: bool = False) -> None:
        self.wrote_any = False
        self._shows_ends = shows_ends
        self._letters = Letters()

    def write(self, piece: Chunk) -> None:
        self.wrote_any = True
        self._tell(self._letters.cut(piece))

    def end(self, end: AttemptEnd | None) -> None:
        """One more object where attempts follow one another, or the end is waited for."""
        self._tell(self._letters.rest())
        if self._shows_ends and end is not None and end.outcome is not None:
            click.echo(json.dumps(asdict(end)))

    def _tell(self, pieces: list[Chunk]) -> None:
        for piece in pieces:
            click.echo(json.dumps(_as_json(piece)))


def _as_json(piece: Chunk) -> dict[str, Any]:
    head: dict[str, Any] = {"stream": piece.stream, "offset": piece.offset, "attempt": piece.attempt}
    head |= {"at": rfc3339(int(piece.at * 1000))} if piece.at is not None else {}
    text = {"text": piece.data.decode(errors="backslashreplace")}
    return head | ({"gap_bytes": piece.gap_bytes} if piece.gap_bytes else text)


class _Writer:
    """Bytes as they are to a pipe, escaped on a terminal; words about attempts go to stderr."""

    def __init__(self, note: Callable[[str], None], *, timestamps: bool = False, shows_ends: bool = False) -> None:
        self.wrote_any = False
        self._note = note
        self._timestamps = timestamps
        self._shows_ends = shows_ends
        self._is_terminal = sys.stdout.isatty()
        self._at_line_start = True
        self._letters = Letters()

    def write(self, piece: Chunk) -> None:
        self.wrote_any = True
        for part in self._letters.cut(piece) if self._is_terminal else [piece]:
            self._write(part)

    def _write(self, piece: Chunk) -> None:
        data = piece.data
        if piece.gap_bytes:
            data = (b"" if self._at_line_start else b"\n") + mark(piece.gap_bytes).encode()
        elif self._timestamps:
            data = self._stamped(piece)
        if self._is_terminal:
            data = visible_lines(data.decode(errors="backslashreplace")).encode(errors="backslashreplace")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        self._at_line_start = data.endswith(b"\n")

    def _stamped(self, piece: Chunk) -> bytes:
        stamp = f"{'-' if piece.at is None else rfc3339_local(int(piece.at * 1000)):<25} ".encode()
        lines = piece.data.splitlines(keepends=True)
        starts = [self._at_line_start, *[True] * len(lines)]
        return b"".join((stamp if start else b"") + line for start, line in zip(starts, lines, strict=False))

    def end(self, end: AttemptEnd | None) -> None:
        """A line after each attempt, where more than one is shown; None: nothing more comes now."""
        for part in self._letters.rest():
            self._write(part)
        if end is not None and self._shows_ends:
            ended = ending_words(end.outcome, end.exit_code, end.signal)
            over = f"; the job is {visible(end.state)}" if end.is_last and end.state != "completed" else ""
            begin = "" if self._at_line_start or not self._is_terminal else "\n"
            self._note(f"{begin}--- attempt {end.attempt} has ended ({ended}){over} ---")
