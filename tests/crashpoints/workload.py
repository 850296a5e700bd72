"""A broker at work on a disk of the tests' own: every kind of thing that it writes, as a seed has it.

Clients enqueue, retry and purge, settings change, workers come, report, write, fall silent; the log is tidied as the
loop does it, and the broker ends and begins again. After each step the log of the disk says what has been promised.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from broker.core import Turn
from broker.store import StoreFull
from queuectl.messages import Grant, Push, Recorded, Results, Who
from queuectl.wire import encode
from tests.crashpoints.contents import Promises, digest
from tests.crashpoints.disk import Disk
from tests.crashpoints.vfs import ApswConnection
from tests.harness import BrokerHarness, FakeClock, FakeWorker, held, request, result

DATABASE = "/queue.db"
QUEUES = ("default", "mail", "video")
WORKERS_MAX = 3


class Opening(NamedTuple):
    """Noted in the log of the disk: the database is being opened."""


class Opened(NamedTuple):
    """Noted: it is open, and holds what this digest says."""

    digest: str


class Told(NamedTuple):
    """Noted: all that has been promised by now."""

    promises: Promises


class Broker(BrokerHarness):
    """A broker whose disk may be full for one operation: what finds no room is done again."""

    def start(self, broker_id: str = "broker-1") -> None:
        db = self.store._db
        assert isinstance(db, ApswConnection)
        with db.disk.without_faults():
            db.disk.note(Opened(digest(db)))
        super().start(broker_id)
        self.store.write_through()

    def turn(self, *what: Any, **how: Any) -> Turn:
        try:
            return super().turn(*what, **how)
        except StoreFull:
            return super().turn(*what, **how)


class Work:
    """A broker and those who speak with it. Each step may raise what the store raises."""

    def __init__(self, disk: Disk, seed: int, **how: Any):
        self.disk = disk
        self.chance = random.Random(seed)
        self.promises: Promises = {}
        self._seed = seed
        self._how = how
        self._clock = FakeClock()
        self._asked = 0
        self._workers: dict[FakeWorker, list[Grant]] = {}
        self._written: dict[int, int] = {}
        self.broker: Broker
        self.connection: ApswConnection | None = None  # the latest

    # --- begin and end -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the database and start the broker."""
        self.disk.note(Opening())
        self.broker = Broker(DATABASE, seed=self.chance.getrandbits(32), clock=self._clock, connect=self._connect)

    def _connect(self, path: Path | str) -> ApswConnection:
        self.connection = ApswConnection(path, self.disk, **self._how)
        return self.connection

    def stop(self) -> None:
        """End as the broker does when it is told to."""
        store = self.broker.store
        try:
            store.write_through()
            store.begin()
            self.broker.core.stop(self._clock.now)
            store.commit()
            store.close()
        except StoreFull:
            store.abandon()

    def restart(self) -> None:
        """End, now and then as in a crash, and begin anew; the workers come back."""
        if self.chance.random() < 0.7:
            self.stop()
        else:
            self.broker.store.abandon()
        self.begin()
        for worker in self._workers:
            worker.broker = self.broker
            self._hello(worker)

    # --- steps -----------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Begin, so many steps, and a clean end."""
        self.begin()
        for step in self.chance.choices(STEPS, k=steps):
            self.do(step)
        self.stop()

    def do(self, step: Callable[[Work], None]) -> None:
        step(self)
        self.disk.note(Told(dict(self.promises)))
        self._listen()
        with suppress(StoreFull):
            self.broker.store.tidy()

    def _listen(self) -> None:
        for worker, grants in self._workers.items():
            for push in self.broker.take_all(worker.route, Push):
                worker.received = push.seq
                grants += push.grants
            if self.broker.take_all(worker.route, Who):
                self._hello(worker)
        self.broker.outbox.clear()

    # --- as clients --------------------------------------------------------------------------------------

    def _ask(self, op: str, **args: Any) -> dict[str, Any]:
        request_id = self._request_id()
        data = self.broker.ask(op, request_id=request_id, **args)
        self.promises["reply", request_id] = op
        return data

    def _request_id(self) -> str:
        self._asked += 1
        return f"request-{self._seed}-{self._asked}"

    def _jobs(self, most: int) -> list[dict[str, Any]]:
        """Jobs that somebody wants, short and long ones."""
        return [
            {
                "command": "x" * self.chance.choice((5, 80, 3000)) + str(self.chance.random()),
                "queue": self.chance.choice(QUEUES),
                "max_retries": self.chance.randint(1, 3),
                "priority": self.chance.randint(0, 3),
            }
            for _ in range(self.chance.randint(1, most))
        ]

    def enqueue_one(self) -> None:
        """One job."""
        self._enqueue(self._jobs(1))

    def enqueue_many(self) -> None:
        """Jobs in bulk."""
        self._enqueue(self._jobs(12))

    def _enqueue(self, jobs: list[dict[str, Any]]) -> None:
        self._stored(jobs, self._ask("enqueue", jobs=jobs))

    def _stored(self, jobs: list[dict[str, Any]], reply: dict[str, Any]) -> None:
        self.promises |= {("job", name): job["command"] for name, job in zip(reply["ids"], jobs, strict=True)}

    def retry_dead(self) -> None:
        """Some dead jobs get another chance."""
        if dead := self._dead():
            self._ask("dlq_retry", ids=dead)

    def purge_dead(self) -> None:
        """Some dead jobs go for good."""
        if dead := self._dead():
            gone = self._ask("dlq_purge", ids=dead)["ids"]
            self.promises = {key: value for key, value in self.promises.items() if key[1] not in gone}

    def _dead(self) -> list[str]:
        dead = [job["id"] for job in self.broker.ask("list", state="dead")["jobs"]]
        return self.chance.sample(dead, min(len(dead), 3))

    def change_setting(self) -> None:
        """A setting becomes another, or its default again."""
        key = self.chance.choice(("max_retries", "max_losses"))
        if ("setting", key) in self.promises and self.chance.random() < 0.3:
            self._ask("config_unset", key=key)
            del self.promises["setting", key]
        else:
            value = self.chance.randint(4, 9)  # the default is not kept
            self._ask("config_set", key=key, value=value)
            self.promises["setting", key] = value

    def everything_at_once(self) -> None:
        """Several clients and workers in one turn."""
        jobs = [self._jobs(3) for _ in range(3)]
        clients = [request("enqueue", request_id=self._request_id(), jobs=wanted) for wanted in jobs]
        reports = {worker: grants[:] for worker, grants in self._workers.items() if grants}
        results = [
            (worker.route, encode(Results(worker.session, [result(grant) for grant in grants])))
            for worker, grants in reports.items()
        ]
        self.broker.turn(results, clients)
        for reply, wanted in zip(self.broker.replies(), jobs, strict=True):
            self._stored(wanted, reply["ok"])
            self.promises["reply", reply["id"]] = "enqueue"
        for worker, grants in reports.items():
            self._recorded(worker, grants, "completed")

    # --- as workers --------------------------------------------------------------------------------------

    def worker_comes(self) -> None:
        """A worker more, or the oldest one begins anew."""
        if len(self._workers) == WORKERS_MAX:
            del self._workers[next(iter(self._workers))]
        worker = self.broker.worker(f"w{self.chance.getrandbits(40)}", slots=self.chance.randint(1, 4))
        self._workers[worker] = []
        self._hello(worker)

    def _hello(self, worker: FakeWorker) -> None:
        grants = self._workers[worker]
        welcome = worker.hello(held=[held(grant) for grant in grants])
        grants[:] = [grant for grant in grants if grant.lease in welcome.keep]

    def report_success(self) -> None:
        """A worker reports all it holds."""
        self._report(0, "completed")

    def report_failure(self) -> None:
        """The same, and all of it failed."""
        self._report(1, "exit")

    def _report(self, exit_code: int, outcome: str) -> None:
        for worker, grants in list(self._workers.items()):
            if grants:
                reported = grants[: self.chance.randint(1, len(grants))]
                worker.tell(Results(worker.session, [result(grant, exit_code) for grant in reported]))
                self._recorded(worker, reported, outcome)
                return

    def _recorded(self, worker: FakeWorker, reported: list[Grant], outcome: str) -> None:
        verdicts = {
            verdict.lease: verdict.verdict
            for answer in self.broker.take_all(worker.route, Recorded)
            for verdict in answer.verdicts
        }
        for grant in reported:
            if verdicts.get(grant.lease) == "recorded":
                self.promises["outcome", grant.job, str(grant.attempt)] = outcome
            if grant.lease in verdicts:
                self._workers[worker].remove(grant)

    def write_output(self) -> None:
        """A running job prints."""
        for worker, grants in self._workers.items():
            for grant in grants[:1]:
                data = self.chance.randbytes(self.chance.choice((20, 500, 9000)))
                offset = self._written.get(grant.lease, 0)
                self._written[grant.lease] = offset + len(data)
                worker.write(grant, data, offset=offset)

    def time_passes(self) -> None:
        """Retries become due."""
        self.broker.after(self.chance.randint(100, 9000))

    def worker_is_lost(self) -> None:
        """One worker falls silent until it has lost its leases; the others do not."""
        silent = self.chance.choice([None, *self._workers])
        for _ in range(5):
            self._clock.advance(10_000)
            for worker, grants in self._workers.items():
                if worker is not silent:
                    worker.beat(*grants)
            self._listen()


STEPS = (
    Work.enqueue_one,
    Work.enqueue_many,
    Work.everything_at_once,
    Work.retry_dead,
    Work.purge_dead,
    Work.change_setting,
    Work.worker_comes,
    Work.report_success,
    Work.report_failure,
    Work.write_output,
    Work.time_passes,
    Work.worker_is_lost,
    Work.restart,
)
