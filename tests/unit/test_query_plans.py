"""How SQLite carries out every statement of the store. A plan that changes is a cost that changes.

No statement looks at rows it does not want: each is a search by a key or an index, except those listed in
WALKS, which walk a small table or stop at a LIMIT. No rows are sorted where an index has them in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from broker.store import changes, connection, events, history, jobs, keys, ledger, listing, open_store
from broker.store.listing import Filter, statement
from queuectl.where import parse_condition

ROOMS = (jobs, listing, changes, history, ledger, keys, events)
SPEC = "spec by seq"
VIEW = (SPEC, "worker by number", "attempt by key", "cancellation by job")
SPEC_ROW = "SEARCH spec USING INTEGER PRIMARY KEY (rowid=?)"
PLANS: dict[str, tuple[str, ...]] = {
    # jobs
    "INSERT_JOB": (),
    "INSERT_SPEC": (),
    "STORED": ("SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",),
    "CANDIDATES": ("SEARCH j USING INDEX job_ready (bucket=?)", "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)"),
    "SPECIFIED": (
        "SCAN json_each",
        "SEARCH j USING INDEX sqlite_autoindex_job_1 (id=?)",
        "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "HEADS": (
        "SCAN json_each",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH job USING INDEX job_ready (bucket=?)",
    ),
    "HEADS_ALONE": (
        "SCAN json_each",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH job USING INDEX job_alone (bucket=?)",
    ),
    "CANDIDATES_ALONE": ("SEARCH j USING INDEX job_alone (bucket=?)", "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)"),
    "LEASE": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "MOVE": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "COMPLETE": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "ADOPT": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "PROMOTE": (
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH job USING INDEX job_due (run_at_ms<?)",
    ),
    "NEXT_DUE": ("SCAN job USING INDEX job_due",),
    "LAST_SEQ": ("SEARCH job",),
    "ANY_READY": ("SEARCH job USING INDEX job_ready (bucket=?)",),
    "ABOVE": ("SEARCH job USING INDEX job_ready (bucket=? AND priority>?)",),
    "BEFORE": ("SEARCH job USING INDEX job_ready (bucket=? AND priority=? AND run_at_ms<?)",),
    "ANY_READY_ALONE": ("SEARCH job USING INDEX job_alone (bucket=?)",),
    "LEASED": ("SEARCH j USING INDEX job_state (state=?)", "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)"),
    "LEASE_OF": (
        "SEARCH j USING INDEX sqlite_autoindex_job_1 (id=?)",
        "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "ENDINGS": ("SCAN json_each", "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)"),
    "KNOWN": ("SCAN json_each", "SEARCH job USING INDEX sqlite_autoindex_job_1 (id=?)"),
    "PREFIXED": ("SEARCH job USING INDEX sqlite_autoindex_job_1 (id>? AND id<?)",),
    "DEAD": ("SEARCH job USING INDEX job_state (state=? AND seq<?)",),
    "REVIVE": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "ROW": ("SEARCH j USING INTEGER PRIMARY KEY (rowid=?)", *VIEW),
    "OWNERS": ("SCAN json_each", "SEARCH spec USING INTEGER PRIMARY KEY (rowid=?)"),
    "DELETE_JOB": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "DELETE_SPEC": ("SEARCH spec USING INTEGER PRIMARY KEY (rowid=?)",),
    # changes
    **dict.fromkeys(
        ("END_WAITING", "SET_READY", "PLACE", "SET_UNTIL", "ADD_TO_JOB"),
        ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    ),
    "FREE_JOB": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "FREE_SPEC": (SPEC_ROW,),
    "OVER": ("SEARCH job USING INDEX job_state (state=? AND seq>?)",),
    "DIED_FIRST": ("SCAN job USING INDEX job_death",),
    "COPY_JOB": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "COPY_SPEC": (SPEC_ROW,),
    "ADD_TO_SPEC": (SPEC_ROW,),
    "RESPECIFY": ("SEARCH spec USING INTEGER PRIMARY KEY (rowid=?)",),
    "EDITABLE": ("SCAN json_each", "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)", SPEC),
    "HOLDING": ("SCAN json_each", "SEARCH job USING INDEX job_unique (unique_key=?)"),
    "KEYS_OF": ("SCAN json_each", "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)"),
    "OVERDUE": (
        "SEARCH job USING INDEX job_until (until_ms>? AND until_ms<?)",
        "SCAN d",
        "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
        SPEC,
    ),
    "NEXT_UNTIL": ("SEARCH job USING INDEX job_until (until_ms>?)",),
    "ADD_CANCELLATION": (),
    "DROP_CANCELLATION": ("SEARCH cancellation USING INTEGER PRIMARY KEY (rowid=?)",),
    "CANCELLATIONS": ("SCAN cancellation",),
    "ADD_TAG": (),
    "DROP_TAG": ("SEARCH tag USING PRIMARY KEY (key=? AND value=? AND seq=?)",),
    "PARTICULARS": (
        "SCAN json_each",
        "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "TAGS_OF": ("SCAN json_each", "SEARCH spec USING INTEGER PRIMARY KEY (rowid=?)"),
    # history
    "INSERT_ATTEMPT": (),
    "DELETE_LOSS": ("SEARCH attempt USING PRIMARY KEY (seq=? AND attempt=?)",),
    "ENDED": ("SEARCH attempt USING PRIMARY KEY (seq=? AND attempt=?)",),
    "ATTEMPTS": ("SEARCH a USING PRIMARY KEY (seq=?)", "SEARCH w USING INTEGER PRIMARY KEY (rowid=?)"),
    "INSERT_DEED": ("SEARCH deed USING PRIMARY KEY (seq=?)",),
    "DEEDS": ("SEARCH deed USING PRIMARY KEY (seq=?)",),
    "DELETE_DEEDS": ("SEARCH deed USING PRIMARY KEY (seq=?)",),
    "INSERT_CHUNK": (),
    "EXTEND_CHUNK": ("SEARCH output USING INDEX output_at (seq=? AND attempt=? AND stream=? AND offset=?)",),
    "DELETE_CHUNK": ("SEARCH output USING INDEX output_at (seq=? AND attempt=? AND stream=? AND offset=?)",),
    "EXTENTS": ("SEARCH output USING INDEX output_at (seq=? AND attempt=? AND stream=?)",),
    "PIECES": (
        "SEARCH output USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH output USING COVERING INDEX output_at (seq=? AND attempt=?)",
        "USE TEMP B-TREE FOR ORDER BY",
    ),
    "BEGINNING": (
        "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "NEWEST_BEFORE": ("SEARCH job USING INTEGER PRIMARY KEY (rowid<?)",),
    "DATA": ("SCAN json_each", "SEARCH output USING INTEGER PRIMARY KEY (rowid=?)"),
    "OLDEST": (
        "SEARCH output USING INTEGER PRIMARY KEY (rowid>?)",
        "SCAN o",
        "SEARCH j USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    "EVICT": ("SEARCH output USING INTEGER PRIMARY KEY (rowid=?)",),
    "RETRIES": ("SEARCH job USING INDEX job_state (state=? AND seq>? AND seq<?)",),
    "HASTEN": ("SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",),
    "DOOM": (),
    "NEXT_DOOMED": ("SCAN doomed",),
    "PIECES_OF": ("SCAN json_each", "SEARCH output USING INDEX output_at (seq=?)"),
    "DELETE_ATTEMPTS": ("SEARCH attempt USING PRIMARY KEY (seq=?)",),
    "SPARE": ("SEARCH doomed USING INTEGER PRIMARY KEY (rowid=?)",),
    # ledger
    "READ_META": ("SCAN meta",),
    "WRITE_META": (),
    "READ_SETTINGS": ("SCAN setting",),
    "WRITE_SETTING": (),
    "DELETE_SETTING": ("SEARCH setting USING PRIMARY KEY (key=?)",),
    "READ_BUCKETS": ("SCAN bucket",),
    "ADD_BUCKET": (),
    "READ_TALLIES": ("SCAN tally",),
    "WRITE_TALLY": (),
    "REPLY": ("SEARCH reply USING INDEX sqlite_autoindex_reply_1 (id=?)",),
    "REPLIES": ("SCAN json_each", "SEARCH reply USING INDEX sqlite_autoindex_reply_1 (id=?)"),
    "ADD_REPLY": (),
    "FORGET_REPLIES": ("SEARCH reply USING INTEGER PRIMARY KEY (rowid=?)", "SCAN reply"),
    "WORKER_OF": ("SEARCH worker USING INDEX sqlite_autoindex_worker_1 (boot=?)",),
    "WORKERS": ("SCAN json_each", "SEARCH worker USING INTEGER PRIMARY KEY (rowid=?)"),
    "ADD_WORKER": (),
    "READ_STOPS": ("SCAN stop",),
    "ADD_STOP": (),
    "DROP_STOP": ("SEARCH stop USING INTEGER PRIMARY KEY (rowid=?)",),
    # keys
    "READ_ACTORS": ("SCAN actor",),
    "ADD_ACTOR": (),
    "READ_KEYS": ("SCAN access_key",),
    "ADD_KEY": (),
    "REVOKE_KEY": ("SEARCH access_key USING INTEGER PRIMARY KEY (rowid=?)",),
    # events
    "APPEND": (),
    "NEWEST": ("SEARCH event",),
    "SIZES": ("SEARCH event USING INTEGER PRIMARY KEY (rowid>?)",),
    "PAGE": ("SEARCH event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",),
    "FORGET_EVENTS": ("SEARCH event USING INTEGER PRIMARY KEY (rowid=?)", "SCAN event"),
}
VIEW_PLANS = {
    SPEC: "SEARCH s USING INTEGER PRIMARY KEY (rowid=?)",
    "worker by number": "SEARCH w USING INTEGER PRIMARY KEY (rowid=?)",
    "attempt by key": "SEARCH a USING PRIMARY KEY (seq=? AND attempt=?)",
    "cancellation by job": "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)",
}
BY_ARRIVAL = "SEARCH j USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
BY_STATE = "SEARCH j USING INDEX job_state (state=? AND seq>? AND seq<?)"
BY_TAG = ("SEARCH t USING PRIMARY KEY (key=? AND value=? AND seq>? AND seq<?)", PLANS["ROW"][0])
LISTINGS: dict[str, tuple[Filter, tuple[str, ...]]] = {
    "all": (Filter(), (BY_ARRIVAL,)),
    "queue": (Filter(bucket=1), (BY_ARRIVAL,)),
    "waiting": (Filter(states=frozenset({0})), (BY_ARRIVAL,)),
    "two states": (Filter(states=frozenset({0, 3})), (BY_ARRIVAL,)),
    "state": (Filter(states=frozenset({4})), (BY_STATE,)),
    "state and queue": (Filter(states=frozenset({4}), bucket=1), (BY_STATE,)),
    "tag": (Filter(tags=(("a", "b"),)), BY_TAG),
    "tag and state": (Filter(states=frozenset({4}), tags=(("a", ""),)), BY_TAG),
    "tags": (
        Filter(tags=(("a", "b"), ("c", ""))),
        (*BY_TAG, "SEARCH o USING PRIMARY KEY (key=? AND value=? AND seq=?)"),
    ),
    "conditions": (Filter(conditions=(parse_condition("exit_code=3"), parse_condition("command~x"))), (BY_ARRIVAL,)),
    "reason": (Filter(conditions=(parse_condition("reason=no_worker"),)), (BY_ARRIVAL, "SCAN json_each")),
}
WALKS = {
    "NEXT_DOOMED": "the first row, by its key",
    "NEXT_DUE": "the first entry of an index",
    "DIED_FIRST": "a LIMIT of the first entries of an index",
    "OLDEST": "what a LIMIT let through",
    "OVERDUE": "what a LIMIT let through",
    "CANCELLATIONS": "running jobs that are to end, at the start",
    "FORGET_EVENTS": "a LIMIT of the oldest rows",
    "FORGET_REPLIES": "a LIMIT of the oldest rows",
    "READ_META": "a few rows, at the start",
    "READ_SETTINGS": "a few rows, at the start",
    "READ_BUCKETS": "one row a queue, at the start",
    "READ_TALLIES": "a few rows a queue, at the start",
    "READ_STOPS": "a few rows, at the start",
    "READ_ACTORS": "one row for each who ever did something, at the start",
    "READ_KEYS": "all keys, at the start and when they change",
}
SORTS = {"PIECES": "numbers of the pieces of one attempt, of which a LIMIT keeps the first"}


def statements(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The module-level statements: constants that are text."""
    for name, value in vars(module).items():
        if name.isupper() and not name.startswith("_") and isinstance(value, str):
            yield name, value


