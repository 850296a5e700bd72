"""Fixtures of the unit tests: a broker in memory, and one on a file, checked when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BrokerHarness


@pytest.fixture
def broker() -> Iterator[BrokerHarness]:
    """A broker in memory. Whatever a test does to it, store and memory agree in the end, and nothing is left unsaid."""
    harness = BrokerHarness()
    yield harness
    harness.check_invariants()
    harness.assert_quiet()
    harness.close()


@pytest.fixture
def broker_on_disk(tmp_path: Path) -> Iterator[BrokerHarness]:
    """The same on a file: it can crash."""
    harness = BrokerHarness(tmp_path / "queue.db")
    yield harness
    harness.check_invariants()
    harness.assert_quiet()
    harness.close()
