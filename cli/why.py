"""`queuectl why`: the reasons why a job is not running."""

from __future__ import annotations

from typing import Any

import click

from cli.escape import visible
from cli.options import JOB, completed, shared
from cli.selecting import named
from cli.session import Session
from cli.waiting import as_of_now
from queuectl.times import human_duration


@click.command()
@click.argument("job_id", type=JOB, metavar="ID", shell_complete=completed("jobs"))
@shared
def why(session: Session, job_id: str) -> int:
    """Say why a job is not running: each reason that holds, its place in line, and how long it may take.

    \b
    Examples:
      queuectl why a17
      queuectl why last --json
    """
    [job_id] = named(session, [job_id])
    told = session.client().why(job_id)
    if session.as_json:
        session.emit(told)
    elif session.quiet:
        for reason in told["reasons"]:
            session.print_id(reason["code"])
    else:
        session.print(why_text(told))
    return 0


def why_text(told: dict[str, Any]) -> str:
    lines = [f"Job {visible(told['id'])} is {visible(told['state'])}:"]
    lines += [f"  {as_of_now(reason)}" for reason in told["reasons"]]
    if told["state"] == "dead":
        lines.append(f"  see: queuectl show {visible(told['id'])}; run it again: queuectl retry {visible(told['id'])}")
    if told["estimate_s"]:
        lines.append(f"  by what jobs took lately, it starts in about {human_duration(told['estimate_s'])}")
    return "\n".join(lines)
