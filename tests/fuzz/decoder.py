"""The codec: whatever the bytes, a message that fits its type comes out or BadRequest, in little memory and time."""

from __future__ import annotations

import contextlib
import tracemalloc
from random import Random
from time import process_time
from typing import Any

import msgspec

from broker.core.operations import OPERATIONS
from queuectl.errors import BadRequest, QueuectlError
from queuectl.jobs import JobSpec, parse_job
from queuectl.messages import TO_BROKER, TO_WORKER
from queuectl.requests import Enqueue, Request, sound_enqueue
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, WORKER_MESSAGE_BYTES_MAX, convert, decode, encode, unpack
from tests.fuzz import mutate, samples

MEASURED = 1 / 50  # share of the inputs whose memory is measured, which takes a while
# An empty list of one byte takes 64 bytes and its place in another, a map within a map 200 bytes for two: this is
# what Python's objects cost. No byte of the input may cost more, whatever it promises.
MEMORY_PER_BYTE = 128
MEMORY_FREE = 64 * 1024 + 8 * 20_000 * 8  # eight arrays are given the memory for what they promise
CPU_S_PER_BYTE, CPU_S_FREE = 20e-6, 0.5  # a hundred times what it takes: for what grows faster than its input


def feed(chance: Random) -> None:
    """One input, to one of the three doors."""
    door = chance.choice(_DOORS)
    body = make(chance, door)
    if chance.random() < MEASURED:
        open_measured(door, body)
    else:
        open_door(door, body)


def make(chance: Random, door: str) -> bytes:
    """A body for this door: a valid message, one with a wound or two, or none at all."""
    sample = _SAMPLES[door]
    kind = chance.random()
    if kind < 0.2:
        return mutate.nonsense(chance)
    data = sample(chance)
    if kind < 0.5:
        return mutate.packed(mutate.data_of(chance, data))
    if kind < 0.95:
        return mutate.bytes_of(chance, mutate.packed(data), mutate.packed(sample(chance)))
    return mutate.packed(data)


def open_door(door: str, body: bytes) -> Any:
    """What comes in by this door: a message, or None if it was refused. Raises for what must not be."""
    try:
        message = _read(door, body)
    except QueuectlError as error:
        _check_error(error)
        return None
    assert isinstance(message, msgspec.Struct)
    return message


def _check_error(error: QueuectlError) -> None:
    assert isinstance(error, BadRequest), error
    assert 0 < len(error.message) < 1000, "an error says what is wrong, and does not repeat the message"
    msgspec.json.encode(error.to_wire())


def _read(door: str, body: bytes) -> Any:
    if door != "client":
        kinds: Any = TO_BROKER if door == "broker" else TO_WORKER
        message = decode(body, kinds, bytes_max=WORKER_MESSAGE_BYTES_MAX)
        again = decode(encode(message), kinds, bytes_max=2 * WORKER_MESSAGE_BYTES_MAX)
        assert again == message or encode(again) == encode(message), "it goes out as it came in"
        return message
    sound = sound_enqueue(body)
    try:
        request = convert(unpack(body, bytes_max=CLIENT_MESSAGE_BYTES_MAX), Request)
    except BadRequest:
        assert sound is None, "the quick way in takes nothing that the other refuses"
        raise
    if request.op in OPERATIONS:
        args = convert(request.args, OPERATIONS[request.op].args)
        if isinstance(args, Enqueue):
            specs = [_read_job(fields) for fields in args.jobs]
            assert sound is None or sound.args.jobs == specs, "the quick way in makes the same of it"
        return args
    return request


def _read_job(fields: Any) -> JobSpec | None:
    with contextlib.suppress(BadRequest):
        return parse_job(fields)
    return None


def open_measured(door: str, body: bytes) -> None:
    """Take the body in, and check what that cost."""
    tracemalloc.start()
    begun = process_time()
    try:
        _take_in(door, body)
    finally:
        took_s = process_time() - begun
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    limit = MEMORY_PER_BYTE * len(body) + MEMORY_FREE
    assert peak_bytes <= limit, f"{peak_bytes} bytes of memory for {len(body)} bytes"
    assert took_s <= CPU_S_PER_BYTE * len(body) + CPU_S_FREE, f"{took_s:.3f} s for {len(body)} bytes"


def _take_in(door: str, body: bytes) -> None:
    """As broker and worker do, and nothing more."""
    with contextlib.suppress(BadRequest):
        if door == "client":
            _ = sound_enqueue(body) or convert(unpack(body, bytes_max=CLIENT_MESSAGE_BYTES_MAX), Request)
        else:
            kinds: Any = TO_BROKER if door == "broker" else TO_WORKER
            decode(body, kinds, bytes_max=WORKER_MESSAGE_BYTES_MAX)


def _client_sample(chance: Random) -> Any:
    jobs = [samples.fields_of(chance, JobSpec) for _ in range(chance.randint(1, 3))]
    request = samples.request(chance)
    return {**request, "args": {"jobs": jobs}} if request["op"] == "enqueue" else request


_SAMPLES = {"broker": samples.to_broker, "worker": samples.to_worker, "client": _client_sample}
_DOORS = tuple(_SAMPLES)
