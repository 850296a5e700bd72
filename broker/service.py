"""The broker as a process: locks, database, sockets, signals, and the end of them all.

One broker for a data directory and one for a home, held by `flock` for life: a second bind of an ipc socket
would succeed and steal it. The broker never forks and never starts another process.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import resource
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq

from broker.core import Core, Identity
from broker.disk import Disk
from broker.doors import OpenDoors, endpoints_of
from broker.gate import Gate
from broker.loop import Loop
from broker.sockets import Router, client_router, worker_router
from broker.store import DatabaseMissing, Store, StoreFull, StoreRefused, broker_of, open_store, unusable
from queuectl import __version__
from queuectl.clock import read_clock
from queuectl.config import Config
from queuectl.credentials import fingerprint
from queuectl.errors import BrokerRunning, DatabaseRefused, DiskFull, QueuectlError, StorageFailed
from queuectl.home import Home
from queuectl.logs import Log, open_log
from queuectl.systemd import notify

DATABASE = "queue.db"
IDENTITY_FILE = "broker.id"
LIBZMQ_MIN = (4, 3, 5)  # earlier ones have holes that can be reached before authentication
EXIT_OK, EXIT_IO_ERROR = 0, 74
Ready = Callable[[dict[str, Any]], None]


def run_broker(
    *,
    home: Home,
    config: Config,
    insecure_no_auth: bool = False,
    started: str = "explicit",
    ready: Ready | None = None,
) -> int:
    """Run the broker until it is told to stop; its exit code. Raises QueuectlError if it cannot start.

    `started` is explicit, detached or auto; after an explicit start this home's broker is never started
    automatically again.
    """
    _check_library()
    os.umask(0o077)
    home.prepare()
    endpoints = endpoints_of(home, config, insecure_no_auth=insecure_no_auth)
    with ExitStack() as stack:
        _lock(stack, home, config.data_dir)
        log = open_log(service="queuectl-broker", config=config, instance=secrets.token_hex(4))
        store = _open_database(config.data_dir, log)
        stack.callback(lambda: store.abandon())
        wakeup = stack.enter_context(_signals())
        identity = Identity(
            pid=os.getpid(),
            version=__version__,
            endpoints=endpoints.all,
            advertised=endpoints.advertised,
            database=str(config.data_dir / DATABASE),
            data_dir=str(config.data_dir),
            started=started,
        )
        workers, clients = _routers(stack)
        doors = OpenDoors(endpoints, (workers, clients), home.keys)
        chance = random.Random(secrets.randbits(256))
        core = Core(store, chance, identity, verbose=config.log_level == "debug", doors=doors)
        _begin(core, store, config.data_dir, log)
        gate = Gate(workers.socket.context, lambda public_key: core.access.user_of(public_key))
        stack.callback(gate.close)
        doors.open()
        if doors.has_made_key:
            log.warning("server_key_made", fingerprint=fingerprint(doors.server_keys[0]))
        loop = Loop(
            core=core,
            store=store,
            workers=workers,
            clients=clients,
            disk=Disk(config.data_dir / DATABASE),
            log=log,
            wakeup=wakeup,
            gate=gate,
            doors=doors,
        )
        stack.callback(loop.close)
        (home.run / "last_start").write_text(started)
        _tell_ready(core, ready, log)
        gc.freeze()  # what is here now stays: it need not be looked at again and again
        gc.set_threshold(50_000, 20, 100)
        return _run(loop, core, store, log)


def _tell_ready(core: Core, ready: Ready | None, log: Log) -> None:
    who = core.identity
    log.info(
        "broker_ready",
        endpoints=list(who.endpoints),
        database=who.database,
        epoch=core.epoch,
        jobs=core.counts()["total"],
    )
    notify("READY=1")
    if ready is not None:
        ready({"pid": who.pid, "endpoints": list(who.endpoints), "data_dir": who.data_dir, **_public_face(core)})


def _public_face(core: Core) -> dict[str, Any]:
    """How others reach the broker, and what they know it by."""
    keys = core.doors.server_keys
    return {"advertised": list(core.identity.advertised), "fingerprint": fingerprint(keys[0]) if keys else None}


def _run(loop: Loop, core: Core, store: Store, log: Log) -> int:
    try:
        loop.run(_told_to_stop)
        notify("STOPPING=1")
        log.info("broker_stopping", leases=len(core.leases))
        loop.close()
        _end(core, store, log)
    except StorageFailed as error:
        log.error("storage_failed", error=error)  # nothing has been said of the turn: a restart reads the truth
        return EXIT_IO_ERROR
    log.info("broker_stopped")
    return EXIT_OK


def _end(core: Core, store: Store, log: Log) -> None:
    """The last transaction."""
    try:
        store.write_through()  # the file is to say that it was closed when all the rest is in it, and not before
        store.begin()
        core.stop(read_clock())
        store.commit()
        store.close()
    except StoreFull as error:
        log.error("storage_full", error=error)  # the next start takes it for a crash, and checks the database


def _routers(stack: ExitStack) -> tuple[Router, Router]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.term)
    workers, clients = worker_router(context), client_router(context)
    stack.callback(workers.close, 0)
    stack.callback(clients.close, 0)
    return workers, clients


# --- locks ---------------------------------------------------------------------------------------------


def _lock(stack: ExitStack, home: Home, data_dir: Path) -> None:
    """Take the home and the data directory, or say who has them. Raises BrokerRunning."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseRefused(f"cannot use {data_dir} as data directory: {error.strerror}") from None
    about = json.dumps({"pid": os.getpid(), "data_dir": str(data_dir), "home": str(home.path)})
    for path, whose in ((home.run / "broker.lock", "home"), (data_dir / "broker.lock", "data directory")):
        file = stack.enter_context(_open_lock(path))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _already_running(path, whose) from None
        file.truncate(0)
        file.write(about)
        file.flush()


