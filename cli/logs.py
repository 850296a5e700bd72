"""`queuectl logs`: what a job printed."""

from __future__ import annotations

import json
import sys

import click

from cli.escape import visible_lines
from cli.options import shared, usage
from cli.output import Piece, mark, pieces
from cli.session import Session


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt rather than the latest.")
@click.option("--stdout", "only_stdout", is_flag=True, help="Only what went to its stdout.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Only what went to its stderr.")
@shared
def logs(session: Session, job_id: str, attempt: int | None, only_stdout: bool, only_stderr: bool) -> int:
    """Print the kept output of a job, byte for byte.

    On a terminal, control characters are shown as escapes. Where bytes were not kept, a line says how many.
    --json prints one object a line.

    \b
    Examples:
      queuectl logs job-1
      queuectl logs job-1 --attempt 2 --stderr
    """
    if only_stdout and only_stderr:
        usage("--stdout and --stderr exclude each other", "leave both out for both streams")
    stream = "stdout" if only_stdout else "stderr" if only_stderr else None
    output = pieces(session.client().output_pages(job_id, attempt=attempt, stream=stream), stream=stream)
    writer = _JsonWriter() if session.as_json else _Writer()
    for piece in output:
        writer.write(piece)
    if not writer.wrote_any and not session.as_json:
        session.note("No output is kept.")
    return 0


class _JsonWriter:
    """One JSON object for each piece."""

    wrote_any = False

    def write(self, piece: Piece) -> None:
        self.wrote_any = True
        head = {"stream": piece.stream, "offset": piece.offset}
        rest = (
            {"gap_bytes": piece.gap_bytes}
            if piece.gap_bytes
            else {"text": piece.data.decode(errors="backslashreplace")}
        )
        click.echo(json.dumps(head | rest))


class _Writer:
    """Bytes as they are to a pipe, escaped on a terminal."""

    def __init__(self) -> None:
        self.wrote_any = False
        self._is_terminal = sys.stdout.isatty()
        self._at_line_start = True

    def write(self, piece: Piece) -> None:
        self.wrote_any = True
        data = piece.data
        if piece.gap_bytes:
            data = (b"" if self._at_line_start else b"\n") + mark(piece.gap_bytes).encode()
        if self._is_terminal:
            data = visible_lines(data.decode(errors="backslashreplace")).encode(errors="backslashreplace")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        self._at_line_start = data.endswith(b"\n")
