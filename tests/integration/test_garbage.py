"""Whatever arrives at the broker's sockets, it lives, answers the next client, and keeps its healthy sessions."""

from __future__ import annotations

import random
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from queuectl.messages import Result, Results
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, WORKER_MESSAGE_BYTES_MAX, encode
from tests.harness_process import BrokerProcess, RawClient, ScriptedWorker, free_port, running_broker, until

ZMTP_1 = b"\x01\x00\x06\x00hello"  # no identity, then one message of a version that knows no handshake
ZMTP_3_GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL".ljust(64, b"\x00")
ZMTP_3_READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
RAW = {
    "nothing": b"",
    "zeros": bytes(4096),
    "http": b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zmtp 1.0": ZMTP_1,
    "zmtp 2.0": b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x05\x00\x00\x00\x05hello",
    "zmtp 3 greeting alone": ZMTP_3_GREETING,
    "zmtp 3 oversize frame": ZMTP_3_GREETING + ZMTP_3_READY + b"\x02" + (2**62).to_bytes(8, "big") + bytes(1000),
    "zmtp 3 unknown command": ZMTP_3_GREETING + ZMTP_3_READY + b"\x04\x05\x04EVIL",
    "zmtp 3 half a frame": ZMTP_3_GREETING + ZMTP_3_READY + b"\x00\xff" + b"half",
    "noise": random.Random(1).randbytes(8192),
}


@dataclass
class Place:
    """A broker with one healthy worker that holds a lease, and what the store looked like then."""

    broker: BrokerProcess
    client: RawClient
    worker: ScriptedWorker
    port: int
    before: dict[str, Any]

    def endpoint(self, name: str) -> str:
        """By name: which socket, over which transport."""
        over, role = name.split()
        if over == "tcp":
            return f"tcp://127.0.0.1:{self.port + (role == 'client')}"
        return self.broker.home.client_endpoint if role == "client" else self.broker.home.worker_endpoint

    def seen(self) -> dict[str, Any]:
        """What clients can see of the store."""
        status = self.client.ok("status")
        workers = [{key: entry[key] for key in ("id", "busy", "slots", "boot")} for entry in status["workers"]]
        jobs = self.client.ok("list")["jobs"]
        settings = self.client.ok("config_show")["settings"]
        return {"workers": workers, "counts": status["jobs"], "jobs": jobs, "settings": settings}

    def assert_unharmed(self) -> None:
        """It answers, it kept the session and the lease, and nothing has changed."""
        with RawClient(self.broker.endpoint) as fresh:
            assert fresh.ok("ping")["epoch"] == 1
        assert self.worker.beat().drop == []
        assert self.seen() == self.before
        assert self.broker.is_running()
        assert not self.broker.logged("message_failed")
        assert not self.broker.logged("batch_replayed")


@pytest.fixture
def place(home: Path) -> Iterator[Place]:
    port = free_port()
    with (
        running_broker(home, listen=f"tcp://127.0.0.1:{port}") as broker,
        RawClient(broker.endpoint) as client,
        ScriptedWorker(broker.home.worker_endpoint) as worker,
    ):
        worker.hello()
        client.enqueue("sleep 1000")
        [grant] = worker.pushed()
        worker.beat()
        place = Place(broker, client, worker, port, {})
        place.before = place.seen()
        yield place
        assert worker.finish(grant) == ["recorded"], "the lease went on through all of it"
        broker.stop()
        with closing(sqlite3.connect(home / "queue.db")) as db:
            assert db.execute("SELECT count(*) FROM worker WHERE slots > 0").fetchone() == (1,)
            assert db.execute("SELECT count(*) FROM reply").fetchone() == (1,)
            assert db.execute("SELECT count(*) FROM attempt").fetchone() == (1,)
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)


EVERYWHERE = pytest.mark.parametrize("where", ["tcp client", "tcp worker", "ipc client", "ipc worker"])


