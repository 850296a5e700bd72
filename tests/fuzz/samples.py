"""Values that fit a type, made from the type itself: a message that is added tomorrow is fuzzed tomorrow.

What fits is odd where the type leaves room: the least and the greatest number, text of every alphabet and none,
empty lists and long ones. `hints` give fields of a name values that mean something: leases that are live, and such.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from msgspec import NODEFAULT, inspect

from broker.core.operations import OPERATIONS
from queuectl import requests
from queuectl.messages import TO_BROKER, TO_WORKER

Hints = Mapping[str, Sequence[Any]]

NO_HINTS: Hints = {}
HINTED = 0.8  # share of the fields with a hint that follow it
SHORT = 5  # elements of a list, mostly
LONG = 40
DEPTH_MAX = 4  # of data of any type

_ALPHABETS = (
    string.ascii_lowercase,
    string.printable,
    "".join(map(chr, (*range(32), *range(127, 160)))),  # what a terminal obeys
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029",  # what turns text around
    "\u200b\u200c\u200d\u2060\ufeff\u0301\u0336\u20dd\ufe0f",  # what takes no room
    "漢字ｆｕｌｌ🏳️‍🌈אבגابت\U0010ffff\ufffd",
)
ODD_TEXTS = ("", "\x00", "\x1b]0;owned\x07", "\x1b[2J", "None", "nan", "-1", "a1", "..", "%s%n", "' OR 1=1 --", "\r\n")
_EDGES = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1)
_FLOATS = (0.0, -0.0, 1.5, -1.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 2.0**63)


def _pattern(kind: Any) -> str:
    [meta] = kind.__metadata__
    return str(meta.pattern)


_PATTERNS: dict[str, Callable[[Random], str]] = {
    "^[0-9a-f]{32}$": lambda chance: f"{chance.getrandbits(128):032x}",
    "^[A-Za-z0-9._:-]*$": lambda chance: "".join(chance.choices(string.ascii_letters + "0123456789._:-", k=20)),
    _pattern(requests.KeyName): lambda chance: chance.choice(["admin-key", "worker-key", "submit-key", "new", "a.b"]),
    _pattern(requests.PublicKey): lambda chance: f"{chance.getrandbits(100):040}",
    _pattern(requests.Glob): lambda chance: chance.choice(["*", "default", "o*", "[a-z]?", "[", "!"]),
}


def to_broker(chance: Random, hints: Hints = NO_HINTS) -> list[Any]:
    """A valid message of a worker, as plain data."""
    return list(value(chance, _type_of(TO_BROKER[chance.choice(_TO_BROKER)]), hints))


def to_worker(chance: Random, hints: Hints = NO_HINTS) -> list[Any]:
    """A valid message of the broker, as plain data."""
    return list(value(chance, _type_of(TO_WORKER[chance.choice(_TO_WORKER)]), hints))


def request(chance: Random, hints: Hints = NO_HINTS) -> dict[str, Any]:
    """A valid request of a client, as plain data."""
    op = chance.choice(_OPS)
    request_id = _PATTERNS["^[A-Za-z0-9._:-]*$"](chance)
    return {"v": 1, "id": request_id, "op": op, "args": value(chance, _type_of(OPERATIONS[op].args), hints)}


def fields_of(chance: Random, kind: type, hints: Hints = NO_HINTS) -> Any:
    """A valid value of this type, as plain data."""
    return value(chance, _type_of(kind), hints)


_TO_BROKER, _TO_WORKER, _OPS = list(TO_BROKER), list(TO_WORKER), list(OPERATIONS)


@cache
def _type_of(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def value(chance: Random, kind: inspect.Type, hints: Hints) -> Any:
    """Plain data that fits."""
    return _MAKERS[type(kind)](chance, kind, hints)


def _struct(chance: Random, kind: inspect.StructType, hints: Hints) -> Any:
    filled: dict[str, Any] = {}
    for field in kind.fields:
        is_optional = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
        if is_optional and not kind.array_like and chance.random() < 0.6:
            continue
        known = hints.get(field.name)
        if known and chance.random() < HINTED:
            filled[field.name] = _hinted(chance, field.type, known)
        else:
            filled[field.name] = value(chance, field.type, hints)
    if not kind.array_like:
        return filled
    return [*([kind.tag] if kind.tag is not None else []), *filled.values()]


def _hinted(chance: Random, kind: inspect.Type, known: Sequence[Any]) -> Any:
    if isinstance(kind, inspect.ListType):
        return chance.choices(known, k=chance.randrange(SHORT))
    return chance.choice(known)


def _integer(chance: Random, kind: inspect.IntType, _: Hints) -> int:
    low = kind.ge if kind.ge is not None else -(2**63)
    high = kind.le if kind.le is not None else kind.lt - 1 if kind.lt is not None else 2**63 - 1
    if chance.random() < 0.5:
        return chance.randint(low, high)
    return min(max(chance.choice(_EDGES) * chance.choice((1, 1, 1, -1)), low), high)


def _text(chance: Random, kind: inspect.StrType, _: Hints) -> str:
    if kind.pattern is not None:
        return _PATTERNS[kind.pattern](chance)
    made = text(chance)
    if kind.min_length:
        made = made.ljust(kind.min_length, "x")
    return made[: kind.max_length]


def text(chance: Random) -> str:
    """Text of any kind, without halves of surrogate pairs."""
    if chance.random() < 0.2:
        return chance.choice(ODD_TEXTS)
    length = chance.choice((1, 3, 10, 10, 40, 300))
    return "".join(chance.choices(chance.choice(_ALPHABETS), k=length))


def hostile(chance: Random) -> str:
    """Text to be shown to a person, with everything in it that one should not be shown."""
    parts = [text(chance) for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.3:
        parts.append(chance.choice(("\ud800", "\udfff", "\udc9b", "\x9b31m", "\x1b\x1b[0m\x08", "e" + "\u0301" * 300)))
    chance.shuffle(parts)
    return "".join(parts)


def _data(chance: Random, kind: inspect.BytesType, _: Hints) -> bytes:
    size = chance.choice((0, 1, 10, 100, 5000))
    return chance.randbytes(min(size, kind.max_length or size))


def _list(chance: Random, kind: inspect.ListType, hints: Hints) -> list[Any]:
    least, most = kind.min_length or 0, kind.max_length or LONG
    length = chance.randrange(SHORT) if chance.random() < 0.9 else LONG
    return [value(chance, kind.item_type, hints) for _ in range(min(max(length, least), most))]


def _map(chance: Random, kind: inspect.DictType, hints: Hints) -> dict[Any, Any]:
    size = chance.randrange(SHORT)
    return {value(chance, kind.key_type, hints): value(chance, kind.value_type, hints) for _ in range(size)}


def anything(chance: Random, depth: int = DEPTH_MAX) -> Any:
    """Plain data of any shape that msgpack can carry."""
    if depth and chance.random() < 0.3:
        if chance.random() < 0.5:
            return [anything(chance, depth - 1) for _ in range(chance.randrange(SHORT))]
        return {text(chance): anything(chance, depth - 1) for _ in range(chance.randrange(SHORT))}
    return chance.choice(_LEAVES)(chance)


def _is_within(kind: inspect.FloatType, number: float) -> bool:
    """Whether a float is one that the type takes; no bound takes a NaN."""
    return (kind.ge is None or number >= kind.ge) and (kind.le is None or number <= kind.le)


_LEAVES: tuple[Callable[[Random], Any], ...] = (
    lambda chance: None,
    lambda chance: chance.random() < 0.5,
    lambda chance: chance.choice(_EDGES) * chance.choice((1, -1)),
    lambda chance: chance.getrandbits(64),
    lambda chance: chance.choice(_FLOATS),
    text,
    lambda chance: chance.randbytes(chance.randrange(20)),
)

_MAKERS: dict[type, Callable[[Random, Any, Hints], Any]] = {
    inspect.StructType: _struct,
    inspect.IntType: _integer,
    inspect.StrType: _text,
    inspect.BytesType: _data,
    inspect.ListType: _list,
    inspect.DictType: _map,
    inspect.LiteralType: lambda chance, kind, hints: chance.choice(kind.values),
    inspect.BoolType: lambda chance, kind, hints: chance.random() < 0.5,
    inspect.FloatType: lambda chance, kind, hints: chance.choice([each for each in _FLOATS if _is_within(kind, each)]),
    inspect.NoneType: lambda chance, kind, hints: None,
    inspect.UnionType: lambda chance, kind, hints: value(chance, chance.choice(kind.types), hints),
    inspect.AnyType: lambda chance, kind, hints: anything(chance),
}
