"""Other queues, for the same work on the same machine: servers on a free port, spoken to as simply as can be.

beanstalkd with `-f 0` and Redis with `appendfsync always` have on disk what they acknowledge; beanstalkd with `-f 50`
may lose the last 50 ms. Their consumers here are bare: no retries, no timeouts, no output, no log.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.stage import scratch, wait_for

RESERVE_S = 60  # how long a consumer of beanstalkd may take
END = b"end"  # the job that ends a consumer

PEERS = os.environ.get("BENCH_PEERS", "")  # the bin directory of an environment with the Python peers
PEERS_PYTHON = Path(PEERS) / "python" if PEERS else None


class NotInstalled(Exception):
    """A peer is not on this machine."""


class Server(NamedTuple):
    """A peer's server that listens."""

    port: int
    pid: int
    directory: Path


def missing() -> list[str]:
    """The peers that are not here, and how they would be."""
    programs = {
        "xargs": "findutils",
        "beanstalkd": "beanstalkd",
        "redis-server": "redis-server",
        "tsp": "task-spooler",
        "parallel": "parallel",
    }
    gone = [
        f"{program} (Debian package {package})" for program, package in programs.items() if not shutil.which(program)
    ]
    if PEERS_PYTHON is None:
        gone.append("RQ (BENCH_PEERS=BIN, the bin directory of an environment with redis and rq)")
    return gone


def program(name: str) -> str:
    """The path of a peer. Raises NotInstalled."""
    path = shutil.which(name)
    if path is None:
        raise NotInstalled(name)
    return path


@contextmanager
def beanstalkd(fsync_ms: int) -> Iterator[Server]:
    """A beanstalkd with a log on disk, synchronised every so many milliseconds (0: before each answer)."""
    path = program("beanstalkd")
    with (
        scratch() as directory,
        _serving(
            lambda port: [path, "-l", "127.0.0.1", "-p", str(port), "-b", str(directory), "-f", str(fsync_ms)],
            directory,
        ) as server,
    ):
        yield server


@contextmanager
def redis() -> Iterator[Server]:
    """A Redis that has on disk what it acknowledges."""
    path = program("redis-server")
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    with (
        scratch() as directory,
        _serving(
            lambda port: [path, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), *durable],
            directory,
        ) as server,
    ):
        yield server


@contextmanager
def _serving(command: Callable[[int], list[str]], directory: Path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command(port), stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        wait_for(lambda: _listens(port), f"{process.args!r} does not listen")
        yield Server(port, process.pid, directory)
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Beanstalk:
    """A connection to beanstalkd."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")

    def put(self, body: bytes) -> None:
        """Store one job and wait for the acknowledgement."""
        self.put_many([body])

    def put_many(self, bodies: list[bytes]) -> None:
        """Store jobs, and wait for their acknowledgements when all are on their way."""
        self._socket.sendall(b"".join(b"put 0 0 %d %d\r\n%b\r\n" % (RESERVE_S, len(body), body) for body in bodies))
        for _ in bodies:
            self._expect(b"INSERTED")

    def reserve(self) -> tuple[bytes, bytes]:
        """Wait for a job: its number and its body."""
        self._socket.sendall(b"reserve\r\n")
        number, size = self._expect(b"RESERVED")
        return number, self._lines.read(int(size) + 2)[:-2]

    def delete(self, number: bytes) -> None:
        """A job is done."""
        self._socket.sendall(b"delete %b\r\n" % number)
        self._expect(b"DELETED")

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def _expect(self, word: bytes) -> list[bytes]:
        said, *rest = self._lines.readline().split()
        if said != word:
            raise RuntimeError(f"beanstalkd said {said!r}, not {word!r}")
        return rest


def fill(port: int, jobs: int, body: bytes, *, ends: int = 0) -> None:
    """Store jobs as fast as beanstalkd takes them, then one that ends a consumer, for each of them."""
    link = Beanstalk(port)
    for first in range(0, jobs, 1000):
        link.put_many([body] * min(1000, jobs - first))
    link.put_many([END] * ends)
    link.close()


def put_beanstalk(*, port: int, jobs: int) -> Generator[Any, None, None]:
    """Task: store jobs one after the other."""
    link = Beanstalk(port)
    yield None
    for _ in range(jobs):
        link.put(b"true")
    yield None
    link.close()


def consume_beanstalk(*, port: int, run: bool) -> Generator[Any, None, None]:
    """Task: take jobs one after the other, run each with a shell if so wanted, until one says that it is the end."""
    link, environment = Beanstalk(port), dict(os.environ)
    yield None
    while True:
        number, body = link.reserve()
        if body == END:
            break
        if run:
            os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", body.decode()], environment), 0)
        link.delete(number)
    yield None
    link.delete(number)
    link.close()


def push_redis(*, port: int, jobs: int) -> Generator[Any, None, None]:
    """Task: put texts into a list of Redis one after the other, which is not yet a queue."""
    link = socket.create_connection(("127.0.0.1", port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = link.makefile("rb")
    yield None
    for _ in range(jobs):
        link.sendall(b"*3\r\n$5\r\nLPUSH\r\n$1\r\nq\r\n$4\r\ntrue\r\n")
        lines.readline()
    yield None
    lines.close()
    link.close()
