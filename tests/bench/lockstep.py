"""Acknowledged enqueues, one after the other: by one client, and by some at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from queuectl import Client
from tests.bench import limits, peers, rq
from tests.bench.crew import Task, span_s, together
from tests.bench.measuring import OURS, Readings, take_turns
from tests.bench.stage import stage


def one(jobs: int) -> Readings:
    """One client."""
    return _measure(jobs, 1)


def eight(jobs: int) -> Readings:
    """Eight, each in a process of its own; `jobs` counts those of all."""
    return _measure(jobs, 8)


def _measure(jobs: int, clients: int) -> Readings:
    return take_turns(
        {
            "series": lambda: limits.series_rate(clients, jobs, requests=clients),
            "series, rows of jobs alone": lambda: limits.series_rate(clients, jobs, requests=0),
            "beanstalkd -f 0": lambda: _peer(partial(peers.beanstalkd, 0), peers.put_beanstalk, jobs, clients),
            "RQ, Redis always": lambda: _rq(jobs, clients),
            "bare LPUSH, Redis always": lambda: _peer(peers.redis, peers.push_redis, jobs, clients),
            OURS: lambda: _ours(jobs, clients),
        }
    )


def _ours(jobs: int, clients: int) -> float:
    with stage() as it:
        it.broker()
        told = together(enqueue, [{"home": str(it.home.path), "jobs": jobs // clients}] * clients)
        stored = jobs // clients * clients
        with it.client() as client:
            assert client.status()["jobs"]["pending"] == stored
    return stored / span_s(told)


def enqueue(*, home: str, jobs: int) -> Generator[Any, None, None]:
    """Task: enqueue one job after the other."""
    with Client(home=home) as client:
        client.ping()
        yield None
        for _ in range(jobs):
            client.enqueue("true")
        yield None


def _peer(
    server: Callable[[], AbstractContextManager[peers.Server]], task: Task, jobs: int, clients: int, **how: str
) -> float:
    with server() as it:
        told = together(task, [{"port": it.port, "jobs": jobs // clients}] * clients, **how)
    return jobs // clients * clients / span_s(told)


def _rq(jobs: int, clients: int) -> float:
    if peers.PEERS_PYTHON is None:
        raise peers.NotInstalled("RQ")
    return _peer(peers.redis, rq.enqueue, jobs // 4, clients, python=str(peers.PEERS_PYTHON))
