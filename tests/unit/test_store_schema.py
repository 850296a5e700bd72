"""The schema is the last guard: it refuses every row that breaks a rule of the lifecycle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from broker.lifecycle import TRANSITIONS
from broker.store import Store, StoreRefused, open_store
from broker.store.rows import CODES, DUE_LATER, READY, READY_ALONE, RESTING, STATES
from queuectl.jobs import TERMINAL, JobState

JOB: dict[str, Any] = {
    "seq": 1,
    "id": "a1",
    "bucket": 1,
    "priority": 0,
    "state": 0,
    "ready": 1,
    "run_at_ms": 0,
    "attempt": 0,
    "attempts": 0,
    "losses": 0,
    "lease": None,
    "worker": None,
    "slot": 0,
    "reason": None,
    "exit_code": None,
    "signal": None,
    "created_at_ms": 0,
    "updated_at_ms": 0,
    "finished_at_ms": None,
}


@pytest.fixture
def store() -> Iterator[Store]:
    store = open_store(":memory:")
    store.begin()
    yield store
    store.rollback()
    store.close()


def insert(store: Store, table: str, **values: Any) -> None:
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    store._db.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


def test_plain_job_is_taken(store: Store) -> None:
    insert(store, "job", **JOB)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": 6, "ready": 0},
        {"state": -1, "ready": 0},
        {"ready": 5},
        {"ready": -1},
        {"attempt": -1},
        {"attempts": -1},
        {"losses": -1},
        {"slot": 2},
        {"state": 1, "ready": 0, "lease": None},
        {"state": 1, "ready": 1, "lease": 5},
        {"state": 2, "ready": 1, "finished_at_ms": 1},
        {"state": 2, "ready": 0, "lease": 5, "finished_at_ms": 1},
        {"state": 2, "ready": 0},
        {"state": 4, "ready": 0},
        {"state": 5, "ready": 0},
        {"state": 0, "finished_at_ms": 1},
        {"state": 3, "finished_at_ms": 1},
        {"state": 3, "lease": 5},
        {"id": None},
        {"id": 5.5, "seq": "x"},
        {"run_at_ms": "soon"},
        {"priority": 1.5},
    ],
    ids=str,
)
def test_job_that_breaks_a_rule_is_refused(store: Store, changes: dict[str, Any]) -> None:
    with pytest.raises(StoreRefused):
        insert(store, "job", **(JOB | changes))


@pytest.mark.parametrize("column", ["seq", "id"])
def test_job_is_unique(store: Store, column: str) -> None:
    insert(store, "job", **JOB)

    with pytest.raises(StoreRefused, match="UNIQUE"):
        insert(store, "job", **({**JOB, "seq": 2, "id": "a2"} | {column: JOB[column]}))


@pytest.mark.parametrize(("state", "ready"), [*itertools.product(JobState, (RESTING, READY, DUE_LATER, READY_ALONE))])
def test_only_what_waits_can_be_ready(store: Store, state: JobState, ready: int) -> None:
    row = JOB | {"state": CODES[state], "ready": ready}
    row["lease"] = 7 if state is JobState.PROCESSING else None
    row["finished_at_ms"] = 1 if state in TERMINAL else None
    allowed = ready == RESTING or state in (JobState.PENDING, JobState.FAILED)

    if allowed:
        insert(store, "job", **row)
    else:
        with pytest.raises(StoreRefused):
            insert(store, "job", **row)


def test_codes_of_states_never_change() -> None:
    assert STATES == ("pending", "processing", "completed", "failed", "dead", "cancelled")
    assert set(STATES) == {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())


ATTEMPT: dict[str, Any] = {
    "seq": 1,
    "attempt": 1,
    "lease": 5,
    "worker": 1,
    "started_at_ms": 0,
    "finished_at_ms": 0,
    "duration_ms": 0,
    "outcome": "exit",
    "exit_code": 1,
    "signal": None,
    "stdout_bytes": 0,
    "stderr_bytes": 0,
    "last_line": "",
    "note": "",
}
OUTPUT: dict[str, Any] = {"seq": 1, "attempt": 1, "stream": 1, "offset": 0, "data": b"x"}


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("attempt", ATTEMPT),
        ("output", OUTPUT),
        ("tally", {"bucket": 1, "state": 0, "jobs": 1}),
        ("bucket", {"bucket": 1, "queue": "q"}),
        ("meta", {"key": "k", "value": 1}),
        ("setting", {"key": "k", "value": "1"}),
        ("reply", {"id": "r", "op": "enqueue", "at_ms": 0, "body": b""}),
    ],
)
def test_row_is_taken_once(store: Store, table: str, values: dict[str, Any]) -> None:
    insert(store, table, **values)

    with pytest.raises(StoreRefused, match="UNIQUE"):
        insert(store, table, **values)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("attempt", ATTEMPT | {"outcome": None}),
        ("attempt", ATTEMPT | {"lease": "x"}),
        ("output", OUTPUT | {"stream": 3}),
        ("output", OUTPUT | {"data": "text"}),
        ("output", OUTPUT | {"offset": None}),
        ("tally", {"bucket": 1, "state": 0, "jobs": -1}),
        ("meta", {"key": "k", "value": None}),
        ("setting", {"key": "k", "value": b"x"}),
        ("reply", {"id": None, "op": "enqueue", "at_ms": 0, "body": b""}),
        (
            "worker",
            {
                "boot": "b",
                "name": "n",
                "host": "h",
                "home": "o",
                "pid": "p",
                "slots": 1,
                "software": "s",
                "first_seen_ms": 0,
            },
        ),
    ],
    ids=str,
)
def test_row_that_breaks_a_rule_is_refused(store: Store, table: str, values: dict[str, Any]) -> None:
    with pytest.raises(StoreRefused):
        insert(store, table, **values)
