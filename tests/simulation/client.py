"""Clients: they ask, lose patience, ask again under the same request id, or never, and note what they were told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from tests.simulation.clock import Timeline
from tests.simulation.network import CLIENTS, TO_BROKER, Line, Network, Path
from tests.simulation.plan import Plan, random_job, random_wishes
from tests.simulation.verbs import Standing, random_change

TRIES_MAX = 6
INSIST_MS, INSIST_MAX = 1000, 60
CHANGES = 0.5  # share of changes among what is asked, where people change jobs


@dataclass(slots=True)
class Asked:
    """One request, however often it was sent."""

    id: str
    op: str
    args: dict[str, Any]
    tries: int = 0
    replies: list[dict[str, Any]] = field(default_factory=list)


class Client:
    """A client with one request at a time."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        timeline: Timeline,
        network: Network,
        asked: dict[str, Asked],
        look: Callable[[], Standing],
    ) -> None:
        self.name = name
        self._look = look
        self._plan, self._timeline, self._network = plan, timeline, network
        self._chance = random.Random(f"{plan.seed}/{name}")
        self._people = random.Random(f"{plan.seed}/{name}/people")
        self._asked = asked
        self._ids: list[str] = []
        self.path = Path(name)
        self._line: Line = network.connect(self, self.path, CLIENTS)
        self._open: Asked | None = None
        self._made = 0
        self.may_ask = True

    # --- the line ---

    def on_connected(self) -> None: ...

    def on_lost(self, again: Line) -> None:
        self._line = again

    def on_arrived(self, body: bytes) -> None:
        reply: dict[str, Any] = msgpack.unpackb(body)
        asked = self._asked.get(reply["id"])
        if asked is None:
            return
        asked.replies.append(reply)
        if asked.op == "enqueue" and "ok" in reply:
            self._ids += [job_id for job_id in reply["ok"]["ids"] if job_id]
        elif asked.op == "retry" and "ok" in reply:
            self._ids += reply["ok"]["copies"].values()
        if asked is self._open:
            self._open = None

    def _send(self, asked: Asked) -> None:
        asked.tries += 1
        if self._line.is_open[1]:
            body = msgpack.packb({"v": 1, "id": asked.id, "op": asked.op, "args": asked.args})
            self._network.send(self._line, TO_BROKER, body)

    # --- requests ---

    def work(self) -> None:
        """Ask for something, and again after a while."""
        if self.may_ask:
            if self._open is None:
                self._ask()
            requests = self._plan.requests * (2 if self._plan.is_meddled else 1)
            pace_ms = self._plan.trouble_ms // (requests // self._plan.clients + 1)
            self._timeline.after(self._chance.randrange(2 * pace_ms) + 1, self.work)

    def _ask(self) -> None:
        if self._plan.is_meddled and self._people.random() < CHANGES:
            op, args = self.change(self._people)
        else:
            make = self._chance.choices([make for make, _ in MIX], [weight for _, weight in MIX])[0]
            op, args = make(self, self._chance)
        self._open = self.ask(op, args)
        self._timeline.after(self._patience_ms(), self._lose_patience, self._open)

    def ask(self, op: str, args: dict[str, Any]) -> Asked:
        """Send a request, once."""
        request_id = self._next_id
        self._made += 1
        asked = Asked(request_id, op, args)
        self._asked[asked.id] = asked
        self._send(asked)
        return asked

    def insist(self, op: str, args: dict[str, Any]) -> None:
        """Send a request until it is answered."""
        self._insist(self.ask(op, args))

    def _insist(self, asked: Asked) -> None:
        if not any("ok" in reply for reply in asked.replies) and asked.tries < INSIST_MAX:
            self._send(asked)
            self._timeline.after(INSIST_MS, self._insist, asked)

    def revoke_old(self, name: str) -> None:
        """Let only the newest key of a name in from now on."""
        self.ask("key_revoke", {"name": name, "old": True})

    def _patience_ms(self) -> int:
        return self._chance.choice((50, 500, 2000, 5000))

    def _lose_patience(self, asked: Asked) -> None:
        if asked is not self._open:
            return
        if asked.tries >= TRIES_MAX or (self.may_ask and self._chance.random() < 0.1):
            self._open = None  # never to be known
            return
        if self._chance.random() < 0.5:  # through another socket
            self._network.hang_up(self._line)
            self._line = self._network.connect(self, self.path, CLIENTS)
            self._timeline.after(2 * self._plan.latency_ms + 5, self._send, asked)
        else:
            self._send(asked)
        self._timeline.after(self._patience_ms(), self._lose_patience, asked)

    # --- what there is to ask ---

    def enqueue(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        return "enqueue", {"jobs": self._jobs(chance, 1)}

    def bulk(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        return "enqueue", {"jobs": self._jobs(chance, chance.randint(2, 5))}

    def named(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        jobs = self._jobs(chance, chance.randint(1, 2))
        for job in jobs:
            job["id"] = f"job-{chance.randrange(30)}"
        return "enqueue", {"jobs": jobs}

    def _jobs(self, chance: random.Random, count: int) -> list[dict[str, Any]]:
        jobs = [random_job(chance, self._plan, f"{self._next_id}/{n}") for n in range(count)]
        if not self._plan.is_meddled:
            return jobs
        return [job | random_wishes(self._people, self._plan, job.get("delay", 0)) for job in jobs]

    def change(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """Something to be done to jobs that are there."""
        return random_change(chance, self._plan, self._look(), self._ids, f"{self._next_id}/edited")

    @property
    def _next_id(self) -> str:
        return f"{self.name}-{self._made + 1:06}"

    def retry_all(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        return "dlq_retry", {"all": True}

    def retry_some(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        return "dlq_retry", {"ids": [chance.choice(self._ids)] if self._ids else ["none"]}

    def configure(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        key, values = chance.choice(SETTINGS)
        if key == "heartbeat":
            values = (self._plan.heartbeat_s, max(0.05, self._plan.heartbeat_s / 2))
        elif key == "lease":
            values = (self._plan.lease_s, 2 * self._plan.lease_s)
        return "config_set", {"key": key, "value": chance.choice(values)}

    def look(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        return chance.choice((("status", {}), ("list", {"limit": 5}), ("config_show", {}), ("ping", {})))

    def wait(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        wanted: dict[str, Any] = {"jobs": [chance.choice(self._ids)]} if self._ids else {"empty": True}
        return "wait", {**wanted, "timeout_ms": chance.choice((10, 1000, 10_000))}


SETTINGS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("max_retries", (1, 2, 3, 4)),
    ("backoff_base", (0.5, 1, 2)),
    ("output_total", (0, 1000, 2**30)),
    ("heartbeat", ()),
    ("lease", ()),
)

Make = Callable[[Client, random.Random], tuple[str, dict[str, Any]]]
MIX: tuple[tuple[Make, int], ...] = (
    (Client.enqueue, 40),
    (Client.bulk, 15),
    (Client.named, 12),
    (Client.retry_all, 7),
    (Client.retry_some, 6),
    (Client.configure, 7),
    (Client.look, 6),
    (Client.wait, 4),
)
