"""The envelope of replies: a map with the request's id and either data or an error."""

from __future__ import annotations

from typing import Any

import msgpack

from queuectl.errors import QueuectlError
from queuectl.wire import PROTOCOL_VERSION, encode

Envelope = tuple[bytes, ...]  # the frames before the body, as they came

_HEAD = encode("v") + encode(PROTOCOL_VERSION) + encode("id")
_OK = encode("ok")
_REPEATED = encode("repeated") + encode(True)


def ok(request_id: str, data: bytes | dict[str, Any], *, repeated: bool = False) -> bytes:
    """A reply that carries data, given as it is or packed already."""
    packed = data if isinstance(data, bytes) else encode(data)
    said = b"".join((_HEAD, encode(request_id), _OK, packed))
    return b"\x84" + said + _REPEATED if repeated else b"\x83" + said


def failed(request_id: str, error: QueuectlError) -> bytes:
    """A reply that carries an error."""
    packed: bytes = msgpack.packb({"v": PROTOCOL_VERSION, "id": request_id, "error": error.to_wire()})
    return packed
