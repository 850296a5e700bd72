"""`queuectl wait`: until jobs are over."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from cli.endings import because, code_of, ending, own_code
from cli.escape import visible
from cli.options import DURATION, JOB, completed, shared, usage
from cli.render import counted, state_word, table
from cli.selecting import filter_of, filtering, named
from cli.session import Session
from cli.waiting import away
from queuectl.errors import BadRequest
from queuectl.feed import ENDS

FAILED = 1
UNFINISHED = "unfinished"
UNFINISHED_STATES = ("pending", "processing", "failed")


@click.command()
@click.argument("ids", type=JOB, nargs=-1, metavar="[ID|last]...", shell_complete=completed("jobs"))
@filtering
@click.option("--any", "any_job", is_flag=True, help="One of them is enough.")
@click.option("--timeout", type=DURATION, metavar="D", help="Wait no longer than so; then exit 124.")
@click.option("--progress", is_flag=True, help="Say on stderr how many are left, as that changes.")
@shared
def wait(
    session: Session, ids: tuple[str, ...], any_job: bool, timeout: float | None, progress: bool, **options: Any
) -> int:
    """Wait until jobs are over; of a selection, those that are not over now.

    For one job the exit code is its own, 128+N if signal N ended it, 125 if it never ran to an end. For several it is 0
    if all are completed, or with --any one of those that are over, else 1.

    \b
    Examples:
      queuectl wait a17
      queuectl wait --queue mail --progress --timeout 1h
      queuectl wait a17 a18 --any --json
    """
    select = filter_of(options)
    if ids and select:
        usage("ids and a selection exclude each other", "name jobs, or say what they have in common")
    if not ids and not select:
        usage("which jobs?", "name them, or say what they have in common: --queue, --tag, --where …")
    began = time.monotonic()
    names = named(session, ids) if ids else _unfinished(session, select)
    ended = _wait(session, names, _Progress() if progress else None, any_job=any_job, timeout=timeout, began=began)
    if any_job:
        ended = [job for job in ended if job["state"] in ENDS]
    return _report(session, ended, is_one=len(ids) == 1, any_job=any_job)


def _unfinished(session: Session, select: dict[str, Any]) -> list[str]:
    """The jobs of a selection that are not over yet. One that changes its state meanwhile is not missed."""
    if select.get("state") in ENDS:
        return []
    states = [select["state"]] if "state" in select else [UNFINISHED]
    try:
        return _listed(session, select, states)
    except BadRequest:
        if states != [UNFINISHED]:
            raise
        return _listed(session, select, UNFINISHED_STATES)  # brokers before 0.6 know no word for them


def _listed(session: Session, select: dict[str, Any], states: Sequence[str]) -> list[str]:
    pages = (page for state in states for page in session.client().list_pages({**select, "state": state}))
    return list(dict.fromkeys(job["id"] for page in pages for job in page["jobs"]))


def _wait(
    session: Session, ids: list[str], tell: _Progress | None, *, any_job: bool, timeout: float | None, began: float
) -> list[dict[str, Any]]:
    """How the jobs have ended; a broker that is away meanwhile comes back."""
    from queuectl.errors import WaitTimedOut

    if not ids:
        return []
    left_s = None if timeout is None else max(0.0, began + timeout - time.monotonic())
    try:
        reply = session.client().wait(
            ids, any_job=any_job, timeout=left_s, progress=tell, on_away=lambda error: away(session, error)
        )
        return list(reply["jobs"])
    except WaitTimedOut:
        if timeout is None:
            raise  # the broker's own word for it
        command = f"why {visible(ids[0])}" if len(ids) == 1 else "list"
        hint = f"wait again, or see: queuectl {command}"
        raise WaitTimedOut(f"not over after {timeout:g} s", hint=hint) from None
    finally:
        if tell is not None:
            tell.finish()


class _Progress:
    """Tells how many are left: on one line of a terminal, on lines of their own elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    def __call__(self, left: int) -> None:
        words = f"{counted(left, 'job')} left"
        click.echo(f"\r\x1b[K{words}" if self._is_terminal else words, err=True, nl=not self._is_terminal)
        self._is_open = self._is_terminal

    def finish(self) -> None:
        """What comes next begins a line."""
        if self._is_open:
            click.echo(err=True)


def _report(session: Session, jobs: list[dict[str, Any]], *, is_one: bool, any_job: bool) -> int:
    if session.as_json:
        session.emit(jobs)
    elif session.quiet:
        for job in jobs:
            session.print_id(job["id"])
    elif not jobs:
        session.note("There is nothing to wait for.")
    elif not is_one:
        rows = [(job["id"], job["state"], ending(job)) for job in jobs]
        session.print(table(("ID", "STATE", "ENDED BY"), rows, state_column=1))
    if is_one and jobs:
        [job] = jobs
        if not session.quiet and not session.as_json and own_code(job) is not None:
            why = because(session.client(), job)
            session.note(f"Job {visible(job['id'])} is {state_word(job['state'])}{f': {why}' if why else ''}.")
        return code_of(session, job)
    is_well = any if any_job else all
    return 0 if is_well(job["state"] == "completed" for job in jobs) or not jobs else FAILED
