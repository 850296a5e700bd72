"""`python -m tests.campaign --seed S --minutes M [--defaults]`: a campaign and its table.

Exit code 1 if a promise was broken; then everything that is known stays in the directory that is named.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from queuectl.settings import DEFAULTS, SETTINGS
from tests.campaign.campaign import Campaign, Plan
from tests.campaign.nemesis import Pace
from tests.command_line import number, run

LEASE_S, HEARTBEATS = 1.0, 10  # heartbeats in a lease, where what may be set allows it
MINUTES_MIN = 0.1  # in less, nothing may have happened


def pace_of(*, defaults: bool, lease_s: float) -> Pace:
    """Fast with a short lease; at the defaults, a few of the outages outlast one."""
    if not defaults:
        allowed = SETTINGS["heartbeat"]
        return Pace(lease_s=lease_s, heartbeat_s=min(max(allowed.low, lease_s / HEARTBEATS), allowed.high))
    lease, heartbeat = DEFAULTS["lease"], DEFAULTS["heartbeat"]
    assert isinstance(lease, int | float)
    assert isinstance(heartbeat, int | float)
    return Pace(lease_s=lease, heartbeat_s=heartbeat, outlasting=0.1)


def main() -> int:
    """The command."""
    options = _options()
    pace = pace_of(defaults=options.defaults, lease_s=options.lease)
    is_kept = True  # if something unforeseen happens
    place = Path(tempfile.mkdtemp(prefix="q-campaign-"))
    try:
        print(f"seed {options.seed}, {options.minutes:g} minutes, lease {pace.lease_s:g} s, in {place}", flush=True)
        is_good = _hold(Campaign(Plan(options.seed, options.minutes * 60, pace), place))
        is_kept = options.keep or not is_good
    except KeyboardInterrupt:
        is_kept = options.keep
        raise
    finally:
        if is_kept:
            print(f"everything is in {place}")
        else:
            shutil.rmtree(place)
    print("no promise was broken" if is_good else "FAILED: a promise was broken")
    return 0 if is_good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seed", default="1", metavar="S", help="any text; what is broken, and when [%(default)s]")
    parser.add_argument(
        "--minutes",
        type=number(MINUTES_MIN),
        default=5.0,
        metavar="M",
        help="under attack; then it drains [%(default)g]",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--defaults", action="store_true", help="heartbeat and lease as they are unless set [short ones]")
    allowed = SETTINGS["lease"]
    pace.add_argument(
        "--lease",
        type=number(allowed.low, allowed.high),
        default=LEASE_S,
        metavar="SECONDS",
        help="how long the lease is; a heartbeat is a tenth of it [%(default)g]",
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory also where no promise was broken")
    return parser.parse_args()


def _hold(campaign: Campaign) -> bool:
    """Hold it and print its tables; whether all promises were kept."""
    verdict = campaign.run()
    print(verdict.table())
    for what, seconds in campaign.seconds.items():
        print(f"{'seconds ' + what:46}{seconds:>10.0f}")
    return verdict.is_good


if __name__ == "__main__":
    sys.exit(run(main))
