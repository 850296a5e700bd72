"""Start a broker in the background for a command that needs one and finds none.

Only for the local default endpoint, and only where nobody has said otherwise: by starting a broker here
explicitly before, by `--no-autostart` or `autostart=false`, or by owning the home.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl.errors import BrokerUnreachable, QueuectlError

if TYPE_CHECKING:
    from cli.session import Session

WINNER_TIMEOUT_S = 20.0  # opening a large database after a crash takes seconds


def ensure_broker(session: Session) -> None:
    """Return when somebody listens at the local endpoint, started now if need be. Raises BrokerUnreachable."""
    if not session.config.is_local:
        return
    from queuectl.probe import somebody_listens

    if somebody_listens(session.client_endpoint):
        return
    reason = why_not(session)
    if reason is not None:
        raise BrokerUnreachable(
            f"no broker runs at {session.client_endpoint}, and none was started: {reason}",
            hint=f"start one: queuectl broker start{home_flag(session)}   (in the background: add --detach)",
            details={"endpoint": session.client_endpoint},
        )
    facts = start_in_background(session, started="auto")
    if facts is not None:
        session.warn(
            f"started a broker in the background (pid {facts['pid']}, data in {tilde(session.config.data_dir)}); "
            f"stop it with: queuectl broker stop{home_flag(session)}"
        )


def why_not(session: Session) -> str | None:
    """Why no broker may be started here unasked, or None if one may."""
    if not session.config.autostart:
        return "autostart is off"
    if "QUEUECTL_JOB_ID" in os.environ:
        return "this is a job, and what a job starts ends with it"
    if not session.home.is_ours():
        return f"{session.home.path} belongs to another user"
    try:
        last = (session.home.run / "last_start").read_text().strip()
    except OSError:
        return None
    return "the last broker here was started explicitly" if last == "explicit" else None


def start_in_background(session: Session, *, started: str, arguments: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Start a detached broker and wait until it is ready; None if another one won the race and is ready."""
    from cli.daemon import spawn

    session.home.prepare()
    line = ["broker", "start", "--started", started, *arguments]
    deadline = time.monotonic() + WINNER_TIMEOUT_S
    while True:
        try:
            return spawn(session, line, log=session.home.logs / "broker.log")
        except QueuectlError as error:
            winner = error.details
            lost_race = error.code == "broker_running" and winner.get("home") in (None, str(session.home.path))
            if started != "auto" or not lost_race:
                raise
        if _comes_up(session, winner.get("pid"), deadline):
            return None


def _comes_up(session: Session, pid: int | None, deadline: float) -> bool:
    """Wait until somebody listens; False if the broker that was to listen has died, so that it is our turn again."""
    from queuectl.probe import somebody_listens

    while not somebody_listens(session.client_endpoint):
        if time.monotonic() > deadline:
            raise BrokerUnreachable(
                f"another broker is starting here, but does not listen at {session.client_endpoint} yet",
                hint=f"look into {session.home.logs / 'broker.log'}",
            )
        time.sleep(0.02)
        if pid is None or not _is_alive(pid):
            return somebody_listens(session.client_endpoint)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def home_flag(session: Session) -> str:
    """What to add to a suggested command so that it means the same home."""
    import shlex

    return f" --home {shlex.quote(session.home_path)}" if session.home_path else ""


def given_again(session: Session) -> str:
    """What to add to a suggested command so that it means the same home, and the same broker."""
    import shlex

    named = ((f"--{key}", session.flags[key]) for key in ("endpoint", "credentials", "context"))
    return home_flag(session) + "".join(f" {option} {shlex.quote(value)}" for option, value in named if value)


def tilde(path: Path) -> str:
    """The path as people write it."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