SQL = {name: sql for room in ROOMS for name, sql in statements(room)}


def plan(sql: str) -> list[str]:
    """The accesses of a plan, without what differs between versions of SQLite."""
    store = open_store(":memory:")
    try:
        numbered = len(set(re.findall(r"\?\d+", sql)))
        rows = store._db.query(f"EXPLAIN QUERY PLAN {sql}", [1] * (numbered or sql.count("?")))
    finally:
        store.abandon()
    lines = [re.sub(r" LEFT-JOIN$| VIRTUAL TABLE INDEX .*$", "", row[3]) for row in rows]
    return [line for line in lines if re.match(r"SEARCH|SCAN (?!\()|USE TEMP", line)]


@pytest.mark.parametrize("name", PLANS)
def test_plan_is_the_expected_one(name: str) -> None:
    assert plan(SQL[name]) == [VIEW_PLANS.get(line, line) for line in PLANS[name]]


@pytest.mark.parametrize(("wanted", "expected"), LISTINGS.values(), ids=LISTINGS)
def test_listing_goes_along_an_index(wanted: Filter, expected: tuple[str, ...]) -> None:
    sql, _ = statement(wanted, listing._ROW_COLUMNS, below_seq=9, floor=0)

    assert plan(sql) == [VIEW_PLANS.get(line, line) for line in (*expected, *VIEW)]


def test_every_statement_of_the_store_has_its_plan_here() -> None:
    assert SQL.keys() == PLANS.keys()


def test_no_statement_stands_elsewhere() -> None:
    assert dict(statements(connection)) == {}


@pytest.mark.parametrize("name", [name for name in SQL if name not in WALKS])
def test_nothing_walks_a_table(name: str) -> None:
    assert [line for line in plan(SQL[name]) if line.startswith("SCAN") and line != "SCAN json_each"] == []


@pytest.mark.parametrize("name", [name for name in SQL if name not in SORTS])
def test_nothing_is_sorted(name: str) -> None:
    assert [line for line in plan(SQL[name]) if line.startswith("USE TEMP")] == []
