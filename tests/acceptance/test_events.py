"""The feed as people follow it: over the death of the broker, and of one job."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.harness_cli import CommandLine, Running, until

pytestmark = pytest.mark.acceptance

JOBS = 12


def seen(follower: Running) -> list[dict[str, Any]]:
    """The events that it has printed. Half a line at the end is not there yet."""
    return [json.loads(line) for line in follower.stdout.splitlines(keepends=True) if line.endswith("\n")]


def finished(follower: Running) -> list[str]:
    return [event["job_id"] for event in seen(follower) if event["type"] == "finished"]


def has_seen(follower: Running, jobs: list[str]) -> bool:
    return set(finished(follower)) >= set(jobs)


def test_follower_misses_nothing_when_the_broker_is_killed(q: CommandLine) -> None:
    q.worker(2)
    followers = [q.start("events", "-f", "--json", "--since", "0") for _ in range(2)]
    jobs = []
    for round_number in range(2):
        jobs += q.enqueue_all([{"command": "true"}] * JOBS)
        q.await_state("completed", *jobs)
        if round_number == 0:
            q.kill_broker()
            q.ok("broker", "start", "--detach")

    for follower in followers:
        until(partial(has_seen, follower, jobs), "the end of all jobs")
        follower.press_ctrl_c()
        assert (follower.wait(), follower.stderr) == (130, "")
    stored = [json.loads(line) for line in q.ok("events", "--json", "--since", "0").splitlines()]
    for follower in followers:
        events = seen(follower)
        assert events == stored[: len(events)]
        assert sorted(finished(follower)) == sorted(jobs)
    assert [event["type"] for event in stored].count("broker_started") == 2
    told = {event["job_id"]: event["by"] for event in stored if event["type"] == "enqueued"}
    assert set(told) == set(jobs)


def test_job_is_followed_to_its_end_and_its_history_stays(q: CommandLine) -> None:
    gate = q.gate()
    job = q.enqueue(f"{gate.wait}; exit 3", max_retries=1)
    follower = q.start("events", job, "-f")
    until(lambda: "enqueued" in follower.stdout, "the first event")
    q.worker()
    until(lambda: "leased" in follower.stdout, "the lease")

    gate.open()

    assert follower.wait() == 0
    words = [line.split()[1] for line in follower.stdout.splitlines()]
    assert words == ["enqueued", "leased", "finished", "dead"]
    assert "exit 3" in follower.stdout
    assert [line.split()[1] for line in q.ok("events", job).splitlines()] == words
