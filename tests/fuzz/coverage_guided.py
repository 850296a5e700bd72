"""`python -m tests.fuzz.coverage_guided [--seconds N] [--seed S]`: inputs that grow towards code not yet reached.

Needs atheris, which is not among the locked packages: `pip install atheris` into an environment of its own that has
queuectl in it. Feeds the codec and the reader of spools, with the same properties as the other targets.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from random import Random
from typing import Any

DOORS = ("broker", "worker", "client")
EXIT_MISSING = 2


def main() -> int:
    """Run until the time is over, or something breaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage_guided", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    atheris = _find_atheris()
    if atheris is None:
        print("atheris is not installed here; make an environment for it: pip install atheris", file=sys.stderr)
        return EXIT_MISSING
    with atheris.instrument_imports(include=["queuectl", "worker", "msgpack"]):
        from tests.fuzz import decoder, files, mutate

    def feed(data: bytes) -> None:
        if not data:
            return
        which, body = data[0] % (len(DOORS) + 1), data[1:]
        if which < len(DOORS):
            decoder.open_door(DOORS[which], body)
        else:
            files.check_spool(body)

    def change(data: bytes, size_max: int, seed: int) -> bytes:
        """Half of the inputs are made from messages, or the engine would need hours to find the first one."""
        chance = Random(seed)
        if chance.random() < 0.5 or not data:
            return bytes(atheris.Mutate(data, size_max))
        which = chance.randrange(len(DOORS) + 1)
        body = decoder.make(chance, DOORS[which]) if which < len(DOORS) else files.some_spool(chance)
        return (bytes([which]) + mutate.bytes_of(chance, body, data))[:size_max]

    arguments = [sys.argv[0], f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-max_len=16384"]
    atheris.Setup(arguments, feed, custom_mutator=change)
    atheris.Fuzz()  # ends the process
    return 0


def _find_atheris() -> Any:
    try:
        return import_module("atheris")
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
