"""Kill the broker at random moments, under load, again and again; then look for what is lost or doubled.

`python -m tests.campaign.kills [--kills 200] [--seed S]`. What a client or worker was told had happened must
be found at the end, once; what it was not told must have happened wholly or not at all. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.harness_process import LIMIT_S, ROOT, BrokerProcess

AT_START = 0.15  # share of kills that hit the broker before it is ready
ALIVE_S_MAX = 0.5
START_S_MAX = 0.4


@dataclass
class Found:
    """What the campaign has found."""

    kills: int = 0
    kills_at_start: int = 0
    requests: int = 0
    acknowledged: int = 0  # jobs that a client was told are stored
    present: int = 0  # of those, how many are there, once, as they were sent
    lost: int = 0
    doubled: int = 0  # commands that are there more than once
    differing: int = 0  # requests that were answered in two ways
    partial: int = 0  # unanswered requests of which only a part is there
    strange: int = 0  # jobs that nobody sent
    unknown: int = 0  # requests of which one try at least got no answer
    resolved_repeated: int = 0  # of those, answered later from the stored reply: they had been carried out
    resolved_anew: int = 0  # of those, carried out by a later try
    never_answered: int = 0  # of those, given up by the client
    there_all_the_same: int = 0  # of the given up, carried out
    results_recorded: int = 0  # results that the worker was told are recorded
    results_lost: int = 0
    faults: list[str] = field(default_factory=list)  # of the database

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        wrong = (self.lost, self.doubled, self.differing, self.partial, self.strange, self.results_lost)
        return not any(wrong) and not self.faults and self.present == self.acknowledged

    def table(self) -> str:
        """The counts, for people."""
        rows = [(entry.name.replace("_", " "), getattr(self, entry.name)) for entry in fields(self)]
        return "\n".join(f"{name:20} {value if value != [] else 'none':>10}" for name, value in rows)


def run(kills: int, seed: int, place: Path) -> Found:
    """The campaign in a directory of its own."""
    chance = random.Random(seed)
    found = Found()
    with BrokerProcess(place) as broker:
        broker.start()
        with _peers(broker, place, chance) as journals:
            for _ in range(kills):
                _kill_once(broker, chance, found)
        ping = broker.stop()
        if ping != 0:
            found.faults.append(f"the broker ended with {ping}")
    _judge(found, journals, place / "queue.db")
    return found


def _kill_once(broker: BrokerProcess, chance: random.Random, found: Found) -> None:
    """Let it live for a moment, kill it, start it again; sometimes kill it while it starts."""
    pause = threading.Event()
    pause.wait(chance.uniform(0, ALIVE_S_MAX))
    broker.kill()
    found.kills += 1
    while chance.random() < AT_START:
        broker.spawn()
        pause.wait(chance.uniform(0, START_S_MAX))
        broker.kill()
        found.kills_at_start += 1
    broker.start()


@contextmanager
def _peers(broker: BrokerProcess, place: Path, chance: random.Random) -> Iterator[dict[str, Path]]:
    """Clients and a worker under load; they have ended when the block has."""
    clients = {"one": False, "two": False, "bulk": True}
    options: dict[str, dict[str, Any]] = {
        name: {
            "role": "client",
            "endpoint": broker.endpoint,
            "name": name,
            "seed": chance.getrandbits(32),
            "bulk": bulk,
        }
        for name, bulk in clients.items()
    }
    options["worker"] = {"role": "worker", "endpoint": broker.home.worker_endpoint}
    journals = {name: place / f"{name}.jsonl" for name in options}
    peers = []
    try:
        for name, entry in options.items():
            told = json.dumps({**entry, "journal": str(journals[name])})
            command = [sys.executable, "-m", "tests.campaign.load", told]
            peers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE))
        yield journals
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.close()
        codes = [peer.wait(LIMIT_S) for peer in peers]
        assert not any(codes), f"the peers ended with {codes}"
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()


# --- the verdict -----------------------------------------------------------------------------------------------


def _judge(found: Found, journals: dict[str, Path], database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        found.faults += [text for (text,) in db.execute("PRAGMA quick_check") if text != "ok"]
        stored = dict(db.execute("SELECT id, command FROM job JOIN spec USING (seq)"))
        completed = {job for (job,) in db.execute("SELECT id FROM job WHERE state = 2")}
        ended = Counter(
            job for (job,) in db.execute("SELECT id FROM attempt JOIN job USING (seq) WHERE outcome = 'completed'")
        )
        counted = dict(db.execute("SELECT state, sum(jobs) FROM tally GROUP BY state HAVING sum(jobs)"))
        found.faults += _check_books(db, counted, found)
    _judge_clients(found, [path for name, path in journals.items() if name != "worker"], stored)
    for line in _lines(journals["worker"]):
        found.results_recorded += 1
        if line["verdict"] != "recorded" or line["job"] not in completed or ended[line["job"]] != 1:
            found.results_lost += 1


def _check_books(db: sqlite3.Connection, counted: dict[int, int], found: Found) -> Iterator[str]:
    states = dict(db.execute("SELECT state, count(*) FROM job GROUP BY state"))
    if states != counted:
        yield f"the tally says {counted}, there are {states}"
    facts = dict(db.execute("SELECT key, value FROM meta"))
    if not found.kills < facts["epoch"] <= found.kills + found.kills_at_start + 1:
        yield f"epoch {facts['epoch']} after {found.kills} kills"
    if facts["clean"] != 1:
        yield "the last end was not clean"


def _judge_clients(found: Found, journals: list[Path], stored: dict[str, str]) -> None:
    times = Counter(stored.values())
    sent: set[str] = set()
    for line in (line for path in journals for line in _lines(path)):
        commands, ids = line["commands"], line["ids"]
        sent.update(commands)
        found.requests += 1
        found.differing += bool(line["differing"])
        found.doubled += sum(times[command] > 1 for command in commands)
        if ids is not None:
            good = sum(stored.get(job) == command for job, command in zip(ids, commands, strict=True))
            found.acknowledged += len(commands)
            found.present += good
            found.lost += len(commands) - good
        _count_unknown(found, line, there=sum(times[command] for command in commands))
    found.strange += sum(command not in sent for command in stored.values())


def _count_unknown(found: Found, line: dict[str, Any], *, there: int) -> None:
    """`there`: how many of the jobs of this request are in the store."""
    if line["ids"] is None:
        found.unknown += 1
        found.never_answered += 1
        found.partial += there not in (0, len(line["commands"]))
        found.there_all_the_same += there == len(line["commands"])
    elif line["unanswered"]:
        found.unknown += 1
        found.resolved_repeated += line["repeated"]
        found.resolved_anew += not line["repeated"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    place = Path(tempfile.mkdtemp(prefix="q-kills-"))
    print(f"seed {seed}, {options.kills} kills", flush=True)
    began = time.monotonic()
    found = run(options.kills, seed, place)
    print(found.table())
    print(f"{'seconds':20} {time.monotonic() - began:>10.0f}")
    if not found.is_good:
        print(f"FAILED; everything is in {place}")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
