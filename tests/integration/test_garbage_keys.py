"""Whatever strangers do to the ports that ask for keys, nobody who was let in notices; and what those can do."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from queuectl.handshake import put_keys
from queuectl.messages import Grant
from queuectl.ways import Way
from tests.garbage import MESSAGES, RAW
from tests.harness_keys import Domain, keyed_broker
from tests.harness_process import RawClient, ScriptedWorker, until

GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00"
CURVE = (GREETING + b"CURVE").ljust(64, b"\x00")
MIB = 2**20
MEMORY_MAX = 64 * MIB  # that the broker may take for those whom it never lets in, in these tests
HANDSHAKE_S = 5.0


def command(body: bytes) -> bytes:
    return b"\x06" + len(body).to_bytes(8, "big") + body


AFTER_GREETING = {
    "plain": (GREETING + b"PLAIN").ljust(64, b"\x00"),
    "gssapi": (GREETING + b"GSSAPI").ljust(64, b"\x00"),
    "null": (GREETING + b"NULL").ljust(64, b"\x00"),
    "curve, then a message": CURVE + b"\x00\x05hello",
    "curve, then another command": CURVE + command(b"\x05READY"),
    "curve, then a short hello": CURVE + command(b"\x05HELLO\x01\x00".ljust(50, b"\x01")),
    "curve, then a hello of noise": CURVE + command(b"\x05HELLO\x01\x00".ljust(200, b"\x01")),
    "curve, then an initiate": CURVE + command(b"\x08INITIATE".ljust(300, b"\x01")),
    "curve, then an oversize frame": CURVE + b"\x06" + (2**62).to_bytes(8, "big") + bytes(1000),
}
LASTS = {  # what is ended by the time for the handshake only
    "nothing": b"",
    "half a greeting": CURVE[:20],
    "zmtp 3 greeting alone": CURVE,
    "curve, then half a hello": CURVE + b"\x04\xc8\x05HELLO",
}
ENDS = {name: data for name, data in RAW.items() if name != "nothing"} | AFTER_GREETING


@dataclass
class Place:
    """A broker with keys, a worker of it that holds a lease, and a client, both with keys."""

    domain: Domain
    worker: ScriptedWorker
    client: RawClient
    grant: Grant

    @property
    def pid(self) -> int:
        return self.domain.broker.process.pid

    def memory(self) -> int:
        """Bytes of the broker in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def is_well(self) -> bool:
        """Worker, client and a new client are served, in this session and with this lease."""
        assert self.worker.beat().drop == []
        assert self.client.ok("job", id=self.grant.job)["job"]["state"] == "processing"
        assert self.domain.local.ok("ping")["epoch"] == 1
        assert not self.domain.broker.logged("message_failed")
        assert not self.domain.broker.logged("batch_replayed")
        return True

    def dial(self, port: int) -> socket.socket:
        """A plain stream to one of the two ports: 0 workers', 1 clients'."""
        return socket.create_connection(("127.0.0.1", self.domain.port + port))


@pytest.fixture
def place(home: Path) -> Iterator[Place]:
    with (
        keyed_broker(home) as domain,
        RawClient(domain.client_way(domain.add("ann", "read"))) as client,
        ScriptedWorker(domain.worker_way(domain.add("builder", "worker"))) as worker,
    ):
        worker.hello()
        domain.local.enqueue("sleep 1000")
        [grant] = worker.pushed()
        worker.beat()
        place = Place(domain, worker, client, grant)
        yield place
        assert place.is_well()
        assert worker.finish(grant) == ["recorded"], "the lease went on through all of it"


def is_over(stream: socket.socket, limit_s: float = 30.0) -> bool:
    """Whether the broker has ended this stream within the limit."""
    stream.settimeout(limit_s)
    try:
        while stream.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_bytes_that_are_no_handshake_end_their_connection_and_are_counted(place: Place) -> None:
    before = place.domain.counter("turned_away")
    with ExitStack() as stack:
        streams = {}
        for name, data in ENDS.items():
            for port in (0, 1):
                stream = streams[name, port] = stack.enter_context(place.dial(port))
                with suppress(ConnectionError):  # it may have thrown us out in the middle
                    stream.sendall(data)
        for name, data in LASTS.items():
            for port in (0, 1):
                streams[name, port] = stack.enter_context(place.dial(port))
                streams[name, port].sendall(data)
        place.is_well()
        assert {key: is_over(stream) for key, stream in streams.items()} == dict.fromkeys(streams, True)
    count = 2 * (len(ENDS) + len(LASTS))
    until(lambda: place.domain.counter("turned_away") - before == count, f"{count} are counted")
    assert place.domain.counter("malformed") == 0, "nothing of it has reached the broker itself"


