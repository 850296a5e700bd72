"""`python -m tests.flood.attacks NAME`: one attacker in a process of its own, until it is ended or cannot go on.

Where it is to attack, and with which keys, it reads from stdin. Those who have keys speak ZeroMQ; strangers mostly
speak TCP, which takes less of the machine.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq

from queuectl.credentials import Credentials, new_key_pair
from queuectl.handshake import put_keys
from queuectl.ids import new_request_id
from queuectl.messages import Beat, Hello
from queuectl.ways import Way
from queuectl.wire import encode

GREETING = (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE").ljust(64, b"\x00")
FRAMES = 100_000
SILENT = 1000  # connections at once of one who says nothing, or next to nothing
LONG = 64  # connections at once of one who says much in its handshake
LONG_BYTES = 4 * 2**20 - 200
KNOCKS_AT_ONCE = 50


@dataclass
class Target:
    """Where to, and as whom."""

    port: int  # of workers; clients: the next
    server_key: str
    public_key: str  # of a submit, read or worker key, as the attack has it
    secret_key: str
    chance: random.Random

    def link(self, context: zmq.Context[zmq.Socket[bytes]], *, to_clients: bool, known: bool = True) -> Any:
        """A DEALER with a key: the one that was given, or one that nobody knows."""
        pair = (self.public_key, self.secret_key) if known else new_key_pair()
        link = context.socket(zmq.DEALER)
        link.linger = 0
        way = Way(f"tcp://127.0.0.1:{self.port + to_clients}", self.server_key)
        put_keys(link, way._replace(credentials=Credentials("flood", "", (), (), *pair)))
        link.connect(way.endpoint)
        return link

    def dial(self) -> socket.socket:
        """A plain stream to one of the two ports."""
        return socket.create_connection(("127.0.0.1", self.port + self.chance.randrange(2)), timeout=10)


def request(op: str, **args: Any) -> bytes:
    """The bytes of a request."""
    body: bytes = msgpack.packb({"v": 1, "id": new_request_id(), "op": op, "args": args})
    return body


# --- with keys ---------------------------------------------------------------------------------------------


def send_without_waiting(target: Target) -> None:
    """Requests as fast as they can be sent; replies are thrown away."""
    with zmq.Context() as context, target.link(context, to_clients=True) as link:
        body = request("whoami")
        while True:
            link.send_multipart([b"", body])
            with suppress(zmq.Again):
                while link.recv_multipart(zmq.NOBLOCK):
                    pass


def enqueue_without_waiting(target: Target) -> None:
    """The same with jobs to store, one a request."""
    with zmq.Context() as context, target.link(context, to_clients=True) as link:
        while True:
            link.send_multipart([b"", request("enqueue", jobs=[{"command": "true", "queue": "nobody-serves"}])])
            with suppress(zmq.Again):
                while link.recv_multipart(zmq.NOBLOCK):
                    pass


def never_read(target: Target) -> None:
    """Requests whose replies are large, over some connections, and no reply is ever read."""
    with zmq.Context() as context:
        links = [target.link(context, to_clients=True) for _ in range(8)]
        for link in links:
            link.rcvhwm = 1
        while True:
            for link in links:
                with suppress(zmq.Again):
                    link.send_multipart([b"", request("list", limit=500)], zmq.NOBLOCK)
            time.sleep(0.002)


def send_large(target: Target) -> None:
    """Messages as large as they may be, to both ports, as fast as they are taken."""
    body = bytes(2**20)
    with zmq.Context() as context:
        links = [target.link(context, to_clients=to_clients) for to_clients in (False, True)] * 4
        while True:
            for link in links:
                with suppress(zmq.Again):
                    link.send_multipart([b"", body], zmq.NOBLOCK)
            time.sleep(0.001)


def send_many_frames(target: Target) -> None:
    """Messages of far too many frames, to both ports."""
    frames = [b""] * FRAMES
    with zmq.Context() as context:
        links = [target.link(context, to_clients=to_clients) for to_clients in (False, True)]
        for link in links:
            link.sndhwm = 4
        while True:
            for link in links:
                link.send_multipart(frames)


def beat_without_waiting(target: Target) -> None:
    """A worker whose heartbeats do not wait for time to pass."""
    with zmq.Context() as context, target.link(context, to_clients=False) as link:
        hello = Hello(1, 1, f"{target.chance.getrandbits(128):032x}", "/h", "flood", 1, 0, [], "0", False, [], "", 1)
        link.send(encode(hello))
        welcome = msgpack.unpackb(link.recv())
        number = 0
        while True:
            number += 1
            link.send(encode(Beat(welcome[1], number, 0, [], [], draining=False)))
            with suppress(zmq.Again):
                while link.recv(zmq.NOBLOCK):
                    pass


# --- without -----------------------------------------------------------------------------------------------


def knock(target: Target) -> None:
    """Handshakes with keys that nobody knows, again and again."""
    with zmq.Context() as context:
        while True:
            links = [target.link(context, to_clients=bool(n % 2), known=False) for n in range(KNOCKS_AT_ONCE)]
            time.sleep(0.05)
            for link in links:
                link.close(0)


def throw_bytes(target: Target) -> None:
    """Connections that say something else than ZMTP, or stop in the middle."""
    said = (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes.fromhex("1603010200010001fc0303"),
        GREETING,
        GREETING + b"\x04\xc8\x05HELLO",
    )
    while True:
        with suppress(OSError), target.dial() as stream:
            stream.sendall(target.chance.choice((*said, target.chance.randbytes(200))))


def say_nothing(target: Target) -> None:
    """As many connections as it holds, a byte a second on each, until they are ended; then new ones."""
    streams: list[tuple[socket.socket, int]] = []
    while True:
        streams = [(stream, said + 1) for stream, said in streams if goes_on(stream, GREETING[said % 64 :][:1])]
        while len(streams) < SILENT:
            with suppress(OSError):
                streams.append((target.dial(), 0))
        time.sleep(1)


def goes_on(stream: socket.socket, said: bytes) -> bool:
    """Say this on a stream; whether it is open yet."""
    try:
        stream.send(said)
        if select.select([stream], [], [], 0)[0] and not stream.recv(4096):
            raise ConnectionResetError
    except OSError:
        stream.close()
        return False
    return True


def say_much(target: Target) -> None:
    """Connections whose first command after the greeting is as long as a frame may be, but for its end."""
    while True:
        streams = []
        for _ in range(LONG):
            with suppress(OSError):
                stream = socket.create_connection(("127.0.0.1", target.port + 1), timeout=10)
                stream.sendall(GREETING + b"\x06" + (LONG_BYTES + 100).to_bytes(8, "big") + bytes(LONG_BYTES))
                streams.append(stream)
        for stream in streams:
            with suppress(OSError):
                while stream.recv(4096):
                    pass
            stream.close()


ATTACKS: dict[str, Callable[[Target], None]] = {
    act.__name__: act
    for act in (
        send_without_waiting,
        enqueue_without_waiting,
        never_read,
        send_large,
        send_many_frames,
        beat_without_waiting,
        knock,
        throw_bytes,
        say_nothing,
        say_much,
    )
}


def main() -> None:
    """Attack."""
    about = json.load(sys.stdin)
    seed = about.pop("seed")
    ATTACKS[sys.argv[1]](Target(**about, chance=random.Random(seed)))


if __name__ == "__main__":
    main()
