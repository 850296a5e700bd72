"""`queuectl status`: the broker, its workers, and how many jobs stand where."""

from __future__ import annotations

import sys
from typing import Any

import click

from cli.escape import visible
from cli.options import shared
from cli.render import counted, facts, state_word
from cli.session import Session
from cli.watching import INTERVAL, watch
from queuectl.times import human_duration

STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")


@click.command()
@click.option(
    "--watch", "every", is_flag=False, flag_value="2", type=INTERVAL, metavar="[=SEC]", help="Again every SEC [2]."
)
@shared
def status(session: Session, every: float | None) -> int:
    """Show the broker, its workers, and the number of jobs in each state.

    With --watch it is shown again and again, in its place on a terminal, else one after the other; --json prints one
    object a line then. While the broker is away it says so and goes on. Ctrl-C ends it.

    \b
    Examples:
      queuectl status
      queuectl status --watch
      queuectl status --watch=10 --json
    """
    client = session.client()
    if every is not None:
        return watch(session, every, client.status, lambda told: _watched(session, told))
    told = client.status()
    if session.as_json:
        session.emit(told)
    else:
        session.print(_text(session, told))
        if (hint := _hint(told)) is not None:
            session.hint(hint)
    return 0


def _watched(session: Session, told: dict[str, Any]) -> str:
    hint = None if session.quiet or not sys.stdout.isatty() else _hint(told)
    return _text(session, told) + (f"\n\nhint: {hint}" if hint is not None else "")


def _text(session: Session, told: dict[str, Any]) -> str:
    if session.quiet:
        return visible(told["broker"]["id"])
    about = facts([*broker_facts(told["broker"]), ("Workers", _workers_line(told["workers"]))])
    return f"{about}\n\n{_job_counts(told['jobs'])}"


def broker_facts(broker: dict[str, Any]) -> list[tuple[str, str | None]]:
    """What there is to say about a broker, for `facts`."""
    uptime = human_duration(broker["uptime_s"])
    endpoints = [visible(endpoint) for endpoint in broker["endpoints"]]
    facts: list[tuple[str, str | None]] = [
        ("Broker", f"running for {uptime}, pid {broker['pid']}, version {visible(broker['version'])}"),
        ("Database", visible(broker["database"])),
    ]
    facts += [("Endpoint" if n == 0 else "", endpoint) for n, endpoint in enumerate(endpoints)]
    if broker.get("accepting") is False:
        facts.append(("Warning", "takes no new jobs now (disk nearly full, or stopping)"))
    return facts


def _workers_line(workers: list[dict[str, Any]]) -> str:
    if not workers:
        return "none"
    busy, slots = sum(each["busy"] for each in workers), sum(each["slots"] for each in workers)
    return f"{counted(len(workers), 'process', 'processes')}, {busy} of {counted(slots, 'slot')} busy"


def _job_counts(jobs: dict[str, int]) -> str:
    column = max(len(str(jobs["total"])), 3)
    lines = [f"{state_word(state, f'{state:<12}')}{jobs.get(state, 0):>{column}}" for state in STATES]
    return "\n".join(["Jobs", *[f"  {line}" for line in lines], f"  {'total':<12}{jobs['total']:>{column}}"])


def _hint(told: dict[str, Any]) -> str | None:
    """The next step, if there is one."""
    jobs = told["jobs"]
    if not told["workers"] and jobs.get("pending", 0) + jobs.get("failed", 0):
        return "no worker runs; start one: queuectl worker start --count 2"
    return "see why jobs are dead: queuectl dlq list" if jobs.get("dead") else None
