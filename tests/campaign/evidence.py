"""What is left of a campaign for its checker: what clients were told, what ran and what is stored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from broker.store.rows import STATES
from queuectl.jobs import JobState
from tests.campaign.faults import Fault
from tests.campaign.jobs import Line, kind_of, name_of
from tests.campaign.load import Asked, Fate


@dataclass(frozen=True, slots=True)
class Owner:
    """The worker that had a lease: its machine, and the process that the user started."""

    machine: str
    pid: int


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt as the database has it. Times are seconds since 1970."""

    attempt: int
    lease: int
    owner: Owner
    finished_s: float
    outcome: str
    note: str
    exit_code: int | None


class Told(NamedTuple):
    """What the broker's log says was recorded."""

    job: str
    attempt: int
    lease: int
    outcome: str


@dataclass(slots=True)
class Stored:
    """One job as the database has it."""

    id: str
    name: str
    kind: str
    state: JobState
    reason: str | None
    attempt: int
    attempts: int
    losses: int
    max_retries: int
    runs: list[Run] = field(default_factory=list)


@dataclass
class Evidence:
    """Everything. `booted_s`: when the machine started, in seconds since 1970, for the times of the journal."""

    asked: Sequence[Asked]
    lines: Sequence[Line]
    jobs: Sequence[Stored]
    owners: Mapping[str, Owner]  # by boot
    faults: Sequence[Fault]
    lease_s: float
    booted_s: float = 0.0
    told: Sequence[Told] = ()
    orphans: Sequence[str] = ()
    damage: Sequence[str] = ()  # of the database and its books


def read_asked(paths: Sequence[Path]) -> Iterator[Asked]:
    """What the clients wrote down. A request without a fate was sent, and its client did not live to tell more."""
    for path in paths:
        begun: Asked | None = None
        for line in path.read_text().splitlines():
            said = json.loads(line)
            if "fate" in said:
                yield Asked(**{**said, "fate": Fate(said["fate"])})
                begun = None
            else:
                begun = Asked(said["request"], said["names"])
        if begun is not None:
            yield begun


def read_told(path: Path) -> Iterator[Told]:
    """What the log of the broker says was recorded. A line that a kill has cut off is none."""
    with path.open(errors="replace") as file:
        for line in file:
            if '"event":"job_finished"' in line:
                with suppress(ValueError):
                    said = json.loads(line)
                    yield Told(said["job_id"], said["attempt"], int(said["lease_id"], 16), said["outcome"])


_JOBS = """
SELECT seq, id, command, state, reason, attempt, attempts, losses, max_retries FROM job JOIN spec USING (seq)"""

_RUNS = """
SELECT seq, attempt, lease, worker, finished_at_ms / 1000.0, outcome, note, exit_code FROM attempt
ORDER BY seq, attempt"""


def read_database(path: Path) -> tuple[list[Stored], dict[str, Owner], list[str]]:
    """The jobs, who the workers were, and what is wrong with the database itself."""
    with closing(sqlite3.connect(path)) as db:
        owners = {
            worker: (boot, Owner(Path(home).name, pid))
            for worker, boot, home, pid in db.execute("SELECT worker, boot, home, pid FROM worker")
        }
        jobs = {}
        for seq, job_id, command, state, *rest in db.execute(_JOBS):
            jobs[seq] = Stored(job_id, name_of(command), kind_of(command), STATES[state], *rest)
        for seq, attempt, lease, worker, *rest in db.execute(_RUNS):
            jobs[seq].runs.append(Run(attempt, lease, owners[worker][1], *rest))
        return list(jobs.values()), dict(owners.values()), list(_damage(db))


def _damage(db: sqlite3.Connection) -> Iterator[str]:
    for check in ("quick_check", "integrity_check"):
        yield from (f"{check}: {text}" for (text,) in db.execute(f"PRAGMA {check}") if text != "ok")
    counted = dict(db.execute("SELECT state, count(*) FROM job GROUP BY state"))
    tally = dict(db.execute("SELECT state, sum(jobs) FROM tally GROUP BY state HAVING sum(jobs)"))
    if counted != tally:
        yield f"the tally says {tally}, there are {counted}"
    facts = dict(db.execute("SELECT key, value FROM meta"))
    if facts["clean"] != 1:
        yield "the last end was not clean"