def _open_lock(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")


def _already_running(path: Path, whose: str) -> BrokerRunning:
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        about = {}
    where = f" (pid {about['pid']}, data in {about['data_dir']})" if about else ""
    return BrokerRunning(
        f"a broker of this {whose} runs already{where}", hint="stop it with: queuectl broker stop", details=about
    )


# --- database --------------------------------------------------------------------------------------------


def _open_database(data_dir: Path, log: Log) -> Store:
    """The database of this directory, if it is well. What was there before is never silently made anew."""
    path = data_dir / DATABASE
    existed = path.exists()
    store = _open_store(path, data_dir / IDENTITY_FILE)
    try:
        _refuse_damaged(store, path)
        _shut_to_others(path, log)  # one that is not ours is left as it is
    except BaseException:
        store.abandon()
        raise
    log.info("broker_started", database=str(path), existed=existed)
    return store


def _shut_to_others(path: Path, log: Log) -> None:
    """Commands and their environments stand in the database: a copy that was put there may be open to all."""
    for file in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)
                log.warning("database_shut", database=str(file))


def _open_store(path: Path, identity: Path) -> Store:
    if identity.exists() and path.exists():
        _refuse_stranger(broker_of(path), path, identity)  # before SQLite reads the log of the one into the other
    try:
        return open_store(path, create=not identity.exists())
    except DatabaseMissing as error:
        raise DatabaseRefused(
            f"{error.message}, but this directory had a database",
            hint=f"put it back; or, to begin with an empty queue, delete {identity}",
        ) from None
    except StoreFull as error:
        raise DiskFull("the disk is full: the database cannot be opened", hint=f"make room for {path}") from error


def _refuse_stranger(broker: str | None, path: Path, identity: Path) -> None:
    """Raises DatabaseRefused if it is another's database. None: nobody's yet."""
    if broker in (None, identity.read_text().strip()):
        return
    log = path.with_name(f"{path.name}-wal")
    raise DatabaseRefused(
        f"{path} is not the database that was here before",
        hint=f"if you meant to replace it, delete {identity}{f' and {log}' if log.exists() else ''}",
    )


def _refuse_damaged(store: Store, path: Path) -> None:
    """Look through a database that was not closed. Raises DatabaseRefused if it is damaged."""
    try:
        was_closed = store.ledger.facts().get("clean") != 0
    except (StorageFailed, StoreRefused) as error:
        raise unusable(path, error) from error
    if not was_closed and (found := store.check()):
        raise DatabaseRefused(f"{path} is damaged: {found[0]}", hint="restore it from a backup")


def _begin(core: Core, store: Store, data_dir: Path, log: Log) -> None:
    """The first transaction: a new epoch. Its leases get a full lease from now on."""
    path, identity = data_dir / DATABASE, data_dir / IDENTITY_FILE
    if identity.exists():
        _refuse_stranger(str(store.ledger.facts().get("broker", "")), path, identity)
    try:
        store.begin()
        core.start(read_clock(), secrets.token_hex(16))
        store.commit()
        store.write_through()  # from now on the file itself says that it is in use, and has a log
    except StoreFull as error:
        raise DiskFull("the disk is full: the broker cannot start", hint=f"make room in {data_dir}") from error
    except (StorageFailed, StoreRefused) as error:
        raise unusable(path, error) from error
    if not identity.exists():
        _write_whole(identity, core.broker_id + "\n")
    if core.leases:
        log.info("broker_recovered", leases=len(core.leases), workers=len(core.holders))


def _write_whole(path: Path, text: str) -> None:
    """All of the file or none of it, whenever the power goes."""
    draft = path.with_suffix(".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


# --- process ---------------------------------------------------------------------------------------------

_stop_signals: list[int] = []


@contextmanager
def _signals() -> Iterator[int]:
    """SIGTERM and SIGINT wake the loop; the fd that becomes readable."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _stop_signals.clear()
    previous = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _on_signal(number: int, _: object) -> None:
    _stop_signals.append(number)


def _told_to_stop() -> bool:
    return bool(_stop_signals)


def _check_library() -> None:
    if zmq.zmq_version_info() < LIBZMQ_MIN:
        raise QueuectlError(f"libzmq {zmq.zmq_version()} is too old", hint="reinstall pyzmq from its wheel")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
