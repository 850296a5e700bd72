"""Nothing that was acknowledged is lost when the broker is killed: the short form of the campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.kills import run


@pytest.mark.acceptance
def test_what_was_acknowledged_outlives_kills_of_the_broker(home: Path) -> None:
    found = run(kills=10, seed=20261122, place=home)

    assert found.is_good, found.table()
    assert found.kills == 10
    assert found.acknowledged > 100
    assert found.unknown > 0, "no kill hit a request: the campaign proves nothing"
    assert found.results_recorded > 0
