"""config.toml is changed in one line, and stays as people wrote it in all others."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cli.config_file import remove, write
from queuectl.errors import BadConfig
from queuectl.home import Home

WRITTEN = """# where the broker is
endpoint = "local"  # here

# how to log
log-level = "info"

[later]
endpoint = "not this one"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(WRITTEN)
    return path


def test_first_key_makes_a_file_closed_to_others(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    write(home, "endpoint", "tcp://host:7710")

    assert home.config_file.read_text() == 'endpoint = "tcp://host:7710"\n'
    assert stat.S_IMODE(home.config_file.stat().st_mode) == 0o600


def test_key_is_replaced_where_it_stands(tmp_path: Path, file: Path) -> None:
    write(Home(tmp_path), "log_level", "debug")

    assert file.read_text() == WRITTEN.replace('log-level = "info"', 'log_level = "debug"')


def test_new_key_stands_before_the_first_table(tmp_path: Path, file: Path) -> None:
    write(Home(tmp_path), "autostart", False)

    assert file.read_text() == WRITTEN.replace("[later]", "autostart = false\n[later]")


def test_removed_key_leaves_the_rest(file: Path) -> None:
    remove(file, "endpoint")

    assert file.read_text() == WRITTEN.replace('endpoint = "local"  # here\n', "", 1)


def test_removal_without_a_file_makes_none(tmp_path: Path) -> None:
    remove(tmp_path / "config.toml", "endpoint")

    assert not (tmp_path / "config.toml").exists()


def test_text_is_quoted(tmp_path: Path) -> None:
    import tomllib

    home = Home(tmp_path)

    write(home, "data_dir", '/srv/a "b" \\ ü')

    assert tomllib.loads(home.config_file.read_text()) == {"data_dir": '/srv/a "b" \\ ü'}


def test_file_that_cannot_be_changed_safely_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('endpoint = """\nlocal"""\n')

    with pytest.raises(BadConfig, match="cannot be changed safely"):
        write(Home(tmp_path), "endpoint", "local")

    assert path.read_text() == 'endpoint = """\nlocal"""\n'
    assert list(tmp_path.iterdir()) == [path]
