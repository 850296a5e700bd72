"""What a seed stands for: how big the cluster is, how fast its hearts beat, what befalls it, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

MESSAGE_FAULTS = ("message_dropped", "message_doubled", "message_reordered", "message_delayed")
COMMAND_FAULTS = (
    "command_failed",
    "command_signalled",
    "command_slow",
    "command_stubborn",
    "spawn_error",
    "worker_fault",
)
KEY_EXCHANGED = "key_exchanged"
BEATS = 90  # heartbeats of trouble in a run
_HEARTBEATS_S = (0.2, 0.5, 1, 2, 5, 10, 30, 60, 60)
_SHARE_OF_KINDS = (0.15, 0.35, 0.6)  # few kinds of trouble with much of each, or many
_STRIKES = (1, 3, 6)
_CHANCES = (0.002, 0.01, 0.04)
_COMMAND_CHANCES = (0.05, 0.2, 0.5)


@dataclass(frozen=True)
class Plan:
    """Everything that is chosen before a run begins. Durations in ms but for the settings."""

    seed: int
    heartbeat_s: float
    lease_s: float
    machines: int
    slots: tuple[int, ...]
    clients: int
    queues: tuple[str, ...]
    latency_ms: int
    turn_ms: int
    messages_max: int
    queue_max: int
    max_losses: int
    long_jobs: float  # the share of those that may outlast a lease
    requests: int
    is_keyed: bool  # whether workers come in with keys of their own
    strikes: dict[str, float] = field(default_factory=dict)  # scheduled faults: how many to expect
    chances: dict[str, float] = field(default_factory=dict)  # of messages and commands

    @property
    def settings(self) -> dict[str, float]:
        """Of the database, before the first start."""
        return {"heartbeat": self.heartbeat_s, "lease": self.lease_s, "max_losses": self.max_losses}

    @property
    def trouble_ms(self) -> int:
        """How long things go wrong."""
        return int(self.heartbeat_s * 1000 * BEATS)

    @property
    def lease_ms(self) -> int:
        return int(self.lease_s * 1000)


def make_plan(seed: int, scheduled: tuple[str, ...]) -> Plan:
    """The plan of a seed. `scheduled`: the kinds of faults that come at their own times."""
    chance = random.Random(f"{seed}/plan")
    share = chance.choice(_SHARE_OF_KINDS)
    heartbeat_s = chance.choice(_HEARTBEATS_S)
    machines = chance.choice((1, 2, 2, 3))
    keys = random.Random(f"{seed}/keys")
    is_keyed = keys.random() < 0.5
    exchanges: dict[str, float] = {KEY_EXCHANGED: keys.choice(_STRIKES)} if is_keyed and keys.random() < 0.6 else {}
    return Plan(
        seed=seed,
        heartbeat_s=heartbeat_s,
        lease_s=max(0.25, heartbeat_s * chance.choice((5, 6, 8, 15))),
        machines=machines,
        slots=tuple(chance.choice((1, 1, 1, 3)) for _ in range(machines + 3)),
        clients=chance.randint(1, 2),
        queues=("default", "a")[: chance.randint(1, 2)],
        latency_ms=chance.choice((0, 1, 3, 20)),
        turn_ms=chance.choice((0, 1, 5, 50)),
        messages_max=chance.choice((1, 3, 1000, 1000)),
        queue_max=chance.choice((2, 8, 1000, 1000)),
        max_losses=chance.choice((1, 3, 3, 5)),
        long_jobs=chance.choice((0.0, 0.5, 0.9)),
        requests=chance.randint(20, 50),
        is_keyed=is_keyed,
        strikes={
            kind: chance.choice(_STRIKES) for kind in scheduled if kind != KEY_EXCHANGED and chance.random() < share
        }
        | exchanges,
        chances={kind: chance.choice(_CHANCES) for kind in MESSAGE_FAULTS if chance.random() < share}
        | {kind: chance.choice(_COMMAND_CHANCES) for kind in COMMAND_FAULTS if chance.random() < max(share, 0.3)},
    )


def random_job(chance: random.Random, plan: Plan, command: str) -> dict[str, Any]:
    """A job of any sort."""
    job: dict[str, Any] = {"command": command, "queue": chance.choice(plan.queues)}
    for key, odds, values in _FIELDS:
        if chance.random() < odds:
            job[key] = chance.choice(values)
    if chance.random() < 0.2:
        job["delay"] = round(chance.random() * plan.lease_s, 3)
    if chance.random() < 0.3:
        job["timeout"] = round((0.05 + chance.random()) * plan.lease_s, 3)
    return job


_FIELDS: tuple[tuple[str, float, tuple[Any, ...]], ...] = (
    ("priority", 0.3, (-5, 1, 7)),
    ("max_retries", 0.7, (1, 1, 2, 3, 5)),
    ("backoff_base", 0.6, (0, 0.5, 1, 1.5, 3)),
    ("backoff_max", 0.3, (1, 10, 60)),
    ("backoff_jitter", 0.3, ("full", "equal")),
    ("on_lost", 0.3, ("dead",)),
    ("output_limit", 0.2, (0, 100)),
)
