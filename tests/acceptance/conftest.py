"""The command line with the test's own home; whatever the test starts is ended with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness_cli import CommandLine


@pytest.fixture
def q(home: Path, tmp_path: Path) -> Iterator[CommandLine]:
    with CommandLine(home, tmp_path) as commands:
        yield commands
