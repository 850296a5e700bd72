"""`queuectl dlq`: the dead letter queue, where jobs wait that have used up their attempts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from cli.escape import visible
from cli.jobs import print_jobs, show_job
from cli.options import Group, shared, usage
from cli.render import counted
from cli.session import Session
from queuectl.errors import QueuectlError


@click.group(cls=Group)
def dlq() -> None:
    """Look at dead jobs, run them again, or delete them.

    \b
    Examples:
      queuectl dlq list
      queuectl dlq retry job-1
    """


@dlq.command("list")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many; a table shows 50 unless given.")
@shared
def list_dead(session: Session, queue: str | None, limit: int | None) -> int:
    """List dead jobs, newest first.

    \b
    Examples:
      queuectl dlq list
      queuectl dlq list --json
    """
    return print_jobs(session, state="dead", queue=queue, limit=limit, nothing="The dead letter queue is empty.")


@dlq.command("show")
@click.argument("job_id", metavar="ID")
@shared
def show_dead(session: Session, job_id: str) -> int:
    """Show one dead job with its attempts and the end of its output.

    \b
    Example:
      queuectl dlq show job-1
    """
    return show_job(session, job_id, state="dead")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead jobs.")
@shared
def retry(session: Session, ids: tuple[str, ...], everything: bool) -> int:
    """Move dead jobs back to 'pending', with a fresh budget of attempts. Their history is kept.

    \b
    Examples:
      queuectl dlq retry job-1
      queuectl dlq retry --all
    """
    _check_choice(ids, everything)
    return _apply(session, "dlq_retry", ids, lambda job_id: f"Job {job_id} moved back to queue as 'pending'.")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead jobs.")
@click.option("--yes", is_flag=True, help="Do not ask; needed with --all where there is no terminal.")
@shared
def purge(session: Session, ids: tuple[str, ...], everything: bool, yes: bool) -> int:
    """Delete dead jobs with their history and output.

    \b
    Examples:
      queuectl dlq purge job-1 job-2
      queuectl dlq purge --all --yes
    """
    _check_choice(ids, everything)
    if everything and not yes and not _confirmed(session):
        session.warn("Nothing was purged.")
        return 1
    return _apply(session, "dlq_purge", ids, lambda job_id: f"Job {job_id} purged.")


def _check_choice(ids: tuple[str, ...], everything: bool) -> None:
    if bool(ids) == everything:
        usage("name the jobs, or say --all" + (", but not both" if ids else ""))


def _confirmed(session: Session) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        usage("purging all dead jobs needs --yes where nobody can be asked", "add --yes")
    dead = session.client().status()["jobs"]["dead"]
    return click.confirm(f"Delete {counted(dead, 'dead job')} with history and output?", err=True)


def _apply(session: Session, op: str, ids: tuple[str, ...], sentence: Callable[[str], str]) -> int:
    """Do it to each of the ids, or to all; report each; the first failure decides the exit code."""
    done: list[str] = []
    failed: list[tuple[str | None, QueuectlError]] = []
    for result in _each(session, op, ids):
        if isinstance(result, str):
            done.append(result)
            if not session.as_json:
                session.print(visible(result) if session.quiet else sentence(visible(result)))
        else:
            failed.append(result)
            if not session.as_json and len(ids) > 1:
                session.warn(f"error: {visible(result[1].message)}")
    if failed and len(ids) == 1:
        raise failed[0][1]
    if session.as_json:
        errors = [{"id": job_id, **error.to_wire()} for job_id, error in failed]
        session.emit({"ids": done, "errors": errors} | ({"error": failed[0][1].to_wire()} if failed else {}))
    elif not done and not failed:
        session.note("The dead letter queue is empty.")
    return failed[0][1].exit_code if failed else 0


def _each(session: Session, op: str, ids: tuple[str, ...]) -> Iterator[str | tuple[str, QueuectlError]]:
    client = session.client()
    for job_id in dict.fromkeys(ids):
        try:
            yield from client.request(op, {"ids": [job_id]})["ids"]
        except QueuectlError as error:
            if error.retryable:
                raise
            yield job_id, error
    if not ids:
        args: dict[str, Any] = {"all": True}
        while True:
            reply = client.request(op, args)
            yield from reply["ids"]
            if reply["next"] is None:
                return
            args["cursor"] = reply["next"]
