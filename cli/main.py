"""The entry of the command line, and the one door through which every error leaves.

An error becomes a message and a hint on stderr, or one JSON value on stdout with --json, and an exit code;
a traceback is shown with --debug only.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import click

from cli.options import LazyGroup
from queuectl import __version__

EXIT_INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
EXIT_BROKEN_PIPE = 141  # as if SIGPIPE had ended it

COMMANDS = {
    "enqueue": ("cli.enqueue:enqueue", "Store a job, or many."),
    "run": ("cli.run:run", "Run a command through the queue as if it ran here."),
    "wait": ("cli.wait:wait", "Wait until jobs are over, and exit as they did."),
    "status": ("cli.status:status", "Show broker and workers, and count the jobs."),
    "top": ("cli.top.command:top", "Watch jobs and workers on the whole screen, and act on them."),
    "list": ("cli.jobs:list_jobs", "List jobs, newest first."),
    "show": ("cli.jobs:show", "Show one job, its attempts and its output."),
    "logs": ("cli.logs:logs", "Print the kept output of a job, byte for byte."),
    "events": ("cli.events:events", "Show what happens, or what has happened to one job."),
    "why": ("cli.why:why", "Say why a job is not running."),
    "cancel": ("cli.verbs:cancel", "End jobs, whether they wait or run."),
    "hold": ("cli.verbs:hold", "Let waiting jobs wait until they are released."),
    "release": ("cli.verbs:release", "Let held jobs run again."),
    "edit": ("cli.verbs:edit", "Change waiting jobs."),
    "retry": ("cli.verbs:retry", "Run jobs again."),
    "purge": ("cli.verbs:purge", "Delete jobs that are over."),
    "dlq": ("cli.dlq:dlq", "Look at dead jobs, run them again, or delete them."),
    "worker": ("cli.worker:worker", "Start, stop and list workers, which run the jobs."),
    "broker": ("cli.broker:broker", "Start, stop and inspect the broker, which owns the queue."),
    "auth": ("cli.auth:auth", "Let people and workers in from other machines, and keep them out."),
    "context": ("cli.context:context", "Keep credentials under names, and say which are in force."),
    "config": ("cli.config:config", "Show and change settings."),
    "doctor": ("cli.doctor:doctor", "Look for what is wrong, and say how to mend it."),
    "completion": ("cli.completion:completion", "Have your shell complete commands, ids and tags."),
    "dev": ("cli.dev:dev", "Run a broker and workers here, in one command, to try things out."),
}

EPILOG = """\b
Examples:
  queuectl enqueue -- echo hello     store a job
  queuectl worker start --count 2    run jobs, two at a time
  queuectl status                    see how it goes

\b
Exit codes:
  0 ok, 1 failed, 2 usage or bad input, 3 not found, 4 conflict or wrong state,
  5 not allowed, 69 broker unreachable, 74 its disk has failed, 75 try later,
  124 wait timed out, 130 interrupted; run and wait: as the job ended
"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="queuectl", message="%(prog)s %(version)s")
def root() -> None:
    """A persistent job queue for shell commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if "_QUEUECTL_COMPLETE" in os.environ:
        from cli.completing import answer

        return answer(root)
    _open_closed_streams()
    _make_encodable()
    flags = args[: args.index("--")] if "--" in args else args
    as_json = _wants_json(flags)
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _leave_broken_pipe()
    except KeyboardInterrupt:
        code = _report({"code": "interrupted", "message": "interrupted"}, EXIT_INTERRUPTED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the one door: nothing reaches a person as a traceback unasked
        if "--debug" in flags:
            import traceback

            traceback.print_exc()
        code = _report(*_explain(error), as_json=as_json)
    return code


def _wants_json(flags: list[str]) -> bool:
    """Whether an error is to be JSON. It may come before the arguments are parsed."""
    return not {"--json", "--format=json"}.isdisjoint(flags) or ("--format", "json") in pairwise(flags)


def _run(args: list[str]) -> int:
    try:
        with root.make_context("queuectl", args) as context:
            code = root.invoke(context)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as bare:
        is_root = bare.ctx.parent is None
        click.echo(bare.message, err=not is_root)
        code = 0 if is_root else 2
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> tuple[dict[str, Any], int]:
    """The error as `--json` prints it, and its exit code."""
    from queuectl.errors import QueuectlError

    if isinstance(error, QueuectlError):
        return error.to_wire(), error.exit_code
    if isinstance(error, click.Abort):
        return {"code": "interrupted", "message": "interrupted"}, EXIT_INTERRUPTED
    if isinstance(error, click.ClickException):
        wire = {"code": "usage", "message": error.format_message()}
        context = error.ctx if isinstance(error, click.UsageError) else None
        return wire | ({"hint": _hint(error, context)} if context else {}), 2
    if isinstance(error, OSError):
        words = error.strerror or str(error)
        if error.errno in _UNWRITABLE and not error.filename:
            words = f"nothing can be written: {words}"
        return {"code": "os_error", "message": f"{error.filename}: {words}" if error.filename else words}, 1
    wire = {"code": "internal", "message": f"{type(error).__name__}: {error}"}
    return wire | {"hint": "this is a bug of queuectl; --debug shows where it happened"}, 1


def _hint(error: click.ClickException, context: click.Context) -> str:
    from cli.job_options import DASHES

    if isinstance(error, click.NoSuchOption) and context.meta.get(DASHES) is False:
        return f"the command of a job, with its own options, stands after --: {context.command_path} -- COMMAND"
    if isinstance(error, click.NoSuchOption) and context.parent is None:
        return "options stand after the command: queuectl COMMAND --json"
    return f"see: {context.command_path} --help"


def _report(wire: dict[str, Any], code: int, *, as_json: bool) -> int:
    from cli.escape import visible, visible_lines

    try:
        if as_json:
            import json

            click.echo(json.dumps({"error": wire}))  # one line: it may come after lines of a stream
        else:
            click.echo(f"error: {visible_lines(str(wire['message']))}", err=True)
            if wire.get("hint"):
                click.echo(f"hint: {visible(wire['hint'])}", err=True)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_broken_pipe()
    except OSError as error:  # stdout takes nothing, not even this
        _leave_broken_pipe()
        if as_json:
            _report({"message": f"nothing can be written: {error.strerror}"}, code, as_json=False)
    return code


def _open_closed_streams() -> None:
    """A stream that the caller has closed (`>&-`) takes and has nothing; no socket or database is to get its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it lasts as long as we do


def _make_encodable() -> None:
    """A terminal of an old encoding shows an escape for a letter that it lacks, rather than a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _leave_broken_pipe() -> int:
    """The reader has gone: end quietly, and let nothing be flushed to it at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
    return EXIT_BROKEN_PIPE
