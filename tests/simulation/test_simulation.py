"""Simulated clusters keep their promises, a seed always means the same, and a broken rule does not stay unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.controls import CONTROLS
from tests.simulation.past import PAST
from tests.simulation.report import run_seed

SEEDS = 200
PARTS = 4
TWICE = (7, 11, 13)
_ROOT = Path(__file__).resolve().parents[2]
_DIGESTS = """
import sys
from tests.simulation.report import run_seed
print(*(run_seed(int(seed)).digest for seed in sys.argv[1:]))
"""


@pytest.mark.parametrize("part", range(PARTS))
def test_promises_hold_whatever_goes_wrong(part: int) -> None:
    outcomes = [run_seed(seed) for seed in range(1 + part, 1 + SEEDS, PARTS)]

    assert [outcome.violation for outcome in outcomes if outcome.violation] == []
    assert all(outcome.faults for outcome in outcomes)
    idle = [outcome.seed for outcome in outcomes if not outcome.numbers["jobs"]]
    assert len(idle) <= len(outcomes) // 20  # a disk may be low for as long as there are clients


@pytest.mark.parametrize("seed", PAST)
def test_seeds_that_found_something_find_it_no_more(seed: int) -> None:
    assert run_seed(seed).violation is None, PAST[seed]


def test_seed_means_the_same_in_every_process_whoever_reads_along() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    command = [sys.executable, "-c", _DIGESTS, *map(str, TWICE)]

    other = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True)

    assert other.stdout.split() == [run_seed(seed, is_readable=True).digest for seed in TWICE]


@pytest.mark.parametrize("name", CONTROLS)
def test_broken_rule_is_found(name: str) -> None:
    control = CONTROLS[name]

    found = control.find()

    assert found is not None, f"{name}, and {len(control.seeds)} seeds did not notice"
    assert control.look(found) is None  # it was that rule
