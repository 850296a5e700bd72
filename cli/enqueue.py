"""`queuectl enqueue`: one job as JSON or as a command with options, or many as lines of JSON."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from cli.escape import visible
from cli.options import BACKOFF, CODES, DURATION, SIZE, shared, usage
from cli.session import Session
from cli.strict_json import parse_object

_DASHES = "queuectl.after_dashes"
_JUST_NOW_MS = 60_000  # a moment in minutes, written within its minute


class _EnqueueCommand(click.Command):
    """Remembers whether `--` stood before the arguments: what follows it is a command, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_DASHES] = "--" in args
        ctx.meta["queuectl.args"] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_EnqueueCommand)
@click.argument("words", nargs=-1, metavar="'{JSON}' | - | -- COMMAND...")
@click.option("--file", "file", type=click.Path(path_type=Path), metavar="F", help="Jobs from a file, one JSON a line.")
@click.option("--id", "id", metavar="ID", help="Its id; one is made up if left out.")
@click.option("--queue", metavar="NAME", help="The queue it waits in.")
@click.option("--priority", type=int, metavar="N", help="Higher runs first.")
@click.option("--max-retries", type=int, metavar="N", help="Attempts it gets, the first one included.")
@click.option("--backoff-base", type=float, metavar="B", help="The n-th retry waits B ** n seconds.")
@click.option("--backoff-max", type=DURATION, metavar="D", help="Longest wait before a retry.")
@click.option("--backoff-jitter", metavar="J", help="Spread of retries: none, full or equal.")
@click.option("--timeout", type=DURATION, metavar="D", help="Longest run of an attempt: 90, 5m, 1h30m.")
@click.option("--delay", type=DURATION, metavar="D", help="Start it so much later.")
@click.option("--run-at", metavar="T", help="Start it then: 2026-11-22T03:00:00Z.")
@click.option("--at", metavar="T", help="The same in other words: +2h, 18:00, tomorrow 03:00, fri 22:30.")
@click.option("--expires", type=DURATION, metavar="D", help="Not to be started after so long: cancelled then.")
@click.option("--deadline", type=DURATION, metavar="D", help="To be done by then, over all attempts: dead if not.")
@click.option("--backoff", type=BACKOFF, metavar="B", help="Waits: exp, linear, fixed, or a list: 10s,1m,10m.")
@click.option("--retry-on", type=CODES, metavar="CODES", help="Retry after these exit codes only: 75,100-110.")
@click.option("--no-retry-on", type=CODES, metavar="CODES", help="Dead at once after these exit codes.")
@click.option("--hold", is_flag=True, help="Let it wait until it is released.")
@click.option("--tag", "tags", multiple=True, metavar="K=V", help="Something to find it by; repeatable.")
@click.option("--unique", metavar="KEY", help="Only if no job that waits or runs has this key.")
@click.option("--on-conflict", metavar="C", help="If one has: return it (the default), error, or replace it.")
@click.option("--env", "env", multiple=True, metavar="K=V", help="A variable of its environment; repeatable.")
@click.option("--cwd", metavar="DIR", help="The directory it runs in.")
@click.option("--on-lost", metavar="[retry|dead]", help="If its worker is lost, or stopped by force, while it runs.")
@click.option("--keep-children", is_flag=True, help="Leave alone what the command leaves running.")
@click.option("--output-limit", type=SIZE, metavar="SIZE", help="Bytes kept of each stream: 64KiB, 10MiB.")
@click.option("--from-line", type=click.IntRange(1), metavar="N", help="Of many: skip the lines before this one.")
@click.option("--again", is_flag=True, help="Of a file: enqueue it once more, though it was enqueued before.")
@click.option("--run", "run_token", metavar="TOKEN", help="Of many: resume the interrupted run of this token.")
@click.option("--request-id", metavar="ID", help="Of one job: repeating with this id stores it only once (24 h).")
@click.option("--idempotency-token", "token", metavar="T", help="The same with a token of any form.")
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
    A file that was enqueued before, whole or in part, is not enqueued twice within 24 hours, unless --again.
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
    fields = _fields_of(options) | ({} if at is None else {"run_at": _run_at(at, options)})
    request_id = _request_id(request_id, token)
    is_many = file is not None or (words == ("-",) and not context.meta[_DASHES])
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
    fields = {**_from_words(words, context.meta[_DASHES]), **fields}
    return _enqueue_one(session, fields, request_id, tell_when=at is not None)


def _run_at(at: str, options: dict[str, Any]) -> str:
    """The moment of --at in RFC 3339. Raises BadRequest."""
    from queuectl.times import human_duration, parse_when, rfc3339

    if options["delay"] is not None or options["run_at"] is not None:
        usage("--at, --delay and --run-at exclude each other")
    now_ms = round(time.time() * 1000)
    try:
        at_ms = parse_when(at, now_ms)
    except ValueError as error:
        usage(f"--at: {error}")
    if at_ms < now_ms - _JUST_NOW_MS:
        usage(
            f"--at {at!r} is over: it was {human_duration((now_ms - at_ms) / 1000)} ago",
            "name a moment to come, such as tomorrow 03:00; without --at it runs as soon as it can",
        )
    return rfc3339(at_ms)


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
    if session.as_json:
        session.emit({"id": job_id} | ({"existed": True} if existed else {}))
    elif session.quiet:
        session.print(job_id)
    else:
        session.print(f"Job {'is there' if existed else 'enqueued'} with ID: {job_id}")
        if tell_when and not existed:
            _tell_when(session, fields["run_at"])
        session.hint(f"see how it goes: queuectl show {job_id}")
    return 0


def _tell_when(session: Session, run_at: str) -> None:
    """What was understood, to a person only."""
    from cli.render import distance
    from queuectl.times import parse_rfc3339, rfc3339_local

    if sys.stderr.isatty():
        session.note(f"It runs at {rfc3339_local(parse_rfc3339(run_at))} ({distance(run_at)}).")


def _request_id(request_id: str | None, token: str | None) -> str | None:
    """The request id, or one made of the token: the same of the same."""
    if token is None:
        return request_id
    if request_id is not None:
        usage("--request-id and --idempotency-token exclude each other")
    from hashlib import sha256

    return f"token:{sha256(token.encode(errors='surrogateescape')).hexdigest()[:56]}"


def _from_words(words: tuple[str, ...], after_dashes: bool) -> dict[str, Any]:
    if not words:
        usage("there is no job", "write: queuectl enqueue -- echo hello")
    if after_dashes:
        return {"command": words[0] if len(words) == 1 else shlex.join(words)}
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return parse_object(words[0])
    if words[0].lstrip().startswith("{"):
        usage("the JSON came in pieces", 'put quotes around it: \'{"command": "echo hello"}\'')
    return usage("a command stands after --", f"write: queuectl enqueue -- {shlex.join(words)}")


def _fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a job that the options name."""
    fields = {key: value for key, value in options.items() if value is not None and value is not False}
    pairs = fields.pop("env")
    if pairs:
        fields["env"] = dict(_pair("--env", text) for text in pairs)
    if tags := fields.pop("tags"):
        fields["tags"] = dict(_pair("--tag", text) for text in tags)
    if "cwd" in fields:
        fields["cwd"] = str(Path(fields["cwd"]).absolute())
    return fields


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        usage(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value
