"""Databases of every version so far: this version opens them, has what they held, and works on."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from queuectl import __version__
from queuectl.messages import Stop
from tests.harness import BrokerHarness

FIRST = {
    "completed": "completed",
    "dead": "dead",
    "failed": "failed",
    "processing": "processing",
    "delayed": "pending",
    "pending": "pending",
}
# Jobs that the database of a version has beside those.
_ONCE = {"once": "pending"}
_WISHES = {**_ONCE, "theirs": "pending", "again": "pending", "held": "pending", "cancelled": "cancelled"}
SINCE: dict[str, dict[str, str]] = {
    "0.1.0": {},
    "0.2.0": _ONCE,
    "0.3.0": _ONCE,
    "0.4.0": {**_ONCE, "theirs": "pending", "again": "pending"},
    "0.5.0": _WISHES,
    "0.6.0": _WISHES,
}
NEVER_LEASED = {"held", "cancelled"}
FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("queue-*.db"))


def test_there_is_a_database_of_this_version() -> None:
    assert f"queue-{__version__}.db" in [path.name for path in FIXTURES]


@pytest.mark.parametrize("path", FIXTURES, ids=[path.stem for path in FIXTURES])
def test_database_of_an_earlier_version_goes_on(path: Path, tmp_path: Path) -> None:
    version = path.stem.removeprefix("queue-")
    copy = tmp_path / "queue.db"
    shutil.copyfile(path, copy)
    broker = BrokerHarness(copy)

    states = {job["id"]: job["state"] for job in broker.ask("list")["jobs"]}
    kept = [[segment[1], bytes(segment[2])] for segment in broker.ask("output", id="completed")["segments"]]

    assert states == FIRST | SINCE[version]
    assert kept == [[0, b"done\n"], [1000, b"after a gap"]]
    assert broker.ask("config_show")["settings"]["max_retries"] == 2
    assert broker.store.check() == []
    assert {job["id"] for job in broker.ask("list")["jobs"] if job["on_lost"] == "dead"} == SINCE[version].keys() & {
        "once"
    }
    _works_on(broker, *(SINCE[version].keys() - NEVER_LEASED))
    broker.close()


def _works_on(broker: BrokerHarness, *more: str) -> None:
    broker.ask("dlq_retry", ids=["dead"])
    worker = broker.worker("new", slots=8)
    worker.hello()
    grants = {grant.job: grant for grant in worker.grants()}
    assert grants.keys() == {"dead", "pending", *more}
    assert (grants["dead"].attempt, worker.finish(grants["dead"])) == (2, "recorded")
    for job in ("pending", *more):
        worker.finish(grants[job])
    broker.check_invariants()


def test_wishes_are_kept(tmp_path: Path) -> None:
    copy = tmp_path / "queue.db"
    shutil.copyfile(next(path for path in FIXTURES if path.stem == "queue-0.5.0"), copy)
    broker = BrokerHarness(copy)

    held, cancelled = broker.job("held"), broker.job("cancelled")

    assert (held["held"], held["tags"], held["unique"], held["stdin_bytes"], held["backoff"]) == (
        True,
        {"kind": "backup"},
        "nightly",
        2,
        [1, 2],
    )
    assert (cancelled["cancelled_by"], cancelled["cancel_reason"]) == ("uid:1000", "no longer wanted")
    assert cancelled["retry_on"] == [75]
    assert [job["id"] for job in broker.ask("list", select={"tags": ["kind=backup"]})["jobs"]] == ["held"]
    assert {event["type"] for event in broker.ask("events", cursor=[0])["events"]} >= {"enqueued", "cancelled"}
    broker.close()


def test_keys_and_who_did_what_are_kept(tmp_path: Path) -> None:
    """Of the versions that know of them."""
    copy = tmp_path / "queue.db"
    shutil.copyfile(next(path for path in FIXTURES if path.stem == "queue-0.4.0"), copy)
    broker = BrokerHarness(copy)

    keys = {entry["name"]: entry for entry in broker.ask("key_list")["keys"]}
    assert {name: (entry["role"], entry["queues"], len(entry["keys"])) for name, entry in keys.items()} == {
        "desk": ("submit", ["elsewhere"], 2),
        "gone": ("worker", [], 1),
    }
    assert [key["revoked_by"] for name in keys for key in keys[name]["keys"]] == [None, None, "uid:1000"]
    assert broker.job("theirs")["enqueued_by"] == "desk"
    assert broker.job("again")["retried_by"] == "uid:1000"
    broker.close()


def test_deeds_are_kept_in_the_order_of_their_time(tmp_path: Path) -> None:
    copy = tmp_path / "queue.db"
    shutil.copyfile(next(path for path in FIXTURES if path.stem == "queue-0.5.0"), copy)
    with closing(sqlite3.connect(copy)) as database, database:
        [(seq, ended_ms)] = database.execute("SELECT seq, finished_at_ms FROM job WHERE id = 'dead'")
        for at_ms, action in ((ended_ms - 2, "released"), (ended_ms - 1, "cancelled"), (ended_ms - 3, "held")):
            database.execute("INSERT INTO deed VALUES (?, ?, ?, 1, '')", (seq, at_ms, action))
    broker = BrokerHarness(copy)

    def deeds(job: str) -> list[str]:
        types = [event["type"] for event in broker.ask("events", id=job)["events"]]
        return [each for each in types if each not in ("enqueued", "leased", "finished")]

    assert deeds("dead") == ["held", "released", "cancel_asked", "dead"]
    broker.ask("dlq_retry", ids=["dead"])
    assert deeds("dead") == ["held", "released", "cancel_asked", "dead", "retried"]
    assert (deeds("cancelled"), deeds("again")) == (["cancelled"], ["retried"])
    broker.close()


def test_worker_that_was_told_to_stop_hears_of_it_when_it_is_back(tmp_path: Path) -> None:
    copy = tmp_path / "queue.db"
    shutil.copyfile(next(path for path in FIXTURES if path.stem == "queue-0.6.0"), copy)
    broker = BrokerHarness(copy)
    worker = broker.worker("w", slots=4, queues=["default"])

    worker.hello()

    assert worker.take(Stop).now is False
    broker.close()
