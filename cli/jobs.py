"""`queuectl list` and `queuectl show`: jobs, many or one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from cli.endings import ending
from cli.formats import TABLE, Form, Row, listing, print_listing
from cli.options import JOB, Whole, completed, shared
from cli.output import attempt_text
from cli.render import distance, table
from cli.selecting import filter_of, filtering, named
from cli.session import Session
from cli.show import job_text

TABLE_ROWS = 50

JOB_FIELDS: tuple[str, ...] = (
    "id",
    "state",
    "reason",
    "queue",
    "priority",
    "command",
    "attempt",
    "attempts",
    "losses",
    "max_retries",
)
JOB_FIELDS += ("exit_code", "signal", "worker", "last_line", "run_at", "created_at", "updated_at", "finished_at")
JOB_FIELDS += ("expires_at", "deadline_at", "timeout", "backoff", "backoff_base", "backoff_max", "backoff_jitter")
JOB_FIELDS += ("retry_on", "no_retry_on", "retry_of", "tags", "unique", "held", "cancelling", "cwd", "env")
JOB_FIELDS += ("stdin_bytes", "on_lost", "keep_children", "output_limit", "enqueued_by")


@click.command("list")
@filtering
@click.option("--limit", type=Whole(1), metavar="N", help="At most so many; a table shows 50 unless given.")
@listing
@shared
def list_jobs(session: Session, form: Form, limit: int | None, **options: Any) -> int:
    """List jobs, newest first.

    --json prints one array of all of them, --format jsonl an object a line, --format csv a line of each with the names
    of its fields above, -q all ids, unless there is a --limit. In a cell of csv, letters that are not to be seen stand
    as escapes, and before what a spreadsheet would compute stands a quote.

    \b
    Examples:
      queuectl list --state failed
      queuectl list --fields id,state,finished_at,command
      queuectl list --queue mail --tag customer=42 --since 2h
      queuectl list --where 'exit_code=75' --where 'attempts>=2' --limit 10 --json
    """
    return print_jobs(session, form, filter_of(options), limit=limit, nothing="No jobs.")


def print_jobs(session: Session, form: Form, select: dict[str, Any], *, limit: int | None, nothing: str) -> int:
    """Print jobs in the form that was asked for; `nothing` is said where a table would be empty."""
    form.chosen(JOB_FIELDS)  # before a broker is started for it
    is_table = form.name == TABLE and not session.quiet
    pages: Iterable[dict[str, Any]] = session.client().list_pages(
        select, limit=limit or TABLE_ROWS if is_table else limit
    )
    more = None
    if is_table:
        pages = shown = list(pages)
        more = shown[-1]["next"]
    jobs: Iterable[Row] = (job for page in pages for job in page["jobs"])
    draw = _dead_table if select.get("state") == "dead" else _job_table
    print_listing(session, form, jobs, known=JOB_FIELDS, key="id", draw=draw, nothing=nothing)
    if more is not None:
        session.note(f"The newest {limit or TABLE_ROWS} are shown; see more with --limit N, or all with --json.")
    return 0


_WAITS = ("held", "delayed", "no_worker")


def _job_table(jobs: list[dict[str, Any]]) -> str:
    headers = ("ID", "STATE", "FAILED", "QUEUE", "UPDATED", "COMMAND")
    return table(headers, [_row(job) for job in jobs], state_column=1, dispensable=(3, 4, 2))


def _row(job: dict[str, Any]) -> tuple[Any, ...]:
    tries = f"{job['attempts']}/{job['max_retries']}"
    return (job["id"], _state(job), tries, job["queue"], distance(job["updated_at"]), job["command"])


def _state(job: dict[str, Any]) -> str:
    """A state, and why the job waits where it would not run if all workers were free."""
    why = "held" if job.get("held") else job.get("reason")
    return f"{job['state']} ({why})" if why in _WAITS else str(job["state"])


def _dead_table(jobs: list[dict[str, Any]]) -> str:
    rows = [
        (job["id"], ending(job), job["attempts"], distance(job["updated_at"]), _command_and_words(job)) for job in jobs
    ]
    return table(("ID", "ENDED BY", "FAILED", "DIED", "COMMAND: LAST OUTPUT"), rows, dispensable=(3, 2))


def _command_and_words(job: dict[str, Any]) -> str:
    return f"{job['command']}: {job['last_line']}" if job.get("last_line") else str(job["command"])


@click.command()
@click.argument("job_id", type=JOB, metavar="ID", shell_complete=completed("jobs"))
@click.option("--env", is_flag=True, help="Show the values of its variables, too; for admins.")
@shared
def show(session: Session, job_id: str, env: bool) -> int:
    """Show one job: its policy, why it stands where it does, each attempt, and the end of its output.

    The beginning of an id will do if no other id starts like it; last is the newest job.

    \b
    Examples:
      queuectl show job-1
      queuectl show last --json
    """
    return show_job(session, job_id, state=None, env=env)


def show_job(session: Session, job_id: str, *, state: str | None, env: bool = False) -> int:
    """Print one job with its history; with `state`, only if it is in that state."""
    [job_id] = named(session, [job_id])
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
