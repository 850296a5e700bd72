"""A moment of each flood: everybody else is served, and nothing is lost. How fast, is of no interest here."""

from __future__ import annotations

import pytest

from tests.flood.gauge import SCENES, Scene, play


@pytest.mark.acceptance
@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_others_are_served_during_a_flood(scene: Scene) -> None:
    read = play(scene, seconds=0.5, seed=1)

    assert read["beats"]["errors"] == 0
    assert read["requests"]["errors"] == 0
    assert read["beats"]["count"] > 0
    assert read["requests"]["count"] > 0
