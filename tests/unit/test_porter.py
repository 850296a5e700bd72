"""Those who were turned away are counted, whatever ZeroMQ tells of the others meanwhile."""

from __future__ import annotations

import random

import pytest

from broker.porter import Knocks
from broker.sockets import CAME, LET_IN, LOST

Event = tuple[int, int]


def counted(*events: Event) -> int:
    knocks = Knocks()
    return sum(knocks.take(event, descriptor) for event, descriptor in events)


def test_who_ends_in_the_handshake_was_turned_away() -> None:
    assert counted((CAME, 7), (LOST, 7)) == 1
    assert counted((CAME, 7), (CAME, 8), (LOST, 7), (LOST, 8)) == 2


def test_who_was_let_in_was_not() -> None:
    assert counted((CAME, 7), (LET_IN, 0), (LOST, 7)) == 0
    assert counted((CAME, 7), (LET_IN, 0), (CAME, 8), (LOST, 7), (LOST, 8)) == 1


def test_descriptor_that_is_used_again_is_another_connection() -> None:
    assert counted((CAME, 7), (LOST, 7), (CAME, 7), (LET_IN, 0), (LOST, 7), (CAME, 7), (LOST, 7)) == 2


def test_what_was_not_seen_to_come_is_not_counted() -> None:
    assert counted((LET_IN, 0), (LOST, 7), (LOST, 7)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_number_is_never_too_high_and_right_when_all_are_gone(seed: int) -> None:
    chance = random.Random(seed)
    knocks = Knocks()
    shaking: list[int] = []
    open_ones: list[int] = []
    told = true = 0
    for descriptor in range(300):
        shaking.append(descriptor)
        knocks.take(CAME, descriptor)
        while len(shaking) > chance.randrange(6):
            one = shaking.pop(chance.randrange(len(shaking)))
            if chance.random() < 0.5:
                open_ones.append(one)
                knocks.take(LET_IN, 0)
            else:
                true += 1
                told += knocks.take(LOST, one)
            assert told <= true
    for one in shaking:
        true += 1
        told += knocks.take(LOST, one)
    for one in open_ones:
        told += knocks.take(LOST, one)
    assert told == true
