"""`python -m tests.campaign --seed S --minutes M [--defaults]`: a campaign and its table.

Exit code 1 if a promise was broken; then everything that is known stays in the directory that is named.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from queuectl.settings import DEFAULTS, SETTINGS
from tests.campaign.campaign import Campaign, Plan
from tests.campaign.nemesis import Pace

LEASE_S, HEARTBEATS = 1.0, 10  # heartbeats in a lease, where the shortest that may be set allows it
HEARTBEAT_S_MIN = SETTINGS["heartbeat"].low


def pace_of(*, defaults: bool, lease_s: float) -> Pace:
    """Fast with a short lease; at the defaults, a few of the outages outlast one."""
    if not defaults:
        return Pace(lease_s=lease_s, heartbeat_s=max(HEARTBEAT_S_MIN, lease_s / HEARTBEATS))
    lease, heartbeat = DEFAULTS["lease"], DEFAULTS["heartbeat"]
    assert isinstance(lease, int | float)
    assert isinstance(heartbeat, int | float)
    return Pace(lease_s=lease, heartbeat_s=heartbeat, outlasting=0.1)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--defaults", action="store_true", help="heartbeat and lease as they are unless set")
    parser.add_argument("--lease", type=float, default=LEASE_S, help="seconds, without --defaults [%(default)s]")
    parser.add_argument("--keep", action="store_true", help="keep the directory of a campaign that went well")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="q-campaign-"))
    pace = pace_of(defaults=options.defaults, lease_s=options.lease)
    print(f"seed {options.seed}, {options.minutes:g} minutes, lease {pace.lease_s:g} s, in {place}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that nothing that was started is left
    campaign = Campaign(Plan(options.seed, options.minutes * 60, pace), place)
    verdict = campaign.run()
    print(verdict.table())
    for what, seconds in campaign.seconds.items():
        print(f"{'seconds ' + what:46}{seconds:>10.0f}")
    if not verdict.is_good:
        print(f"FAILED; everything is in {place}")
        return 1
    if options.keep:
        print(f"kept in {place}")
    else:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
