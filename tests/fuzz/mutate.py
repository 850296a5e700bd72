"""Makes wrong what was right: bytes that are cut, spliced, flipped and inflated, data whose parts do not fit."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgpack

from tests.fuzz.samples import anything

# Marks of msgpack that promise much: long strings, bytes, arrays, maps, extensions; and what it does not know.
_MARKS = (
    *(b"\xc1", b"\xc4\xff", b"\xc5\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\xff\x05", b"\xc9\xff\xff\xff\xff\x05"),
    *(b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf0" + bytes(6), b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
    *(b"\xd9\xff", b"\xda\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\x4e\x20", b"\xdc\xff\xff", b"\xdd\x00\x00\x4e\x20"),
    *(b"\xdd\xff\xff\xff\xff", b"\xde\x07\xd0", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xd4\x05x"),
    *(b"\xa3\xed\xa0\x80", b"\xa2\xc3\x28", b"\xa1\xff", b"\x82\xa1a\x01\xa1a\x02", b"\x81\x01\x02", b"\x81\x90\x01"),
)


def bytes_of(chance: Random, body: bytes, other: bytes) -> bytes:
    """The body with one to four wounds; `other` is what may be grafted onto it."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        body = chance.choice(_WOUNDS)(chance, body, other)
    return body


def nonsense(chance: Random) -> bytes:
    """Bytes that were never a message."""
    return chance.choice(_NONSENSE)(chance)


def data_of(chance: Random, data: Any) -> Any:
    """The data with one of its parts replaced, left out, or said twice."""
    if not isinstance(data, list | dict) or not data or chance.random() < 0.15:
        return anything(chance)
    deed = chance.random()
    if isinstance(data, list):
        place = chance.randrange(len(data))
        if deed < 0.1:
            return [*data[:place], *data[place + 1 :]]
        if deed < 0.2:
            return [*data[:place], data[place], *data[place:]]
        return [*data[:place], data_of(chance, data[place]), *data[place + 1 :]]
    key = chance.choice(list(data))
    if deed < 0.1:
        return {name: part for name, part in data.items() if name != key}
    if deed < 0.2:
        return {**data, chance.choice(("extra", "id", "v", "")): anything(chance)}
    return {**data, key: data_of(chance, data[key])}


def packed(data: Any) -> bytes:
    """Plain data as msgpack."""
    body: bytes = msgpack.packb(data)
    return body


def _flip(chance: Random, body: bytes, other: bytes) -> bytes:
    if not body:
        return b"\x00"
    place = chance.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << chance.randrange(8)]) + body[place + 1 :]


def _set(chance: Random, body: bytes, other: bytes) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] + chance.randbytes(1) + body[place + 1 :]


def _cut(chance: Random, body: bytes, other: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def _leave_out(chance: Random, body: bytes, other: bytes) -> bytes:
    start, end = sorted((chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)))
    return body[:start] + body[end:]


def _say_twice(chance: Random, body: bytes, other: bytes) -> bytes:
    start, end = sorted((chance.randrange(len(body) + 1), chance.randrange(len(body) + 1)))
    return body[:end] + body[start:]


def _splice(chance: Random, body: bytes, other: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)] + other[chance.randrange(len(other) + 1) :]


def _promise(chance: Random, body: bytes, other: bytes) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] + chance.choice(_MARKS) * chance.choice((1, 1, 1, 50)) + body[place + chance.randrange(3) :]


def _lengthen(chance: Random, body: bytes, other: bytes) -> bytes:
    return body + chance.randbytes(chance.choice((1, 4, 100)))


_WOUNDS: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    *(_flip, _set, _cut, _leave_out, _say_twice, _splice, _promise, _lengthen),
)
_NONSENSE: tuple[Callable[[Random], bytes], ...] = (
    lambda chance: chance.randbytes(chance.randrange(200)),
    lambda chance: packed(anything(chance)),
    lambda chance: b"".join(chance.choices(_MARKS, k=chance.randrange(1, 60))),
    lambda chance: chance.choice(_MARKS) * chance.choice((10, 600)),
    lambda chance: chance.choice((b"\x91", b"\x81\xa1a", b"\x92\x90")) * chance.choice((10, 500, 3000)) + b"\xc0",
    lambda chance: b"\xdc\x10\x00" + chance.choice((b"\x90", b"\x80", b"\xe0", b"\xa0", b"\xc0")) * 4096,
)
