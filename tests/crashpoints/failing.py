"""Let every operation of the disk fail once, in every way, and see what the store says and what is left."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.store import StoreFull
from queuectl.errors import DatabaseRefused, StorageFailed
from tests.crashpoints.campaign import Found, start_of, survivors
from tests.crashpoints.disk import Disk, Fault, Note, Op
from tests.crashpoints.judge import Judge
from tests.crashpoints.vfs import WAYS, Failed
from tests.crashpoints.workload import STEPS, Work

STOPPED = (StorageFailed, DatabaseRefused, StoreFull)  # the last one where the database is being opened
MUST_STOP = {("sync", "eio"), ("write", "eio")}  # these are never passed over, if anybody can hear of them


@dataclass
class Answers(Found):
    """What came of planned faults: how often each was answered in each way, and what was left."""

    runs: int = 0
    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (operation, how, answer)


def operations(seed: int, *, keeps_log: bool = True) -> list[str]:
    """What the broker of a seed does to its disk when nothing fails."""
    disk = Disk(start_of(seed))
    seen: list[str] = []
    disk.plan = lambda operation, name: seen.append(operation)
    _work(Work(disk, seed, keeps_log=keeps_log))
    return seen


def _work(work: Work) -> None:
    """Each kind of step once, in an order of the seed's."""
    work.begin()
    for step in work.chance.sample(STEPS, len(STEPS)):
        work.do(step)
        work.broker.check_invariants()
    work.stop()


def fail_each(seed: int, found: Answers, *, every: int = 1) -> None:
    """Let every operation fail in every way; or every sync, and every so many of the others.

    Those of odd numbers are of a broker that cannot keep its log when it is abandoned, and does more to its disk.
    """
    found.seeds += 1
    with Judge() as judge:
        for keeps_log in (True, False):
            for number, operation in enumerate(operations(seed, keeps_log=keeps_log)):
                if number % 2 != keeps_log and (operation == "sync" or (number + seed) % every == 0):
                    for how in WAYS[operation]:
                        _fail(judge, found, seed, Planned(number, operation, how))


class Planned(NamedTuple):
    """The operation of this number fails so."""

    number: int
    operation: str
    how: str


def _fail(judge: Judge, found: Answers, seed: int, planned: Planned) -> None:
    """Let one operation fail, and judge what is left when the store has stopped, or gone on to the end."""
    disk = Disk(start_of(seed))
    heard: list[bool] = []
    disk.plan = _plan(planned, lambda: heard.append(disk.is_heard))
    work = Work(disk, seed, keeps_log=planned.number % 2 == 0)
    answer = "went on"
    try:
        _work(work)
    except STOPPED as error:
        answer = type(error).__name__
        assert work.connection is not None or answer == "DatabaseRefused"
        if work.connection is not None:
            work.connection.abandon()
    found.runs += 1
    found.answers[planned.operation, planned.how, answer] += 1
    where = f"seed {seed}, {planned.how} at operation {planned.number}, {planned.operation}: {answer}"
    if answer == "went on" and heard == [True] and (planned.operation, planned.how) in MUST_STOP:
        found.faults.append(f"{where}, and it must not")
    chance = random.Random(planned.number)
    moments = _moments(disk.log)
    if answer == "went on":
        moments.add(chance.choice([moment for moment, op in enumerate(disk.log) if not isinstance(op, Note)]))
    for _, files, expected in survivors(disk, judge.opened(disk.start), chance, moments):
        found.take(judge.judge(files, expected), where)


def _plan(planned: Planned, note: Callable[[], None]) -> Callable[[str, str], None]:
    numbers = itertools.count()

    def plan(operation: str, name: str) -> None:
        if next(numbers) == planned.number:
            note()
            raise Fault(operation, planned.how)

    return plan


def _moments(log: list[Op]) -> set[int]:
    """When the store was told of the fault, and the end.

    Between the two SQLite may have deleted the log, and the store not yet put an empty one in its place: a power cut
    there makes the next start ask for it. Nothing is lost then.
    """
    told = [moment for moment, op in enumerate(log) if isinstance(op, Note) and isinstance(op.what, Failed)]
    done = [moment for moment, op in enumerate(log) if not isinstance(op, Note)]
    before = [moment for moment in done if told and moment < told[0]]
    return {*before[-1:], *done[-1:]}
