"""Many jobs from lines of JSON, in requests of up to 1000: what was taken and what was not is said exactly.

Each request has an id made of the run's token, the number of its first job's line, and its bytes. The token of a file
is made of what the file is, so a run that was cut can be repeated, whole or from a line on, and stores nothing
twice: the broker answers a request id that it has seen from its stored replies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from cli.escape import visible
from cli.options import usage
from cli.progress import progress_bar
from cli.render import counted
from cli.session import Session
from cli.strict_json import parse_object
from queuectl.errors import BadJob, QueuectlError, from_wire
from queuectl.jobs import parse_job

if TYPE_CHECKING:
    from queuectl.link import Begun

CHUNK_JOBS = 1000
CHUNK_BYTES = 2**20
LINE_BYTES_MAX = 2 * 2**20  # the longest command and env, each letter written as an escape


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for: where the lines come from, fields for all of them, where to begin, under which token."""

    file: Path | None
    fields: dict[str, Any]
    from_line: int
    again: bool
    token: str | None
    args: list[str]
    prints: bool = True  # what was enqueued, on stdout


@dataclass(slots=True)
class Chunk:
    """Jobs that go out in one request; `lines` are their numbers, `raw` is what identifies them."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    raw: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    size: int = 0
    end: int = 0  # offset in the source after its last line


@dataclass(frozen=True, slots=True)
class Sent:
    """A chunk on its way: the numbers of its good lines, and the request, if it has any."""

    chunk: Chunk
    lines: list[int]
    begun: Begun | None


@dataclass(slots=True)
class Tally:
    """What has become of the lines so far."""

    accepted: int = 0
    refused: list[tuple[int, QueuectlError]] = field(default_factory=list)
    repeated: int = 0
    next_line: int = 1  # the first line that is not acknowledged
    ids: list[str] = field(default_factory=list)


def enqueue_lines(session: Session, run: Run) -> int:
    """Enqueue every good line, name every bad one, and return the exit code."""
    with contextlib.ExitStack() as stack:
        source = _open(run, stack)
        token = _token(run, source)
        tally = Tally(next_line=run.from_line)
        progress = stack.enter_context(_progress(session, source))
        try:
            under_way: Sent | None = None
            for chunk in _chunks(source, run, session, tally):  # read while the broker stores the one before
                _settle(session, run, under_way, tally)
                under_way = _send(session, chunk, token)
                progress.update(chunk.end - progress.pos)
            _settle(session, run, under_way, tally)
        except (KeyboardInterrupt, QueuectlError) as error:
            progress.render_finish()
            _say_how_to_resume(session, run, token, tally)
            if isinstance(error, QueuectlError) or session.as_json:
                raise
            return 130
    return _conclude(session, run, tally)


def _open(run: Run, stack: contextlib.ExitStack) -> BinaryIO:
    if run.file is None:
        if sys.stdin.isatty():
            click.echo("Reading jobs from the terminal, one JSON object a line; end with Ctrl+D.", err=True)
        return sys.stdin.buffer
    try:
        return stack.enter_context(run.file.open("rb"))
    except OSError as error:
        usage(f"cannot read {run.file}: {error.strerror}")


def _token(run: Run, source: BinaryIO) -> str:
    if run.token is not None:
        return run.token
    if run.file is None or run.again:
        return secrets.token_hex(8)
    info = os.fstat(source.fileno())
    facts = f"{os.path.realpath(run.file)}\0{info.st_ino}\0{info.st_size}\0{info.st_mtime_ns}"
    return hashlib.blake2b(facts.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _progress(session: Session, source: BinaryIO) -> Any:
    """A bar on a terminal, where the size of the source is known."""
    length = 0
    with contextlib.suppress(OSError):
        length = os.fstat(source.fileno()).st_size
    return progress_bar(session, "Enqueueing", length=length)


def _chunks(source: BinaryIO, run: Run, session: Session, tally: Tally) -> Iterator[Chunk]:
    """Yield the good jobs in chunks that are always cut at the same lines; put the bad lines into the tally."""
    prefix = json.dumps(run.fields, sort_keys=True).encode()
    chunk, offset = Chunk(), 0
    for number, line in enumerate(_lines(source), start=1):
        offset += len(line)
        if number < run.from_line or not line.strip():
            continue
        size = len(prefix) + len(line)  # the fields of the options go into every job
        if chunk.lines and (len(chunk.lines) >= CHUNK_JOBS or chunk.size + size > CHUNK_BYTES):
            yield chunk
            chunk = Chunk()
        if not chunk.lines:
            chunk.raw.update(prefix)
        chunk.lines.append(number)
        chunk.raw.update(line)
        chunk.size += size
        chunk.end = offset
        try:
            chunk.jobs.append(_job(line, run.fields))
        except QueuectlError as error:
            chunk.jobs.append({})
            _refuse(session, tally, number, error)
    yield chunk


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is far too long only the beginning, which no parser takes."""
    while line := source.readline(LINE_BYTES_MAX):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = source.readline(LINE_BYTES_MAX)
        yield line


