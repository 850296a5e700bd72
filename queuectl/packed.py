"""msgpack: plain data to bytes and back, within the limits of the protocol.

What a client needs of the wire. Types are checked by those who take requests and messages (wire.py).
"""

from __future__ import annotations

from typing import Any

import msgpack

from queuectl.errors import BadRequest, TooLarge

PROTOCOL_VERSION = 1
WORKER_MESSAGE_BYTES_MAX = 2**20 + 2**16  # a full window of output and its frame
CLIENT_MESSAGE_BYTES_MAX = 4 * 2**20
REPLY_BYTES_MAX = 16 * 2**20
_ARRAY_MAX = 20_000
_MAP_MAX = 2_000
_LONG_ARRAYS = (b"\xdc", b"\xdd")  # what an array of 16 elements or more starts with; other bytes may be the same
_LONG_ARRAYS_MAX = 8  # taken at their word: 160 KB each, were all of them lies


def pack(data: Any) -> bytes:
    """The bytes of plain data, and of what msgspec knows how to make plain. Raises BadRequest for all other data."""
    try:
        packed: bytes = msgpack.packb(data, default=_plain)
    except UnicodeEncodeError as error:
        raise BadRequest(f"not valid UTF-8: {error.object[:80]!r}") from None
    except OverflowError:
        raise BadRequest("the request has a number that is too large") from None
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the request cannot be encoded: {error}") from None
    return packed


def _plain(value: Any) -> Any:
    import msgspec  # rarely

    return msgspec.to_builtins(value, builtin_types=(bytes,))


def unpack(body: bytes, *, bytes_max: int) -> Any:
    """Plain data of a body, within the limits. Raises BadRequest."""
    if len(body) > bytes_max:
        raise TooLarge(f"the message has {len(body)} bytes, the limit is {bytes_max}")
    try:
        if sum(map(body.count, _LONG_ARRAYS)) > _LONG_ARRAYS_MAX:
            _read_over(body)
        return msgpack.unpackb(body, strict_map_key=True, max_array_len=_ARRAY_MAX, max_map_len=_MAP_MAX)
    except OSError:  # never of msgpack: a signal handler of the program has raised it
        raise
    except Exception as error:  # noqa: BLE001  msgpack raises ValueError, its subclasses, TypeError and others for bad input
        raise BadRequest(f"the message is not msgpack within the limits: {type(error).__name__}") from None


def _read_over(body: bytes) -> None:
    """Read a body without making anything of it; raises if it ends too early.

    An array gets its memory when its length is read: hundreds of arrays within arrays that all promise 20 000
    elements and hold none would take 80 MB for 1.5 KB. After this every element that is promised is there.
    """
    reader = msgpack.Unpacker(read_size=1, max_buffer_size=len(body), max_array_len=_ARRAY_MAX, max_map_len=_MAP_MAX)
    reader.feed(body)
    reader.skip()
