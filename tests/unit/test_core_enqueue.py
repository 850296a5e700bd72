"""New jobs: what is stored, what is refused, and what is copied from the settings of the moment."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import DiskFull, JobExists, ShuttingDown
from tests.harness import BrokerHarness, request


def test_ids_are_given_in_order_of_arrival(broker: BrokerHarness) -> None:
    assert broker.enqueue("a", "b") == ["a1", "a2"]
    assert broker.enqueue("c") == ["a3"]


def test_generated_id_skips_one_that_is_taken(broker: BrokerHarness) -> None:
    broker.enqueue(id="a2")
    broker.enqueue(id="a4")

    ids = broker.enqueue("x", "y")

    assert ids == ["a3", "a5"]


def test_generated_ids_of_one_request_skip_an_id_of_the_same_request(broker: BrokerHarness) -> None:
    jobs = [{"command": "a", "id": "a2"}, {"command": "b"}, {"command": "c", "id": "a2"}]

    reply = broker.ask("enqueue", jobs=jobs)

    assert reply["ids"] == ["a2", "a4", None]
    assert [(error["index"], error["code"]) for error in reply["errors"]] == [(2, "job_exists")]


def test_defaults_of_a_plain_job(broker: BrokerHarness) -> None:
    [job] = broker.enqueue("echo hi")

    assert broker.job(job) == {
        "id": "a1",
        "command": "echo hi",
        "state": "pending",
        "reason": "no_worker",
        "queue": "default",
        "priority": 0,
        "attempt": 0,
        "attempts": 0,
        "losses": 0,
        "max_retries": 3,
        "backoff_base": 2,
        "backoff_max": 3600,
        "backoff_jitter": "none",
        "timeout": None,
        "exit_code": None,
        "signal": None,
        "run_at": "2027-01-15T08:00:00.000Z",
        "created_at": "2027-01-15T08:00:00.000Z",
        "updated_at": "2027-01-15T08:00:00.000Z",
        "finished_at": None,
        "worker": None,
        "cwd": None,
        "env": [],
        "on_lost": "retry",
        "keep_children": False,
        "output_limit": 2**20,
        "last_line": "",
        "enqueued_by": "uid:1000",
        "retried_by": None,
        "cancelled_by": None,
        "cancel_reason": None,
        "tags": {},
        "unique": None,
        "held": False,
        "cancelling": False,
        "expires_at": None,
        "deadline_at": None,
        "backoff": "exp",
        "retry_on": [],
        "no_retry_on": [],
        "retry_of": None,
        "stdin_bytes": None,
    }


FULL: dict[str, Any] = {
    "id": "full.job:1",
    "queue": "q",
    "priority": 7,
    "max_retries": 9,
    "backoff_base": 1.5,
    "backoff_max": 60,
    "backoff_jitter": "full",
    "timeout": 0.25,
    "cwd": "/srv",
    "on_lost": "dead",
    "keep_children": True,
    "output_limit": 0,
}


def test_everything_that_is_given_is_kept(broker: BrokerHarness) -> None:
    broker.enqueue("x", **FULL, env={"B": "2", "A": "1"})

    view = broker.job("full.job:1")

    assert {key: view[key] for key in FULL} == FULL
    assert view["env"] == ["A", "B"]


@pytest.mark.parametrize(
    ("key", "value", "seen"),
    [
        ("max_retries", "7", 7),
        ("backoff_base", "1.5", 1.5),
        ("backoff_max", "90s", 90),
        ("backoff_jitter", "equal", "equal"),
        ("timeout", "5m", 300),
        ("output_limit", "64KiB", 65536),
    ],
)
def test_settings_are_copied_and_old_jobs_keep_theirs(
    broker: BrokerHarness, key: str, value: str, seen: float | str
) -> None:
    [before] = broker.enqueue()
    old = broker.job(before)[key]

    assert broker.ask("config_set", key=key, value=value)["per_job"] is True
    [after] = broker.enqueue()

    assert broker.job(before)[key] == old != seen
    assert broker.job(after)[key] == seen


def test_delay_counts_from_the_receipt(broker: BrokerHarness) -> None:
    [job] = broker.enqueue(delay=1.5)

    view = broker.job(job)

    assert (view["reason"], view["run_at"]) == ("delayed", "2027-01-15T08:00:01.500Z")


@pytest.mark.parametrize(
    ("run_at", "reason"),
    [
        ("2027-01-15T09:00:01+01:00", "delayed"),
        ("2027-01-15T08:00:00Z", "no_worker"),
        ("1999-01-01T00:00:00Z", "no_worker"),
    ],
)
def test_run_at_in_the_future_delays(broker: BrokerHarness, run_at: str, reason: str) -> None:
    [job] = broker.enqueue(run_at=run_at)

    assert broker.job(job)["reason"] == reason


@pytest.mark.parametrize("run_at", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_farthest_run_at_can_be_shown(broker: BrokerHarness, run_at: str) -> None:
    [job] = broker.enqueue(run_at=run_at)

    assert broker.job(job)["run_at"] == run_at


def test_id_in_use_is_refused_and_says_the_state(broker: BrokerHarness) -> None:
    broker.enqueue(id="x")

    [error] = broker.ask("enqueue", jobs=[{"command": "a", "id": "x"}])["errors"]

    assert error == {
        "index": 0,
        "code": "job_exists",
        "message": "a job with id 'x' exists already; it is pending",
        "retryable": False,
        "hint": "choose another id, or leave it out to get one; see: queuectl show x",
        "details": {"id": "x", "state": "pending"},
    }
    assert JobExists.code == "job_exists"


def test_what_is_wrong_with_one_job_does_not_touch_the_others(broker: BrokerHarness) -> None:
    jobs = [{"command": ""}, {"command": "ok"}, "nonsense", {"command": "also ok"}, {"command": "x", "retries": 1}]

    reply = broker.ask("enqueue", jobs=jobs)

    assert reply["ids"] == [None, "a1", None, "a2", None]
    assert [error["index"] for error in reply["errors"]] == [0, 2, 4]
    assert {error["code"] for error in reply["errors"]} == {"bad_job"}
    assert broker.events("jobs_refused")[0]["count"] == 3
    assert broker.events("jobs_enqueued")[0]["count"] == 2


def test_request_of_which_nothing_is_stored_says_so_for_each(broker: BrokerHarness) -> None:
    reply = broker.ask("enqueue", jobs=[{"command": ""}])

    assert (reply["ids"], len(reply["errors"])) == ([None], 1)
    assert broker.ask("status")["jobs"]["total"] == 0


def test_neighbours_are_stored_together_and_answered_each(broker: BrokerHarness) -> None:
    broker.turn(clients=[request("enqueue", jobs=[{"command": f"{number}"}]) for number in range(20)])

    replies = broker.replies()

    assert [reply["ok"]["ids"] for reply in replies] == [[f"a{n}"] if n < 10 else [f"b{n}"] for n in range(1, 21)]


def test_nearly_full_disk_refuses_jobs_and_nothing_else(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue()
    broker.core.disk_low = True

    error = broker.refused("enqueue", jobs=[{"command": "x"}])

    assert isinstance(error, DiskFull)
    assert (error.retryable, error.exit_code) == (True, 75)
    assert worker.finish(worker.grant()) == "recorded"
    assert broker.ask("status")["broker"]["accepting"] is False
    broker.core.disk_low = False
    broker.enqueue()
    broker.outbox.clear()


def test_stopping_broker_refuses_jobs(broker: BrokerHarness) -> None:
    broker.ask("shutdown")

    assert isinstance(broker.refused("enqueue", jobs=[{"command": "x"}]), ShuttingDown)


@pytest.mark.parametrize(
    "args", [{}, {"jobs": []}, {"jobs": "x"}, {"jobs": [{}] * 1001}, {"jobs": [{"command": "x"}], "extra": 1}]
)
def test_malformed_request_is_refused_whole(broker: BrokerHarness, args: dict[str, Any]) -> None:
    assert broker.refused("enqueue", **args).code == "bad_request"


def test_environment_is_told_by_name_only(broker: BrokerHarness) -> None:
    [job] = broker.enqueue(env={"TOKEN": "secret"})

    assert "secret" not in str(broker.ask("job", id=job))


def test_seq_is_never_used_twice_even_if_the_last_job_is_gone(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    [job] = broker.enqueue(max_retries=1)
    worker = broker.worker()
    worker.hello()
    worker.finish(worker.grant(), 1)
    broker.ask("dlq_purge", ids=[job])
    broker.crash()

    assert broker.enqueue() == ["a2"]


@pytest.mark.parametrize(
    ("fields", "backoff_max"),
    [
        ({"backoff": [60, 86400, 10]}, 86400),
        ({"backoff": [60, 86400], "backoff_max": 100}, 100),
        ({"backoff": [1, 2]}, 3600),
        ({"backoff": "fixed", "backoff_base": 7200}, 7200),
        ({"backoff": "linear", "backoff_base": 7200}, 7200),
        ({"backoff_base": 7200}, 3600),
    ],
    ids=str,
)
def test_waits_that_a_job_names_are_cut_only_if_it_says_so(
    broker: BrokerHarness, fields: dict[str, Any], backoff_max: float
) -> None:
    [job] = broker.enqueue(**fields)

    assert broker.job(job)["backoff_max"] == backoff_max
