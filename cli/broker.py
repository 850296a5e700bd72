"""`queuectl broker`: start the broker, stop it, ask how it is."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from cli.autostart import home_flag, start_in_background, tilde
from cli.escape import visible
from cli.options import DURATION, Group, shared, usage
from cli.render import counted, facts
from cli.session import Session
from queuectl.errors import BrokerUnreachable, OutcomeUnknown, WaitTimedOut
from queuectl.pidfiles import local_broker

STOP_TIMEOUT_S = 60.0


@click.group(cls=Group)
def broker() -> None:
    """Start, stop and inspect the broker, which owns the queue.

    \b
    Examples:
      queuectl broker start --detach
      queuectl broker status
    """


@broker.command()
@click.option("--detach", is_flag=True, help="Run in the background; returns when it is ready.")
@click.option("--listen", metavar="tcp://HOST:PORT", help="Serve workers on PORT and clients on PORT+1 as well.")
@click.option("--advertise", metavar="HOST[,HOST]", help="Where others find it, if not at the HOST it listens at.")
@click.option("--insecure-no-auth", is_flag=True, help="Serve a loopback address without keys.")
@click.option("--data-dir", metavar="DIR", help="Keep the database here instead of in the home.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="How to log.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--started", type=click.Choice(["explicit", "detached", "auto"]), default="explicit", hidden=True)
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--log-file", type=click.Path(path_type=Path), hidden=True)
@shared
def start(
    session: Session,
    detach: bool,
    listen: str | None,
    advertise: str | None,
    insecure_no_auth: bool,
    data_dir: str | None,
    log_format: str | None,
    log_level: str | None,
    started: str,
    ready_fd: int | None,
    log_file: Path | None,
) -> int:
    """Start the broker here, in the foreground.

    It stops on Ctrl+C or `queuectl broker stop`. Workers and their jobs go on meanwhile.
    With --listen it also serves other machines; see `queuectl auth` for who may come in.

    \b
    Examples:
      queuectl broker start
      queuectl broker start --detach
      queuectl broker start --listen tcp://0.0.0.0:7710 --advertise queue.example
      queuectl broker start --listen tcp://127.0.0.1:7710 --insecure-no-auth
    """
    session.stay_here()
    session.flags |= {"data_dir": data_dir, "log_format": log_format, "log_level": log_level}
    session.flags |= {"listen": listen, "advertise": advertise}
    if insecure_no_auth and session.config.listen is None:
        usage("--insecure-no-auth is about --listen", "sockets under the home are closed to other users anyway")
    if advertise and session.config.listen is None:
        usage("--advertise is about --listen", "without it the broker is for this machine only")
    if detach:
        return _detach(session, insecure_no_auth)
    return _serve(session, insecure_no_auth, started, ready_fd, log_file)


def _serve(
    session: Session,
    insecure_no_auth: bool,
    started: str,
    ready_fd: int | None,
    log_file: Path | None,
) -> int:
    from cli.daemon import serving

    with serving(session, ready_fd, log_file) as pipe:

        def ready(told: dict[str, Any]) -> None:
            pipe.ready({"pid": os.getpid(), **told})
            if ready_fd is None:
                session.emit({"pid": os.getpid(), **told}) if session.as_json else _greet(session, told)

        from broker.service import run_broker

        code: int = run_broker(
            home=session.home,
            config=session.config,
            insecure_no_auth=insecure_no_auth,
            started=started,
            ready=ready,
        )
        return code


def _greet(session: Session, told: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        session.note(f"The broker is ready (pid {os.getpid()}, data in {tilde(session.config.data_dir)}).")
        _say_where_it_listens(session, told)
        session.note("Press Ctrl+C to stop it; workers and their jobs go on meanwhile.")


def _say_where_it_listens(session: Session, told: dict[str, Any]) -> None:
    if told["advertised"]:
        session.note(f"Others find it at {', '.join(told['advertised'])}.")
        session.note(f"Its key is {told['fingerprint'] or 'none: every user of this machine is let in as an admin'}.")


def _detach(session: Session, insecure_no_auth: bool) -> int:
    flags = session.flags
    arguments = ["--listen", flags["listen"]] if flags["listen"] else []
    arguments += ["--advertise", flags["advertise"]] if flags["advertise"] else []
    arguments += ["--insecure-no-auth"] if insecure_no_auth else []
    arguments += ["--data-dir", str(Path(flags["data_dir"]).absolute())] if flags["data_dir"] else []
    # One that was started without these would be another broker: none is to come unasked.
    started = "explicit" if session.config.listen or flags["data_dir"] else "detached"
    told = start_in_background(session, started=started, arguments=tuple(arguments))
    assert told is not None
    if session.as_json:
        session.emit(told)
    else:
        session.print(f"Broker started in the background (pid {told['pid']}).")
        if sys.stderr.isatty():
            _say_where_it_listens(session, told)
        session.hint(f"stop it with: queuectl broker stop{home_flag(session)}{_not_another(session)}")
    return 0


def _not_another(session: Session) -> str:
    """What to add to a suggested command where it would else be for a broker elsewhere."""
    from cli.context import in_force

    return "" if in_force(session.home, {}) == "local" else " --context local"


@broker.command()
@click.option("--timeout", type=DURATION, default=STOP_TIMEOUT_S, metavar="D", help="Wait no longer than this [60s].")
@shared
def stop(session: Session, timeout: float) -> int:
    """Stop the broker. Workers and the jobs that they run go on.

    \b
    Example:
      queuectl broker stop
    """
    from queuectl.probe import somebody_listens

    client = session.client(autostart=False)
    try:
        told = client.shutdown()
    except OutcomeUnknown:
        told = {"pid": None, "held": 0}  # it went down before its reply went out
    except BrokerUnreachable:
        if not session.config.is_local:
            raise
        pid = local_broker(session.home)
        if pid is None:
            if somebody_listens(session.client_endpoint):
                raise
            return _say_stopped(session, None)
        session.note(f"The broker (pid {pid}) does not answer at {session.client_endpoint}; it was sent SIGTERM.")
        os.kill(pid, signal.SIGTERM)
        told = {"pid": pid, "held": 0}
    _await_end(session, told["pid"], timeout)
    return _say_stopped(session, told)


def _say_stopped(session: Session, told: dict[str, Any] | None) -> int:
    if session.as_json:
        session.emit({"stopped": told is not None, **(told or {"pid": None, "held": 0})})
    elif told is None:
        session.note(f"No broker runs at {session.client_endpoint}.")
    else:
        session.print("Broker stopped.")
        if told["held"]:
            session.note(f"Workers hold {counted(told['held'], 'job')} and go on; start a broker to take the results.")
    return 0


def _await_end(session: Session, pid: int | None, timeout_s: float) -> None:
    """Wait until the broker's process is gone, or, on another machine, until nobody answers."""
    deadline = time.monotonic() + timeout_s
    while _is_there(session, pid):
        if time.monotonic() > deadline:
            raise WaitTimedOut(f"the broker (pid {pid}) has not ended after {timeout_s:g} s")
        time.sleep(0.02)


def _is_there(session: Session, pid: int | None) -> bool:
    from queuectl.probe import somebody_listens

    if not session.config.is_local:
        return False  # its acknowledgement has to do
    if pid is None:
        return somebody_listens(session.client_endpoint)
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to ask how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


@broker.command()
@shared
def status(session: Session) -> int:
    """Say whether the broker runs, and where.

    \b
    Example:
      queuectl broker status
    """
    from cli.status import broker_facts

    told = session.client(autostart=False).status()["broker"]
    if session.as_json:
        session.emit(told)
    elif session.quiet:
        session.print_id(told["id"])
    else:
        session.print(facts([*broker_facts(told), *_door_facts(told)]))
    return 0


def _door_facts(told: dict[str, Any]) -> list[tuple[str, str | None]]:
    """How others find the broker, and how many it has not let in."""
    away = told.get("turned_away")
    return [
        ("Others use", visible(", ".join(told.get("advertised", []))) or None),
        ("Turned away", f"{counted(away, 'connection')} since it started" if away else None),
    ]
