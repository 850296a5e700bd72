"""The worker's end of the connection: what it hears of a broker that goes, of one that is not there, and of others."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from queuectl.credentials import new_key_pair, text_of, write_secret
from queuectl.errors import QueuectlError
from queuectl.messages import Hello
from queuectl.ways import Ways
from tests.harness_keys import credentials
from tests.harness_process import LIMIT_S, free_port
from worker.link import ATTEMPT_MS, SOCKETS_MAX, Link

HELLO = Hello(1, 1, "0" * 32, "host", "/home", 1, 1, [], "test", False, [], "", 1)


class Watched:
    """A poller that knows what it watches."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.fds: set[int] = set()

    def register(self, fd: int, eventmask: int) -> None:
        self.epoll.register(fd, eventmask)
        self.fds.add(fd)

    def unregister(self, fd: int) -> None:
        self.epoll.unregister(fd)
        self.fds.remove(fd)

    def ready(self, timeout_s: float = 0.1) -> dict[int, int]:
        return dict(self.epoll.poll(timeout_s))


@pytest.fixture
def poller() -> Watched:
    return Watched()


@pytest.fixture
def connected(poller: Watched) -> Iterator[Callable[..., Link]]:
    links = []

    def connect(*endpoints: str, credentials: Path | None = None) -> Link:
        links.append(Link(Ways(endpoints, credentials, for_workers=True), random.random, poller))
        links[-1].connect(now_ms())
        return links[-1]

    yield connect
    for link in links:
        link.close()
    assert poller.fds == set()


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def await_up(link: Link, poller: Watched) -> None:
    end = time.monotonic() + LIMIT_S
    while not link.send(HELLO) or link.next_deadline() is not None:  # its monitor may tell a little later
        assert time.monotonic() < end, "it does not connect"
        ready = poller.ready()
        list(link.messages(ready))
        link.was_lost(ready, now_ms())
        link.has_become_writable()


def await_loss(link: Link, poller: Watched) -> list[QueuectlError]:
    """Wait until the connection is lost; why, as far as that is known then."""
    end = time.monotonic() + LIMIT_S
    while not link.was_lost(ready := poller.ready(), now_ms()):
        assert time.monotonic() < end, "nobody said that the connection is lost"
    return link.causes(ready)


def test_first_loss_of_a_connection_is_told(home: Path, poller: Watched, connected: Callable[..., Link]) -> None:
    endpoint, context = f"ipc://{home}/worker.sock", zmq.Context[zmq.Socket[bytes]]()
    broker = context.socket(zmq.ROUTER)
    broker.bind(endpoint)
    link = connected(endpoint)
    await_up(link, poller)
    broker.recv_multipart()

    broker.close(0)

    assert await_loss(link, poller) == []
    assert link.comes_back
    context.term()


def test_end_of_a_connection_over_tcp_is_the_end_of_its_socket(poller: Watched, connected: Callable[..., Link]) -> None:
    context = zmq.Context[zmq.Socket[bytes]]()
    broker = context.socket(zmq.ROUTER)
    port = broker.bind_to_random_port("tcp://127.0.0.1")
    link = connected(f"tcp://127.0.0.1:{port}")
    await_up(link, poller)
    assert link.next_deadline() is None
    broker.recv_multipart()

    broker.close(0)

    assert await_loss(link, poller) == []
    assert (link.comes_back, link.has_tried_all, poller.fds) == (False, False, set())
    assert not link.send(HELLO)
    context.term()


def test_connection_that_says_nothing_for_good_is_given_up_for_the_next_way(
    poller: Watched, connected: Callable[..., Link]
) -> None:
    context = zmq.Context[zmq.Socket[bytes]]()
    brokers = [context.socket(zmq.ROUTER) for _ in range(2)]
    ports = [broker.bind_to_random_port("tcp://127.0.0.1") for broker in brokers]
    link = connected(*(f"tcp://127.0.0.1:{port}" for port in ports))
    await_up(link, poller)

    link.connect(now_ms())
    await_up(link, poller)

    assert brokers[1].poll(int(1000 * LIMIT_S))
    [cause] = link.causes({})
    assert (cause.code, f":{ports[0]} does not answer" in cause.message) == ("broker_unreachable", True)
    for broker in brokers:
        broker.close(0)
    context.term()


def test_local_broker_that_never_answers_is_told_with_how_to_start_it(
    home: Path, connected: Callable[..., Link]
) -> None:
    link = connected(f"ipc://{home}/worker.sock")

    link.connect(now_ms())

    assert [cause.hint for cause in link.causes({})] == ["start it: queuectl broker start"]


def test_thousands_of_attempts_leave_no_descriptor_behind(poller: Watched, connected: Callable[..., Link]) -> None:
    link = connected(f"tcp://127.0.0.1:{free_port()}")
    counts = []
    for _ in range(3000):
        assert [cause.code for cause in await_loss(link, poller)] == ["broker_unreachable"]
        assert poller.fds == set()
        link.connect(now_ms())
        counts.append(open_descriptors())

    assert max(counts[100:]) <= max(counts[:100]) + SOCKETS_MAX
    assert link.has_tried_all


def test_looks_at_whoever_hangs_up_leave_neither_descriptor_nor_thread_behind(
    tmp_path: Path, poller: Watched, connected: Callable[..., Link]
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=hang_up)
    thread.start()
    threads, file = threading.active_count(), tmp_path / "credentials.toml"
    endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    who = credentials("builder", "worker", [new_key_pair()[0]])
    write_secret(file, text_of(replace(who, endpoints=(endpoint,))))
    link = connected(credentials=file)
    said, counts = set(), []
    for _ in range(200):
        said |= {cause.message for cause in await_loss(link, poller)}
        link.connect(now_ms())
        counts.append(open_descriptors())

    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    assert any("is no broker" in words for words in said)
    assert max(counts[20:]) <= max(counts[:20]) + SOCKETS_MAX
    assert threading.active_count() <= threads


def test_sockets_that_cannot_be_had_are_waited_for(poller: Watched, connected: Callable[..., Link]) -> None:
    link = connected(f"tcp://127.0.0.1:{free_port()}")
    await_loss(link, poller)
    others = []
    while True:
        try:
            others.append(link._context.socket(zmq.DEALER))
        except zmq.ZMQError:
            break

    link.connect(now_ms())

    assert link.next_deadline() is not None
    [cause] = await_loss(link, poller)
    assert "Too many open files" in cause.message
    for other in others:
        other.close(0)


def test_attempt_of_which_nothing_is_heard_ends_in_time(poller: Watched, connected: Callable[..., Link]) -> None:
    link = connected("tcp://127.0.0.1:9")
    # its monitor is not asked: nor does it tell where the name of a host is waited for

    assert not link.was_lost({}, now_ms())
    assert link.was_lost({}, now_ms() + ATTEMPT_MS)
    assert [cause.code for cause in link.causes({})] == ["broker_unreachable"]
