"""Puts a worker together and runs it: what `queuectl worker start` calls."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import secrets
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import queuectl
from queuectl.clock import read_clock
from queuectl.config import Config
from queuectl.errors import QueuectlError
from queuectl.home import Home
from queuectl.logs import Log, open_log
from queuectl.pidfiles import LocalWorker, PidFile
from queuectl.ways import Ways, ways_of
from worker.adopt import Adoption, end_dead
from worker.guardian import CRASHED, READY, guard
from worker.lastguard import LastGuard

if TYPE_CHECKING:
    from worker.loop import WorkerLoop

OnReady = Callable[[dict[str, Any]], None]
OnRefused = Callable[[QueuectlError], object]

PATIENCE_MS = 2000  # how long a broker that is away is waited for when a worker stops
ERRAND_MS = 5000  # how long the last words of a worker that died are tried to be told
_TEXT_MAX = 256


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for on the command line."""

    home: Home
    config: Config
    slots: int
    queues: Sequence[str]
    pid: int  # of the process that people know
    ways: Ways
    ready: OnReady | None = None
    refused: OnRefused | None = None
    is_errand: bool = False  # only tell what dead workers left


def run_worker(
    *,
    home: Home,
    config: Config,
    slots: int,
    queues: Sequence[str] = (),
    ready: OnReady | None = None,
    refused: OnRefused | None = None,
    human: bool = False,
) -> int:
    """Run a worker until it is told to stop. Returns the exit code. Raises NotAllowed, BadCredentials.

    `ready` is called once, in the worker process, when the broker has welcomed it. `refused`, if given, is called
    instead when the broker does not let it in at first, and the worker ends; without it, it waits to be let in.
    `human`: log for people, where the configuration leaves the choice.
    """
    ways = ways_of(config, home, for_workers=True)
    home.prepare()
    if config.log_format == "auto":
        config = replace(config, log_format="console" if human else "json")
    _set_descriptors_right()
    order = Order(home, config, slots, queues, os.getpid(), ways, ready, refused)
    last_guard = LastGuard(lambda: _after_both(order))
    try:
        death = guard(lambda guardian: _work(order, guardian))
        return death.code if death.is_clean and death.code is not None else _after_death(order, str(death))
    finally:
        last_guard.dismiss()


def _work(order: Order, guardian: int) -> int:
    boot = secrets.token_hex(16)
    log = _open_log(order, boot)
    try:
        return _run(order, boot, log, guardian=guardian)
    except BaseException as error:  # noqa: BLE001  the edge of the process: nobody above could tell of it
        log.error("worker_process_died", detail=f"{type(error).__name__}: {error}", error=error)
        return CRASHED


def _after_both(order: Order) -> None:
    """In the last guard: worker and guardian are dead. Mostly the one has seen to what the other has left.

    The processes first: the lease may be short, and all that it takes to speak to a broker is not even loaded.
    """
    log = _open_log(order, secrets.token_hex(16))
    if end_dead(order.home.spool, host=platform.node(), on_swept=partial(_tell_swept, log)):
        _after_death(replace(order, pid=os.getpid()), "the worker and the process that watches it were killed")


def _after_death(order: Order, detail: str) -> int:
    """Have the broker told at once, rather than let it find out."""
    boot = secrets.token_hex(16)
    log = _open_log(order, boot)
    log.error("worker_process_died", detail=detail)
    try:
        _run(replace(order, slots=0, is_errand=True, ready=None, refused=None), boot, log)
    except Exception as error:  # noqa: BLE001  the leases run out by themselves
        log.error("worker_process_died", detail=f"{type(error).__name__}: {error}", error=error)
    return 1


def _open_log(order: Order, boot: str) -> Log:
    return open_log(service="queuectl-worker", config=order.config, instance=boot[:8])


def _run(order: Order, boot: str, log: Log, *, guardian: int | None = None) -> int:
    pid_file = PidFile(order.home, LocalWorker(boot, order.pid, order.slots, read_clock().wall_ms))
    try:
        loop = _assemble(order, boot, log, guardian)
        try:
            return loop.run()
        finally:
            loop.close()
    finally:
        pid_file.remove()


def _assemble(order: Order, boot: str, log: Log, guardian: int | None) -> WorkerLoop:
    # What speaks to a broker is loaded only here, in the process that does.
    from worker.brand import Brands
    from worker.children import Children
    from worker.core import Identity, WorkerCore
    from worker.environment import JobEnvironment
    from worker.link import Link
    from worker.loop import Rooms, WorkerLoop
    from worker.process import raise_file_limit
    from worker.signals import SignalPipe
    from worker.spool import Spool

    home, host = order.home, platform.node()
    signals = SignalPipe()
    brands = Brands()
    spool = Spool(home.spool, boot, host=host, brand=brands.first)
    adoption = Adoption(home.spool, host=host, own_boot=boot)
    adopted = adoption.take(partial(_tell_swept, log))
    for torn, bytes_lost in adoption.torn.items():
        log.warning("spool_torn", boot=torn, bytes=bytes_lost)
    identity = Identity(
        boot, _tail(home.path), host[:_TEXT_MAX], order.pid, order.slots, tuple(order.queues), queuectl.__version__
    )
    patience_ms = ERRAND_MS if order.is_errand else PATIENCE_MS
    is_awaited = order.refused is not None
    core = WorkerCore(identity, chance=random.random, adopted=adopted, patience_ms=patience_ms, is_awaited=is_awaited)
    if order.is_errand:
        core.stop(read_clock())
    poller = select.epoll()
    rooms = Rooms(
        link=Link(order.ways, random.random, poller),
        children=Children(
            JobEnvironment(os.environb, boot, home.path),
            poller,
            file_limit=raise_file_limit(order.slots),
            brands=brands,
        ),
        spool=spool,
        adoption=adoption,
        signals=signals,
        poller=poller,
        log=log,
        guardian=guardian,
    )
    log.info("worker_started", slots=order.slots, endpoint=order.ways.present.endpoint)

    def on_ready(worker: str, broker: str) -> None:
        if guardian is not None:
            signal.pidfd_send_signal(guardian, READY)
        if order.ready is not None:
            told = {"worker": worker, "broker": broker, "boot": boot, "pid": order.pid, "slots": order.slots}
            order.ready({**told, "endpoint": order.ways.present.endpoint})

    return WorkerLoop(core, rooms, on_ready, on_refused=order.refused)


def _tail(path: Path) -> str:
    return str(path)[-_TEXT_MAX:]


def _tell_swept(log: Log, pid: int) -> None:
    log.warning("orphan_swept", child_pid=pid)


def _set_descriptors_right() -> None:
    """Nothing that is opened later gets the number of a standard stream, and jobs inherit nothing but those three."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor of this very list
            if int(entry.name) > 2:
                os.set_inheritable(int(entry.name), False)
