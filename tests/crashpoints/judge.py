"""Open what a power cut has left, with the store as it is released, and say what is wrong with it."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from broker.core import Core
from broker.store import Store, open_store
from queuectl.errors import DatabaseRefused, QueuectlError, StorageFailed
from tests.crashpoints.contents import Promises, digest, kept
from tests.crashpoints.disk import Files, Note, Op
from tests.crashpoints.vfs import Committed, Committing, RolledBack
from tests.crashpoints.workload import DATABASE, Opened, Opening, Told
from tests.harness import IDENTITY, FakeClock
from tests.invariants import find_broken

LOG = f"{DATABASE}-wal"
MEMORY = Path("/dev/shm")  # where it is there, states are opened in it


@dataclass
class Stage:
    """What all of the database is after a commit, and what had been promised by then."""

    digest: str
    promises: Promises


Expected = list[Stage]  # what may be found: the last commit that returned; and the one that was under way


class Verdict(NamedTuple):
    """What is wrong with a state, in words; and how many jobs that somebody was told of are gone."""

    faults: list[str]
    jobs_lost: int


def timeline(log: Sequence[Op], opened: str) -> list[Expected]:
    """What may be found after each operation of a log, where the first opening leads to this digest.

    What it writes on the way (a new schema, a migration) is not told apart: the next opening writes the rest of it.
    """
    first = Stage(opened, {})
    sure, tried = first, first
    opening = True
    found: list[Expected] = []
    for op in log:
        match op.what if isinstance(op, Note) else None:
            case Opening():
                opening = True
            case Opened(digest=whole):
                opening = False
                assert sure.digest == whole, "an opening changed what was there"
            case Committing(digest=whole) if not opening:
                tried = Stage(whole, sure.promises)
            case Committed() if not opening:
                sure = tried
            case RolledBack():
                tried = sure
            case Told(promises=promises):
                sure.promises = promises
            case _:
                pass
        found.append([sure] if tried is sure else [sure, tried])
    return found


class Judge:
    """Opens one state after another in a directory of its own."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="q-crash-", dir=MEMORY if MEMORY.is_dir() else None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory)

    def opened(self, files: Files) -> str:
        """The digest of a database that has been opened, and nothing more."""
        self._lay_out(files)
        with self._store() as store:
            return digest(store._db)

    def judge(self, files: Files, expected: Expected, *, thorough: bool = False) -> Verdict:
        """What is wrong with these files, where one of these stages was to be found."""
        self._lay_out(files)
        try:
            return self._open(expected, thorough=thorough)
        except (DatabaseRefused, StorageFailed) as error:
            said = [f"{error.code}: {error.message}"]
            return Verdict(said + self._open_again(expected), len(_jobs(expected)))

    def _open(self, expected: Expected, *, thorough: bool) -> Verdict:
        with self._store() as store:
            return _examine(store, expected, thorough=thorough)

    def _open_again(self, expected: Expected) -> list[str]:
        """What is wrong with a state that was refused and is not refused again."""
        try:
            verdict = self._open(expected, thorough=True)
        except (DatabaseRefused, StorageFailed):
            return []
        return [f"refused, and then taken: {fault}" for fault in verdict.faults]

    def judge_without_log(self, files: Files, expected: Expected) -> tuple[Verdict, bool]:
        """What is wrong with these files when somebody has taken their log away; and whether they are refused for it.

        They are refused however often they are opened, or hold all that was promised.
        """
        self._lay_out({name: data for name, data in files.items() if name != LOG})
        for times in range(3):
            try:
                with self._store() as store:
                    faults, jobs_lost = _lacking(store, _sure(expected))
                    again = [f"refused {times} times, and then taken"] if times else []
                    return Verdict(again + faults, jobs_lost), False
            except (DatabaseRefused, StorageFailed):
                pass
        return Verdict([], 0), True

    def _lay_out(self, files: Files) -> None:
        for path in self._directory.iterdir():
            path.unlink()
        for name, data in files.items():
            (self._directory / name[1:]).write_bytes(data)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = open_store(self._directory / DATABASE[1:])
        try:
            yield store
        finally:
            store.abandon()


def _examine(store: Store, expected: Expected, *, thorough: bool) -> Verdict:
    found = digest(store._db)
    stages = [stage for stage in expected if stage.digest == found]
    faults, jobs_lost = _lacking(store, stages[0].promises if stages else _sure(expected))
    if thorough:
        faults += [f"damage: {row[0]}" for row in store._db.query("PRAGMA integrity_check") if row[0] != "ok"]
    if not stages:
        faults.append("it holds neither what was committed last nor what was being committed")
    return Verdict(faults or _begin(store), jobs_lost)


def _lacking(store: Store, promised: Promises) -> Verdict:
    """What is damaged, and what was promised and is not there."""
    faults, there = [f"damage: {damage}" for damage in store.check()], kept(store._db)
    missing = [key for key, value in promised.items() if there.get(key) != value]
    faults += [f"promised and not there: {' '.join(key)}" for key in missing]
    return Verdict(faults, sum(key[0] == "job" for key in missing))


def _sure(expected: Expected) -> Promises:
    """What was promised and is not being taken back."""
    first, last = expected[0].promises, expected[-1].promises
    return {key: value for key, value in first.items() if last.get(key) == value}


def _jobs(expected: Expected) -> list[tuple[str, ...]]:
    return [key for key in _sure(expected) if key[0] == "job"]


def _begin(store: Store) -> list[str]:
    """Start a broker on it; what does not hold then."""
    core = Core(store, random.Random(0), IDENTITY, verbose=False)
    try:
        store.begin()
        core.start(FakeClock().now, "broker-1")
        store.commit()
    except QueuectlError as error:
        return [f"the broker does not start: {error.message}"]
    return find_broken(core)
