"""What strangers and fools say: bytes that are no ZMTP, and messages without sense."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack

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
