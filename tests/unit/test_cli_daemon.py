"""What a process in the background is told of who it is: paths that mean the same wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.daemon import command
from cli.session import Session


def test_credentials_are_passed_on_by_a_whole_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(False, False, None, None, False, credentials="desk.toml")

    line, _ = command(session, ["worker", "start"])

    assert line[line.index("--credentials") + 1] == str(tmp_path / "desk.toml")
    assert "--context" not in line


def test_context_is_passed_on_by_its_name(home: Path) -> None:
    line, _ = command(Session(False, False, None, None, False, context="office"), ["worker", "start"])

    assert line[line.index("--context") + 1] == "office"


@pytest.mark.parametrize("name", ["QUEUECTL_CREDENTIALS", "QUEUECTL_DATA_DIR"])
def test_relative_paths_in_the_environment_are_meant_from_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "there")

    _, environment = command(Session(False, False, None, None, False), ["worker", "start"])

    assert environment[name] == str(tmp_path / "there")
