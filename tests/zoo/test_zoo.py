"""The nastiest commands, each ended in each way once. `make zoo TIMES=20` does it again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.animals import ANIMALS, WAYS, Way
from tests.zoo.keeper import Zoo, open_zoo

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

SEED = 20261122
FLOOD_BYTES = 128 << 20  # the campaign prints a whole GiB


@pytest.fixture
def zoo(home: Path) -> Iterator[Zoo]:
    with open_zoo(home, SEED) as zoo:
        yield zoo


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_every_animal_is_gone_and_its_end_named(zoo: Zoo, way: Way) -> None:
    guests = zoo.visit(ANIMALS, way)

    assert {guest.animal.name: guest.faults for guest in guests if guest.faults} == {}


def test_flood_of_output_stays_out_of_memory(zoo: Zoo) -> None:
    assert zoo.flood(FLOOD_BYTES) == []


def test_every_animal_goes_in_some_way() -> None:
    assert [animal.name for animal in ANIMALS if not any(map(animal.goes, WAYS))] == []
    assert len({animal.name for animal in ANIMALS}) == len(ANIMALS)
