"""Enqueueing with RQ: run by the peers' interpreter, so it needs nothing else of this repository."""

from __future__ import annotations

from collections.abc import Generator
from importlib import import_module
from typing import Any


def enqueue(*, port: int, jobs: int) -> Generator[Any, None, None]:
    """Task: enqueue one job after the other."""
    queue = import_module("rq").Queue("q", connection=import_module("redis").Redis(port=port))
    queue.enqueue("builtins.len", "", result_ttl=0)
    yield None
    for _ in range(jobs):
        queue.enqueue("builtins.len", "", result_ttl=0)
    yield None
