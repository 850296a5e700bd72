"""The fuzzer, as every run of the tests has it: the same twelve thousand inputs each time, and what broke before."""

from __future__ import annotations

import string
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.operations import OPERATIONS
from cli.escape import visible, visible_lines
from cli.strict_json import parse_object
from queuectl.errors import BadRequest
from queuectl.jobs import JobSpec, parse_job
from queuectl.messages import TO_BROKER, TO_WORKER
from queuectl.wire import encode
from tests.fuzz import decoder, mutate, samples, screen
from tests.fuzz.target import FAILURES_MAX, Target, chance_of, feed_cases, shares
from tests.fuzz.targets import TARGETS

INPUTS = 12_000
SEED = 20261122

# The same each time, and nothing is written down: a failure is found again by its seed, not by a file left behind.
SAME = settings(
    derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40)
ODD_WORDS = st.sampled_from([*TO_BROKER, *TO_WORKER, *OPERATIONS, *samples.ODD_TEXTS])
PLAIN = st.recursive(
    LEAVES | ODD_WORDS | st.text(st.characters(codec="utf-8"), max_size=40),
    lambda parts: (
        st.lists(parts, max_size=8) | st.dictionaries(st.text(string.printable, max_size=8), parts, max_size=5)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from([*JobSpec.__struct_fields__, "unknown"])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nonsense_is_survived(target: Target) -> None:
    tally = feed_cases(target, SEED, range(shares(TARGETS, INPUTS)[target.name]))

    assert tally.failures == []


def test_all_targets_together_take_the_inputs_that_were_asked_for() -> None:
    cases = shares(TARGETS, INPUTS)

    assert INPUTS <= sum(cases[target.name] * target.inputs for target in TARGETS) < 1.1 * INPUTS


# --- the fuzzer itself -----------------------------------------------------------------------------------


def test_failure_is_told_with_the_command_that_feeds_it_again() -> None:
    fed: list[float] = []

    def feed(chance: Random) -> None:
        fed.append(chance.random())
        assert len(fed) != 4, "the fourth"

    target = Target("brittle", feed)
    tally = feed_cases(target, 7, range(6))

    assert tally.cases == 6
    [failure] = tally.failures
    assert failure.endswith("feed it again: python -m tests.fuzz --seed 7 --target brittle --case 3")
    assert "the fourth" in failure
    assert chance_of(7, target, 3).random() == fed[3]


def test_target_that_fails_again_and_again_is_left() -> None:
    def feed(chance: Random) -> None:
        raise ValueError(chance.random())

    assert feed_cases(Target("broken", feed), 7, range(100)).cases == FAILURES_MAX


@pytest.mark.parametrize("door", ["broker", "worker", "client"])
def test_messages_come_from_every_kind_and_are_valid_unless_they_were_spoilt(door: str) -> None:
    chance = Random(1)
    sample = decoder._SAMPLES[door]
    kinds = {"broker": set(TO_BROKER), "worker": set(TO_WORKER), "client": set(OPERATIONS)}[door]
    seen = set()
    for _ in range(500):
        data = sample(chance)
        seen.add(data["op"] if door == "client" else data[0])
        assert decoder.open_door(door, mutate.packed(data)) is not None

    assert seen == kinds


@pytest.mark.parametrize("text", ["a\x1b[31m", "a\tb\x07", "\x9b2J", "\u202egnp.exe", "\x1b[31;1m", "\ud800"])
def test_text_that_a_terminal_obeys_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        screen.check_harmless(text)


# --- what has a structure --------------------------------------------------------------------------------


@SAME
@given(PLAIN, st.sampled_from(["broker", "worker", "client"]))
def test_data_of_any_shape_is_a_message_or_refused(data: Any, door: str) -> None:
    try:
        body = encode(data)
    except OverflowError:  # an integer that msgpack cannot carry
        return
    decoder.open_door(door, body)


@SAME
@given(st.sampled_from(sorted(TO_BROKER)), st.lists(PLAIN, max_size=14))
def test_fields_of_any_type_are_a_message_or_refused(name: str, fields: list[Any]) -> None:
    decoder.open_door("broker", encode([name, *fields]))


@SAME
@given(st.binary(max_size=300), st.sampled_from(["broker", "worker", "client"]))
def test_bytes_are_a_message_or_refused(body: bytes, door: str) -> None:
    decoder.open_door(door, body)


@SAME
@given(st.dictionaries(FIELDS, PLAIN, max_size=6))
def test_fields_of_any_type_are_a_job_or_refused(fields: dict[str, Any]) -> None:
    try:
        spec = parse_job({"command": "true", **fields})
    except BadRequest as error:
        assert error.to_wire()["code"] == "bad_job"  # noqa: PT017  the other way out is no error at all
        return
    assert isinstance(spec, JobSpec)


@SAME
@given(st.text(max_size=200))
def test_text_that_is_no_json_object_is_refused(text: str) -> None:
    try:
        parsed = parse_object(text)
    except BadRequest:
        return
    assert isinstance(parsed, dict)


@SAME
@given(st.text(st.characters(), max_size=300))
def test_text_is_harmless_once_it_is_visible(text: str) -> None:
    screen.check_harmless(visible(text), tabs=False)
    screen.check_harmless(visible_lines(text))


# --- what broke before -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"\xdc\x4e\x20" * 500,  # took 80 MB for 1.5 KB
        b"\xdd\x00\x00\x4e\x20" * 500,
        b"\xdc\x4e\x20" + b"\x90" * 10_000 + b"\xdc\x4e\x20" * 400,
    ],
    ids=len,
)
def test_body_that_broke_before_is_refused_in_little_memory(body: bytes) -> None:
    for door in ("broker", "worker", "client"):
        decoder.open_door(door, body)
        decoder.open_measured(door, body)
