"""`queuectl dev`: a broker and workers as children of one foreground command, to try things out."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cli.autostart import tilde
from cli.options import Whole, shared
from cli.progress import progress_bar, shows_progress
from cli.render import counted
from cli.session import Session
from queuectl.errors import BrokerRunning, QueuectlError

ENDED = ("completed", "dead", "cancelled")
EXIT_INTERRUPTED = 130
SLICE_MS = 1000  # how soon the death of a child is noticed while we wait for the queue


class ChildEnded(QueuectlError):
    """The broker or the workers ended by themselves."""

    code = "child_ended"


@dataclass
class House:
    """The two children, in the order in which they were started."""

    session: Session
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, arguments: list[str]) -> None:
        """Start one and wait until it is ready. Raises what it reports."""
        from cli.daemon import launch

        child = launch(self.session, arguments, log=None)
        self.children[name] = child.process
        child.await_ready()

    def check(self) -> None:
        """Raise ChildEnded if one of them is gone."""
        for name, process in self.children.items():
            if process.poll() is not None:
                raise ChildEnded(f"the {name} ended by itself (exit code {process.returncode})")

    def watch(self) -> None:
        """Return, or raise ChildEnded, when one of them has ended."""
        descriptors = [os.pidfd_open(process.pid) for process in self.children.values()]
        try:
            select.select(descriptors, [], [])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.check()

    def stop(self) -> None:
        """End the workers, then the broker. Interrupted once more, the workers kill their jobs and give them back."""
        for process in reversed(list(self.children.values())):
            signals = iter((signal.SIGTERM, signal.SIGINT))  # of two equal ones the second may get lost
            process.send_signal(next(signals))
            while process.returncode is None:
                try:
                    process.wait()
                except KeyboardInterrupt:
                    process.send_signal(next(signals, signal.SIGTERM))


@click.command()
@click.option(
    "--workers", type=Whole(1, 4096), metavar="N", default=2, show_default=True, help="Jobs to run at a time."
)
@click.option("--jobs", "file", type=click.Path(path_type=Path), metavar="FILE", help="Enqueue these, one JSON a line.")
@click.option("--until-empty", is_flag=True, help="End when no job is left to run.")
@click.option("--temp", is_flag=True, help="Use a fresh home, and remove it at the end.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="How to log.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@shared
def dev(
    session: Session,
    workers: int,
    file: Path | None,
    until_empty: bool,
    temp: bool,
    log_format: str | None,
    log_level: str | None,
) -> int:
    """Run a broker and workers here, in one command, to try things out.

    Their logs go to stderr. Ctrl+C finishes the running jobs and ends; a second Ctrl+C kills them and gives them
    back to the queue. With --until-empty the exit code is 0 if every job was completed; on a terminal a bar
    then shows how far it is, and of the logs only warnings, unless a --log-level is set.

    \b
    Examples:
      queuectl dev --workers 4
      queuectl dev --temp --jobs jobs.jsonl --until-empty
    """
    session.stay_here()
    session.flags |= {"autostart": False, "log_format": log_format, "log_level": log_level}
    with _interruptible(), contextlib.ExitStack() as stack:
        if temp:
            session.home_path = str(stack.enter_context(_temporary_home()))
        _refuse_second_broker(session)
        if until_empty and shows_progress(session) and session.config.origins["log_level"] == "default":
            session.flags["log_level"] = "warning"  # a bar says how far it is, and logs would tear it apart
        house = House(session)
        stack.callback(house.stop)
        return _live(session, house, workers, file, until_empty)


def _live(session: Session, house: House, workers: int, file: Path | None, until_empty: bool) -> int:
    try:
        house.start("broker", ["broker", "start", "--started", "detached"])
        before = session.client().status()["jobs"]
        house.start("workers", ["worker", "start", "--count", str(workers)])
        _greet(session, workers)
        code = _enqueue(session, file) if file is not None else 0
        if code == EXIT_INTERRUPTED:
            return code
        if until_empty:
            _await_empty(session, house, before)
            return _summarise(session, before) or code
        house.watch()
        return code
    except KeyboardInterrupt:
        session.note("Finishing what runs; press Ctrl+C again to give it back to the queue.")
        return EXIT_INTERRUPTED if until_empty else 0


def _greet(session: Session, workers: int) -> None:
    if sys.stderr.isatty():
        session.note(f"A broker and {counted(workers, 'worker')} run here, data in {tilde(session.config.data_dir)}.")
        session.note("Press Ctrl+C to stop.")


def _enqueue(session: Session, file: Path) -> int:
    from cli.bulk import Run, enqueue_lines

    quiet = Session(False, True, None, session.home_path, True)  # what dev prints on stdout is its summary
    quiet.flags |= session.flags
    with quiet:
        return enqueue_lines(quiet, Run(file, {}, 1, True, None, ["--file", str(file)], prints=False))


def _await_empty(session: Session, house: House, before: dict[str, int]) -> None:
    """Wait until no job is left to run, and show how far it is."""
    earlier = sum(before[state] for state in ENDED)
    with contextlib.ExitStack() as stack:
        bar = None
        while True:
            told = session.client().request("wait", {"empty": True, "timeout_ms": SLICE_MS})
            counts = told["counts"]
            done, total = sum(counts[state] for state in ENDED) - earlier, counts["total"] - earlier
            if bar is None and not told["done"]:
                bar = stack.enter_context(progress_bar(session, "Running", length=total, counts=True))
            if bar is not None:
                bar.length = max(total, 1)  # jobs may enqueue others, and old ones may be pruned
                bar.update(max(done, 0) - bar.pos)
            if told["done"]:
                return
            house.check()


def _summarise(session: Session, before: dict[str, int]) -> int:
    jobs: dict[str, Any] = session.client().status()["jobs"]
    ended = {state: max(0, jobs[state] - before[state]) for state in ENDED}
    if session.as_json:
        session.emit(ended)
    elif not session.quiet:
        session.print(", ".join(f"{count} {state}" for state, count in ended.items() if count or state == "completed"))
    return 1 if ended["dead"] or ended["cancelled"] else 0


def _refuse_second_broker(session: Session) -> None:
    from queuectl.probe import somebody_listens

    session.home.prepare()
    if somebody_listens(session.client_endpoint):
        raise BrokerRunning(
            f"a broker runs at {session.client_endpoint} already",
            hint="stop it with: queuectl broker stop   (or keep it, and use --temp or --home)",
        )


@contextlib.contextmanager
def _temporary_home() -> Iterator[Path]:
    from queuectl.home import temporary_home

    home = temporary_home()
    try:
        yield home.path
    finally:
        shutil.rmtree(home.path, ignore_errors=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A SIGTERM counts as Ctrl+C, so that the children are stopped in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
