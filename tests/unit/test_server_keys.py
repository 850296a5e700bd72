"""The broker's own keys: made once, kept from others, exchanged for the next."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from queuectl.errors import BadCredentials, NotAllowed, WrongState
from queuectl.server_keys import CURRENT, NEXT, load_server_keys, prepare_next, put_next_in_place


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    return path


def test_no_key_is_made_unasked(directory: Path) -> None:
    assert load_server_keys(directory) is None
    assert list(directory.iterdir()) == []


def test_key_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "keys"

    made = load_server_keys(directory, create=True)

    assert made is not None
    assert made == load_server_keys(directory, create=True) == load_server_keys(directory)
    assert made.public == (made.current.public,)
    assert stat.S_IMODE((directory / CURRENT).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == [CURRENT]


def test_key_is_exchanged_for_the_next(directory: Path) -> None:
    before = load_server_keys(directory, create=True)
    assert before is not None

    both = prepare_next(directory)
    assert both.current == before.current
    assert both.following is not None
    assert both.public == (before.current.public, both.following.public)

    after = put_next_in_place(directory)
    assert (after.current, after.following) == (both.following, None)
    assert after == load_server_keys(directory)


def test_exchange_goes_step_by_step(directory: Path) -> None:
    with pytest.raises(WrongState, match="has no key yet"):
        prepare_next(directory)
    with pytest.raises(WrongState, match="no next server key was made"):
        put_next_in_place(directory)
    load_server_keys(directory, create=True)
    prepare_next(directory)
    with pytest.raises(WrongState, match="is made already"):
        prepare_next(directory)


@pytest.mark.parametrize("name", [CURRENT, NEXT])
def test_key_that_others_can_read_is_refused(directory: Path, name: str) -> None:
    load_server_keys(directory, create=True)
    prepare_next(directory)
    (directory / name).chmod(0o640)

    with pytest.raises(NotAllowed, match="can be read by others") as caught:
        load_server_keys(directory)
    assert caught.value.hint == f"chmod 600 {directory / name}"


def test_directory_that_others_can_read_is_refused(directory: Path) -> None:
    directory.chmod(0o755)

    with pytest.raises(NotAllowed, match="can be read by others"):
        load_server_keys(directory, create=True)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "{" * 5000, '{"public_key": "a", "secret_key": "b"}', '{"public_key": 1, "secret_key": 2}']
)
def test_what_is_no_key_is_refused(directory: Path, text: str) -> None:
    (directory / CURRENT).write_text(text)
    (directory / CURRENT).chmod(0o600)

    with pytest.raises(BadCredentials, match="is not a server key"):
        load_server_keys(directory)
