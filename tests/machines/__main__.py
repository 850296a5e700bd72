"""`python -m tests.machines [--only TEXT]`: outages as long as people know them, with the default settings.

Prints a table for each. Exit code 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.command_line import run
from tests.machines.network import Network, NotHere
from tests.machines.outage import BUILDERS, QUEUE, Plan, Report, hold

PLANS: Mapping[str, Plan] = {
    "broker cut off for 20 s, lease 30 s": Plan(down_s=20, cut=(QUEUE,)),
    "one worker cut off for 45 s, lease 30 s": Plan(down_s=45, cut=BUILDERS[:1]),
    "both workers cut off for 45 s, lease 30 s": Plan(down_s=45, cut=BUILDERS),
    "one of the broker's two cables out for 40 s": Plan(down_s=40, cut=(QUEUE,), cables=2),
    "broker cut off for 1 s, ten times over": Plan(down_s=1, cut=(QUEUE,), flaps=10),
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="the outages whose name contains this [all]")
    options = parser.parse_args()
    plans = {name: plan for name, plan in PLANS.items() if options.only in name}
    if not plans:
        parser.error(f"no outage is called {options.only!r}; there are: {'; '.join(PLANS)}")
    try:
        reports = [_hold(name, plan) for name, plan in plans.items()]
    except NotHere as error:
        print(f"no machines here: {error}", file=sys.stderr)
        return 1
    return 0 if all(not report.faults for report in reports) else 1


def _hold(name: str, plan: Plan) -> Report:
    place = Path(tempfile.mkdtemp(prefix="q-machines-"))
    print(name, flush=True)
    try:
        with Network(place) as network:
            report = hold(network, plan)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(report.table(), end="\n\n", flush=True)
    return report


if __name__ == "__main__":
    sys.exit(run(main))
