"""Stop workers and wait until they are gone: through the broker, or by signal where there is none."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

from cli.escape import visible
from cli.render import counted
from cli.session import Session
from queuectl.errors import BrokerUnreachable, WaitTimedOut


def stop_workers(session: Session, ids: tuple[str, ...], *, now: bool, timeout_s: float | None) -> int:
    """Ask the broker to stop workers, all if none is named. Raises UnknownWorker, WaitTimedOut."""
    client = session.client(autostart=False)
    told = client.request("worker_stop", {"workers": list(ids), "now": now})
    names = [visible(name) for name in told["workers"]]
    if names:
        held = told.get("held", 0)
        doing = f" ({counted(held, 'job')} to {'kill' if now else 'finish'})" if held else ""
        session.note(f"Stopping {counted(len(names), 'worker')}{doing}: {', '.join(names)}")
        try:
            client.wait(workers=told["workers"], timeout=timeout_s)
        except WaitTimedOut:
            raise _too_slow(timeout_s) from None
    return _conclude(session, names)


def who_keeps_us_here(session: Session, ids: tuple[str, ...]) -> str | None:
    """Why only the workers of this home can be stopped; None if the broker can stop them wherever they are."""
    from queuectl.probe import somebody_listens

    if session.config.is_local:
        return None if somebody_listens(session.client_endpoint) else "No broker runs"
    if ids or session.config.credentials is None:
        return None
    from queuectl.credentials import load_credentials

    who = load_credentials(session.config.credentials)
    return f"'{visible(who.name)}' is a worker and stops no others" if who.role == "worker" else None


def stop_local_workers(
    session: Session, ids: tuple[str, ...], reason: str, *, now: bool, timeout_s: float | None
) -> int:
    """Signal the workers of this home, found by their locked pid files. Raises WaitTimedOut."""
    from queuectl.pidfiles import local_workers

    if ids:
        raise BrokerUnreachable(
            f"no broker runs at {session.client_endpoint}, and only a broker knows workers by their ids",
            hint="stop all workers of this home: queuectl worker stop",
        )
    watched = _signalled(local_workers(session.home), now=now)
    pids = [str(pid) for pid in watched.values()]
    try:
        if pids:
            session.note(f"{reason}; signalled {counted(len(pids), 'worker')} here (pid {', '.join(pids)}).")
        _await_ends(watched, timeout_s)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return _conclude(session, pids)


def _signalled(workers: list[Any], *, now: bool) -> dict[int, int]:
    """The pids that got their signal, by descriptors that tell when they end."""
    watched: dict[int, int] = {}
    for worker in workers:
        try:
            descriptor = os.pidfd_open(worker.pid)
        except ProcessLookupError:
            continue
        watched[descriptor] = worker.pid
        # The second signal kills the jobs; one of another number, because two of the same may arrive as one.
        for number in (signal.SIGTERM, signal.SIGINT) if now else (signal.SIGTERM,):
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                break
    return watched


def _await_ends(watched: dict[int, int], timeout_s: float | None) -> None:
    poll = select.poll()
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)
    left = len(watched)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while left:
        wait_ms = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
        ended = poll.poll(wait_ms)
        if not ended:
            raise _too_slow(timeout_s)
        for descriptor, _ in ended:
            poll.unregister(descriptor)
            left -= 1


def _too_slow(timeout_s: float | None) -> WaitTimedOut:
    return WaitTimedOut(
        f"not all workers have ended after {timeout_s:g} s; they go on stopping",
        hint="kill what they run and give it back to the queue: queuectl worker stop --now",
    )


def _conclude(session: Session, names: list[str]) -> int:
    if session.as_json:
        session.emit({"workers": names})
    elif session.quiet:
        for name in names:
            session.print(name)
    elif names:
        session.print(f"Stopped {counted(len(names), 'worker')}.")
    else:
        session.note("No worker is running.")
    return 0
