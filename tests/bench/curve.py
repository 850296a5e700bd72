"""What keys cost: the same over TCP on loopback with CURVE, and without keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from queuectl import Client
from tests.bench.measuring import Readings, take_turns
from tests.bench.stage import LIMIT_S, enqueue, stage
from tests.harness_process import free_port

OPEN, KEYS = "without keys", "with keys"
BULK_SHARE = 20  # as many jobs more in bulk as one after the other: both take about as long


def keys(jobs: int) -> Readings:
    """Jobs per second: `true` through a worker, one enqueue after the other, in bulk; each without keys first."""
    measures: Mapping[str, Callable[[Place], float]] = {
        "true": lambda place: _true(place, jobs),
        "lock-step": lambda place: _lock_step(place, jobs),
        "bulk": lambda place: _bulk(place, BULK_SHARE * jobs),
    }
    return take_turns(
        {
            f"{name}, {how}": lambda measure=measure, how=how: _at(measure, with_keys=how == KEYS)  # type: ignore[misc]
            for name, measure in measures.items()
            for how in (OPEN, KEYS)
        }
    )


class Place(NamedTuple):
    """A broker on loopback, and how a client and a worker reach it."""

    client: Client
    start_worker: Callable[[], Any]


def _at(measure: Callable[[Place], float], *, with_keys: bool) -> float:
    with _place(with_keys=with_keys) as place:
        return measure(place)


@contextmanager
def _place(*, with_keys: bool) -> Iterator[Place]:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with stage() as it:
        it.broker("--listen", endpoint, *([] if with_keys else ["--insecure-no-auth"]))
        files = {role: str(it.home.path / f"{role}.toml") for role in ("worker", "admin")}
        if with_keys:
            for role, file in files.items():
                it.run("auth", "add", role, "--role", role, "--out", file)
            client = Client(credentials=files["admin"], home=it.home, timeout=LIMIT_S)
        else:
            client = Client(endpoint, home=it.home, timeout=LIMIT_S)
        way = ["--credentials", files["worker"]] if with_keys else ["--endpoint", endpoint]
        with client:
            client.ping()
            yield Place(client, lambda: it.worker(2, *way))


def _true(place: Place, jobs: int) -> float:
    place.start_worker()
    began = time.perf_counter()
    enqueue(place.client, [{"command": "true"}] * jobs)
    place.client.wait(empty=True)
    return jobs / (time.perf_counter() - began)


def _lock_step(place: Place, jobs: int) -> float:
    began = time.perf_counter()
    for _ in range(jobs):
        place.client.enqueue("true")
    return jobs / (time.perf_counter() - began)


def _bulk(place: Place, jobs: int) -> float:
    began = time.perf_counter()
    enqueue(place.client, [{"command": "true"}] * jobs)
    return jobs / (time.perf_counter() - began)
