"""The jobs of a campaign: cheap shell commands that write down in one file that they ran.

Each line of the journal of effects is one write with O_APPEND, so the order of the lines is the order of what
happened: `what name attempt lease boot uptime`, where `what` is start, tick, end (exit 0 follows) or fail.
The name is in the command, so a job is known whatever id it got, and whether or not anybody was told of it.
"""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

NAME = re.compile(r"N=([A-Za-z0-9.-]+);")
FAILED_CODE = 3
RETRY = {"backoff_base": 0.3, "max_retries": 6}


class What(StrEnum):
    """What a line of the journal says."""

    START = "s"
    TICK = "t"
    END = "e"
    FAIL = "f"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its share of all, its script, the fields it is enqueued with. `D` is from 1 to `d_max`."""

    share: float
    script: str
    d_max: int = 1
    fields: dict[str, Any] = field(default_factory=dict)


# A tick is 100 ms: an attempt that is alive says so.
_TICKS = "while [ $D -gt 0 ]; do sleep 0.1; say t; D=$((D-1)); done"

KINDS = {
    "quick": Kind(0.958, "say s; say e"),
    "slow": Kind(0.01, f"say s; {_TICKS}; say e", d_max=30),
    "family": Kind(0.005, f"say s; sleep 60 & setsid sh -c 'sleep 60 & sleep 60' & {_TICKS}; say e", d_max=10),
    "leaver": Kind(0.002, "say s; setsid sleep 60 & say e"),
    "flaky": Kind(
        0.01, f"say s; [ $QUEUECTL_JOB_ATTEMPT -gt $D ] || {{ say f; exit {FAILED_CODE}; }}; say e", 2, RETRY
    ),
    "doomed": Kind(0.005, f"say s; say f; exit {FAILED_CODE}", fields={"backoff_base": 0.3, "max_retries": 2}),
    "once": Kind(0.01, f"say s; {_TICKS}; say e", d_max=10, fields={"on_lost": "dead"}),
}

# Prints D lines of a known text, at once or in bursts; many are more than is kept. It fails once if D is even.
TALKER = "talker"
LINE_PAD = "." * 40
TALK_LIMIT = 1024  # bytes kept
_TALK = f"""I=0
while [ $I -lt $D ]; do
  echo "$QUEUECTL_JOB_ATTEMPT $I {LINE_PAD}"
  [ $((D % 3)) = 0 ] || [ $((I % 10)) != 9 ] || sleep 0.1
  I=$((I+1))
done
[ $((D % 2)) = 1 ] || [ $QUEUECTL_JOB_ATTEMPT -gt 1 ] || {{ say f; exit {FAILED_CODE}; }}"""
KINDS[TALKER] = Kind(0.0, f"say s; {_TALK}; say e", fields={**RETRY, "output_limit": TALK_LIMIT})


def printed(attempt: int, length: int) -> bytes:
    """What an attempt of a talker prints to stdout."""
    return "".join(f"{attempt} {line} {LINE_PAD}\n" for line in range(length)).encode()


_SAY = """say() {
  read -r T _ </proc/uptime
  echo "$1 $N $QUEUECTL_JOB_ATTEMPT $QUEUECTL_JOB_LEASE $QUEUECTL_JOB_WORKER $T" >>%s
}
"""


class Jobs:
    """The scripts of all kinds in a directory, and jobs that call them."""

    def __init__(self, place: Path):
        self.place = place
        self.journal = place / "effects"

    def prepare(self) -> None:
        """Write the scripts."""
        self.place.mkdir()
        self.journal.touch()
        for name, kind in KINDS.items():
            (self.place / name).write_text(f"{_SAY % shlex.quote(str(self.journal))}{kind.script}\n")

    def make(self, name: str, chance: random.Random) -> dict[str, Any]:
        """A job of this name, of a kind that chance chooses."""
        [kind] = chance.choices(list(KINDS), [kind.share for kind in KINDS.values()])
        return self._job(name, kind, chance.randint(1, KINDS[kind].d_max))

    def talker(self, name: str, length: int) -> dict[str, Any]:
        """A job that prints so many lines."""
        return self._job(name, TALKER, length)

    def _job(self, name: str, kind: str, length: int) -> dict[str, Any]:
        return {"command": f"N={name}; D={length}; . {self.place / kind}", **KINDS[kind].fields}


def name_of(command: str) -> str:
    """The name in a command; the command itself if it is none of ours."""
    found = NAME.match(command)
    return found[1] if found else command


def kind_of(command: str) -> str:
    """The kind of a job, by its command."""
    return command.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the journal. `at_s` is seconds since the machine started."""

    what: What
    name: str
    attempt: int
    lease: int
    boot: str
    at_s: float


def read_journal(path: Path) -> Iterator[Line]:
    """The journal in its order. A line that is not whole is an error: each was one write."""
    with path.open() as file:
        for line in file:
            what, name, attempt, lease, boot, at_s = line.split()
            yield Line(What(what), name, int(attempt), int(lease, 16), boot, float(at_s))
