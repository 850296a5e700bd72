"""`python -m tests.flood [scene …]`: floods of several kinds against a real broker with keys, and who notices.

In each scene a worker beats and another client asks, fifty times a second each. The table shows how long an echo and
a reply took, how many failed, the broker's memory in MiB before, at most, and after, its share of a core, and what
its counters say.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from typing import Any

from tests.command_line import number, run, whole
from tests.flood.gauge import SCENES, play


def main() -> int:
    """Play the scenes and print the table; 1 if a heartbeat or a request of the others failed."""
    options = _options()
    read = []
    for scene in SCENES:
        if not options.scene or scene.name in options.scene:
            print(f"{scene.name}: {options.seconds:g} s", file=sys.stderr, flush=True)
            read.append(play(scene, seconds=options.seconds, seed=options.seed))
    print(json.dumps(read, indent=2) if options.json else table(read))
    return int(any(entry[who]["errors"] for entry in read for who in ("beats", "requests")))


def table(read: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [
        f"{'':34}{'echo, ms':^24}{'reply, ms':^24}{'':7}{'memory, MiB':^19}{'core':>6}{'turned':>9}{'':9}{'mal-':>9}",
        f"{'':34}{2 * '     p50     p99    most'} failed before  peak after{'':6}     away   denied   formed",
    ]
    for entry in read:
        times = [entry[who][name] for who in ("beats", "requests") for name in ("p50_ms", "p99_ms", "most_ms")]
        failed = entry["beats"]["errors"] + entry["requests"]["errors"]
        memory, counters = entry["memory_mib"], entry["counters"]
        lines.append(
            f"{entry['what']:34}{''.join(f'{time:8.1f}' for time in times)}{failed:7}"
            f"{memory['before']:7.0f}{memory['peak']:6.0f}{memory['after']:6.0f}{entry['cpu']:6.2f}"
            f"{counters['turned_away']:9}{counters['denied']:9}{counters['malformed']:9}"
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    names = [scene.name for scene in SCENES]
    parser = argparse.ArgumentParser(
        prog="python -m tests.flood", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", nargs="*", help=f"{', '.join(names)}; all of them if none is named")
    parser.add_argument("--seconds", type=number(0.1), default=60, metavar="S", help="each scene [%(default)s]")
    parser.add_argument("--seed", type=whole(0), default=random.randrange(2**32), metavar="N", help="[by chance]")
    parser.add_argument("--json", action="store_true", help="print all that was read")
    options = parser.parse_args()
    if unknown := set(options.scene) - set(names):
        parser.error(f"unknown scene: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    raise SystemExit(run(main))