def dial(endpoint: str) -> socket.socket:
    """A plain stream to an endpoint."""
    transport, _, address = endpoint.partition("://")
    if transport == "ipc":
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(address)
        return stream
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def throw(endpoint: str, messages: list[list[bytes]], kind: int = zmq.DEALER) -> None:
    """Send these messages and do not wait for answers."""
    with zmq.Context() as context, context.socket(kind) as link:
        link.linger = 2000
        link.sndhwm = 0
        link.connect(endpoint)
        for frames in messages:
            link.send_multipart(frames)


@EVERYWHERE
def test_raw_bytes_are_survived(place: Place, where: str) -> None:
    streams = []
    for data in RAW.values():
        stream = dial(place.endpoint(where))
        with suppress(ConnectionError):  # it may have thrown us out in the middle
            stream.sendall(data)
        streams.append(stream)
    place.assert_unharmed()

    for stream in streams:
        stream.close()
    place.assert_unharmed()


def noise(seed: int) -> list[bytes]:
    """Bytes that are msgpack, or nearly so."""
    chance = random.Random(seed)
    bodies = [chance.randbytes(chance.randrange(200)) for _ in range(100)]
    whole = msgpack.packb(plain(chance, 4))
    bodies += [whole[: chance.randrange(len(whole) + 1)] for _ in range(20)]
    bodies += [msgpack.packb(plain(chance, 3)) for _ in range(100)]
    return bodies


def plain(chance: random.Random, depth: int) -> Any:
    """Random data."""
    if depth == 0 or chance.random() < 0.3:
        return chance.choice(
            [None, True, 2**64 - 1, -(2**63), 1.5, float("nan"), "hello", "beat", b"\xff", "", msgpack.ExtType(5, b"x")]
        )
    if chance.random() < 0.5:
        return [plain(chance, depth - 1) for _ in range(chance.randrange(6))]
    return {chance.choice(["v", "id", "op", "args", "x"]): plain(chance, depth - 1) for _ in range(chance.randrange(5))}


BOOT = "0" * 32
NEAR: list[Any] = [
    [],
    ["hello"],
    ["hello", 1, 1, BOOT, "/h", "host", 1, 1, [], "0", False, [], 7],
    ["hello", 1, 1, "not hex", "/h", "host", 1, 1, [], "0", False, [], ""],
    ["hello", 1, 1, BOOT, "/h", "host", 1, 100_000, [], "0", False, [], ""],
    ["hello", 7, 9, BOOT, "/h", "host", 1, 1, [], "0", False, [], ""],
    ["hello", 1, 1, BOOT, "/h", "host", 1, 1, [], "0", False, [[2**64 - 1, "a", 1, False]], ""],
    ["hello", 1, 1, BOOT, "/h", "host", 1, 1, [], "0", False, [[1, "a", 1, False]], "another broker"],
    ["beat", "one", 1, 1, [], [], False],
    ["beat", 1, 1, 1, [1] * 20_001, [], False],
    ["beat", 1_000_000_001, 1, 0, [], [], False],  # the session of the healthy worker, from another connection
    ["results", 1_000_000_001, []],
    ["output", 1_000_000_001, [[1, "a1", 1, 3, 0, b""]]],
    ["gone", 1_000_000_001, [BOOT]],
    ["bye", 1_000_000_001],
    ["bye", -1],
    ["welcome", 1],
    ["shutdown"],
    {"hello": 1},
    "hello",
    None,
    {"v": 1, "id": "request-1", "op": "shutdown", "args": {}, "extra": 1},
    {"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": "true"}},
    {"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": [[]] * 1001}},
    {"v": 1, "id": "request-1", "op": "config_set", "args": {"key": "lease", "value": [1]}},
    {"v": 1, "id": "\x00" * 9, "op": "ping"},
    {"v": 1, "id": "x" * 5000, "op": "ping"},
    {1: 1},
]


