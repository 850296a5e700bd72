"""Random work, and readers of the feed who stop anywhere: each event reaches each of them once, in order, and all of
them together tell what became of each job.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker.store.rows import STATES
from queuectl.ids import job_id_of
from tests.harness import BrokerHarness, request
from tests.unit.test_core_random import Client, Failure, Simulated

STEPS = 400
LEADS_TO = {
    "enqueued": "pending",
    "leased": "processing",
    "adopted": "processing",
    "cancelled": "cancelled",
    "replaced": "cancelled",
    "expired": "cancelled",
    "dead": "dead",
}


class BusyClient(Client):
    """Names its jobs, too, replaces them, does not wait for ever, and changes its mind."""

    def act(self) -> None:
        deed = self.chance.random()
        if deed < 0.4:
            super().act()
        elif deed < 0.6:
            op = self.chance.choice(["cancel", "hold", "release", "edit", "retry", "purge"])
            changes = {"changes": {"priority": 3}} if op == "edit" else {}
            self._ask(op, select={"queue": self.chance.choice(["a", "b", "default"])}, **changes)
        elif deed < 0.8:
            jobs = [
                {"command": "x", "id": f"job-{self.chance.randrange(12)}"} for _ in range(self.chance.randint(1, 3))
            ]
            self._ask("enqueue", jobs=[*jobs, {"command": "x"}, {"command": "x", "max_retries": 1}])
        elif deed < 0.9:
            self._ask("enqueue", jobs=[{"command": "x", "unique": "k", "on_conflict": "replace", "delay": 5}])
        else:
            self._ask(
                "enqueue", jobs=[{"command": "x", "delay": 5, self.chance.choice(["expires", "deadline"]): 3}] * 2
            )


class Reader:
    """Reads a slice now and then, and may lose the answer; sometimes goes on after an event in the middle of one."""

    def __init__(self, broker: BrokerHarness, chance: random.Random, cursor: list[int]):
        self.broker, self.chance, self.cursor = broker, chance, cursor
        self.read: list[tuple[Any, ...]] = []
        self.asked = 0

    def act(self) -> None:
        """One slice, in a turn with other requests; its answer may come too late."""
        others = [request("enqueue", jobs=[{"command": "x"}] * 2)][: self.chance.randint(0, 1)]
        self.slice(*others, limit=self.chance.randint(1, 7), wait_ms=self.chance.choice([0, 0, 5000]))

    def slice(self, *others: bytes, limit: int, wait_ms: int = 0) -> bool:
        """Whether there is more."""
        self.asked += 1
        name = f"reader-{id(self)}-{self.asked}"
        ask = request("events", request_id=name, cursor=self.cursor, limit=limit, wait_ms=wait_ms)
        self.broker.turn(clients=[ask, *others])
        replies = [reply["ok"] for reply in self.broker.replies() if reply["id"] == name]
        if not replies or self.chance.random() < 0.1:
            return True
        [reply] = replies
        assert reply["missed"] is False
        events = reply["events"]
        self.cursor = reply["cursor"]
        if events and self.chance.random() < 0.2:
            events = events[: self.chance.randint(1, len(events))]
            self.cursor = events[-1]["cursor"]
        self.read += [(event["type"], event["job_id"], event["attempt"], event.get("state")) for event in events]
        return bool(reply["more"]) or len(events) < len(reply["events"])

    def read_on(self) -> None:
        """All that is left."""
        while self.slice(limit=self.chance.randint(1, 500)):
            pass


def stored(broker: BrokerHarness, before: int = 2**62) -> list[tuple[Any, ...]]:
    """The events of all rows before one, as they have them: what their codes mean is said here in other words."""
    events: list[tuple[Any, ...]] = []
    for (body,) in broker.store._db.query("SELECT body FROM event WHERE event < ? ORDER BY event", (before,)):
        for code, *fields in msgpack.unpackb(body):
            if code == 1:
                first, count = fields[:2]
                events += [("enqueued", job_id_of(seq), None, None) for seq in range(first, first + count)]
            else:
                events.append(_TELLERS[code](*fields))
    return events


_STATES = [state.value for state in STATES]
_TELLERS: dict[int, Any] = {
    0: lambda job, *_: ("enqueued", job, None, None),
    2: lambda job, attempt, *_: ("leased", job, attempt, None),
    3: lambda job, attempt, _w, _o, _e, _s, _d, state, *_: ("finished", job, attempt, _STATES[state]),
    4: lambda job, attempt, _w, _r, state: ("requeued", job, attempt, _STATES[state]),
    5: lambda job, attempt, _w, _r, state: ("lost", job, attempt, _STATES[state]),
    6: lambda job, attempt, *_: ("adopted", job, attempt, None),
    7: lambda job, *_: ("cancelled", job, None, None),
    9: lambda job, *_: ("expired", job, None, None),
    8: lambda job, _by, _reason, attempt: ("cancel_asked", job, attempt, None),
    10: lambda job, *_: ("dead", job, None, None),
    11: lambda job, *_: ("held", job, None, None),
    12: lambda job, *_: ("released", job, None, None),
    13: lambda job, *_: ("edited", job, None, None),
    14: lambda job, _by, state, *_: ("retried", job, None, _STATES[state]),
    15: lambda job, *_: ("purged", job, None, None),
    16: lambda job, *_: ("replaced", job, None, None),
    17: lambda *_: ("worker_joined", None, None, None),
    18: lambda *_: ("worker_left", None, None, None),
    19: lambda *_: ("setting_changed", None, None, None),
    22: lambda *_: ("broker_started", None, None, None),
}


def replayed(events: list[tuple[Any, ...]]) -> dict[str, str]:
    """Where each job stands, if the events are all that is known."""
    states: dict[str, str] = {}
    for kind, job, _, state in events:
        if kind == "purged":
            del states[job]
        elif job is not None:
            assert kind == "enqueued" or job in states
            states[job] = state or LEADS_TO.get(kind, states.get(job, ""))
    return states


def truth(broker: BrokerHarness) -> dict[str, str]:
    return {job: _STATES[state] for job, state in broker.store._db.query("SELECT id, state FROM job")}


@pytest.mark.parametrize("seed", range(8))
def test_every_event_is_read_once_and_they_tell_all(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    broker = BrokerHarness(tmp_path / "queue.db" if seed < 2 else ":memory:", seed=seed)
    workers = [Simulated(broker, f"w{number}", chance) for number in range(3)]
    client = BusyClient(broker, chance)
    readers = [(0, Reader(broker, chance, [0])) for _ in range(3)]
    for step in range(STEPS):
        deed = chance.random()
        try:
            if deed < 0.02:
                broker.crash()
            elif deed < 0.15:
                broker.after(chance.choice([10, 500, 2000, 10_000, 35_000]))
            elif deed < 0.3:
                client.act()
            else:
                broker.fail_next = Failure() if chance.random() < 0.05 else None
                actors: list[Simulated | Reader] = [*workers, *workers, *(reader for _, reader in readers)]
                chance.choice(actors).act()
        except Failure:
            pass
        broker.fail_next = None
        for worker in workers:
            worker.listen()
        broker.outbox.clear()
        if step % 50 == 0:
            row, place = cursor = broker.ask("events")["cursor"]
            broker.outbox.clear()
            readers.append((len(stored(broker, row)) + place, Reader(broker, chance, cursor)))
            assert replayed(stored(broker)) == truth(broker)

    for _, reader in readers * 2:  # while the first of them come to the end, things may still happen
        reader.read_on()
    everything = stored(broker)
    assert replayed(everything) == truth(broker)
    assert len(everything) > STEPS // 2
    for start, reader in readers:
        assert reader.read == everything[start:]
    broker.close()
