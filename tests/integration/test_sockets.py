"""What comes off the broker's sockets in one turn is bounded, whatever arrives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from broker.gate import LOCAL
from broker.sockets import FULL, GONE, LOST, SENT, Router, Watch, client_router, read_monitor, worker_router
from tests.harness_gate import served_gate
from tests.harness_process import until

BUDGET: dict[str, Any] = {"messages_max": 64, "bytes_max": 2**20, "seconds_max": 60.0}


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context, served_gate(context):
        yield context


@pytest.fixture
def endpoint(home: Path) -> str:
    return f"ipc://{home}/socket"


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    link = context.socket(zmq.DEALER)
    link.linger = 0
    link.connect(endpoint)
    return link


def bound(router: Router, endpoint: str) -> Router:
    router.bind(endpoint, LOCAL)
    return router


def test_messages_with_too_many_frames_use_up_the_budget(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str
) -> None:
    router = bound(worker_router(context), endpoint)
    with dealer(context, endpoint) as link:
        link.send(b"good")  # one good message must not switch the count off
        for _ in range(500):
            link.send_multipart([b"x"] * 3)
        router.socket.poll(5000)
        found: list[bytes] = []
        turns = 0
        while router.misframed < 500:
            turns += 1
            before = router.misframed
            messages, _ = router.drain(**BUDGET)
            found += [body for _, body, _ in messages]
            assert router.misframed - before <= 64

    assert found == [b"good"]
    assert turns >= 500 // 64
    router.close(0)


def test_bytes_that_are_thrown_away_use_up_the_budget(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    router = bound(client_router(context), endpoint)
    with dealer(context, endpoint) as link:
        for _ in range(8):
            link.send_multipart([bytes(200_000)] * 6)
        while router.misframed < 8:
            before = router.misframed
            router.drain(**BUDGET)
            assert router.misframed - before <= 1
    router.close(0)


def test_a_peer_that_is_gone_and_one_that_does_not_read_are_told_apart(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str
) -> None:
    router = bound(client_router(context), endpoint)
    with dealer(context, endpoint) as link:
        link.send_multipart([b"", b"hello"])
        [(envelope, *_)] = until(lambda: router.drain(**BUDGET)[0])
        outcomes = {SENT}
        while FULL not in outcomes:
            outcomes.add(router.send(envelope, bytes(100_000)))
        assert outcomes == {SENT, FULL}

    def is_gone() -> bool:
        router.drain(**BUDGET)  # ZeroMQ sees to its connections when it is called
        return router.send(envelope, b"x") == GONE

    until(is_gone, "its end is noticed")
    router.close(0)


# --- the wait --------------------------------------------------------------------------------------------


@pytest.fixture
def watched(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> Iterator[tuple[Router, Watch, Any, int]]:
    """A socket that is watched, its monitor, and where a byte may be written that wakes up, too."""
    router = bound(worker_router(context), endpoint)
    monitor = router.watch(LOST)
    clients = client_router(context)
    gate = context.socket(zmq.PAIR)  # nobody knocks
    reader, writer = os.pipe()
    yield router, Watch(router.socket, clients.socket, gate, [monitor], reader), monitor, writer
    gate.close(0)
    for number in (reader, writer):
        os.close(number)
    router.socket.disable_monitor()
    monitor.close(0)
    router.close(0)
    clients.close(0)


def test_nothing_to_read_ends_the_wait_in_time(watched: tuple[Router, Watch, Any, int]) -> None:
    assert watched[1].wait(0) == set()


def test_messages_are_told_of_until_they_are_read(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, watched: tuple[Router, Watch, Any, int]
) -> None:
    router, watch, _, _ = watched
    with dealer(context, endpoint) as link:
        link.send(b"one")
        assert until(lambda: watch.wait(5000)) == {router.socket}  # the handshake may end a wait as well
        assert watch.wait(5000) == {router.socket}  # its descriptor has told already, and tells no more
        [(envelope, *_)] = router.drain(**BUDGET)[0]

        link.send(b"two")
        until(lambda: router.socket.poll(0), "it has arrived")
        router.send(envelope, b"x")  # sees to what has happened meanwhile, and the descriptor is still again
        assert watch.wait(5000) == {router.socket}

        router.drain(**BUDGET)
        assert watch.wait(0) == set()


def test_first_connection_that_ends_and_every_later_one_is_told_of(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, watched: tuple[Router, Watch, Any, int]
) -> None:
    router, watch, monitor, _ = watched
    for _ in range(3):
        with dealer(context, endpoint) as link:
            link.send(b"here")
            until(lambda: router.drain(**BUDGET)[0], "it is connected")
        until(lambda: monitor in watch.wait(100), "its end is told")
        assert read_monitor(monitor)


def test_what_a_worker_says_does_not_end_a_deaf_wait(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, watched: tuple[Router, Watch, Any, int]
) -> None:
    router, watch, _, writer = watched
    with dealer(context, endpoint) as link:
        link.send(b"one")
        until(lambda: watch.wait(5000), "it has arrived")
        for wait_ms in ((5000, 50), (50, 60_000)):
            began = time.monotonic()
            assert watch.wait(*wait_ms) == {router.socket}
            assert time.monotonic() - began >= 0.049

        os.write(writer, b"x")
        assert len(watch.wait(60_000, 60_000)) == 2  # what ends it is told of together with what did not


def test_signal_wakes_up(watched: tuple[Router, Watch, Any, int]) -> None:
    _, watch, _, writer = watched
    os.write(writer, b"x")

    assert len(watch.wait(5000)) == 1
