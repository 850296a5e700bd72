"""`queuectl worker`: start workers here, stop them from anywhere, see who there is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from cli.autostart import given_again
from cli.options import DURATION, WORKER, Group, Whole, completed, shared, usage
from cli.render import counted, table
from cli.session import Session
from queuectl.errors import QueuectlError


@click.group(cls=Group)
def worker() -> None:
    """Start, stop and list workers, which run the jobs.

    \b
    Examples:
      queuectl worker start --count 4
      queuectl worker stop
    """


@worker.command()
@click.option("--count", type=Whole(1, 4096), metavar="N", default=1, show_default=True, help="Jobs to run at a time.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="Take jobs of this queue only; repeatable.",
    shell_complete=completed("queues"),
)
@click.option("--detach", is_flag=True, help="Run in the background; returns when it is ready.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="How to log.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--log-file", type=click.Path(path_type=Path), hidden=True)
@shared
def start(
    session: Session,
    count: int,
    queues: tuple[str, ...],
    detach: bool,
    log_format: str | None,
    log_level: str | None,
    ready_fd: int | None,
    log_file: Path | None,
) -> int:
    """Start workers here, in the foreground: one process that runs up to --count jobs at a time.

    Ctrl+C finishes the running jobs and ends; a second Ctrl+C kills them and gives them back to the queue.

    \b
    Examples:
      queuectl worker start --count 4
      queuectl worker start --count 2 --queue mail --detach
    """
    from cli.autostart import ensure_broker

    session.flags |= {"log_format": log_format, "log_level": log_level}
    _refuse_bad_names(queues)
    if ready_fd is None:
        ensure_broker(session)
    if detach:
        return _detach(session, count, queues)
    return _serve(session, count, queues, ready_fd, log_file)


def _refuse_bad_names(queues: tuple[str, ...]) -> None:
    """A variable that is not set must not make a worker of all queues."""
    from queuectl.ids import QUEUE_NAME

    for queue in queues:
        if not QUEUE_NAME.fullmatch(queue):
            usage(f"--queue {queue!r} is not a queue name", "leave it out for all queues, or say which")


def _serve(session: Session, count: int, queues: tuple[str, ...], ready_fd: int | None, log_file: Path | None) -> int:
    from cli.daemon import serving

    human = sys.stderr.isatty() and not session.as_json and session.config.log_format != "json"
    if human:
        session.note(f"Starting {counted(count, 'worker')} (pid {os.getpid()}). Press Ctrl+C to stop.")

    with serving(session, ready_fd, log_file) as pipe:

        def ready(told: dict[str, Any]) -> None:
            pipe.ready({"pid": os.getpid(), **told})
            if ready_fd is None and session.as_json:
                session.emit({"pid": os.getpid(), **told})

        from worker.service import run_worker

        code: int = run_worker(
            home=session.home,
            config=session.config,
            slots=count,
            queues=list(queues),
            ready=ready,
            refused=pipe.failed if ready_fd is not None else None,
            human=human,
        )
        return code


def _detach(session: Session, count: int, queues: tuple[str, ...]) -> int:
    from cli.daemon import spawn

    session.home.prepare()
    arguments = ["worker", "start", "--count", str(count)]
    for queue in queues:
        arguments += ["--queue", queue]
    told = spawn(session, arguments, log=_free_log(session.home.logs))
    if session.as_json:
        session.emit(told)
    else:
        session.print(f"Started {counted(count, 'worker')} in the background (pid {told['pid']}).")
        session.hint(f"stop them with: queuectl worker stop{given_again(session)}")
    return 0


def _free_log(logs: Path) -> Path:
    """The first `worker-N.log` that no living worker writes: so their number stays bounded."""
    import fcntl

    for number in range(1, 10_000):
        path = logs / f"worker-{number}.log"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return path
    raise QueuectlError(f"no free name for a log in {logs}")


@worker.command()
@click.argument("ids", nargs=-1, type=WORKER, metavar="[ID]...", shell_complete=completed("workers"))
@click.option("--all", "everyone", is_flag=True, help="Stop all workers; the default where no ID is given.")
@click.option(
    "--now", is_flag=True, help="Kill running jobs and give them back (--on-lost dead: let them die), not finish them."
)
@click.option("--timeout", type=DURATION, metavar="D", help="Wait no longer than this (exit code 124).")
@shared
def stop(session: Session, ids: tuple[str, ...], everyone: bool, now: bool, timeout: float | None) -> int:
    """Stop workers, wherever they run, and wait until they are gone.

    They take nothing new and finish what they run. Where no broker runs, or who asks is a worker and so may not tell
    others to stop, the workers of this home are stopped.

    \b
    Examples:
      queuectl worker stop
      queuectl worker stop --now --timeout 30s
    """
    from cli.stopping import stop_local_workers, stop_workers, who_keeps_us_here

    if ids and everyone:
        usage("name the workers, or say --all, but not both")
    reason = who_keeps_us_here(session, ids)
    if reason is not None:
        return stop_local_workers(session, ids, reason, now=now, timeout_s=timeout)
    return stop_workers(session, ids, now=now, timeout_s=timeout)


@worker.command("list")
@shared
def list_workers(session: Session) -> int:
    """List the workers that the broker knows.

    \b
    Example:
      queuectl worker list
    """
    workers = session.client().status()["workers"]
    if session.as_json:
        session.emit(workers)
    elif session.quiet:
        for each in workers:
            session.print_id(each["id"])
    elif workers:
        session.print(worker_table(workers))
    else:
        session.note("No worker is connected.")
        session.hint("start one: queuectl worker start --count 2")
    return 0


def worker_table(workers: list[dict[str, Any]]) -> str:
    """The workers as a table."""
    rows = [
        (
            each["id"],
            each["state"],
            f"{each['busy']}/{each['slots']}",
            each["pid"],
            f"{each['last_seen_s']:.0f}s ago",
            each["host"],
            ", ".join(each.get("queues") or ()) or "all",
        )
        for each in workers
    ]
    return table(("WORKER", "STATE", "BUSY", "PID", "SEEN", "HOST", "QUEUES"), rows, dispensable=(3, 4, 5))
