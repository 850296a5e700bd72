"""How figures are measured: contenders one after the other on a quiet machine, again in each run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tests.bench.machine import wait_quiet
from tests.bench.peers import NotInstalled

Readings = dict[str, float]  # what one run has measured, by the names that the table of figures uses
OURS = "queuectl"


def take_turns(contenders: Mapping[str, Callable[[], float]]) -> Readings:
    """One reading of each; a peer that is not installed has none."""
    readings: Readings = {}
    for name, measure in contenders.items():
        wait_quiet()
        try:
            readings[name] = measure()
        except NotInstalled:
            continue
    return readings


def percentile(values: list[float], share: float) -> float:
    """The value that a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
