"""Files of credentials: written for their holder alone, read by nobody who could be fooled."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from queuectl.credentials import (
    Credentials,
    fingerprint,
    load_credentials,
    new_key_pair,
    read_secret,
    text_of,
    write_secret,
)
from queuectl.errors import BadCredentials, NotAllowed, QueuectlError

PUBLIC, SECRET = new_key_pair()
BUILDER = Credentials("builder", "worker", ("tcp://queue.example:7710",), (PUBLIC,), PUBLIC, SECRET)


def written(directory: Path, text: str) -> Path:
    path = directory / "builder.toml"
    write_secret(path, text)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for who in (
        BUILDER,
        replace(BUILDER, endpoints=("tcp://a:1", "tcp://[::1]:2"), server_keys=(PUBLIC, PUBLIC[::-1])),
    ):
        path = tmp_path / f"{len(who.endpoints)}.toml"
        write_secret(path, text_of(who))
        assert load_credentials(path) == who


def test_file_is_for_its_holder_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = written(tmp_path, text_of(BUILDER))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_is_there_stays_as_it_is_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    path = written(tmp_path, "first")
    with pytest.raises(FileExistsError):
        write_secret(path, "second")
    assert path.read_text() == "first"

    write_secret(path, "third", replace=True)
    assert path.read_text() == "third"
    assert list(tmp_path.iterdir()) == [path]


def test_link_is_not_followed_when_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "builder.toml").symlink_to(tmp_path / "target")

    with pytest.raises(FileExistsError):
        written(tmp_path, "other")
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_file_that_others_can_read_is_no_secret(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, text_of(BUILDER))
    path.chmod(mode)

    with pytest.raises(NotAllowed, match="can be read by others") as caught:
        load_credentials(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_file_from_a_service_manager_may_be_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, text_of(BUILDER))
    path.chmod(0o440)
    with pytest.raises(NotAllowed):
        load_credentials(path)

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_credentials(path) == BUILDER
    path.chmod(0o444)
    with pytest.raises(NotAllowed):
        load_credentials(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "bytes").chmod(0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("bytes", "directory", "none", "pipe"):
        with pytest.raises(BadCredentials):
            read_secret(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("name", "", "name is missing"),
        ("name", "name = 1", "name is missing, or not text"),
        ("role", 'role = "king"', "unknown role 'king'"),
        ("endpoints", "", "endpoints is missing"),
        ("endpoints", "endpoints = []", "endpoints is missing"),
        ("endpoints", 'endpoints = "tcp://a:1"', "endpoints is missing"),
        ("endpoints", "endpoints = [1]", "endpoints is missing"),
        ("endpoints", 'endpoints = ["a:1"]', "is not an endpoint"),
        ("server_keys", 'server_keys = ["x"]', "a key in it is not one"),
        ("public_key", 'public_key = "x"', "a key in it is not one"),
        ("secret_key", "", "secret_key is missing"),
        ("secret_key", "secret_key = [", "is not valid TOML"),
    ],
)
def test_what_is_no_file_of_credentials_says_why(tmp_path: Path, line: str, instead: str, message: str) -> None:
    lines = [instead if text.startswith(f"{line} =") else text for text in text_of(BUILDER).splitlines()]
    path = written(tmp_path, "\n".join(lines))

    with pytest.raises(QueuectlError, match=message) as caught:
        load_credentials(path)
    assert caught.value.exit_code == 2
    assert SECRET not in str(caught.value)


def test_nothing_shows_the_secret() -> None:
    assert SECRET not in repr(BUILDER)
    assert SECRET not in str(BUILDER)


def test_fingerprint_tells_keys_apart_and_shows_none() -> None:
    other, _ = new_key_pair()

    assert fingerprint(PUBLIC) == fingerprint(PUBLIC) != fingerprint(other)
    assert fingerprint(PUBLIC).startswith("SHA256:")
    assert len(fingerprint(PUBLIC)) == 50
