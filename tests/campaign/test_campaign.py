"""The campaign in short, in every run of the tests; and that it finds a fault that was planted in the broker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.campaign.campaign import Campaign, Plan
from tests.campaign.daemons import python
from tests.campaign.nemesis import Pace

# A lease that a busy machine does not outlast by itself, and cuts that are not much longer.
PACE = Pace(lease_s=2.0, heartbeat_s=0.2)
SHORT = Plan(seed="20261122", seconds=45, pace=PACE, machines=3, slots=3, backlog=300, bulk=(1, 20))
pytestmark = pytest.mark.acceptance


@pytest.mark.timeout(600)  # it waits for conditions, each with a limit of its own
def test_kills_pauses_and_cuts_lose_nothing_and_repeat_nothing_without_a_cause(home: Path) -> None:
    verdict = Campaign(SHORT, home).run()

    assert verdict.is_good, verdict.table()
    assert verdict.counts["acknowledged"] > 0
    assert verdict.done["all kills of brokers"] > 0
    assert verdict.done["all kills of workers"] > 0
    assert verdict.done["attempts followed"] > 0
    assert verdict.done["gaps followed"] > 0
    assert verdict.counts["runs given up"] > 0, "no fault hit a job: the campaign proves nothing"


ROUNDS = 8
PLANTED = {
    "forget_replies": "doubled",
    "speak_first": "repeated without a cause",  # a lease that was granted is forgotten by a kill
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_that_was_planted_in_the_broker_is_found(home: Path, fault: str) -> None:
    pace = replace(PACE, broker_calm_s=(0, 0.5), worker_alive_s=(5, 10))
    plan = replace(SHORT, seconds=6, pace=pace, machines=1, broker=python("tests.campaign.planted", fault))

    for number in range(ROUNDS):  # on a busy machine few kills fall into a round
        place = home / str(number)
        place.mkdir(mode=0o700)
        verdict = Campaign(replace(plan, seed=f"{plan.seed}-{number}"), place).run()
        if verdict.broken[PLANTED[fault]]:
            return

    pytest.fail(f"not found in {ROUNDS} rounds; the last one:\n{verdict.table()}")
