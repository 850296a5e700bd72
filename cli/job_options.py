"""What may be said of a job on the command line: the options of `enqueue` and `run`, and what becomes of them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.options import BACKOFF, CODES, DURATION, SIZE, Whole, completed, usage

F = TypeVar("F", bound=Callable[..., Any])
DASHES = "queuectl.after_dashes"
JUST_NOW_MS = 60_000  # a moment in minutes, written within its minute

_OPTIONS = (
    click.option("--id", "id", metavar="ID", help="Its id; one is made up if left out."),
    click.option("--queue", metavar="NAME", help="The queue it waits in.", shell_complete=completed("queues")),
    click.option("--priority", type=Whole(), metavar="N", help="Higher runs first."),
    click.option("--max-retries", type=Whole(), metavar="N", help="Attempts it gets, the first one included."),
    click.option("--backoff-base", type=float, metavar="B", help="The n-th retry waits B ** n seconds."),
    click.option("--backoff-max", type=DURATION, metavar="D", help="Longest wait before a retry."),
    click.option("--backoff-jitter", metavar="J", help="Spread of retries: none, full or equal."),
    click.option("--timeout", type=DURATION, metavar="D", help="Longest run of an attempt: 90, 5m, 1h30m."),
    click.option("--delay", type=DURATION, metavar="D", help="Start it so much later."),
    click.option("--run-at", metavar="T", help="Start it then: 2026-11-22T03:00:00Z."),
    click.option("--expires", type=DURATION, metavar="D", help="Not to be started after so long: cancelled then."),
    click.option("--deadline", type=DURATION, metavar="D", help="To be done by then, over all attempts: dead if not."),
    click.option("--backoff", type=BACKOFF, metavar="B", help="Waits: exp, linear, fixed, or a list: 10s,1m,10m."),
    click.option("--retry-on", type=CODES, metavar="CODES", help="Retry after these exit codes only: 75,100-110."),
    click.option("--no-retry-on", type=CODES, metavar="CODES", help="Dead at once after these exit codes."),
    click.option("--hold", is_flag=True, help="Let it wait until it is released."),
    click.option("--tag", "tags", multiple=True, metavar="K=V", help="Something to find it by; repeatable."),
    click.option("--unique", metavar="KEY", help="Only if no job that waits or runs has this key."),
    click.option("--on-conflict", metavar="C", help="If one has: return it (the default), error, or replace it."),
    click.option("--env", "env", multiple=True, metavar="K=V", help="A variable of its environment; repeatable."),
    click.option("--cwd", metavar="DIR", help="The directory it runs in."),
    click.option("--on-lost", metavar="[retry|dead]", help="If its worker is lost or stopped by force."),
    click.option("--keep-children", is_flag=True, help="Leave alone what the command leaves running."),
    click.option(
        "--output-limit", type=SIZE, metavar="SIZE", help="Bytes kept of each stream, half from its start: 10MiB."
    ),
    click.option("--request-id", metavar="ID", help="Of one job: repeating with this id stores it only once (24 h)."),
    click.option("--idempotency-token", "token", metavar="T", help="The same with a token of any form."),
    click.option("--stdin", metavar="FILE", help="What the command reads; - is what this one reads. At most 1 MiB."),
)


at_option = click.option("--at", metavar="T", help="The same in other words: +2h, 18:00, tomorrow 03:00, fri 22:30.")


class CommandAfterDashes(click.Command):
    """Remembers whether `--` stood before the arguments: what follows it is a command, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[DASHES] = "--" in args
        ctx.meta["queuectl.args"] = list(args)
        return super().parse_args(ctx, args)


def job_options(function: F) -> F:
    """Give a command the options that say what a job is to be like."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def command_of(words: tuple[str, ...]) -> str:
    """Words after `--` as shell text: one is that already, several are quoted into one."""
    return words[0] if len(words) == 1 else shlex.join(words)


def request_id_of(request_id: str | None, token: str | None) -> str | None:
    """The request id, or one made of the token: the same of the same."""
    if token is None:
        return request_id
    if request_id is not None:
        usage("--request-id and --idempotency-token exclude each other")
    if not token:
        usage("--idempotency-token is empty", "leave it out, or say which")
    from hashlib import sha256

    from queuectl.ids import OF_TOKEN

    return f"{OF_TOKEN}{sha256(token.encode(errors='surrogateescape')).hexdigest()[:56]}"


def run_at_of(at: str, options: dict[str, Any]) -> str:
    """The moment of --at in RFC 3339. Raises BadRequest."""
    from queuectl.times import human_duration, parse_when, rfc3339

    if options["delay"] is not None or options["run_at"] is not None:
        usage("--at, --delay and --run-at exclude each other")
    now_ms = round(time.time() * 1000)
    try:
        at_ms = parse_when(at, now_ms)
    except ValueError as error:
        usage(f"--at: {error}")
    if at_ms < now_ms - JUST_NOW_MS:
        usage(
            f"--at {at!r} is over: it was {human_duration((now_ms - at_ms) / 1000)} ago",
            "name a moment to come, such as tomorrow 03:00; without --at it runs as soon as it can",
        )
    return rfc3339(at_ms)


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a job that the options name."""
    fields = {key: value for key, value in options.items() if value is not None and value is not False}
    pairs = fields.pop("env")
    if pairs:
        fields["env"] = dict(_pair("--env", text) for text in pairs)
    if tags := fields.pop("tags"):
        fields["tags"] = dict(_pair("--tag", text) for text in tags)
    if "stdin" in fields:
        fields["stdin"] = _input(fields["stdin"])
    if "cwd" in fields:
        fields["cwd"] = str(Path(fields["cwd"]).absolute())
    return fields


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        usage(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value


def _input(name: str) -> bytes:
    """What the file has, or stdin, which is read to its end; one byte too many is refused with the job."""
    from queuectl.jobs import STDIN_BYTES_MAX

    if name == "-":
        return sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(STDIN_BYTES_MAX + 1)
    except OSError as error:
        usage(f"cannot read {name}: {error.strerror}")
