"""Time as an argument. The cores never read a clock: the loops read it once a turn and pass a Now."""

from __future__ import annotations

import time
from typing import NamedTuple


class Now(NamedTuple):
    """One reading of the clocks. `wall_ms` places events in history, `mono_ms` measures durations and deadlines."""

    wall_ms: int
    mono_ms: int


def read_clock() -> Now:
    """Read both clocks."""
    return Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)
