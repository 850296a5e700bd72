"""Fixtures that keep every test away from the home, and the settings, of the person who runs it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _short_directory() -> Path:
    """Make a 0700 directory whose path leaves room for the name of a socket (107 bytes in all)."""
    return Path(tempfile.mkdtemp(prefix="q-"))


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Unset every QUEUECTL_* variable, and give the session a home that goes away with it.

    HOME moves too: a child started without QUEUECTL_HOME would find the real one through it.
    """
    directory = _short_directory()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("QUEUECTL_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(directory))
        patch.setenv("QUEUECTL_HOME", str(directory / "home"))
        yield
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home of the test's own, 0700, which QUEUECTL_HOME names while the test runs."""
    directory = _short_directory()
    monkeypatch.setenv("QUEUECTL_HOME", str(directory))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make coverage` measures no process that is started now: one that cannot write would complain of it."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
