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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from cli.escape import visible
from cli.options import usage
from cli.progress import progress_bar
from cli.render import counted
from cli.session import Session
from cli.strict_json import parse_object, parse_plain_objects
from queuectl.errors import BadJob, QueuectlError, TooManyRequests, from_wire
from queuectl.jobs import JobSpec, are_sound, parse_job

if TYPE_CHECKING:
    from queuectl.link import Begun, Reply

CHUNK_JOBS = 1000
CHUNK_BYTES = 2**20
PATIENCE_S = 60.0  # with a broker that is asked too often
RETRY_MS = 1000  # where it does not say when to come back
RETRY_MS_MAX = 5000
LINE_BYTES_MAX = 2 * 2**20  # the longest command and env, each letter written as an escape

Jobs = list[dict[str, Any]]


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
    """Lines that go out in one request."""

    raw: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    size: int = 0  # bytes of the lines, with the fields that go into every job
    end: int = 0  # offset in the source after the last line


@dataclass(frozen=True, slots=True)
class Request:
    """A chunk made ready: the numbers of its good lines, what to send, if any is good, and the line after it."""

    lines: list[int]
    begun: Begun | None
    next_line: int


@dataclass(slots=True)
class Tally:
    """What has become of the lines so far."""

    accepted: int = 0
    refused: list[tuple[int, QueuectlError]] = field(default_factory=list)
    repeated: int = 0
    next_line: int = 1  # the first line that is not acknowledged
    ids: list[str] = field(default_factory=list)
    has_waited: bool = False  # until it might ask again


def enqueue_lines(session: Session, run: Run) -> int:
    """Enqueue every good line, name every bad one, and return the exit code."""
    with contextlib.ExitStack() as stack:
        source = _open(run, stack)
        token = _token(run, source)
        tally = Tally(next_line=run.from_line)
        progress = stack.enter_context(_progress(session, source))
        try:
            under_way: Request | None = None
            for chunk in _chunks(source, run):
                following = _prepare(session, run, chunk, token, tally)  # while the broker stores the one before
                reply = _finish(session, under_way, tally)
                try:
                    if following.begun is not None:
                        session.client().send(following.begun)
                finally:  # while the broker stores the next
                    _count(session, run, under_way, reply, tally)
                under_way = following
                progress.update(chunk.end - progress.pos)
            _count(session, run, under_way, _finish(session, under_way, tally), tally)
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


def _chunks(source: BinaryIO, run: Run) -> Iterator[Chunk]:
    """Yield the lines, less blank ones, in chunks that are always cut at the same places."""
    chunk, offset = Chunk(), 0
    of_fields = len(_prefix(run))
    for number, line in enumerate(_lines(source), start=1):
        offset += len(line)
        if number < run.from_line or line.isspace():
            continue
        size = of_fields + len(line)
        if chunk.raw and (len(chunk.raw) >= CHUNK_JOBS or chunk.size + size > CHUNK_BYTES):
            yield chunk
            chunk = Chunk()
        chunk.raw.append(line)
        chunk.numbers.append(number)
        chunk.size += size
        chunk.end = offset
    if chunk.raw:
        yield chunk


def _prefix(run: Run) -> bytes:
    """The fields of the options, which go into every job."""
    return json.dumps(run.fields, sort_keys=True, default=bytes.hex).encode()


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is far too long only the beginning, which no parser takes."""
    while line := source.readline(LINE_BYTES_MAX):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = source.readline(LINE_BYTES_MAX)
        yield line


def _prepare(session: Session, run: Run, chunk: Chunk, token: str, tally: Tally) -> Request:
    """Read the lines of a chunk and make them a request; put the bad ones into the tally."""
    lines, jobs = chunk.numbers, _all_at_once(chunk, run.fields)
    if jobs is None:
        lines, jobs = _one_by_one(session, run, chunk, tally)
    begun = None
    if jobs:
        # Not the line after the chunk before: a run that is resumed may find blank lines in between.
        raw = hashlib.blake2b(_prefix(run) + b"".join(chunk.raw), digest_size=16).digest()
        digest = hashlib.blake2b(f"{token}\0{chunk.numbers[0]}\0".encode() + raw, digest_size=16)
        begun = session.client().prepare("enqueue", {"jobs": jobs}, request_id=f"bulk-{digest.hexdigest()}")
    return Request(lines, begun, chunk.numbers[-1] + 1)


def _all_at_once(chunk: Chunk, fields: dict[str, Any]) -> Jobs | None:
    """The jobs of lines that are all good, or None if one of them needs a closer look."""
    if chunk.size >= LINE_BYTES_MAX:
        return None
    jobs = parse_plain_objects(chunk.raw)
    if jobs is None:
        return None
    if fields:
        jobs = [{**fields, **job} for job in jobs]
    try:
        return jobs if are_sound(msgspec.convert(jobs, list[JobSpec])) else None
    except msgspec.ValidationError:
        return None


def _one_by_one(session: Session, run: Run, chunk: Chunk, tally: Tally) -> tuple[list[int], Jobs]:
    """The numbers and jobs of the good lines; every bad one is named."""
    lines: list[int] = []
    jobs: Jobs = []
    for number, line in zip(chunk.numbers, chunk.raw, strict=True):
        try:
            jobs.append(_job(line, run.fields))
            lines.append(number)
        except QueuectlError as error:
            _refuse(session, tally, number, error)
    return lines, jobs


def _job(line: bytes, fields: dict[str, Any]) -> dict[str, Any]:
    if len(line) >= LINE_BYTES_MAX:
        raise BadJob(f"longer than {LINE_BYTES_MAX} bytes")
    job = {**fields, **parse_object(line)}
    parse_job(job)
    return job


def _refuse(session: Session, tally: Tally, line: int, error: QueuectlError) -> None:
    tally.refused.append((line, error))
    session.warn(f"line {line}: {visible(error.message)}" + (f" ({visible(error.hint)})" if error.hint else ""))


def _finish(session: Session, request: Request | None, tally: Tally) -> Reply | None:
    """Wait for the broker's word on a request, if there is one. Who has asked too often asks again, for a while."""
    if request is None or request.begun is None:
        return None
    client = session.client()
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.finish(request.begun)
        except TooManyRequests as error:
            if time.monotonic() >= end:
                raise
            _slow_down(session, error, tally)
        client.send(request.begun)


def _slow_down(session: Session, error: TooManyRequests, tally: Tally) -> None:
    if not tally.has_waited:
        session.note(f"{visible(error.message)}; waiting for it")
        tally.has_waited = True
    time.sleep(min(error.details.get("retry_ms", RETRY_MS), RETRY_MS_MAX) / 1000)


def _count(session: Session, run: Run, request: Request | None, reply: Reply | None, tally: Tally) -> None:
    """Put what the broker said of a request into the tally."""
    if request is None:
        return
    if reply is not None:
        for each in reply.value["errors"]:
            _refuse(session, tally, request.lines[each["index"]], from_wire(each))
        ids = [job_id for job_id in reply.value["ids"] if job_id is not None]
        tally.accepted += len(ids)
        tally.repeated += len(ids) if reply.repeated and reply.tries == 1 else 0
        if run.prints:
            _print_ids(session, tally, ids)
    tally.next_line = request.next_line


def _print_ids(session: Session, tally: Tally, ids: list[str]) -> None:
    if session.as_json:
        tally.ids += [visible(job_id) for job_id in ids]
    elif session.quiet and ids:
        session.print("\n".join(visible(job_id) for job_id in ids))


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
