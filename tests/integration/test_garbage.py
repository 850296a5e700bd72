"""Whatever arrives at the broker's sockets, it lives, answers the next client, and keeps its healthy sessions."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from queuectl.messages import Result, Results
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, WORKER_MESSAGE_BYTES_MAX, encode
from tests.garbage import MESSAGES, RAW
from tests.harness_process import BrokerProcess, RawClient, ScriptedWorker, free_port, running_broker, until


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
