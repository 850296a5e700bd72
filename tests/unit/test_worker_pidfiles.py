"""Living workers are found by their locked files; dead ones are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queuectl.home import Home
from queuectl.pidfiles import LocalWorker, PidFile, local_workers

FIRST, SECOND = LocalWorker("a" * 32, 10, 2, 1000), LocalWorker("b" * 32, 11, 4, 500)


@pytest.fixture
def place(home: Path) -> Home:
    return Home(home)


def test_living_workers_are_found_oldest_first(place: Home) -> None:
    files = [PidFile(place, FIRST), PidFile(place, SECOND)]

    assert local_workers(place) == [SECOND, FIRST]
    for file in files:
        file.remove()
    assert local_workers(place) == []


def test_file_of_a_dead_worker_is_removed(place: Home) -> None:
    file = PidFile(place, FIRST)
    os.close(file._lock)

    assert local_workers(place) == []
    assert not file.path.exists()


def test_home_without_workers_has_none(place: Home) -> None:
    assert local_workers(place) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"boot": "x", "new": 1}'])
def test_file_that_cannot_be_read_is_passed_over(place: Home, content: str) -> None:
    file = PidFile(place, FIRST)
    file.path.write_text(content)

    assert local_workers(place) == []
    file.remove()
