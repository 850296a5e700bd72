"""`queuectl list` and `queuectl show`: jobs, many or one."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import click

from cli.causes import ending
from cli.options import shared
from cli.output import attempt_text
from cli.render import distance, table
from cli.session import Session
from cli.show import job_text

TABLE_ROWS = 50
STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")
SPOOL_BYTES = 8 * 2**20  # a longer answer waits on disk, so that a failure half way leaves no half JSON on stdout


@click.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many; a table shows 50 unless given.")
@shared
def list_jobs(session: Session, state: str | None, queue: str | None, limit: int | None) -> int:
    """List jobs, newest first.

    --json prints one array of all of them, -q all ids, unless there is a --limit.

    \b
    Examples:
      queuectl list --state failed
      queuectl list --queue mail --limit 10 --json
    """
    return print_jobs(session, state=state, queue=queue, limit=limit, nothing="No jobs.")


def print_jobs(session: Session, *, state: str | None, queue: str | None, limit: int | None, nothing: str) -> int:
    """Print jobs in the form that was asked for; `nothing` is said where a table would be empty."""
    client = session.client()
    if session.as_json:
        print_array(client.list(state=state, queue=queue, limit=limit))
    elif session.quiet:
        for job in client.list(state=state, queue=queue, limit=limit):
            session.print_id(job["id"])
    else:
        shown = limit or TABLE_ROWS
        jobs, more = [], None
        for page in client.list_pages(state=state, queue=queue, limit=shown):
            jobs += page["jobs"]
            more = page["next"]
        if jobs:
            session.print(_dead_table(jobs) if state == "dead" else _job_table(jobs))
        else:
            session.note(nothing)
        if more is not None:
            session.note(f"The newest {len(jobs)} are shown; see more with --limit N, or all with --json.")
    return 0


def print_array(values: Iterator[Any]) -> None:
    """Print a JSON array of any length, one element a line."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, mode="w+") as spool:
        opening = "["
        for value in values:
            spool.write(f"{opening}\n{json.dumps(value)}")
            opening = ","
        spool.write("[]\n" if opening == "[" else "\n]\n")
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout)


def _job_table(jobs: list[dict[str, Any]]) -> str:
    headers = ("ID", "STATE", "FAILED", "QUEUE", "UPDATED", "COMMAND")
    return table(headers, [_row(job) for job in jobs], state_column=1, dispensable=(3, 4, 2))


def _row(job: dict[str, Any]) -> tuple[Any, ...]:
    tries = f"{job['attempts']}/{job['max_retries']}"
    return (job["id"], job["state"], tries, job["queue"], distance(job["updated_at"]), job["command"])


def _dead_table(jobs: list[dict[str, Any]]) -> str:
    rows = [
        (job["id"], ending(job), job["attempts"], distance(job["updated_at"]), _command_and_words(job)) for job in jobs
    ]
    return table(("ID", "ENDED BY", "FAILED", "DIED", "COMMAND: LAST OUTPUT"), rows, dispensable=(3, 2))


def _command_and_words(job: dict[str, Any]) -> str:
    return f"{job['command']}: {job['last_line']}" if job.get("last_line") else str(job["command"])


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--env", is_flag=True, help="Show the values of its variables, too; for admins.")
@shared
def show(session: Session, job_id: str, env: bool) -> int:
    """Show one job: its policy, why it stands where it does, each attempt, and the end of its output.

    The beginning of an id will do if no other id starts like it.

    \b
    Example:
      queuectl show job-1
    """
    return show_job(session, job_id, state=None, env=env)


def show_job(session: Session, job_id: str, *, state: str | None, env: bool = False) -> int:
    """Print one job with its history; with `state`, only if it is in that state."""
    client = session.client()
    told = client.request("job", {"id": job_id} | ({"state": state} if state else {}) | ({"env": True} if env else {}))
    job, history = told["job"], told["history"]
    if session.quiet and not session.as_json:
        session.print_id(job["id"])
        return 0
    if session.as_json:
        for attempt in history:
            attempt |= attempt_text(client, job["id"], attempt["attempt"])
        values = {"env_values": told["env_values"]} if env else {}
        session.emit({**job, "history": history, "events": told.get("events", []), **values})
        return 0
    tail = attempt_text(client, job["id"], history[-1]["attempt"], tail_bytes=2048, mark_start=False) if history else {}
    session.print(job_text(told, tail))
    return 0
