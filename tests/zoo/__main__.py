"""`python -m tests.zoo [--times N] [--seed S] [--way W] [--animal TEXT]`: every animal, every way, again and again.

Prints a table of how often each animal went as it should in each way, and at the end what went wrong. Exits 1
if anything did.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.command_line import run, whole
from tests.zoo.animals import ANIMALS, WAYS, Animal, Way
from tests.zoo.keeper import open_zoo

FLOOD = "prints a gigabyte"
FLOOD_BYTES = 1 << 30


class Tally:
    """What was tried, what went well, and the faults of the rest."""

    def __init__(self) -> None:
        self.tried: Counter[tuple[str, str]] = Counter()
        self.good: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []

    def add(self, name: str, way: str, faults: Sequence[str], replay: str) -> None:
        self.tried[name, way] += 1
        self.good[name, way] += not faults
        for fault in faults:
            self.faults.append(f"{name}, {way}: {fault}\n    again: {replay}")
            print(f"FAULT {self.faults[-1]}", flush=True)

    def table(self) -> str:
        """A row for each animal, a column for each way."""
        width = max(len(name) for name, _ in self.tried)
        lines = [" " * width + "".join(f"{way:>16}" for way in WAYS)]
        for name in dict.fromkeys(name for name, _ in self.tried):
            cells = [f"{self.good[name, way]}/{self.tried[name, way]}" if self.tried[name, way] else "" for way in WAYS]
            lines.append(f"{name:{width}}" + "".join(f"{cell:>16}" for cell in cells))
        return "\n".join(lines)


def once(tally: Tally, seed: int, ways: Sequence[Way], animals: Sequence[Animal], *, is_whole: bool) -> None:
    """Every animal in every way, once, in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="q-"))
    try:
        with open_zoo(home, seed) as zoo:
            for way in ways:
                replay = f"python -m tests.zoo --seed {seed} --way '{way}'"
                for guest in zoo.visit(animals, way):
                    tally.add(guest.animal.name, way, guest.faults, f"{replay} --animal '{guest.animal.name}'")
            if is_whole:
                tally.add(FLOOD, Way.FINISH, zoo.flood(FLOOD_BYTES), f"python -m tests.zoo --seed {seed}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--times", type=whole(1), default=1, metavar="N", help="how often [%(default)s]")
    parser.add_argument(
        "--seed", type=whole(0), metavar="S", help="of the first time; each later one takes the next [by chance]"
    )
    names = [way.value for way in WAYS]
    parser.add_argument("--way", choices=names, action="append", help="only this one; may be given again [all]")
    parser.add_argument("--animal", default="", metavar="TEXT", help="only those whose name contains this [all]")
    options = parser.parse_args()
    ways = [Way(name) for name in options.way or names]
    animals = [animal for animal in ANIMALS if options.animal in animal.name]
    if not animals:
        parser.error(f"no animal is called {options.animal!r}; there are: {', '.join(each.name for each in ANIMALS)}")
    if not any(animal.goes(way) for animal in animals for way in ways):
        parser.error(f"no animal that is called {options.animal!r} ends that way; try another --way")
    seed = random.SystemRandom().getrandbits(31) if options.seed is None else options.seed
    tally = Tally()
    began = time.monotonic()
    for number in range(seed, seed + options.times):
        once(tally, number, ways, animals, is_whole=not options.way and not options.animal)
        print(f"seed {number}: {sum(tally.good.values())} of {sum(tally.tried.values())} runs went well", flush=True)
    print(tally.table())
    print(f"{sum(tally.tried.values())} runs, {len(tally.faults)} faults, {time.monotonic() - began:.0f} s")
    for fault in tally.faults:
        print(f"FAULT {fault}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(run(main))
