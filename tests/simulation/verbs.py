"""What people do to jobs that are there: which ones they mean, and what is to become of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from queuectl.jobs import JobState
from tests.simulation.plan import KEPT, Plan

Args = dict[str, Any]
Standing = Mapping[JobState, Sequence[str]]  # ids of jobs, as somebody who has just looked knows them
_STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")
_WHERE = ("attempts>=1", "attempts=0", "priority>0", "exit_code=1", "losses>=1")
_TAGS = ("team=a", "team=b", "team", "night")
SIGNALS = (15, 15, 2, 1, 10, 9)
DRY = 0.1


def _select(chance: random.Random, plan: Plan, suitable: Sequence[str], ids: Sequence[str]) -> Args:
    """Some jobs by their ids, mostly such that it can be done to, or those that have two things in common."""
    if ids and chance.random() < 0.8:
        among = suitable if suitable and chance.random() < 0.8 else ids
        return {"ids": [chance.choice(among) for _ in range(chance.randint(1, 3))]}
    common: Args = {
        "state": chance.choice(_STATES),
        "queue": chance.choice((*plan.queues, "none")),
        "tags": [chance.choice(_TAGS)],
        "where": [chance.choice(_WHERE)],
    }
    return {key: common[key] for key in sorted(chance.sample(sorted(common), 2))}


def _cancel(chance: random.Random, plan: Plan, name: str) -> Args:
    return {
        "reason": chance.choice(("", "not needed")),
        "signal": chance.choice(SIGNALS),
        "grace_ms": chance.choice((0, 100, 2000, 10_000)),
    }


def _edit(chance: random.Random, plan: Plan, name: str) -> Args:
    changes = {
        "command": name,
        "priority": chance.randint(-5, 5),
        "queue": chance.choice(plan.queues),
        "delay": round(chance.random() * plan.lease_s, 3),
        "max_retries": chance.randint(0, 5),
        "timeout": round(chance.random() * plan.lease_s, 3),
    }
    return {"changes": {key: changes[key] for key in sorted(chance.sample(sorted(changes), chance.randint(1, 3)))}}


def _retry(chance: random.Random, plan: Plan, name: str) -> Args:
    return {"delay": round(chance.random() * plan.lease_s, 3)} if chance.random() < 0.5 else {}


def _as_it_is(chance: random.Random, plan: Plan, name: str) -> Args:
    return {}


_P, _R, _C, _F, _D, _X = JobState
_VERBS: tuple[tuple[str, int, tuple[JobState, ...], Callable[[random.Random, Plan, str], Args]], ...] = (
    ("cancel", 15, (_R,), _cancel),
    ("cancel", 10, (_P, _F), _cancel),
    ("hold", 20, (_P, _F), _as_it_is),
    ("release", 20, (_P, _F), _as_it_is),
    ("edit", 25, (_P, _F), _edit),
    ("retry", 20, (_F, _D, _C, _X), _retry),
    ("purge", 12, (_C, _D, _X), _as_it_is),
    ("dlq_purge", 3, (_D,), _as_it_is),
    ("config_set", 5, (), _as_it_is),
)


def random_change(
    chance: random.Random, plan: Plan, standing: Standing, ids: Sequence[str], name: str
) -> tuple[str, Args]:
    """An operation on jobs that are there, and its arguments. `name`: of the request, for the command of an edit."""
    [(op, _, states, more)] = chance.choices(_VERBS, [weight for _, weight, *_ in _VERBS])
    suitable = [job for state in states for job in standing.get(state, ())]
    if op == "dlq_purge":
        return op, {"ids": [chance.choice(ids)]} if ids and chance.random() < 0.5 else {"all": True}
    if op == "config_set":
        return op, {
            "key": chance.choice(KEPT),
            "value": plan.heartbeat_s * chance.choice((5, 50)) if plan.kept else None,
        }
    args = {"select": _select(chance, plan, suitable, ids), **more(chance, plan, name)}
    return op, {**args, "dry": True} if chance.random() < DRY else args
