"""`queuectl status`: the broker, its workers, and how many jobs stand where."""

from __future__ import annotations

from typing import Any

import click

from cli.escape import visible
from cli.options import shared
from cli.render import counted, facts, state_word
from cli.session import Session
from queuectl.times import human_duration

STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")


@click.command()
@shared
def status(session: Session) -> int:
    """Show the broker, its workers, and the number of jobs in each state.

    \b
    Example:
      queuectl status
    """
    told = session.client().status()
    if session.as_json:
        session.emit(told)
    elif session.quiet:
        session.print_id(told["broker"]["id"])
    else:
        session.print(facts([*broker_facts(told["broker"]), ("Workers", _workers_line(told["workers"]))]))
        session.print()
        session.print(_job_counts(told["jobs"]))
        _hint(session, told)
    return 0


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


def _hint(session: Session, told: dict[str, Any]) -> None:
    jobs = told["jobs"]
    if not told["workers"] and jobs.get("pending", 0) + jobs.get("failed", 0):
        session.hint("no worker runs; start one: queuectl worker start --count 2")
    elif jobs.get("dead"):
        session.hint("see why jobs are dead: queuectl dlq list")
