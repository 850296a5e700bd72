"""The gate: it lets in whom it should, and nobody when it is asked nonsense, has a bug, or is not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from broker.gate import ADDRESS, ANSWERS_PER_TURN, KEYS, LOCAL, UNLOCKED, Gate
from broker.sockets import Router, client_router, worker_router
from queuectl.credentials import new_key_pair
from queuectl.ways import Way
from tests.harness_gate import served_gate
from tests.harness_keys import Line, credentials
from tests.harness_process import free_port

Context = zmq.Context[zmq.Socket[bytes]]
GOOD, SECRET = new_key_pair()
OWN = str(os.geteuid())
RAW_KEY = z85.decode(GOOD)


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


class Asker:
    """Asks a gate as libzmq would, or as it never would."""

    def __init__(self, context: Context, gate: Gate):
        self.gate = gate
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(ADDRESS)

    def ask(self, domain: str, address: str, mechanism: bytes, *proofs: bytes, version: bytes = b"1.0") -> str | None:
        """The user id that it gives; None: nobody is let in."""
        self.socket.send_multipart([b"", version, b"7", domain.encode(), address.encode(), b"id", mechanism, *proofs])
        self.gate.serve()
        empty, told, request, status, _, user, _ = self.socket.recv_multipart(zmq.NOBLOCK)
        assert (empty, told, request) == (b"", b"1.0", b"7")
        assert (status == b"200") == bool(user)
        return user.decode() if status == b"200" else None


@pytest.fixture
def asker(context: Context) -> Iterator[Asker]:
    gate = Gate(context, {GOOD: "key:1"}.get)
    asker = Asker(context, gate)
    yield asker
    asker.socket.close(0)
    gate.close()


def test_own_user_and_root_come_in_locally(asker: Asker) -> None:
    assert asker.ask(LOCAL, f"localhost:{OWN}:0:1", b"NULL") == f"uid:{OWN}"
    assert asker.ask(LOCAL, "localhost:0:0:1", b"NULL") == "uid:0"
    assert asker.gate.take_refused() == []


@pytest.mark.parametrize(
    "address",
    [
        "localhost:65534:65534:1",
        "localhost:1000000:0:0",
        "localhost:-1:0:1",
        "localhost:4294967295:0:1",
        f"localhost:{OWN}",
        f"localhost:{OWN}:0",
        f"localhost:{OWN}:0:1:2",
        f"localhost:{OWN}:0:1\n",
        f"xlocalhost:{OWN}:0:1",
        f"localhost:{OWN}.0:0:1",
        "localhost: 0:0:1",
        "localhost::0:1",
        "127.0.0.1",
        "::1",
        "",
        "localhost:" + "9" * 5000 + ":0:1",
    ],
)
def test_anybody_else_does_not_come_in_locally(asker: Asker, address: str) -> None:
    assert asker.ask(LOCAL, address, b"NULL") is None
    assert [knock.domain for knock in asker.gate.take_refused()] == [LOCAL]


def test_known_key_comes_in_where_keys_are_asked_for(asker: Asker) -> None:
    assert asker.ask(KEYS, "10.0.0.9", b"CURVE", RAW_KEY) == "key:1"


def test_unknown_key_is_refused_and_told(asker: Asker) -> None:
    other, _ = new_key_pair()

    assert asker.ask(KEYS, "10.0.0.9", b"CURVE", z85.decode(other)) is None
    assert asker.gate.take_refused() == [(KEYS, "10.0.0.9", other)]
    assert asker.gate.take_refused() == []


def test_open_loopback_takes_everybody_without_a_key(asker: Asker) -> None:
    assert asker.ask(UNLOCKED, "127.0.0.1", b"NULL") == "tcp:open"


LOCAL_ADDRESS = f"localhost:{OWN}:0:1"


@pytest.mark.parametrize(
    ("domain", "mechanism", "proofs"),
    [
        (LOCAL, b"CURVE", [RAW_KEY]),
        (LOCAL, b"PLAIN", [b"root", b""]),
        (LOCAL, b"GSSAPI", [b"root"]),
        (KEYS, b"NULL", []),
        (KEYS, b"PLAIN", [b"root", RAW_KEY]),
        (KEYS, b"PLAIN", [RAW_KEY]),
        (UNLOCKED, b"CURVE", [RAW_KEY]),
        (UNLOCKED, b"PLAIN", [b"a", b"b"]),
        ("", b"NULL", []),
        ("", b"CURVE", [RAW_KEY]),
        ("global", b"NULL", []),
        (LOCAL.upper(), b"NULL", []),
        (LOCAL + " ", b"NULL", []),
        (KEYS, b"curve", [RAW_KEY]),
    ],
)
def test_way_of_speaking_that_does_not_fit_the_door_is_refused(
    asker: Asker, domain: str, mechanism: bytes, proofs: list[bytes]
) -> None:
    assert asker.ask(domain, LOCAL_ADDRESS, mechanism, *proofs) is None


@pytest.mark.parametrize("proofs", [[], [b""], [RAW_KEY[:-1]], [RAW_KEY + b"x"], [RAW_KEY, RAW_KEY], [GOOD.encode()]])
def test_proof_that_is_no_key_is_refused(asker: Asker, proofs: list[bytes]) -> None:
    assert asker.ask(KEYS, "10.0.0.9", b"CURVE", *proofs) is None
    [knock] = asker.gate.take_refused()
    assert knock.public_key is None


@pytest.mark.parametrize("version", [b"", b"1", b"1.1", b"2.0", b"1.0 ", b"\xff"])
def test_other_version_of_the_question_is_refused(asker: Asker, version: bytes) -> None:
    assert asker.ask(LOCAL, LOCAL_ADDRESS, b"NULL", version=version) is None
    assert asker.ask(KEYS, "10.0.0.9", b"CURVE", RAW_KEY, version=version) is None


@pytest.mark.parametrize("count", range(1, 7))
def test_question_with_too_few_frames_is_not_answered_and_the_next_one_is(asker: Asker, count: int) -> None:
    asker.socket.send_multipart([b"", b"1.0", b"7", LOCAL.encode(), LOCAL_ADDRESS.encode(), b""][:count])
    asker.gate.serve()

    assert not asker.socket.poll(0)
    assert asker.ask(LOCAL, LOCAL_ADDRESS, b"NULL") == f"uid:{OWN}"


def test_text_that_is_not_text_is_refused(asker: Asker) -> None:
    asker.socket.send_multipart([b"", b"1.0", b"7", b"\xff\xfe", b"\xff", b"", b"NULL"])
    asker.gate.serve()

    assert asker.socket.recv_multipart(zmq.NOBLOCK)[3] == b"400"
    [knock] = asker.gate.take_refused()
    assert knock.public_key is None


def test_bug_in_the_lookup_lets_nobody_in_and_stops_nobody(context: Context) -> None:
    def broken(public_key: str) -> str | None:
        raise RuntimeError("a bug")

    gate = Gate(context, broken)
    asker = Asker(context, gate)

    assert asker.ask(KEYS, "10.0.0.9", b"CURVE", RAW_KEY) is None
    assert asker.ask(LOCAL, LOCAL_ADDRESS, b"NULL") == f"uid:{OWN}"
    asker.socket.close(0)
    gate.close()


def test_many_who_knock_at_once_are_answered_over_several_turns(asker: Asker) -> None:
    frames = [b"", b"1.0", b"7", LOCAL.encode(), LOCAL_ADDRESS.encode(), b"", b"NULL"]
    for _ in range(2 * ANSWERS_PER_TURN):
        asker.socket.send_multipart(frames)
    asker.gate.serve()

    answered = 0
    with suppress(zmq.Again):
        while asker.socket.recv_multipart(zmq.NOBLOCK):
            answered += 1
    assert answered == ANSWERS_PER_TURN


# --- real sockets ------------------------------------------------------------------------------------------


class House:
    """A router with every kind of door, and those who come to each."""

    def __init__(self, context: Context, home: Path, make: Callable[[Context], Router]):
        port = free_port()
        self.server_key, secret = new_key_pair()
        self.router = make(context)
        self.router.socket.handshake_ivl = 1000  # nobody waits for a gate that is not there
        self.doors = {LOCAL: f"ipc://{home}/socket", UNLOCKED: f"tcp://127.0.0.1:{port}"}
        for domain, endpoint in self.doors.items():
            self.router.bind(endpoint, domain)
        self.doors[KEYS] = f"tcp://127.0.0.1:{port + 1}"
        self.router.bind(self.doors[KEYS], KEYS, secret)

    def fates(self) -> dict[str, str]:
        """What becomes of one who comes to each door and speaks as is right there."""
        with zmq.Context() as elsewhere, ExitStack() as stack:
            lines = {domain: stack.enter_context(Line(elsewhere, self.way(domain))) for domain in self.doors}
            for line in lines.values():
                line.send(b"", b"let me in")
            return {domain: line.fate() for domain, line in lines.items()}

    def way(self, domain: str) -> Way:
        if domain == KEYS:
            return Way(self.doors[KEYS], self.server_key, credentials("somebody"))
        return Way(self.doors[domain])


@pytest.fixture(params=[worker_router, client_router])
def house(request: pytest.FixtureRequest, context: Context, home: Path) -> Iterator[House]:
    house = House(context, home, request.param)
    yield house
    house.router.close(0)


def test_with_a_gate_who_may_come_in_does(house: House, context: Context) -> None:
    with served_gate(context, lambda public_key: "key:1"):
        assert house.fates() == dict.fromkeys((LOCAL, UNLOCKED, KEYS), "open")
        assert house.router.socket.poll(5000)


def test_without_a_gate_nobody_gets_in(house: House) -> None:
    assert "open" not in house.fates().values()
    assert not house.router.socket.poll(0)


def test_when_the_gate_has_died_nobody_gets_in_any_more(house: House, context: Context) -> None:
    with served_gate(context, lambda public_key: "key:1"):
        house.fates()
    while house.router.socket.poll(0):
        house.router.socket.recv_multipart()

    assert "open" not in house.fates().values()
    assert not house.router.socket.poll(0)


def test_gate_that_does_not_answer_lets_nobody_in(house: House, context: Context) -> None:
    gate = Gate(context, lambda public_key: "key:1")

    assert "open" not in house.fates().values()
    assert not house.router.socket.poll(0)
    gate.close()
