"""Changes that clients ask for: dead letters, settings, stopping."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core import core, farewells
from queuectl.errors import BadConfig, BadRequest, UnknownJob, UnknownWorker, WrongState
from queuectl.messages import Grant, Stop
from tests.harness import BrokerHarness, FakeWorker, held, request


def connected(broker: BrokerHarness, name: str = "w", **about: object) -> FakeWorker:
    worker = broker.worker(name, **about)
    worker.hello()
    return worker


def bury(broker: BrokerHarness, *ids: str, output: bytes = b"") -> None:
    """Dead jobs of these ids."""
    worker = connected(broker, "undertaker")
    for job_id in ids:
        broker.enqueue(id=job_id, max_retries=1)
        grant = worker.grant()
        if output:
            worker.write(grant, output)
        worker.finish(grant, 1, stdout_bytes=len(output))
        broker.outbox.clear()
    worker.bye()
    broker.outbox.clear()


# --- dead letters ------------------------------------------------------------------------------------------


def test_dead_job_goes_back_with_a_fresh_budget_and_its_history(broker: BrokerHarness) -> None:
    bury(broker, "x")
    broker.clock.advance(5000)

    reply = broker.ask("dlq_retry", ids=["x"])

    assert reply == {"ids": ["x"], "next": None}
    view = broker.job("x")
    assert (view["state"], view["attempts"], view["attempt"], view["finished_at"]) == ("pending", 0, 1, None)
    assert view["run_at"] == "2027-01-15T08:00:05.000Z"
    assert len(broker.history("x")) == 1
    assert connected(broker).grant().attempt == 2


def test_dead_job_is_granted_in_the_turn_of_its_retry(broker: BrokerHarness) -> None:
    bury(broker, "x")
    worker = connected(broker)

    broker.ask("dlq_retry", ids=["x"])

    assert worker.grant().job == "x"


def test_purged_job_leaves_nothing(broker: BrokerHarness) -> None:
    bury(broker, "x", "y", output=b"some output")

    reply = broker.ask("dlq_purge", ids=["x"])

    assert reply == {"ids": ["x"], "next": None}
    assert isinstance(broker.refused("job", id="x"), UnknownJob)
    assert broker.ask("status")["broker"]["output_bytes"] == 11
    assert broker.ask("status")["jobs"]["total"] == 1


def test_id_of_a_purged_job_may_be_used_again(broker: BrokerHarness) -> None:
    bury(broker, "x")
    broker.ask("dlq_purge", ids=["x"])

    assert broker.enqueue(id="x") == ["x"]
    assert broker.history("x") == []


def test_late_output_of_a_purged_job_is_not_kept(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue(id="x", max_retries=1)
    grant = worker.grant()
    worker.finish(grant, 1, stdout_bytes=5)
    broker.ask("dlq_purge", ids=["x"])

    worker.write(grant, b"hello")

    assert broker.outbox.pop().message.taken[0].upto == 5
    assert broker.core.output_bytes == 0


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
def test_jobs_named_by_prefix_and_twice_are_taken_once(broker: BrokerHarness, op: str) -> None:
    bury(broker, "alpha", "beta")

    assert broker.ask(op, ids=["al", "alpha", "beta", "alpha"])["ids"] == ["alpha", "beta"]


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
def test_all_dead_jobs_go_in_slices(broker: BrokerHarness, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.deeds.JOBS_PER_SLICE", 2)
    bury(broker, "a", "b", "c", "d", "e")

    first = broker.ask(op, all=True)
    second = broker.ask(op, all=True, cursor=first["next"])
    third = broker.ask(op, all=True, cursor=second["next"])

    assert [first["ids"], second["ids"], third["ids"]] == [["e", "d"], ["c", "b"], ["a"]]
    assert third["next"] is None
    assert broker.ask("status")["jobs"]["dead"] == 0


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
def test_all_of_nothing_is_nothing(broker: BrokerHarness, op: str) -> None:
    assert broker.ask(op, all=True) == {"ids": [], "next": None}


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
@pytest.mark.parametrize("args", [{}, {"ids": []}, {"ids": ["x"], "all": True}])
def test_either_ids_or_all(broker: BrokerHarness, op: str, args: dict[str, Any]) -> None:
    assert isinstance(broker.refused(op, **args), BadRequest)


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
def test_one_job_that_is_not_dead_refuses_all(broker: BrokerHarness, op: str) -> None:
    bury(broker, "x")
    broker.enqueue(id="alive")

    error = broker.refused(op, ids=["x", "alive"])

    assert isinstance(error, WrongState)
    assert error.message == "job 'alive' is pending, not dead"
    assert error.details == {"id": "alive", "state": "pending"}
    assert broker.state("x") == "dead"


@pytest.mark.parametrize("op", ["dlq_retry", "dlq_purge"])
def test_one_unknown_job_refuses_all(broker: BrokerHarness, op: str) -> None:
    bury(broker, "x")

    assert isinstance(broker.refused(op, ids=["x", "nobody"]), UnknownJob)
    assert broker.state("x") == "dead"


# --- settings ----------------------------------------------------------------------------------------------


def test_setting_changes_and_says_what_it_was(broker: BrokerHarness) -> None:
    reply = broker.ask("config_set", key="Max-Retries", value="5")

    assert reply == {"key": "max_retries", "value": 5, "before": 3, "per_job": True}
    assert broker.events("setting_changed") == [{"key": "max_retries", "value": 5, "before": 3, "by": "uid:1000"}]


def test_setting_goes_back_to_its_default(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="heartbeat", value="1s")

    reply = broker.ask("config_unset", key="heartbeat")

    assert reply == {"key": "heartbeat", "value": 2, "before": 1, "per_job": False}
    assert broker.ask("config_show")["changed"] == []


def test_setting_to_the_default_is_no_difference(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="max_retries", value=5)
    broker.ask("config_set", key="max_retries", value=3)

    assert broker.store.ledger.settings() == {}


def test_settings_are_kept_over_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker_on_disk.ask("config_set", key="timeout", value="90s")
    broker_on_disk.ask("config_set", key="min_free", value="1GiB")
    broker_on_disk.crash()

    assert broker_on_disk.core.settings["timeout"] == 90
    assert broker_on_disk.core.settings["min_free"] == 2**30


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_retry", 1),
        ("max_retries", "many"),
        ("max_retries", -1),
        ("max_retries", 2**63),
        ("max_retries", 1.5),
        ("backoff_base", "nan"),
        ("backoff_max", "9" * 400),
        ("output_limit", "9" * 400),
        ("output_limit", "1TiB"),
        ("backoff_jitter", "some"),
        ("heartbeat", "none"),
        ("heartbeat", 10),
        ("lease", 5),
        ("max_losses", 0),
    ],
)
def test_impossible_setting_is_refused(broker: BrokerHarness, key: str, value: Any) -> None:
    before = dict(broker.core.settings)

    assert isinstance(broker.refused("config_set", key=key, value=value), BadConfig)
    assert broker.core.settings == before


def test_unset_of_an_unknown_setting_is_refused(broker: BrokerHarness) -> None:
    assert broker.refused("config_unset", key="max_retry").hint == "did you mean 'max_retries'?"


def test_unset_checks_relations_too(broker: BrokerHarness) -> None:
    broker.ask("config_set", key="lease", value=100)
    broker.ask("config_set", key="heartbeat", value=20)

    assert "lease (30 s) must be at least 5 heartbeats" in broker.refused("config_unset", key="lease").message


def test_value_true_is_no_number(broker: BrokerHarness) -> None:
    assert isinstance(broker.refused("config_set", key="max_retries", value=True), BadRequest)


# --- stopping ------------------------------------------------------------------------------------------------


def test_all_workers_are_told_to_stop(broker: BrokerHarness) -> None:
    one, two = connected(broker, "a"), connected(broker, "b")
    broker.enqueue()
    one.grant()

    reply = broker.ask("worker_stop")

    assert reply == {"workers": ["host-a-610000", "host-b-620000"], "held": 1}
    assert one.take(Stop) == Stop(one.session, now=False)
    assert two.take(Stop) == Stop(two.session, now=False)
    broker.enqueue()
    assert two.grants() == []
    assert broker.ask("status")["workers"][1]["state"] == "draining"


def test_one_worker_is_told_to_stop_now(broker: BrokerHarness) -> None:
    one, _ = connected(broker, "a"), connected(broker, "b")

    reply = broker.ask("worker_stop", workers=["host-a"], now=True)

    assert reply["workers"] == ["host-a-610000"]
    assert one.take(Stop).now is True
    assert broker.ask("worker_stop", workers=[one.boot])["workers"] == ["host-a-610000"]
    assert one.take(Stop).now is False


@pytest.mark.parametrize(
    ("text", "problem"), [("host", "more than one worker is 'host'"), ("x", "there is no worker 'x'")]
)
def test_worker_must_be_meant_clearly(broker: BrokerHarness, text: str, problem: str) -> None:
    for name in ("a", "b"):
        connected(broker, name)

    error = broker.refused("worker_stop", workers=["host-a", text])

    assert isinstance(error, UnknownWorker)
    assert error.message == problem


def test_stop_of_nobody(broker: BrokerHarness) -> None:
    assert broker.ask("worker_stop") == {"workers": [], "held": 0}


def test_stop_outlives_the_connection(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.enqueue()
    grant = worker.grant()
    broker.ask("worker_stop")
    worker.take(Stop)
    worker.route = b"w2"

    worker.hello(held=[held(grant)])

    assert worker.take(Stop).now is False


def test_shutdown_says_what_goes_on(broker: BrokerHarness) -> None:
    worker = connected(broker, slots=2)
    broker.enqueue("a", "b")
    worker.grants()

    assert broker.ask("shutdown") == {"pid": 4711, "held": 2, "workers": 1}
    assert broker.core.stopping is True
    assert broker.ask("status")["broker"]["accepting"] is False


def test_clean_stop_is_noted(broker: BrokerHarness) -> None:
    assert broker.store.ledger.facts()["clean"] == 0
    broker.store.begin()
    broker.core.stop(broker.clock.now)
    broker.store.commit()

    assert broker.store.ledger.facts()["clean"] == 1


def away_with_a_job(broker: BrokerHarness) -> tuple[FakeWorker, Grant]:
    worker = broker.worker()
    worker.hello()
    broker.enqueue()
    grant = worker.grant()
    broker.turn(gone=[worker.route])
    return worker, grant


def test_worker_that_is_away_is_told_to_stop_when_it_is_back(broker: BrokerHarness) -> None:
    worker, grant = away_with_a_job(broker)

    [name] = broker.ask("worker_stop")["workers"]
    broker.turn(clients=[request("wait", workers=[name], timeout_ms=60_000)])
    assert broker.replies() == [], "it is not gone while it has a job"
    worker.hello(held=[held(grant)])

    assert worker.take(Stop).now is False


@pytest.mark.parametrize("now", [False, True])
def test_worker_that_is_away_is_told_to_stop_though_the_broker_was_killed_meanwhile(
    broker: BrokerHarness, now: bool
) -> None:
    worker, grant = away_with_a_job(broker)
    broker.ask("worker_stop", now=now)
    broker.ask("worker_stop")
    for _ in range(2):
        broker.crash()
        broker.after(1000)
    assert broker.ask("status")["workers"][0]["state"] == "away"

    worker.hello(held=[held(grant)])

    assert worker.take(Stop).now is now
    broker.enqueue()
    assert worker.grants() == []


def test_idle_worker_whose_connection_was_cut_is_told_to_stop_when_it_is_back(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.ask("worker_stop")
    worker.take(Stop)
    broker.turn(gone=[worker.route])
    broker.crash()

    worker.hello()

    worker.take(Stop)


def stops(broker: BrokerHarness) -> int:
    return len(broker.store.ledger.stops())


def test_worker_that_has_ended_is_forgotten(broker: BrokerHarness) -> None:
    leaving, silent = connected(broker, "a"), connected(broker, "c")
    dying = broker.worker("b")
    dying.host = leaving.host
    dying.hello()
    broker.ask("worker_stop")
    assert stops(broker) == 3

    leaving.gone(dying.boot)
    assert stops(broker) == 2
    leaving.bye()
    assert stops(broker) == 1
    broker.turn(gone=[silent.route])
    broker.after(farewells.REMEMBERED_MS)
    assert stops(broker) == 1
    broker.after(core.TIDY_EVERY_MS)

    assert stops(broker) == 0
    broker.outbox.clear()


def test_worker_that_was_told_while_the_clock_was_wrong_is_remembered_as_long_as_others(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.clock.wall_ms -= 2 * farewells.REMEMBERED_MS
    broker.ask("worker_stop")
    worker.take(Stop)
    broker.turn(gone=[worker.route])
    broker.clock.wall_ms += 2 * farewells.REMEMBERED_MS

    broker.after(core.TIDY_EVERY_MS)

    assert stops(broker) == 1


def test_workers_are_told_to_stop_where_nothing_can_be_written(broker: BrokerHarness) -> None:
    worker = connected(broker)
    broker.core.storage_full = True

    broker.ask("worker_stop")

    worker.take(Stop)
    worker.bye()
    broker.outbox.clear()
    assert stops(broker) == 0


def test_worker_that_is_away_learns_a_new_heartbeat_when_it_is_back(broker: BrokerHarness) -> None:
    worker, grant = away_with_a_job(broker)

    broker.ask("config_set", key="heartbeat", value=1)

    assert worker.hello(held=[held(grant)]).heartbeat_ms == 1000


def test_history_of_a_purged_job_goes_in_steps(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.outputs.CLEARED_PER_TURN", 1)
    worker = broker.worker()
    worker.hello()
    broker.enqueue(id="x", max_retries=1)
    grant = worker.grant()
    for step in range(3):
        worker.write(grant, b"x" * 5000, offset=5000 * step)
    worker.finish(grant, 1, stdout_bytes=15_000)
    broker.ask("dlq_purge", ids=["x"])
    broker.outbox.clear()

    sizes = []
    while broker.core.wake_ms(broker.clock.now) == 0:
        sizes.append(broker.core.output_bytes)
        broker.turn()

    assert (sizes[0], sizes[-1], len(sizes)) == (10_000, 0, 4)
