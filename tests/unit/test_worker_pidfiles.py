"""Living workers are found by their locked files; dead ones are not."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from queuectl.home import Home
from queuectl.pidfiles import LocalWorker, PidFile, local_broker, local_workers

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


ODD = {"boot": "x", "pid": 1, "slots": 1, "started_at_ms": 1}


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 4000, '{"boot": "x", "new": 1}']
    + [json.dumps(ODD | {key: value}) for key, value in (("pid", "1"), ("pid", -1), ("pid", 0), ("slots", None))],
)
def test_file_that_cannot_be_read_is_passed_over(place: Home, content: str) -> None:
    file = PidFile(place, FIRST)
    file.path.write_text(content)

    assert local_workers(place) == []
    file.remove()


@pytest.mark.parametrize(
    ("content", "pid"),
    [
        ('{"pid": 5}', 5),
        ("", None),
        ("[" * 4000, None),
        ('{"pid": Infinity}', None),
        ('{"pid": -1}', None),
        ('{"\udcff": 1}', None),
    ],
)
def test_broker_is_named_by_the_file_that_it_has_locked(place: Home, content: str, pid: int | None) -> None:
    place.run.mkdir(parents=True)
    with (place.run / "broker.lock").open("w", errors="surrogateescape") as file:
        file.write(content)
        file.flush()
        assert local_broker(place) is None
        fcntl.flock(file, fcntl.LOCK_EX)

        assert local_broker(place) == pid