def test_hundreds_who_say_a_byte_at_a_time_are_thrown_out_in_time(place: Place) -> None:
    before, memory, descriptors = place.domain.counter("turned_away"), place.memory(), place.descriptors()
    with ExitStack() as stack:
        streams = [stack.enter_context(place.dial(number % 2)) for number in range(300)]
        for stream in streams:
            stream.setblocking(False)
        until(lambda: place.descriptors() >= descriptors + 300, "all are there")
        began, said = time.monotonic(), 0
        while place.descriptors() > descriptors:
            assert time.monotonic() - began < 6 * HANDSHAKE_S
            if time.monotonic() - began >= said * 0.5:
                for stream in streams:
                    with suppress(OSError):
                        stream.send(CURVE[said : said + 1])
                said += 1
            place.is_well()
    assert said > 1, "they did say something meanwhile"
    assert place.memory() - memory < MEMORY_MAX
    assert place.domain.counter("turned_away") - before == 300


def test_memory_of_those_not_let_in_is_that_of_one_handshake_each_and_no_more(place: Place) -> None:
    """A frame of the handshake may be as long as any other: until its connection is ended it lies in memory."""
    frame = CURVE + b"\x06" + (4 * MIB - 100).to_bytes(8, "big")
    peaks = []
    for _ in range(2):
        with ExitStack() as stack:
            streams = [stack.enter_context(place.dial(1)) for _ in range(10)]
            for stream in streams:
                stream.sendall(frame + bytes(4 * MIB - 200))
            place.is_well()
            peaks.append(place.memory())
            assert all(is_over(stream) for stream in streams)
    assert peaks[1] - peaks[0] < 10 * MIB, "nothing of the first ten is left"


def test_descriptors_that_strangers_have_taken_come_back(place: Place) -> None:
    soft, hard = resource.prlimit(place.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(place.pid, resource.RLIMIT_NOFILE, (place.descriptors() + 40, hard))
    before = place.domain.counter("turned_away")
    with ExitStack() as stack:
        for number in range(100):
            stack.enter_context(place.dial(number % 2))
        until(lambda: place.domain.broker.logged("accept_failed"), "that is told")
        for _ in range(20):
            place.is_well()
    with ScriptedWorker(place.domain.worker_way(place.domain.add("late", "worker")), slots=0) as late:
        assert late.hello().session
    until(lambda: place.domain.counter("turned_away") - before == 100, "all are counted")
    resource.prlimit(place.pid, resource.RLIMIT_NOFILE, (soft, hard))


# --- those who were let in --------------------------------------------------------------------------------


def throw(way: Way, messages: list[list[bytes]]) -> None:
    """Send these messages with keys, and do not wait for answers."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as link:
        link.linger = 5000
        link.sndhwm = 0
        put_keys(link, way)
        link.connect(way.endpoint)
        for frames in messages:
            link.send_multipart(frames)


@pytest.mark.parametrize("role", ["worker", "submit", "admin"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_without_sense_of_those_who_were_let_in_are_survived(place: Place, role: str, kind: str) -> None:
    fool = place.domain.add("fool", role)
    for way in (place.domain.client_way(fool), place.domain.worker_way(fool)):
        throw(way, MESSAGES[kind]())
        throw(way, [[b"", *frames] for frames in MESSAGES[kind]()])

    place.is_well()
    assert place.domain.local.ok("status")["jobs"]["total"] == 1


def test_message_of_a_hundred_thousand_frames_is_survived_and_told(place: Place) -> None:
    fool = place.domain.add("fool", "submit")
    for way in (place.domain.client_way(fool), place.domain.worker_way(fool)):
        throw(way, [[b""] * 100_000])
        place.is_well()

    until(lambda: place.client.ok("ping") and len(framed(place)) >= 1, "it is told")
    until(lambda: place.domain.counter("malformed") == 2, "both are counted")


def framed(place: Place) -> list[str]:
    reasons = [record["reason"] for record in place.domain.broker.logged("message_malformed")]
    return [reason for reason in reasons if "frames" in reason]
