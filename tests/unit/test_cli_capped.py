"""A daemon's log stays short, and nothing is lost when it changes its file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queuectl.capped import CappedLog


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    return os.open(tmp_path / "placeholder", os.O_WRONLY | os.O_CREAT)


def test_full_log_becomes_the_older_one(tmp_path: Path, descriptor: int) -> None:
    path = tmp_path / "broker.log"
    log = CappedLog(path, bytes_max=20, descriptors=(descriptor,))

    for number in range(7):
        log.write(f"line {number}\n")  # 7 bytes each

    assert path.read_text() == "line 6\n"
    assert (tmp_path / "broker.log.1").read_text() == "line 4\nline 5\n"
    os.close(descriptor)


def test_log_goes_on_where_it_ended(tmp_path: Path, descriptor: int) -> None:
    path = tmp_path / "broker.log"
    path.write_text("before\n")
    log = CappedLog(path, bytes_max=10, descriptors=(descriptor,))

    log.write("after\n")

    assert (tmp_path / "broker.log.1").read_text() == "before\n"
    assert path.read_text() == "after\n"
    os.close(descriptor)


def test_what_others_print_follows_into_the_new_file(tmp_path: Path, descriptor: int) -> None:
    path = tmp_path / "broker.log"
    log = CappedLog(path, bytes_max=10, descriptors=(descriptor,))
    log.write("0123456789")
    log.write("abc")

    os.write(descriptor, b"def")

    assert path.read_text() == "abcdef"
    os.close(descriptor)


def test_record_longer_than_the_log_is_kept_whole(tmp_path: Path, descriptor: int) -> None:
    path = tmp_path / "broker.log"

    CappedLog(path, bytes_max=10, descriptors=(descriptor,)).write("x" * 50)

    assert path.stat().st_size == 50
    os.close(descriptor)
