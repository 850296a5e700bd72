"""The codec: what goes out comes in, and nothing else does."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest

from queuectl.errors import BadRequest, TooLarge
from queuectl.messages import TO_BROKER, TO_WORKER, Beat, Bye, Cancel, Grant, Hello, Output, Piece, Push, Who
from queuectl.wire import convert, decode, encode, unpack


def test_message_comes_in_as_it_went_out() -> None:
    grant = Grant(2**63 - 1, "a1", 1, 3, "q", "echo ö", {"A": "b"}, None, None, 100, True)
    push = Push(1, 2, [grant])

    assert decode(encode(push), TO_WORKER, bytes_max=1000) == push


def test_bytes_stay_bytes() -> None:
    output = Output(1, [Piece(1, "a1", 1, 2, 0, b"\x00\xff")])

    assert decode(encode(output), TO_BROKER, bytes_max=1000) == output


@pytest.mark.parametrize("stdin", [None, b"", b"\x00\xff" * (1 << 19)], ids=["none", "empty", "a megabyte"])
def test_input_of_a_command_comes_in_as_it_went_out(stdin: bytes | None) -> None:
    push = Push(1, 2, [Grant(1, "a1", 1, 3, "q", "cat", None, None, None, 100, True, stdin)])

    assert decode(encode(push), TO_WORKER, bytes_max=1 << 21) == push


def test_input_of_a_command_is_no_text() -> None:
    grant = [1, "a1", 1, 3, "q", "cat", None, None, None, 100, True, "text"]

    with pytest.raises(BadRequest, match="expected bytes"):
        decode(msgpack.packb(["push", 1, 2, [grant]]), TO_WORKER, bytes_max=1000)


def test_older_broker_says_less_and_is_understood() -> None:
    grant = [1, "a1", 1, 3, "q", "cat", None, None, None, 100, True]

    push = decode(msgpack.packb(["push", 1, 2, [grant]]), TO_WORKER, bytes_max=1000)
    cancel = decode(msgpack.packb(["cancel", 1, [7], 3000]), TO_WORKER, bytes_max=1000)

    assert push == Push(1, 2, [Grant(1, "a1", 1, 3, "q", "cat", None, None, None, 100, True, stdin=None)])
    assert cancel == Cancel(1, [7], 3000, signal=15)


def test_later_version_says_more_and_is_understood() -> None:
    cancel = decode(msgpack.packb(["cancel", 1, [7], 3000, 2, "more"]), TO_WORKER, bytes_max=1000)

    assert cancel == Cancel(1, [7], 3000, signal=2)


def test_message_without_fields() -> None:
    assert encode(Who()) == msgpack.packb(["who"])
    assert decode(encode(Who()), TO_WORKER, bytes_max=100) == Who()


def test_every_message_is_known_by_its_name_on_one_side_only() -> None:
    assert set(TO_BROKER) == {"hello", "beat", "results", "output", "release", "gone", "bye"}
    assert set(TO_WORKER) == {
        *("welcome", "refuse", "who", "push", "echo", "recorded", "took", "cancel", "stop", "bye_ok")
    }


def test_too_large_is_said_before_it_is_unpacked() -> None:
    with pytest.raises(TooLarge, match="has 11 bytes, the limit is 10"):
        unpack(b"\xc1" * 11, bytes_max=10)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgpack.packb([1]) + b"\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgpack.packb([0] * 20_001),
        msgpack.packb({str(number): 0 for number in range(2001)}),
        msgpack.packb({1: 2}),
        b"\xa1\xff",
        b"\x81\x80\x01",
    ],
    ids=str,
)
def test_what_is_not_msgpack_within_the_limits(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not msgpack within the limits"):
        unpack(body, bytes_max=10**6)


@pytest.mark.parametrize("data", [None, 5, "bye", [], {}, [7], [["bye"]], ["nothing"], [None, 1]], ids=str)
def test_message_of_no_known_kind(data: Any) -> None:
    with pytest.raises(BadRequest, match="of no known kind"):
        decode(msgpack.packb(data), TO_BROKER, bytes_max=1000)


BEAT = ["beat", 1, 1, 0, [], [], False]


@pytest.mark.parametrize(
    "data",
    [
        BEAT[:-1],
        ["beat", "1", 1, 0, [], [], False],
        ["beat", -1, 1, 0, [], [], False],
        ["beat", 2**63, 1, 0, [], [], False],
        ["beat", 1, 1, 0, [-5], [], False],
        ["beat", 1, 1, 0, ["x"], [], False],
        ["beat", 1, 1, 0, [], [], 0],
        ["beat", 1.5, 1, 0, [], [], False],
    ],
    ids=str,
)
def test_field_that_is_not_valid(data: list[Any]) -> None:
    with pytest.raises(BadRequest, match="the message is not valid"):
        decode(msgpack.packb(data), TO_BROKER, bytes_max=1000)


def test_field_of_a_newer_version_is_let_pass() -> None:
    assert decode(msgpack.packb([*BEAT, "more"]), TO_BROKER, bytes_max=1000) == Beat(1, 1, 0, [], [], False)


def test_text_and_bytes_are_bounded() -> None:
    hello = ["hello", 1, 1, "0" * 32, "/h", "x" * 257, 1, 1, [], "0", False, [], ""]

    with pytest.raises(BadRequest):
        convert(hello, Hello)
    with pytest.raises(BadRequest):
        convert(["output", 1, [[1, "a", 1, 1, 0, b"x" * 65537]]], Output)


def test_one_sided_message_is_not_taken_by_the_other() -> None:
    with pytest.raises(BadRequest):
        decode(encode(Bye(1)), TO_WORKER, bytes_max=100)


@pytest.mark.parametrize("promise", [b"\xdc\x4e\x20", b"\xdd\x00\x00\x4e\x20"])
def test_lengths_that_are_only_promised_take_no_memory(promise: bytes) -> None:
    body = promise * 500
    tracemalloc.start()

    with pytest.raises(BadRequest):
        unpack(body, bytes_max=10_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 64 * 1024  # 80 MB if each were given the memory for what it promises
