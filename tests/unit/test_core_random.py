"""Anything in any order: whatever workers, clients, time and crashes do, the invariants hold after every turn.

Simulated workers keep what they were granted until told otherwise, lose messages and connections, and send
results late and twice. A job's outcome is recorded once, and no two workers hold the same lease.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from queuectl.messages import Echo, Grant, Push, Recorded, Results, Who
from tests.harness import BrokerHarness, FakeWorker, held, request, result

STEPS = 250


class Simulated:
    """A worker that forgets nothing by itself."""

    def __init__(self, broker: BrokerHarness, name: str, chance: random.Random):
        self.speaker = FakeWorker(broker, name, slots=chance.randint(1, 3))
        self.broker, self.chance = broker, chance
        self.running: dict[int, Grant] = {}
        self.done: dict[int, Grant] = {}
        self.is_connected = False

    def connect(self) -> None:
        """Hello, with everything that it still has."""
        self.speaker.route = b"%s-%d" % (self.speaker.boot[:6].encode(), self.chance.randrange(10**6))
        names = [held(grant) for grant in self.running.values()]
        names += [held(grant, done=True) for grant in self.done.values()]
        welcome = self.speaker.hello(held=names)
        for lease in welcome.drop:
            self.running.pop(lease, None)
        self.is_connected = True

    def listen(self) -> None:
        """Take what the broker has said, or lose a push on the way."""
        route = self.speaker.route
        for push in self.broker.take_all(route, Push):
            if self.chance.random() < 0.1:
                continue
            self.speaker.received = push.seq
            for grant in push.grants:
                assert grant.lease not in self.running
                self.running[grant.lease] = grant
        for recorded in self.broker.take_all(route, Recorded):
            for verdict in recorded.verdicts:
                self.done.pop(verdict.lease, None)
        for echo in self.broker.take_all(route, Echo):
            for lease in echo.drop:
                self.running.pop(lease, None)
        if self.broker.take_all(route, Who):
            self.is_connected = False

    def act(self) -> None:
        """One thing that a worker does."""
        deed = self.chance.random()
        if not self.is_connected:
            self.connect()
        elif deed < 0.15:
            self.is_connected = False
            self.broker.turn(gone=[self.speaker.route] if deed < 0.1 else [])
        elif deed < 0.5 and self.running:
            self._end(self.chance.choice(list(self.running)))
        elif deed < 0.6 and self.running:
            lease = self.chance.choice(list(self.running))
            reason = self.chance.choice(["busy", "stopped", "worker_fault", "lost"])
            self.speaker.release(self.running.pop(lease), reason=reason)
        elif deed < 0.7 and self.running:
            grant = self.chance.choice(list(self.running.values()))
            self.speaker.write(grant, self.chance.randbytes(300), offset=self.chance.randrange(1000))
        else:
            self.speaker.beat(*self.running.values(), done=list(self.done.values()))

    def _end(self, lease: int) -> None:
        self.done[lease] = self.running.pop(lease)
        if self.chance.random() < 0.8:
            exit_code = self.chance.choice([0, 0, 1])
            results = [result(grant, exit_code, stdout_bytes=50) for grant in self.done.values()]
            self.speaker.tell(Results(self.speaker.session, results))


class Client:
    """Enqueues, revives, purges, changes settings."""

    def __init__(self, broker: BrokerHarness, chance: random.Random):
        self.broker, self.chance = broker, chance

    def act(self) -> None:
        deed = self.chance.random()
        if deed < 0.6:
            job = {
                "command": "x",
                "queue": self.chance.choice("ab"),
                "priority": self.chance.randint(0, 2),
                "max_retries": self.chance.randint(1, 3),
                "output_limit": 500,
            }
            self._ask("enqueue", jobs=[job] * self.chance.randint(1, 4))
        elif deed < 0.8:
            self._ask(self.chance.choice(["dlq_retry", "dlq_purge"]), all=True)
        else:
            self._ask("config_set", key="output_total", value=self.chance.choice([1000, 100_000]))

    def _ask(self, op: str, **args: Any) -> None:
        self.broker.turn(clients=[request(op, **args)])


class Failure(Exception):
    """The disk refuses."""


@pytest.mark.parametrize("seed", range(8))
def test_invariants_hold_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    broker = BrokerHarness(seed=seed)
    workers = [Simulated(broker, f"w{number}", chance) for number in range(3)]
    client = Client(broker, chance)
    for _ in range(STEPS):
        deed = chance.random()
        try:
            if deed < 0.02:
                broker.crash()
            elif deed < 0.2:
                broker.after(chance.choice([10, 500, 2000, 10_000, 35_000]))
            elif deed < 0.35:
                client.act()
            else:
                broker.fail_next = Failure() if chance.random() < 0.05 else None
                chance.choice(workers).act()
        except Failure:
            pass
        broker.fail_next = None
        broker.check_invariants()
        for worker in workers:
            worker.listen()
        broker.outbox.clear()
        assert_nothing_is_recorded_twice(broker)
    broker.close()


def assert_nothing_is_recorded_twice(broker: BrokerHarness) -> None:
    """No lease stands in two rows, and no job has more than one attempt that completed it."""
    query = broker.store._db.query
    assert query("SELECT lease FROM attempt GROUP BY lease HAVING count(*) > 1") == []
    assert query("SELECT seq FROM attempt WHERE outcome = 'completed' GROUP BY seq HAVING count(*) > 1") == []


@pytest.mark.parametrize("seed", range(3))
def test_everything_ends_once_workers_behave(seed: int) -> None:
    chance = random.Random(seed)
    broker = BrokerHarness(seed=seed)
    worker = Simulated(broker, "w", chance)
    client = Client(broker, chance)
    for _ in range(60):
        client.act()
        worker.act()
        worker.listen()
        broker.outbox.clear()

    for _ in range(2000):
        if not worker.is_connected:
            worker.connect()
        for lease in list(worker.running):
            worker.done[lease] = worker.running.pop(lease)
        worker.speaker.tell(Results(worker.speaker.session, [result(grant) for grant in worker.done.values()]))
        worker.speaker.beat(*worker.running.values(), done=list(worker.done.values()))
        worker.listen()
        broker.outbox.clear()
        broker.after(1000)
        counts = broker.core.counts()
        if counts["completed"] + counts["dead"] == counts["total"]:
            break

    assert counts["completed"] + counts["dead"] == counts["total"] > 0
    broker.check_invariants()
    broker.close()
