"""`queuectl enqueue`: one job as JSON or as a command with options, or many as lines of JSON."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from cli.escape import visible
from cli.job_options import (
    DASHES,
    CommandAfterDashes,
    at_option,
    command_of,
    fields_of,
    job_options,
    request_id_of,
    run_at_of,
)
from cli.options import Whole, completed, shared, usage
from cli.session import Session
from cli.strict_json import parse_object


@click.command(cls=CommandAfterDashes)
@click.argument("words", nargs=-1, metavar="'{JSON}' | - | -- COMMAND...", shell_complete=completed("files"))
@click.option("--file", "file", type=click.Path(path_type=Path), metavar="F", help="Jobs from a file, one JSON a line.")
@job_options
@at_option
@click.option("--from-line", type=Whole(1), metavar="N", help="Of many: skip the lines before this one.")
@click.option("--again", is_flag=True, help="Of a file: enqueue it once more, though it was enqueued before.")
@click.option("--run", "run_token", metavar="TOKEN", help="Of many: resume the interrupted run of this token.")
@shared
def enqueue(
    session: Session,
    words: tuple[str, ...],
    file: Path | None,
    from_line: int | None,
    again: bool,
    run_token: str | None,
    request_id: str | None,
    token: str | None,
    at: str | None,
    **options: Any,
) -> int:
    """Store a job, or many.

    After `--`, one argument is shell text as it is; several are quoted into one. A JSON object has at least a
    "command"; its other fields are named like the options, with underscores, and durations in seconds.
    `-` and --file take many jobs, one JSON object a line; the options then hold for lines that say nothing else.
    A file that was enqueued, whole or in part, is not enqueued twice within 24 hours, unless --again; one that was
    changed or moved since, or comes with other options, is another one, and what comes on stdin is new each time.
    --at is by the clock of this machine, if it names no zone; a time that the clocks skip is as much later as they
    skip, and of one that they show twice the first counts that is still to come.

    \b
    Examples:
      queuectl enqueue '{"command": "echo hello", "priority": 5}'
      queuectl enqueue --timeout 5m --queue mail -- ./send.sh --all
      queuectl enqueue -- 'make && make install'
      queuectl enqueue --at 'tomorrow 03:00' -- ./backup.sh
      queuectl enqueue --file jobs.jsonl
    """
    context = click.get_current_context()
    fields = fields_of(options) | ({} if at is None else {"run_at": run_at_of(at, options)})
    request_id = request_id_of(request_id, token)
    is_many = file is not None or (words == ("-",) and not context.meta[DASHES])
    if at is not None and (is_many or request_id is not None):
        _refuse_moving(at, fields["run_at"])
    if is_many:
        from cli.bulk import Run, enqueue_lines

        _refuse_with_many(words, file, fields, request_id)
        source = None if file == Path("-") else file
        return enqueue_lines(
            session, Run(source, fields, from_line or 1, again, run_token, context.meta["queuectl.args"])
        )
    if from_line or again or run_token:
        usage("--from-line, --again and --run are about many jobs", "they go with --file or -")
    fields = {**_from_words(words, context.meta[DASHES]), **fields}
    return _enqueue_one(session, fields, request_id, tell_when=at is not None)


def _refuse_moving(at: str, run_at: str) -> None:
    """What means another moment when it is read again would make other jobs of a run that is repeated."""
    if not at.strip()[:4].isdigit():
        usage(
            f"--at {at!r} is another moment when it is repeated, as many jobs and a request with an id may be",
            f"write the moment itself: --at {run_at}",
        )


def _refuse_with_many(
    words: tuple[str, ...], file: Path | None, fields: dict[str, Any], request_id: str | None
) -> None:
    if words and file is not None:
        usage("--file and other jobs exclude each other")
    if "id" in fields:
        usage("--id names one job, not many", 'give each line its own: {"id": "job-1", "command": "…"}')
    if request_id is not None:
        usage("--request-id is about one job", "a run of many has its own: see --run")


def _enqueue_one(session: Session, fields: dict[str, Any], request_id: str | None, *, tell_when: bool) -> int:
    from queuectl.errors import from_wire
    from queuectl.ids import REQUEST_ID
    from queuectl.jobs import parse_job

    parse_job(fields)  # before a broker is started for it
    if request_id is not None and not REQUEST_ID.fullmatch(request_id):
        usage(f"{request_id!r} is not a request id", "8 to 64 of A-Z a-z 0-9 . _ : -")
    stored = session.client().request("enqueue", {"jobs": [fields]}, request_id=request_id)
    if stored["errors"]:
        raise from_wire(stored["errors"][0])
    job_id, existed = visible(stored["ids"][0]), bool(stored.get("found"))
    try:
        _tell(session, job_id, fields, existed=existed, tell_when=tell_when)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        session.warn(f"Job {job_id} is enqueued, whatever is told of it.")
        raise
    return 0


def _tell(session: Session, job_id: str, fields: dict[str, Any], *, existed: bool, tell_when: bool) -> None:
    if session.as_json:
        session.emit({"id": job_id} | ({"existed": True} if existed else {}))
    elif session.quiet:
        session.print(job_id)
    else:
        session.print(f"Job {'is there' if existed else 'enqueued'} with ID: {job_id}")
        if tell_when and not existed:
            _tell_when(session, fields["run_at"])
        session.hint(f"see how it goes: queuectl show {job_id}")


def _tell_when(session: Session, run_at: str) -> None:
    """What was understood, to a person only."""
    from cli.render import moment

    if sys.stderr.isatty():
        session.note(f"It runs at {moment(run_at)}.")


def _from_words(words: tuple[str, ...], after_dashes: bool) -> dict[str, Any]:
    if not words:
        usage("there is no job", "write: queuectl enqueue -- echo hello")
    if after_dashes:
        return {"command": command_of(words)}
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return parse_object(words[0])
    if words[0].lstrip().startswith("{"):
        usage("the JSON came in pieces", 'put quotes around it: \'{"command": "echo hello"}\'')
    text = shlex.join(words)
    command = text if text.isprintable() else "COMMAND"  # what is not would be shown as another one
    return usage("a command stands after --", f"write: queuectl enqueue -- {command}")