def _job(line: bytes, fields: dict[str, Any]) -> dict[str, Any]:
    if len(line) >= LINE_BYTES_MAX:
        raise BadJob(f"longer than {LINE_BYTES_MAX} bytes")
    job = {**fields, **parse_object(line)}
    parse_job(job)
    return job


def _refuse(session: Session, tally: Tally, line: int, error: QueuectlError) -> None:
    tally.refused.append((line, error))
    session.warn(f"line {line}: {visible(error.message)}" + (f" ({visible(error.hint)})" if error.hint else ""))


def _send(session: Session, chunk: Chunk, token: str) -> Sent:
    good = [(line, job) for line, job in zip(chunk.lines, chunk.jobs, strict=True) if job]
    if not good:
        return Sent(chunk, [], None)
    # Not the line after the chunk before: a run that is resumed may find blank lines in between.
    digest = hashlib.blake2b(f"{token}\0{chunk.lines[0]}\0".encode() + chunk.raw.digest(), digest_size=16)
    begun = session.client().begin(
        "enqueue", {"jobs": [job for _, job in good]}, request_id=f"bulk-{digest.hexdigest()}"
    )
    return Sent(chunk, [line for line, _ in good], begun)


def _settle(session: Session, run: Run, sent: Sent | None, tally: Tally) -> None:
    """Wait for the broker's word on a chunk, and count what it took."""
    if sent is None:
        return
    if sent.begun is not None:
        reply = session.client().finish(sent.begun)
        for each in reply.value["errors"]:
            _refuse(session, tally, sent.lines[each["index"]], from_wire(each))
        ids = [visible(job_id) for job_id in reply.value["ids"] if job_id is not None]
        tally.accepted += len(ids)
        tally.repeated += len(ids) if reply.repeated and reply.tries == 1 else 0
        if run.prints:
            _print_ids(session, tally, ids)
    tally.next_line = sent.chunk.lines[-1] + 1 if sent.chunk.lines else tally.next_line


def _print_ids(session: Session, tally: Tally, ids: list[str]) -> None:
    if session.as_json:
        tally.ids += ids
    elif session.quiet:
        for job_id in ids:
            session.print(job_id)


def _say_how_to_resume(session: Session, run: Run, token: str, tally: Tally) -> None:
    args = _without(run.args, ("--from-line", "--run"))
    args += ["--from-line", str(tally.next_line)]
    if run.file is None or run.again or run.token is not None:
        args = [*_without(args, (), ("--again",)), "--run", token]
    session.warn(
        f"Stopped: {counted(tally.accepted, 'job')} enqueued, every line before {tally.next_line} is dealt with."
    )
    what = "the same lines on stdin" if run.file is None else "the file unchanged"
    session.warn(f"Resume, with {what}: queuectl enqueue {shlex.join(args)}")


def _without(args: list[str], valued: tuple[str, ...], flags: tuple[str, ...] = ()) -> list[str]:
    """The arguments less some options and their values."""
    kept: list[str] = []
    words = iter(args)
    for word in words:
        if word in valued:
            next(words, None)
        elif word not in flags and word.partition("=")[0] not in valued:
            kept.append(word)
    return kept


def _conclude(session: Session, run: Run, tally: Tally) -> int:
    if tally.repeated and run.file:
        session.note("An earlier run of this file had enqueued some of its jobs; --again enqueues them once more.")
    verdict = _verdict([error for _, error in tally.refused])
    if session.as_json:
        errors = [{"line": line, **error.to_wire()} for line, error in sorted(tally.refused, key=lambda each: each[0])]
        told = {"ids": tally.ids, "accepted": tally.accepted, "repeated": tally.repeated, "errors": errors}
        session.emit(told | ({"error": verdict.to_wire()} if verdict else {}))
    elif run.prints and not session.quiet:
        before = f"; {tally.repeated} had been enqueued before" if tally.repeated else ""
        refused = f"; {counted(len(tally.refused), 'line')} refused" if tally.refused else ""
        session.print(f"Enqueued {counted(tally.accepted - tally.repeated, 'job')}{before}{refused}.")
    return verdict.exit_code if verdict else 0


def _verdict(refused: list[QueuectlError]) -> QueuectlError | None:
    """The error that decides the exit code: bad input before anything else."""
    return next((error for error in refused if error.exit_code == 2), refused[0] if refused else None)