def deep(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def wide(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count


MESSAGES: dict[str, Callable[[], list[list[bytes]]]] = {
    "noise": lambda: [[body] for seed in range(5) for body in noise(seed)],
    "nearly right": lambda: [[msgpack.packb(data)] for data in NEAR],
    "deep": lambda: [[deep(levels)] for levels in (10, 400, 600, 1100, 100_000, 1_000_000)],
    "deep map": lambda: [[b"\x81\xa1a" * levels + b"\xc0"] for levels in (600, 100_000)],
    "wide": lambda: [[wide(count)] for count in (20_000, 20_001, 1_000_000)],
    "promises": lambda: [[b"\xdd\xff\xff\xff\xff"], [b"\xdf\xff\xff\xff\xff"], [b"\xc6\xff\xff\xff\xff"]],
    "empty": lambda: [[b""], [b"", b""], [b"", b"", b""], [b"", b"", b"", b""]],
    "frames": lambda: [[b"x"] * 5000, [b""] * 5000, [b"x" * 1000] * 2000],
    "many framed": lambda: [[b"x"] * 100] * 500,
}


@EVERYWHERE
@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_without_sense_are_survived(place: Place, where: str, kind: str) -> None:
    throw(place.endpoint(where), MESSAGES[kind]())
    throw(place.endpoint(where), [[b"", *frames] for frames in MESSAGES[kind]()])

    place.assert_unharmed()


@EVERYWHERE
def test_oversize_frames_are_survived(place: Place, where: str) -> None:
    limit = CLIENT_MESSAGE_BYTES_MAX if where.endswith("client") else WORKER_MESSAGE_BYTES_MAX
    for size in (limit, limit + 1, 2 * limit):
        with zmq.Context() as context, context.socket(zmq.DEALER) as link:
            link.linger = 0
            link.reconnect_ivl = -1  # or it would come again and again
            monitor = link.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            link.connect(place.endpoint(where))
            link.send(bytes(size))
            if size > limit:
                assert monitor.poll(10_000), "a frame over the limit ends its connection"
            link.disable_monitor()
            monitor.close()
        place.assert_unharmed()


def test_garbage_is_told_in_the_log_and_the_log_stays_small(place: Place) -> None:
    throw(place.endpoint("ipc worker"), [[b"\xc1"]] * 2000)
    throw(place.endpoint("ipc worker"), [[b"x"] * 50])
    throw(place.endpoint("ipc client"), [[b"", b"\xc1"]] * 2000)
    place.assert_unharmed()

    reasons = until(lambda: [record["reason"] for record in place.broker.logged("message_malformed")])
    assert 0 < len(reasons) + len(place.broker.logged("request_refused")) < 200
    throw(place.endpoint("ipc client"), [[b"x"] * 50])
    until(lambda: place.client.ok("ping") and framed(place.broker), "the record of a message with too many frames")


def framed(broker: BrokerProcess) -> bool:
    return any("frames" in record["reason"] for record in broker.logged("message_malformed"))


def test_reports_of_leases_that_are_none_change_nothing(place: Place) -> None:
    """A session of its own, well formed in every way, and leases made up or held by another worker."""
    lease = next(iter(place.worker.grants))
    with ScriptedWorker(place.broker.home.worker_endpoint, slots=0) as liar:
        liar.hello()
        for job, attempt in (("a1", 2), ("a2", 1), ("", 0), ("a1", 2**63 - 1)):
            result = Result(lease ^ 1, job, attempt, "completed", 0, None, 1, 1, 0, 0, "", "")
            liar.say(Results(liar.session, [result]))
        for name in ("lost", "released", "won", ""):
            result = Result(lease, "a1", 1, name, 0, None, 1, 1, 0, 0, "", "")
            liar.say(Results(liar.session, [result]))
        liar.socket.send(encode(["release", liar.session, [[lease ^ 1, "lost"]]]))
        liar.socket.send(encode(["output", liar.session, [[lease ^ 1, "a1", 1, 1, 0, b"forged"]]]))
        liar.socket.send(encode(["output", liar.session, [[lease ^ 1, "a1", 1, 1, 2**63 - 1, b"far away"]]]))
        liar.beat()
        liar.leave()

    assert place.seen()["jobs"] == place.before["jobs"]
    place.worker.beat()
    assert not place.broker.logged("message_failed")
