"""Questions: ping, job, list, status, config_show."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import AmbiguousId, BadRequest, UnknownJob, WrongState
from queuectl.settings import DEFAULTS
from tests.harness import BrokerHarness, FakeWorker


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def listed(broker: BrokerHarness, **args: Any) -> list[str]:
    """Ids of all slices."""
    ids: list[str] = []
    while True:
        reply = broker.ask("list", **args)
        ids += [job["id"] for job in reply["jobs"]]
        if reply["next"] is None:
            return ids
        args["cursor"] = reply["next"]


# --- which job -----------------------------------------------------------------------------------------


def test_exact_id_beats_a_prefix(broker: BrokerHarness) -> None:
    for name in ("job", "job-1", "job-2"):
        broker.enqueue(id=name)

    assert broker.job("job")["id"] == "job"


def test_unique_prefix_is_enough(broker: BrokerHarness) -> None:
    for name in ("alpha", "beta"):
        broker.enqueue(id=name)

    assert broker.job("al")["id"] == "alpha"


def test_ambiguous_prefix_names_some(broker: BrokerHarness) -> None:
    for number in range(7):
        broker.enqueue(id=f"job-{number}")

    error = broker.refused("job", id="job")

    assert isinstance(error, AmbiguousId)
    assert error.message == "'job' could be job-0, job-1, job-2, job-3, job-4 …"
    assert broker.refused("job", id="job-").details == {"id": "job-"}


def test_few_matches_are_all_named(broker: BrokerHarness) -> None:
    for name in ("x1", "x2"):
        broker.enqueue(id=name)

    assert broker.refused("job", id="x").message == "'x' could be x1, x2"


@pytest.mark.parametrize("text", ["nobody", "a%", "a\x00", "ö", "a b"])
def test_unknown_id(broker: BrokerHarness, text: str) -> None:
    broker.enqueue()

    error = broker.refused("job", id=text)

    assert isinstance(error, UnknownJob)
    assert (error.exit_code, error.details) == (3, {"id": text})


@pytest.mark.parametrize("text", ["", "x" * 257])
def test_id_of_no_sensible_length(broker: BrokerHarness, text: str) -> None:
    assert isinstance(broker.refused("job", id=text), BadRequest)


# --- job -------------------------------------------------------------------------------------------------


def test_state_that_is_asked_for_must_be_the_jobs(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()

    assert broker.ask("job", id=job, state="pending")["job"]["id"] == job
    error = broker.refused("job", id=job, state="dead")

    assert isinstance(error, WrongState)
    assert error.message == "job 'a1' is pending, not dead"


def test_unknown_state_says_what_was_meant(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()

    assert broker.refused("job", id=job, state="ded").hint == "did you mean 'dead'?"
    assert broker.refused("list", state="xyzzy").hint == (
        "known: pending, processing, completed, failed, dead, cancelled"
    )


def test_running_attempt_ends_the_history(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(backoff_base=0)
    worker.finish(worker.grant(), 1, last_line="oops")
    grant = worker.grant()

    reply = broker.ask("job", id=job)

    assert [entry["outcome"] for entry in reply["history"]] == ["exit", None]
    assert reply["history"][1] == {
        "attempt": 2,
        "worker": "host-w-770000",
        "started_at": "2027-01-15T08:00:00.000Z",
        "finished_at": None,
        "duration_s": None,
        "outcome": None,
        "exit_code": None,
        "signal": None,
        "stdout_bytes": None,
        "stderr_bytes": None,
        "last_line": "",
        "note": "",
        "lease": f"{grant.lease:016x}",
    }
    assert (reply["job"]["worker"], reply["job"]["attempt"]) == ("host-w-770000", 2)


def test_last_line_of_the_last_attempt_is_told(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()

    worker.finish(worker.grant(), 1, last_line="oops")

    assert broker.job(job)["last_line"] == "oops"


def test_reason_of_a_waiting_job(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    assert broker.job(job)["reason"] == "no_worker"

    worker = connected(broker)
    grant = worker.grant()
    assert broker.job(job)["reason"] is None
    [waiting] = broker.enqueue()
    assert broker.job(waiting)["reason"] is None

    worker.release(grant, reason="worker_fault")
    broker.after(31_000)
    assert broker.job(job)["reason"] == "no_worker"


def test_reason_of_a_job_that_waits_again_after_a_loss(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.grant()
    other = connected(broker, "o", slots=0)
    for _ in range(16):
        broker.clock.advance(2000)
        other.beat()
    broker.outbox.clear()

    assert (broker.job(job)["state"], broker.job(job)["reason"]) == ("pending", "lost")


def test_reason_of_a_retry_that_is_due(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue()
    worker.finish(worker.grant(), 1)
    broker.enqueue()
    worker.grant()
    broker.after(2000)

    assert (broker.job(job)["state"], broker.job(job)["reason"]) == ("failed", "exit")


def test_very_long_history_is_cut_to_its_latest_attempts(broker: BrokerHarness) -> None:
    worker = connected(broker)
    [job] = broker.enqueue(max_retries=2000, backoff_base=0)
    for _ in range(1002):
        worker.finish(worker.grant(), 1)
    worker.grant()

    history = broker.history(job)

    assert [entry["attempt"] for entry in history] == [*range(3, 1004)]


# --- list --------------------------------------------------------------------------------------------------


def test_list_is_newest_first(broker: BrokerHarness) -> None:
    broker.enqueue("a", "b", "c")

    assert listed(broker) == ["a3", "a2", "a1"]


def test_list_of_nothing(broker: BrokerHarness) -> None:
    assert broker.ask("list") == {"jobs": [], "next": None}
    assert broker.ask("list", queue="none-such") == {"jobs": [], "next": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_make_up_the_whole(broker: BrokerHarness, limit: int) -> None:
    ids = broker.enqueue(*["true"] * 6)

    assert listed(broker, limit=limit) == ids[::-1]


def mixed(broker: BrokerHarness) -> dict[str, str]:
    """One job in each state that there is, in two queues."""
    worker = connected(broker, slots=1)
    states = {"completed": 0, "dead": 1, "failed": 1, "cancelled": None}
    for state, exit_code in states.items():
        broker.enqueue(id=state, queue="q" if state == "dead" else "p", max_retries=3 if state == "failed" else 1)
        outcome = {"outcome": "cancelled"} if state == "cancelled" else {}
        worker.finish(worker.grant(), exit_code, **outcome)
    broker.enqueue(id="processing", queue="q")
    worker.grant()
    broker.enqueue(id="pending", queue="q")
    return {state: state for state in (*states, "processing", "pending")}


@pytest.mark.parametrize("state", ["pending", "processing", "completed", "failed", "dead", "cancelled"])
def test_list_of_a_state(broker: BrokerHarness, state: str) -> None:
    mixed(broker)

    assert listed(broker, state=state) == [state]
    assert listed(broker, state=state, limit=1) == [state]


@pytest.mark.parametrize(
    ("queue", "state", "ids"),
    [
        ("p", None, ["cancelled", "failed", "completed"]),
        ("q", None, ["pending", "processing", "dead"]),
        ("q", "pending", ["pending"]),
        ("p", "pending", []),
        ("q", "dead", ["dead"]),
        ("p", "dead", []),
    ],
)
def test_list_of_a_queue_and_a_state(broker: BrokerHarness, queue: str, state: str | None, ids: list[str]) -> None:
    mixed(broker)

    assert listed(broker, queue=queue, **({"state": state} if state else {})) == ids


def test_listing_goes_in_slices_that_may_be_empty(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.listing.SLICE_S", 0)
    monkeypatch.setattr("broker.store.listing.FIRST_STEP", 2)
    broker.enqueue(queue="rare")
    broker.enqueue(*["true"] * 6)

    reply = broker.ask("list", queue="rare")

    assert (reply["jobs"], reply["next"]) == ([], 6)
    assert listed(broker, queue="rare") == ["a1"]
    assert listed(broker) == [f"a{n}" for n in range(7, 0, -1)]


def test_page_of_large_jobs_is_cut_short(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store.listing.PAGE_CHARS", 450_000)
    for _ in range(4):
        broker.enqueue(*["x" * 100_000] * 5)

    reply = broker.ask("list", limit=500)

    assert (len(reply["jobs"]), reply["next"]) == (5, 16)
    assert len(listed(broker, limit=500)) == 20


@pytest.mark.parametrize("args", [{"limit": 0}, {"limit": 501}, {"cursor": -1}, {"cursor": 2**63}, {"queue": 1}])
def test_list_refuses_what_makes_no_sense(broker: BrokerHarness, args: dict[str, Any]) -> None:
    assert isinstance(broker.refused("list", **args), BadRequest)


# --- status ------------------------------------------------------------------------------------------------


def test_status_of_a_new_broker(broker: BrokerHarness) -> None:
    broker.clock.advance(1500)

    assert broker.ask("status") == {
        "broker": {
            "id": "broker-1",
            "pid": 4711,
            "version": "0.0.0",
            "uptime_s": 1.5,
            "endpoints": ["ipc://worker.sock", "ipc://client.sock"],
            "database": "/data/queue.db",
            "data_dir": "/data",
            "started": "explicit",
            "accepting": True,
            "output_bytes": 0,
            "advertised": [],
            "turned_away": 0,
            "denied": 0,
            "malformed": 0,
        },
        "workers": [],
        "jobs": {
            "pending": 0,
            "processing": 0,
            "completed": 0,
            "failed": 0,
            "dead": 0,
            "cancelled": 0,
            "total": 0,
        },
    }


def test_status_counts_every_state(broker: BrokerHarness) -> None:
    mixed(broker)

    counts = broker.ask("status")["jobs"]

    assert counts == dict.fromkeys(("pending", "processing", "completed", "failed", "dead", "cancelled"), 1) | {
        "total": 6
    }


def test_status_shows_workers_in_order_of_their_coming(broker: BrokerHarness) -> None:
    for name in ("z", "a"):
        connected(broker, name, slots=2, queues=["q", "p"])
    broker.clock.advance(1000)

    first, second = broker.ask("status")["workers"]

    assert first == {
        "id": "host-z-7a0000",
        "host": "host-z",
        "pid": 100,
        "slots": 2,
        "busy": 0,
        "state": "idle",
        "last_seen_s": 1.0,
        "queues": ["p", "q"],
        "version": "0.0.0",
        "boot": "7a" + 30 * "0",
        "key": "uid:1000",
    }
    assert second["id"] == "host-a-610000"


def test_states_of_a_worker(broker: BrokerHarness) -> None:
    def state() -> str:
        return str(broker.ask("status")["workers"][0]["state"])

    worker = connected(broker, slots=2)
    assert state() == "idle"
    broker.enqueue()
    grant = worker.grant()
    assert state() == "running"
    broker.enqueue()
    other = worker.grant()
    assert state() == "busy"
    worker.beat(grant, other, draining=True)
    assert state() == "draining"
    broker.turn(gone=[worker.route])
    assert state() == "away"
    broker.outbox.clear()


def test_worker_from_before_a_restart_is_away_and_seen_now(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue()
    worker.grant()
    broker.crash()

    [view] = broker.ask("status")["workers"]

    assert (view["state"], view["busy"], view["last_seen_s"], view["queues"]) == ("away", 1, 0, [])


# --- settings ------------------------------------------------------------------------------------------------


def test_config_show_tells_what_differs(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="max-retries", value=5)

    assert broker.ask("config_show") == {
        "settings": DEFAULTS | {"max_retries": 5},
        "changed": ["max_retries"],
        "data_dir": "/data",
    }


def test_listing_walks_past_what_was_deleted_at_once(broker: BrokerHarness) -> None:
    first, *others, last = broker.enqueue(*["true"] * 200)
    broker.ask("cancel", select={"ids": others})
    broker.ask("purge", select={"ids": others})

    page = broker.ask("list", select={"where": ["command=true"]})

    assert ([job["id"] for job in page["jobs"]], page["next"]) == ([last, first], None)


def test_page_counts_all_that_may_be_long(broker: BrokerHarness) -> None:
    for _ in range(20):
        broker.enqueue("true", env={f"{'x' * 50}_{number:04}": "" for number in range(1900)})

    page = broker.ask("list", limit=500)

    assert 0 < len(page["jobs"]) < 20
    assert len(listed(broker, limit=500)) == 20
