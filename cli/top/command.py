"""`queuectl top`: the command."""

from __future__ import annotations

import os
import sys

import click

from cli.options import shared, usage
from cli.session import Session
from cli.watching import INTERVAL

_INSTEAD = "elsewhere: queuectl status --watch, queuectl events -f; both take --json"


@click.command()
@click.option("--interval", type=INTERVAL, default=2.0, metavar="SEC", help="Look again so often [2].")
@shared
def top(session: Session, interval: float) -> int:
    """Watch jobs, workers and dead jobs on the whole screen, and act on them by keys.

    f follows the output of the selected job, w says why it is not running, c cancels it, r runs it again, h holds and
    releases it; / shows only jobs with some text in their id, command, queue or tags; p pauses; ? shows all keys; q
    quits. While the broker is away, what was seen last stays on the screen.

    \b
    Examples:
      queuectl top
      queuectl top --interval 10
    """
    if session.as_json or session.quiet:
        usage("top is for people who look at a screen", _INSTEAD)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") in (None, "", "dumb"):
        usage("top needs a terminal that takes the whole screen", _INSTEAD)
    from cli.top.loop import run

    return run(session, interval)
