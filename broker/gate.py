"""The gate: who gets in at all. Each connection is asked for here before its first message (ZAP, RFC 27).

It is served in the broker's own loop, before anything else of a turn: there is no thread that could die and leave
the door open, or shut. What gets in carries a user id that libzmq puts on each of its messages; what its holder may
do is the core's business (core/access.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import zmq
from zmq.utils import z85

from broker.core.access import OPEN

LOCAL = "local"  # sockets of this machine: the broker's own user, and root
KEYS = "keys"  # TCP with CURVE: whoever has a key that was added and not revoked
UNLOCKED = "unlocked"  # TCP on loopback without keys, asked for with --insecure-no-auth
ADDRESS = "inproc://zeromq.zap.01"  # where libzmq asks
ANSWERS_PER_TURN = 64
_LOCAL_ADDRESS = re.compile(rb"localhost:([0-9]+):[0-9]+:[0-9]+")  # uid, gid, pid, as the kernel tells them
_VERSION, _NULL, _CURVE = b"1.0", b"NULL", b"CURVE"
_KEY_BYTES = 32


class Knock(NamedTuple):
    """Somebody who was not let in: in which domain, from which address, with which key, if any."""

    domain: str
    address: str
    public_key: str | None


class Gate:
    """Says of each connection whether it may come in. `user_of` knows the user id of a public key, if it is good."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], user_of: Callable[[str], str | None]) -> None:
        self._user_of = user_of
        self._uids = {os.geteuid(), 0}
        self._refused: list[Knock] = []
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(ADDRESS)

    def serve(self) -> None:
        """Answer those who wait, within the budget of a turn."""
        with suppress(zmq.Again):
            for _ in range(ANSWERS_PER_TURN):
                self._answer(self.socket.recv_multipart(zmq.NOBLOCK))

    def take_refused(self) -> list[Knock]:
        """Those who were not let in since somebody asked last."""
        refused, self._refused = self._refused, []
        return refused

    def _answer(self, frames: list[bytes]) -> None:
        if len(frames) < 8:
            return
        route, _, version, request, domain, address, _, mechanism, *proofs = frames
        user = self._found(version, domain, address, mechanism, proofs)
        if user is None:
            self._refused.append(Knock(_text(domain), _text(address), _public_key(mechanism, proofs)))
        status = b"400" if user is None else b"200"
        self.socket.send_multipart([route, b"", _VERSION, request, status, b"", (user or "").encode(), b""])

    def _found(
        self, version: bytes, domain: bytes, address: bytes, mechanism: bytes, proofs: list[bytes]
    ) -> str | None:
        """The user id of somebody who may come in. Whatever goes wrong meanwhile lets nobody in, and stops nobody."""
        try:
            return self._user(_text(domain), address, mechanism, proofs) if version == _VERSION else None
        except Exception:  # noqa: BLE001  a bug must neither open the door nor end the broker
            return None

    def _user(self, domain: str, address: bytes, mechanism: bytes, proofs: list[bytes]) -> str | None:
        if domain == LOCAL and mechanism == _NULL and (found := _LOCAL_ADDRESS.fullmatch(address)):
            uid = int(found[1])
            return f"uid:{uid}" if uid in self._uids else None
        if domain == KEYS and (public_key := _public_key(mechanism, proofs)) is not None:
            return self._user_of(public_key)
        if domain == UNLOCKED and mechanism == _NULL:
            return OPEN
        return None

    def close(self) -> None:
        """Nobody gets in any more."""
        self.socket.close(0)


def _public_key(mechanism: bytes, proofs: list[bytes]) -> str | None:
    """The key that libzmq has proved the peer to hold."""
    is_key = mechanism == _CURVE and len(proofs) == 1 and len(proofs[0]) == _KEY_BYTES
    return z85.encode(proofs[0]).decode() if is_key else None


def _text(frame: bytes) -> str:
    return frame.decode(errors="replace")
