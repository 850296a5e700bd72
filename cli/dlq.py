"""`queuectl dlq`: the dead letter queue, where jobs wait that have used up their attempts."""

from __future__ import annotations

from typing import Any

import click

from cli.causes import Cause, causes
from cli.dlq_changes import purge, retry
from cli.dlq_files import export_jobs, import_jobs
from cli.formats import TABLE, Form, listing, print_listing
from cli.jobs import print_jobs, show_job
from cli.options import JOB, Group, Whole, completed, shared
from cli.render import distance, table
from cli.selecting import filter_of, filtering_dead
from cli.session import Session

NOTHING = "The dead letter queue is empty."
CAUSE_FIELDS = ("group", "jobs", "ending", "command", "last_line", "newest_at", "sample")


@click.group(cls=Group)
def dlq() -> None:
    """Look at dead jobs, run them again, or delete them.

    \b
    Examples:
      queuectl dlq list
      queuectl dlq retry job-1
    """


@dlq.command("list")
@filtering_dead
@click.option("--limit", type=Whole(1), metavar="N", help="At most so many; a table shows 50 unless given.")
@click.option("--by-cause", is_flag=True, help="Put together what has died of the same.")
@listing
@shared
def list_dead(session: Session, form: Form, limit: int | None, by_cause: bool, **options: Any) -> int:
    """List dead jobs, newest first; or what they have died of, the commonest first.

    Jobs of one cause have the same command, the same end and the same last line, whatever numbers stand in them.

    \b
    Examples:
      queuectl dlq list
      queuectl dlq list --by-cause --since 1d
      queuectl dlq list --format csv --fields id,exit_code,last_line
    """
    select = filter_of({"state": "dead", **options})
    if by_cause:
        return _print_causes(session, form, select, limit)
    return print_jobs(session, form, select, limit=limit, nothing=NOTHING)


def _print_causes(session: Session, form: Form, select: dict[str, Any], limit: int | None) -> int:
    form.chosen(CAUSE_FIELDS)  # before a broker is started for it
    pages = session.client().list_pages(select)
    found = causes(job for page in pages for job in page["jobs"])[:limit]
    print_listing(
        session,
        form,
        [cause.to_wire() for cause in found],
        known=CAUSE_FIELDS,
        key="group",
        draw=lambda _: table(
            ("GROUP", "JOBS", "ENDED BY", "NEWEST", "COMMAND: LAST OUTPUT"), map(_row, found), dispensable=(3,)
        ),
        nothing=NOTHING,
    )
    if found and form.name == TABLE:
        session.hint(f"run those of one cause again: queuectl dlq retry --group {found[0].fingerprint}")
    return 0


def _row(cause: Cause) -> tuple[str, int, str, str, str]:
    words = f"{cause.command}: {cause.last_line}" if cause.last_line else cause.command
    return cause.fingerprint, len(cause.ids), cause.ending, distance(cause.newest_at), words


@dlq.command("show")
@click.argument("job_id", type=JOB, metavar="ID", shell_complete=completed("jobs"))
@shared
def show_dead(session: Session, job_id: str) -> int:
    """Show one dead job with its attempts and the end of its output.

    \b
    Example:
      queuectl dlq show job-1
    """
    return show_job(session, job_id, state="dead")


for command in (retry, purge, export_jobs, import_jobs):
    dlq.add_command(command)
