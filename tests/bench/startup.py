"""How long the command line takes to start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median

from tests.bench import limits
from tests.bench.machine import wait_quiet
from tests.bench.measuring import Readings
from tests.bench.stage import QUEUECTL, stage

CLICK = "python -c 'import click'"
ROUND_TRIP = "import click, zmq, msgpack + round trip"


def startup(times: int) -> Readings:
    """Milliseconds from start to end, each the median of so many starts in turn."""
    with stage() as it, limits.echo() as endpoint:
        it.broker()
        commands: dict[str, Sequence[str]] = {
            CLICK: (sys.executable, "-c", "import click"),
            "queuectl --version": (*QUEUECTL, "--version"),
            "queuectl --help": (*QUEUECTL, "--help"),
            ROUND_TRIP: (sys.executable, "-c", _ROUND_TRIP, endpoint),
            "queuectl status": (*QUEUECTL, "status"),
            "queuectl status --json": (*QUEUECTL, "status", "--json"),
        }
        wait_quiet()
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(times + 1):
            for name, command in commands.items():
                taken[name].append(_time(command, it.environment))
    return {name: median(times[1:]) for name, times in taken.items()}


_ROUND_TRIP = """
import sys, click, zmq, msgpack
link = zmq.Context().socket(zmq.REQ)
link.connect(sys.argv[1])
link.send(msgpack.packb({"op": "status"}))
msgpack.unpackb(link.recv())
"""


def _time(command: Sequence[str], environment: Mapping[str, str]) -> float:
    quiet = subprocess.DEVNULL
    began = time.perf_counter()
    subprocess.run(command, env={**environment, "PYTHONSAFEPATH": "1"}, stdin=quiet, stdout=quiet, check=True)
    return 1000 * (time.perf_counter() - began)
