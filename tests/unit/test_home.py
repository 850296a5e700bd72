"""The home: paths, and directories that only their owner can use."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from queuectl.errors import NotAllowed
from queuectl.home import SOCKET_PATH_BYTES_MAX, Home, HomeUnusable, find_home, refuse_foreign_directory, temporary_home


def test_everything_lives_under_the_home() -> None:
    home = Home(Path("/q"))

    assert [str(path) for path in (home.config_file, home.keys, home.run, home.spool, home.logs)] == [
        "/q/config.toml",
        "/q/keys",
        "/q/run",
        "/q/spool",
        "/q/logs",
    ]
    assert home.worker_endpoint == "ipc:///q/run/worker.sock"
    assert home.client_endpoint == "ipc:///q/run/client.sock"


def test_home_is_closed_to_others(home: Path) -> None:
    fresh = Home(home / "a" / "b")

    fresh.prepare()
    fresh.prepare()

    for directory in (fresh.path, fresh.keys, fresh.run, fresh.spool, fresh.logs):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_open_run_directory_is_closed(home: Path) -> None:
    (home / "run").mkdir(mode=0o755)

    Home(home).prepare()

    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700


def test_long_home_has_its_sockets_elsewhere(home: Path) -> None:
    long = Home(home / ("x" * 120))
    try:
        long.prepare()

        assert long.sockets.parent == Path("/tmp")
        assert len(os.fsencode(long.sockets / "worker.sock")) <= SOCKET_PATH_BYTES_MAX
        assert stat.S_IMODE(long.sockets.stat().st_mode) == 0o700
        assert long.sockets == Home(long.path).sockets != Home(home / ("y" * 120)).sockets
    finally:
        long.sockets.rmdir()


def test_sockets_of_a_long_home_are_refused_where_others_could_use_them(home: Path) -> None:
    long = Home(home / ("z" * 120))
    long.sockets.mkdir(mode=0o755)
    long.sockets.chmod(0o755)
    try:
        with pytest.raises(NotAllowed, match="is not a directory that only you can use"):
            long.prepare()
    finally:
        long.sockets.rmdir()


def test_link_is_not_the_directory_it_leads_to(home: Path) -> None:
    (home / "real").mkdir(mode=0o700)
    (home / "link").symlink_to("real")

    refuse_foreign_directory(home / "real")
    with pytest.raises(NotAllowed):
        refuse_foreign_directory(home / "link")


def test_directory_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuectl.home.os.geteuid", lambda: home.stat().st_uid + 1)

    with pytest.raises(NotAllowed):
        refuse_foreign_directory(home)
    assert Home(home).is_ours() is False


def test_home_that_does_not_exist_is_ours_to_make(home: Path) -> None:
    assert Home(home).is_ours()
    assert Home(home / "none").is_ours()


def test_home_that_cannot_be_made_is_said(home: Path) -> None:
    (home / "file").touch()

    with pytest.raises(HomeUnusable, match=r"cannot use .*file/x as home"):
        Home(home / "file" / "x").prepare()


def test_home_is_found_by_flag_then_variable_then_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_home().path == home
    assert find_home("/elsewhere").path == Path("/elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert find_home("~/q").path == Path("/home/me/q")
    monkeypatch.delenv("QUEUECTL_HOME")
    assert find_home().path == Path("/home/me/.queuectl")


def test_relative_home_is_made_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)

    assert find_home("here").path == home / "here"


def test_temporary_home_is_fresh_and_closed() -> None:
    first, second = temporary_home(), temporary_home()
    try:
        assert first.path != second.path
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    finally:
        first.path.rmdir()
        second.path.rmdir()
