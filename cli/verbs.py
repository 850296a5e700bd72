"""`queuectl cancel`, `hold`, `release`, `edit`, `retry`, `purge`: changes of jobs that are there."""

from __future__ import annotations

import signal as signals
from typing import Any

import click

from cli.escape import visible
from cli.job_options import at_option, run_at_of
from cli.options import DURATION, Converted, Whole, completed, duration_up_to, shared, usage
from cli.selecting import Choice, change, chosen, report, selecting
from cli.session import Session

REASON_CHARS_MAX = 256
_GRACE_S = 10.0


def _signal(text: str) -> int:
    """TERM, SIGTERM or 15."""
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    if text.isdigit() and int(text) in [int(number) for number in signals.valid_signals()]:
        return int(text)
    if name in signals.Signals.__members__:
        return int(signals.Signals[name])
    raise ValueError(f"{text!r} is not a signal; write TERM, INT, KILL or a number")


SIGNAL = Converted("signal", _signal)


@click.command()
@selecting
@click.option("--reason", default="", metavar="TEXT", help="Why: it is kept with the job.")
@click.option("--signal", "signal", type=SIGNAL, default="TERM", metavar="S", help="The first signal [TERM].")
@click.option("--grace", type=duration_up_to("1d"), default=_GRACE_S, metavar="D", help="Time until SIGKILL [10s].")
@click.option("--no-wait", is_flag=True, help="Do not wait until running jobs have ended.")
@shared
def cancel(session: Session, reason: str, signal: int, grace: float, no_wait: bool, **options: Any) -> int:
    """End jobs, whether they wait or run.

    One that waits is over at once. Of one that runs, all processes get the signal, and SIGKILL after the grace; the
    command ends when they are gone. A job that was over before it could be told stays as it was.

    \b
    Examples:
      queuectl cancel a17
      queuectl cancel last --reason "wrong file" --signal INT
      queuectl cancel --queue mail --state pending --yes
    """
    choice = chosen(session, options)
    _check_reason(reason)
    args = {"reason": reason, "signal": signal, "grace_ms": round(grace * 1000)}
    changed = change(session, "cancel", choice, args, "cancelled")
    if changed.stopping and not no_wait:
        _await_end(session, changed)
    return report(session, changed, choice, "cancelled")


def _await_end(session: Session, changed: Any) -> None:
    """Wait for those that run; one that succeeded before it could be ended was not cancelled."""
    from queuectl.errors import WrongState
    from queuectl.verbs import Skipped

    client = session.client()
    client.wait(changed.stopping)
    for job_id in changed.stopping:
        state = client.get(job_id)["state"]
        if state == "cancelled":
            changed.ids.append(job_id)
        else:
            changed.skipped.append(Skipped(job_id, WrongState(f"job '{job_id}' was {state} before it could be ended")))
    changed.stopping = []


@click.command()
@selecting
@click.option("--reason", default="", metavar="TEXT", help="Why: it is kept with the job.")
@shared
def hold(session: Session, reason: str, **options: Any) -> int:
    """Let waiting jobs wait until they are released.

    \b
    Examples:
      queuectl hold a17
      queuectl hold --queue mail --reason "the server is down" --yes
    """
    choice = chosen(session, options)
    _check_reason(reason)
    return _do(session, "hold", choice, {"reason": reason}, "held")


@click.command()
@selecting
@shared
def release(session: Session, **options: Any) -> int:
    """Let held jobs run again.

    \b
    Examples:
      queuectl release a17
      queuectl release --queue mail --yes
    """
    return _do(session, "release", chosen(session, options), {}, "released")


@click.command()
@selecting
@click.option("--command", metavar="TEXT", help="What it runs, as shell text.")
@click.option(
    "--to-queue",
    "to_queue",
    metavar="NAME",
    help="The queue that it waits in from now on.",
    shell_complete=completed("queues"),
)
@click.option("--priority", type=Whole(), metavar="N", help="Higher runs first.")
@click.option("--delay", type=DURATION, metavar="D", help="Start it so much later than now.")
@click.option("--run-at", metavar="T", help="Start it then: 2026-11-22T03:00:00Z.")
@at_option
@click.option("--max-retries", type=Whole(), metavar="N", help="Attempts it gets, those it had included.")
@click.option("--timeout", type=DURATION, metavar="D", help="Longest run of an attempt; 0: none.")
@shared
def edit(session: Session, to_queue: str | None, at: str | None, **options: Any) -> int:
    """Change waiting jobs: what they run, where, when, and how often.

    --queue says which jobs are meant, and --to-queue where they go; where jobs are named, --queue does, too.

    \b
    Examples:
      queuectl edit a17 --priority 10 --queue night
      queuectl edit --queue mail --to-queue night --delay 2h --yes
    """
    if options["ids"] and to_queue is None:
        to_queue, options["queue"] = options["queue"], None
    if at is not None:
        options["run_at"] = run_at_of(at, options)
    names = ("command", "priority", "delay", "run_at", "max_retries", "timeout")
    changes = {name: value for name in names if (value := options.pop(name)) is not None}
    changes |= {"queue": to_queue} if to_queue is not None else {}
    if not changes:
        usage("what is to be changed?", "--command, --to-queue, --priority, --delay, --at, --max-retries, --timeout")
    from queuectl.jobs import parse_changes

    parse_changes(changes)  # before a broker is asked which jobs these are
    return _do(session, "edit", chosen(session, options), {"changes": changes}, "changed")


@click.command()
@selecting
@click.option("--delay", type=DURATION, default=0.0, metavar="D", help="Start them so much later.")
@shared
def retry(session: Session, delay: float, **options: Any) -> int:
    """Run jobs again: now, not when their time would come.

    A failed job runs now. A dead one is pending again, with a fresh budget of attempts. A completed or cancelled one
    stays as it is, and a copy of it runs, which says whose retry it is.

    \b
    Examples:
      queuectl retry a17
      queuectl retry --state dead --where 'exit_code=75' --yes
    """
    choice = chosen(session, options)
    changed = change(session, "retry", choice, {"delay": delay}, "retried")

    def sentence(job_id: str) -> str:
        copy = changed.copies.get(job_id)
        return f"Job {job_id} runs again" + (f" as {visible(copy)}." if copy is not None else ".")

    return report(session, changed, choice, "retried", sentence)


@click.command()
@selecting
@shared
def purge(session: Session, **options: Any) -> int:
    """Delete jobs that are over, with their history and output.

    They go by themselves when they were kept long enough: see keep_completed, keep_dead and keep_cancelled in
    `queuectl config show`.

    \b
    Examples:
      queuectl purge a17
      queuectl purge --state dead --where 'exit_code=127' --yes
    """
    return _do(session, "purge", chosen(session, options), {}, "purged")


def _do(session: Session, op: str, choice: Choice, args: dict[str, Any], verb: str) -> int:
    return report(session, change(session, op, choice, args, verb), choice, verb)


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_CHARS_MAX:
        usage(f"--reason has {len(reason)} characters, at most {REASON_CHARS_MAX} are kept")
