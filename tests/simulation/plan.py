"""What a seed stands for: how big the cluster is, how fast its hearts beat, what befalls it, and how often."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace
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
JOBS_CHANGED = "jobs_changed"
BEATS = 90  # heartbeats of trouble in a run
_HEARTBEATS_S = (0.2, 0.5, 1, 2, 5, 10, 30, 60, 60)
_SHARE_OF_KINDS = (0.15, 0.35, 0.6)  # few kinds of trouble with much of each, or many
_STRIKES = (1, 3, 6)
_MANY_STRIKES, _MANY_LONG_JOBS = 30, 0.9
_OWN = (KEY_EXCHANGED, JOBS_CHANGED)  # kinds that only some clusters can have
KEPT = ("keep_completed", "keep_dead", "keep_cancelled")
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
    is_meddled: bool  # whether people change jobs that are there, and choose more of those that they enqueue
    kept: dict[str, float]  # settings of retention, where it is to come about while anybody looks
    strikes: dict[str, float] = field(default_factory=dict)  # scheduled faults: how many to expect
    chances: dict[str, float] = field(default_factory=dict)  # of messages and commands

    @property
    def settings(self) -> dict[str, float]:
        """Of the database, before the first start."""
        return {"heartbeat": self.heartbeat_s, "lease": self.lease_s, "max_losses": self.max_losses} | self.kept

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
    own: dict[str, float] = {KEY_EXCHANGED: keys.choice(_STRIKES)} if is_keyed and keys.random() < 0.6 else {}
    people = random.Random(f"{seed}/people")
    is_meddled = people.random() < 0.6
    if is_meddled and people.random() < 0.5:
        own[JOBS_CHANGED] = people.choice(_STRIKES)
    keeps = is_meddled and people.random() < 0.4
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
        is_meddled=is_meddled,
        kept=_kept(people, heartbeat_s) if keeps else {},
        strikes={kind: chance.choice(_STRIKES) for kind in scheduled if kind not in _OWN and chance.random() < share}
        | own,
        chances={kind: chance.choice(_CHANCES) for kind in MESSAGE_FAULTS if chance.random() < share}
        | {kind: chance.choice(_COMMAND_CHANCES) for kind in COMMAND_FAULTS if chance.random() < max(share, 0.3)},
    )


def plan_amid(plan: Plan, kinds: Collection[str]) -> Plan:
    """The same with one machine and long jobs that people change, amid much of these kinds of faults and no others."""
    chances = dict.fromkeys(MESSAGE_FAULTS, _CHANCES[-1]) | dict.fromkeys(COMMAND_FAULTS, _COMMAND_CHANCES[1])
    return replace(
        plan,
        is_meddled=True,
        long_jobs=_MANY_LONG_JOBS,
        machines=1,
        strikes={kind: _MANY_STRIKES / len(kinds) for kind in kinds if kind not in chances},
        chances={kind: chance for kind, chance in chances.items() if kind in kinds},
    )


def _kept(people: random.Random, heartbeat_s: float) -> dict[str, float]:
    """Jobs that are over go after some heartbeats, and few dead ones stay."""
    kept = {key: heartbeat_s * people.choice((1, 10, 40)) for key in KEPT if people.random() < 0.7}
    return kept | ({"keep_dead_max": people.choice((1, 3))} if people.random() < 0.5 else {})


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


def random_wishes(chance: random.Random, plan: Plan, delay_s: float = 0) -> dict[str, Any]:
    """What else people choose of a job: until when it is worth anything, what it is called, when it is retried.

    `delay_s`: what it has been given; what is over before it starts is refused.
    """
    wishes = {key: chance.choice(values) for key, odds, values in _WISHES if chance.random() < odds}
    if chance.random() < 0.2:
        wishes["delay"] = delay_s = round(chance.random() * plan.lease_s, 3)
    if chance.random() < 0.15:
        wishes["expires"] = round(delay_s + (0.05 + 2 * chance.random()) * plan.lease_s, 3)
    if chance.random() < 0.15:
        wishes["deadline"] = round(delay_s + (0.1 + 4 * chance.random()) * plan.lease_s, 3)
    return wishes


_WISHES: tuple[tuple[str, float, tuple[Any, ...]], ...] = (
    ("hold", 0.2, (True,)),
    ("unique", 0.3, ("k1", "k2", "k3", "k4", "k5")),
    ("on_conflict", 0.5, ("error", "replace", "replace")),
    ("tags", 0.4, ({"team": "a"}, {"team": "b"}, {"team": "a", "night": "yes"})),
    ("backoff", 0.3, ("linear", "fixed", "exp", [0.2, 2], [3, 1, 0])),
    ("retry_on", 0.15, ([1], [1, 124], [139], [7])),
    ("no_retry_on", 0.2, ([1], [139, 124], [7], [137, 143])),
)
