"""The input of a command as a file in memory: whole, from the start, unchangeable, and gone when it cannot be made."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.stdin import open_stdin

EVERY_BYTE = bytes(range(256))


def read_whole(file: int) -> bytes:
    with os.fdopen(file, "rb") as reader:
        return reader.read()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("data", [b"", b"text\n", EVERY_BYTE, EVERY_BYTE * 4096], ids=["none", "text", "bytes", "1M"])
def test_every_byte_is_read_from_the_first_on(data: bytes) -> None:
    assert read_whole(open_stdin(data)) == data


def test_file_is_not_inherited_by_chance() -> None:
    file = open_stdin(b"text")

    assert not os.get_inheritable(file)
    os.close(file)


@pytest.mark.parametrize("offset", [0, 4])
def test_nobody_can_change_it(offset: int) -> None:
    file = open_stdin(b"text")

    with pytest.raises(PermissionError):
        os.pwrite(file, b"more", offset)
    with pytest.raises(PermissionError):
        os.ftruncate(file, offset // 2)
    assert read_whole(file) == b"text"


def test_system_that_writes_a_part_at_a_time_writes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:100], offset))

    assert read_whole(open_stdin(EVERY_BYTE)) == EVERY_BYTE


def test_kernel_that_does_not_know_the_newest_flag_is_asked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    newest, asked = os.memfd_create, []

    def old(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & 8:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return newest(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)

    assert read_whole(open_stdin(b"text")) == b"text"
    assert len(asked) == 2


def test_system_without_seals_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.fcntl", failing(errno.EINVAL))

    assert read_whole(open_stdin(b"text")) == b"text"


@pytest.mark.parametrize("call", ["memfd_create", "pwrite"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENOSPC], ids=errno.errorcode.get)
def test_file_that_cannot_be_made_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    before = open_files()
    monkeypatch.setattr(os, call, failing(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        open_stdin(b"text")

    assert open_files() == before
