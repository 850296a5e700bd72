"""`queuectl dlq export` and `dlq import`: dead jobs as lines of JSON, to keep or to run somewhere else."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli.options import shared, usage
from cli.render import counted
from cli.selecting import filter_of, filtering_dead
from cli.session import Session

BASE64 = "stdin_base64"  # input that is no text


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@filtering_dead
@shared
def export_jobs(session: Session, file: Path | None, **options: Any) -> int:
    """Write dead jobs as lines of JSON, to FILE or stdout: all that was asked for, values of variables included.

    They stay in the dead letter queue. `dlq import` or `enqueue --file` reads them. A FILE is readable by you alone,
    and takes the place of no other.

    \b
    Examples:
      queuectl dlq export dead.jsonl
      queuectl dlq export --queue mail | gzip > dead.jsonl.gz
    """
    if file is not None and os.path.lexists(file):
        usage(f"{file} is there already", "name another file, or move that one away")
    lines = _lines(session, {**filter_of({**options, "state": None}), "state": "dead"})
    count = 0
    if file is None:
        for line in lines:
            sys.stdout.write(line)
            count += 1
    else:
        text = list(lines)
        count = len(text)
        _write(file, "".join(text))
        if session.as_json:
            session.emit({"file": str(file), "jobs": count})
    session.note(f"{counted(count, 'dead job')} exported.")
    return 0


def _write(file: Path, text: str) -> None:
    from queuectl.credentials import write_secret
    from queuectl.errors import BadCredentials

    try:
        write_secret(file, text)
    except BadCredentials as error:  # it is none of these
        usage(error.message)


def _lines(session: Session, select: dict[str, Any]) -> Iterator[str]:
    client = session.client()
    args: dict[str, Any] = {"select": select}
    while True:
        reply = client.request("export", args)
        for job in reply["jobs"]:
            yield json.dumps(_as_json(job)) + "\n"
        if reply["next"] is None:
            return
        args["cursor"] = reply["next"]


def _as_json(job: dict[str, Any]) -> dict[str, Any]:
    """A job in JSON: input as text if it is, in base64 if not."""
    if "stdin" not in job:
        return job
    data = bytes(job["stdin"])
    rest = {name: value for name, value in job.items() if name != "stdin"}
    try:
        return {**rest, "stdin": data.decode()}
    except UnicodeDecodeError:
        return {**rest, BASE64: base64.b64encode(data).decode()}


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--hold", is_flag=True, help="Let them wait until they are released.")
@click.option("--again", is_flag=True, help="Import the file once more, though it was imported before.")
@shared
def import_jobs(session: Session, file: Path, hold: bool, again: bool) -> int:
    """Enqueue the jobs of an export: new jobs, each of which says whose retry it is.

    A file that was imported, whole or in part, is not imported twice within 24 hours, unless --again; one that was
    changed or moved since, or comes with or without --hold where it did not, is another one. What comes on stdin is new
    each time.

    \b
    Examples:
      queuectl dlq import dead.jsonl --hold
      zcat dead.jsonl.gz | queuectl dlq import -
    """
    from cli.bulk import Run, enqueue_lines

    source = None if file == Path("-") else file
    args = ["--file", str(file), *(["--hold"] if hold else [])]  # of `enqueue`, which takes up what was interrupted
    return enqueue_lines(session, Run(source, {"hold": True} if hold else {}, 1, again, None, args))
