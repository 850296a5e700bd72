"""Another user of the machine: it cannot reach the broker, nor read anything of what broker and worker keep."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from queuectl.ways import Way
from tests.harness_cli import CommandLine, until
from tests.harness_keys import Line
from tests.harness_process import BrokerProcess, free_port, running_broker

NOBODY = 65534
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


def as_nobody(act: Callable[[], Any]) -> Any:
    """What this returns in a process of another user, as far as it is JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    os.waitpid(pid, 0)
    assert answer, "it failed there"
    return json.loads(answer)


def fate(endpoint: str) -> str:
    """What becomes of a connection to a local socket."""
    with zmq.Context() as context, Line(context, Way(endpoint)) as line:
        line.send(b"", b"let me in")
        return line.fate()


@pytest.fixture
def broker(home: Path) -> Iterator[BrokerProcess]:
    with running_broker(home) as broker:
        yield broker


def sockets_of(broker: BrokerProcess) -> list[str]:
    return [broker.home.worker_endpoint, broker.home.client_endpoint]


def test_sockets_cannot_be_reached_by_another_user(broker: BrokerProcess) -> None:
    for endpoint in sockets_of(broker):
        assert fate(endpoint) == "open"
        assert as_nobody(partial(connecting, endpoint)) == "PermissionError"


def connecting(endpoint: str) -> str:
    """The error that a plain connection meets."""
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.connect(endpoint.removeprefix("ipc://"))
        except OSError as error:
            return type(error).__name__
    return "connected"


def test_gate_turns_another_user_away_where_all_doors_were_opened_by_hand(broker: BrokerProcess) -> None:
    for directory in (broker.home.path, broker.home.run):
        directory.chmod(0o711)
    for endpoint in sockets_of(broker):
        Path(endpoint.removeprefix("ipc://")).chmod(0o777)

    for endpoint in sockets_of(broker):
        assert as_nobody(partial(connecting, endpoint)) == "connected"
        assert as_nobody(partial(fate, endpoint)) != "open"
        assert fate(endpoint) == "open"
    refused = until(lambda: broker.logged("connection_refused"), "it is told")
    assert refused[0]["reason"] == "local"
    assert refused[0]["address"].startswith(f"localhost:{NOBODY}:{NOBODY}:")


@pytest.fixture
def lived_in(q: CommandLine) -> CommandLine:
    """A home of the usual umask in which all that writes has written: broker, worker, a running job, keys."""
    before = os.umask(0o022)
    try:
        q.ok("config", "set", "log-format", "json")
        q.ok("broker", "start", "--detach", "--listen", f"tcp://127.0.0.1:{free_port()}")
        q.ok("worker", "start", "--detach", "--count", "2")
        done = q.enqueue("echo out; echo err >&2", env={"TOKEN": "s3cret"})
        until(lambda: q.show(done)["state"] == "completed", "it is done")
        running = q.enqueue("echo here; sleep 1000")
        until(lambda: q.show(running)["state"] == "processing", "it runs")
    finally:
        os.umask(before)
    return q


def everything_in(home: Path) -> list[Path]:
    return [path for path in sorted(home.rglob("*")) if not path.is_symlink()]


def test_nothing_in_the_home_is_open_to_others(lived_in: CommandLine) -> None:
    home = lived_in.home.path
    names = {path.name for path in everything_in(home)}
    assert {"queue.db", "queue.db-wal", "server.key", "broker.lock", "worker.sock", "client.sock"} <= names
    assert any(path.is_file() for path in everything_in(lived_in.home.logs))
    assert any(path.is_file() for path in everything_in(lived_in.home.spool))

    closed = [home, *home.iterdir(), *lived_in.home.keys.iterdir(), *lived_in.home.run.iterdir()]
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in closed}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_another_user_can_read_nothing_in_a_home_that_was_opened_by_hand(lived_in: CommandLine) -> None:
    home = lived_in.home.path
    paths = everything_in(home)
    home.chmod(0o755)

    def can_read() -> list[str]:
        return [str(path) for path in paths if is_readable(path)]

    assert as_nobody(can_read) == []
    assert as_nobody(lambda: sorted(path.name for path in home.iterdir())) == sorted(p.name for p in home.iterdir())


def is_readable(path: Path) -> bool:
    try:
        if path.is_dir():
            list(path.iterdir())
        else:
            path.read_bytes()
    except OSError:
        return False
    return True
