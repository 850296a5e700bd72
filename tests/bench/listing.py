"""How soon the broker answers those who look, with a million jobs in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from queuectl import Client
from tests.bench.machine import wait_quiet
from tests.bench.measuring import Readings, percentile
from tests.bench.stage import CHUNK, Stage, enqueue, stage

ASKED = 200

QUESTIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "list": ("list", {"limit": 50}),
    "list of a state": ("list", {"state": "failed", "limit": 50}),
    "list of a tag": ("list", {"select": {"tags": ["kind=rare"]}, "limit": 50}),
    "list since": ("list", {"select": {"since": 1}, "limit": 50}),
    "list where, a slice": ("list", {"select": {"where": ["command~nowhere"]}, "limit": 50}),
    "status": ("status", {}),
}


def listing(jobs: int) -> Readings:
    """The 99th of a hundred replies to each question, in ms, as a client sees them."""
    with stage() as it, it.client() as client:
        it.broker()
        first, last = _fill(it, jobs)
        questions = {**QUESTIONS, "why, the last": ("why", {"id": last}), "why, the first": ("why", {"id": first})}
        wait_quiet()
        return {name: _p99_ms(client, *question) for name, question in questions.items()}


def _fill(it: Stage, jobs: int) -> tuple[str, str]:
    """Store jobs that wait; the ids of the first and the last in line."""
    ends: list[str] = []
    with it.client() as client:
        for start in range(0, jobs, CHUNK):
            some: list[dict[str, object]] = [{"command": f"echo job {start + n}"} for n in range(CHUNK)]
            some[0]["tags"] = {"kind": "rare"}
            ids = enqueue(client, some)
            ends = [ends[0] if ends else ids[0], ids[-1]]
    return ends[0], ends[1]


def _p99_ms(client: Client, op: str, args: Mapping[str, Any]) -> float:
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        client.request(op, args)
        took.append(1000 * (time.perf_counter() - began))
    return percentile(took, 0.99)
