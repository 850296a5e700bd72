"""The client's own words on a local socket: against a real ROUTER, and against peers that are late, odd or gone."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from queuectl import Client, link, probe
from queuectl.errors import BrokerUnreachable, OutcomeUnknown
from queuectl.zmtp import LocalLine
from tests.harness_client import scripted_broker

BYTES_MAX = 1000
GREETING = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER"
HELLO_BYTES = 64 + 2 + 41


@pytest.fixture
def ends() -> Iterator[tuple[LocalLine, socket.socket]]:
    """Our end of a connection, and the bare socket of the other."""
    ours, theirs = socket.socketpair()
    line = LocalLine(ours, bytes_max=BYTES_MAX)
    yield line, theirs
    line.close()
    theirs.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAUSES_S", (0.01, 0.01, 0.01))


def listener(home: Path, act: Any) -> threading.Thread:
    """A thread that listens where the broker would, and does something with the first who connects."""
    (home / "run").mkdir(mode=0o700)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / "run" / "client.sock"))
    server.listen()

    def serve() -> None:
        with server:
            taken, _ = server.accept()
            with taken:
                act(taken)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, 3_000_000])
def test_bodies_of_all_sizes_go_both_ways(tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    ours = socket.socket(socket.AF_UNIX)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/s")
        ours.connect(str(tmp_path / "s"))
        line = LocalLine(ours, bytes_max=max(size, BYTES_MAX))

        assert line.greet(10)
        assert line.send(body)
        frames = router.recv_multipart()
        router.send_multipart(frames)

        assert frames[1:] == [b"", body]
        assert line.receive(10) == body
        line.close()


def test_pings_are_answered_and_lead_to_no_end_of_the_wait(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(b"\x04\x0a\x04PING\x02\x58abc" + b"\x01\x00" + b"\x00\x02ok")

    assert line.receive(10) == b"ok"
    assert theirs.recv(100) == b"\x04\x08\x04PONGabc"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100), id="another protocol"),
        pytest.param(GREETING[:10] + b"\x01\x00" + GREETING[12:] + READY, id="an old version"),
        pytest.param(GREETING.replace(b"NULL", b"CURV") + READY, id="another mechanism"),
        pytest.param(GREETING + b"\x04\x08\x05ERROR\x01x", id="an error"),
        pytest.param(GREETING, id="half of it"),
    ],
)
@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "silent"])
def test_peer_that_does_not_greet_is_no_peer(
    ends: tuple[LocalLine, socket.socket], said: bytes, *, is_gone: bool
) -> None:
    line, theirs = ends
    theirs.sendall(said)
    if is_gone:
        theirs.shutdown(socket.SHUT_WR)

    assert not line.greet(0.02)


def test_greeting_of_a_router_is_taken(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(GREETING + READY)

    assert line.greet(10)


def test_message_that_is_too_large_ends_the_connection(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(b"\x02" + (2**62).to_bytes(8))

    assert line.receive(3600) is None


def test_message_that_stops_half_way_is_late(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(b"\x00\x05ab")

    assert line.receive(0.02) is None


def test_endless_words_beside_the_matter_do_not_stretch_the_wait(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    theirs.sendall(b"\x01\x00" * 1000)

    assert line.receive(0.0) is None


@pytest.mark.timeout(30)
def test_request_that_is_not_taken_in_was_not_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.05)
    over = threading.Event()

    def greet_and_read_no_more(taken: socket.socket) -> None:
        taken.sendall(GREETING + READY)
        over.wait()

    thread = listener(home, greet_and_read_no_more)
    with Client() as client, pytest.raises(BrokerUnreachable):
        client.request("job", {"id": "x" * 4_000_000})
    over.set()
    thread.join()


def test_listener_that_says_nothing_is_unreachable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.05)
    over = threading.Event()
    thread = listener(home, lambda _: over.wait())

    with Client() as client, pytest.raises(BrokerUnreachable, match="nothing was sent"):
        client.connect()
    over.set()
    thread.join()


def test_time_out_that_the_program_has_set_for_its_sockets_is_not_ours(home: Path) -> None:
    socket.setdefaulttimeout(5)
    try:
        with scripted_broker(home) as broker, Client() as client:
            broker.on("ping", {"pid": 7})
            assert client.ping() == {"pid": 7}
    finally:
        socket.setdefaulttimeout(None)


class OfTheProgram(TimeoutError):
    """What a signal handler raises."""


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("impatient")
def test_what_a_signal_handler_raises_goes_through(ends: tuple[LocalLine, socket.socket]) -> None:
    line, _ = ends

    def interrupt(*_: object) -> None:
        raise OfTheProgram

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(OfTheProgram):
            line.receive(60)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.timeout(30)
def test_signals_without_end_do_not_lengthen_a_wait(ends: tuple[LocalLine, socket.socket]) -> None:
    line, _ = ends
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        assert line.receive(0.2) is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.timeout(30)
def test_reply_that_comes_a_byte_at_a_time_is_not_waited_for_without_end(ends: tuple[LocalLine, socket.socket]) -> None:
    line, theirs = ends
    over = threading.Event()

    def drip() -> None:
        theirs.sendall(b"\x00\xff")
        while not over.wait(0.02):
            theirs.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    assert line.receive(0.3) is None
    over.set()
    thread.join()


@pytest.mark.timeout(30)
def test_listener_whose_queue_is_full_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CONNECT_TIMEVAL", struct.pack("ll", 0, 50_000))
    (home / "run").mkdir(mode=0o700)
    path = str(home / "run" / "client.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        with Client() as client, pytest.raises(BrokerUnreachable, match="does not answer"):
            client.ping()


def test_client_knows_whether_somebody_listens(home: Path) -> None:
    with Client() as client:
        assert not client.connect()
        with scripted_broker(home) as broker:
            broker.on("ping", {})
            assert [client.connect(), client.connect()] == [True, True]
            assert client.ping() == {}


def test_forked_child_has_a_connection_of_its_own(home: Path) -> None:
    with scripted_broker(home) as broker, Client() as client:
        broker.on("ping", {"pid": 7})
        client.ping()
        begun = client.begin("ping", request_id="of-the-parent")

        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if client.ping() == {"pid": 7} else 1
                client.close()
            finally:
                os._exit(code)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.finish(begun)[:2] == ({"pid": 7}, False)
        assert client.ping() == {"pid": 7}
        assert [asked.id for asked in broker.asked].count("of-the-parent") == 1


def test_request_begun_before_a_fork_is_repeated_by_the_child(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAUSES_S", (0.01,))
    with scripted_broker(home) as broker, Client() as client:
        broker.on("ping", {"pid": 7})
        begun = client.begin("ping", request_id="of-the-parent")
        client._link._pid = 0  # as a child sees it

        assert client.finish(begun).tries == 2
        assert [asked.id for asked in broker.asked] == ["of-the-parent"] * 2


@pytest.mark.timeout(30)
def test_interrupted_wait_leaves_a_client_that_works(home: Path) -> None:
    main, held = threading.get_ident(), threading.Event()

    def interrupt_and_hold(_: dict[str, Any]) -> dict[str, Any]:
        signal.pthread_kill(main, signal.SIGINT)
        held.wait()
        return {}

    with scripted_broker(home) as broker, Client(timeout=3600) as client:
        broker.on("wait", interrupt_and_hold)
        broker.on("ping", {"pid": 7})

        with pytest.raises(KeyboardInterrupt):
            client.request("wait")
        held.set()

        assert client.ping() == {"pid": 7}


def test_interrupted_sending_leaves_a_client_that_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with scripted_broker(home) as broker, Client() as client:
        broker.on("ping", {"pid": 7})
        client.ping()
        with monkeypatch.context() as patch:
            patch.setattr(LocalLine, "send", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.ping()

        assert client.ping() == {"pid": 7}


def test_interrupted_greeting_leaves_a_client_that_works(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with scripted_broker(home) as broker, Client() as client:
        broker.on("ping", {"pid": 7})
        with monkeypatch.context() as patch:
            patch.setattr(LocalLine, "greet", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.ping()

        assert client.ping() == {"pid": 7}


@pytest.mark.usefixtures("impatient")
def test_broker_that_dies_with_the_request_leaves_the_outcome_unknown(home: Path) -> None:
    def greet_take_and_go(taken: socket.socket) -> None:
        taken.sendall(GREETING + READY)
        taken.recv(HELLO_BYTES, socket.MSG_WAITALL)
        taken.recv(1)

    thread = listener(home, greet_take_and_go)
    with Client(timeout=3600) as client, pytest.raises(OutcomeUnknown):
        client.ping()
    thread.join()


def test_broker_elsewhere_is_asked_over_tcp(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with scripted_broker(home, f"tcp://127.0.0.1:{port}") as broker:
        broker.on("ping", {"pid": 7})
        with Client(f"tcp://127.0.0.1:{port - 1}") as client:
            assert [client.ping(), client.ping()] == [{"pid": 7}] * 2


def test_local_request_does_not_wait_for_zmq_to_load(home: Path) -> None:
    program = "import sys; from queuectl import Client; Client().ping(); print('zmq' in sys.modules)"
    with scripted_broker(home) as broker:
        broker.on("ping", {})

        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
