"""Following a job over its attempts, and waiting for some of many jobs."""

from __future__ import annotations

from typing import Any

import pytest

from queuectl.errors import BadRequest
from queuectl.messages import ByeOk, Took
from tests.harness import BrokerHarness, FakeWorker, held, patient, request


@pytest.fixture
def worker(broker: BrokerHarness) -> FakeWorker:
    patient(broker)
    worker = broker.worker()
    worker.hello()
    return worker


def read(broker: BrokerHarness, **how: Any) -> dict[str, Any]:
    return broker.ask("output", id="a1", **how)


def follow(broker: BrokerHarness, **how: Any) -> None:
    """Ask for more, and hear nothing yet."""
    broker.turn(clients=[request("output", id="a1", wait_ms=60_000, **how)])
    assert broker.replies() == []


def test_attempt_that_has_not_begun_is_waited_for(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    worker.finish(worker.grant(), 1)
    first = read(broker, attempt=1)
    assert (first["finished"], first["over"], first["state"], first["latest"]) == (True, False, "failed", 1)
    assert (first["outcome"], first["exit_code"], first["signal"]) == ("exit", 1, None)
    follow(broker, attempt=2)

    broker.after(2000)
    grant = worker.grant()
    assert broker.replies() == []
    worker.write(grant, b"second")

    reply = broker.answer()
    assert (reply["attempt"], reply["segments"], reply["finished"]) == (2, [[1, 0, b"second"]], False)
    assert worker.take(Took).taken
    follow(broker, attempt=2, cursor=reply["cursor"])
    worker.finish(grant, stdout_bytes=6)
    last = broker.answer()
    assert (last["finished"], last["over"], last["state"], last["outcome"]) == (True, True, "completed", "completed")


def test_attempt_that_never_comes_is_over_with_its_job(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", hold=True)
    follow(broker)

    broker.turn(clients=[request("cancel", select={"ids": ["a1"]})])

    [told] = [reply["ok"] for reply in broker.replies() if "segments" in reply["ok"]]
    assert (told["finished"], told["over"], told["state"]) == (True, True, "cancelled")


def test_lost_attempt_may_go_on_until_another_has_begun(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    grant = worker.grant()
    worker.write(grant, b"first")
    worker.take(Took)
    broker.turn(gone=[worker.route])
    broker.after(86_400_000)
    assert broker.state("a1") == "pending"
    reply = read(broker, attempt=1)
    assert (reply["finished"], reply["outcome"]) == (False, "lost")
    follow(broker, attempt=1, cursor=reply["cursor"])

    other = broker.worker("other")
    other.hello()
    other.grant()

    told = broker.answer()
    assert (told["finished"], told["over"], told["latest"]) == (True, False, 2)


def test_adopted_attempt_goes_on_for_its_reader(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    grant = worker.grant()
    broker.turn(gone=[worker.route])
    broker.after(86_400_000)
    follow(broker, attempt=1)

    worker.route = b"again"
    broker.users[b"again"] = "uid:1000"
    worker.hello(held=[held(grant)])
    worker.write(grant, b"more")

    assert broker.answer()["segments"] == [[1, 0, b"more"]]
    worker.take(Took)


def test_pieces_say_when_they_came_to_a_second(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x")
    grant = worker.grant()
    start = broker.clock.wall_ms
    for offset, wait_ms in enumerate((0, 400, 500, 300, 2000)):
        broker.clock.advance(wait_ms)
        worker.write(grant, b"x", offset=offset)
        worker.take(Took)

    reply = read(broker)

    assert reply["segments"] == [[1, 0, b"xxx"], [1, 3, b"x"], [1, 4, b"x"]]
    assert [at - start for at in reply["times"]] == [0, 1200, 3200]


def test_output_that_a_restart_has_interrupted_is_expected_for_a_while(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    grant = worker.grant()
    worker.write(grant, b"half")
    worker.take(Took)
    worker.finish(grant, stdout_bytes=8)
    broker.clock.advance(1000)
    broker.crash()
    reply = read(broker)
    assert (reply["finished"], reply["totals"]) == (False, {"1": 8, "2": 0})

    again = broker.worker()
    again.hello()
    again.write(grant, b"rest", offset=4)
    again.take(Took)

    assert read(broker)["finished"]


def test_output_that_does_not_come_after_a_restart_is_given_up(broker: BrokerHarness) -> None:
    worker = broker.worker()
    worker.hello()
    broker.enqueue("x")
    worker.finish(worker.grant(), stdout_bytes=8)
    worker.bye()
    worker.take(ByeOk)
    broker.clock.advance(1000)
    broker.crash()
    assert not read(broker)["finished"]

    broker.after(20_000)

    assert read(broker)["finished"]


def test_reader_of_a_job_that_is_deleted_is_told_so(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", hold=True)
    broker.ask("cancel", select={"ids": ["a1"]})
    broker.ask("retry", select={"ids": ["a1"]}, hold=True)
    broker.turn(clients=[request("output", id="a2", wait_ms=60_000)])
    broker.turn(clients=[request("cancel", select={"ids": ["a2"]}), request("purge", select={"ids": ["a2"]})])

    assert [reply["error"]["code"] for reply in broker.replies() if "error" in reply] == ["unknown_job"]


# --- waiting -------------------------------------------------------------------------------------------


def wait(broker: BrokerHarness, *jobs: str, **how: Any) -> list[dict[str, Any]]:
    broker.turn(clients=[request("wait", jobs=list(jobs), timeout_ms=60_000, **how)])
    return [reply["ok"] for reply in broker.replies()]


def test_reply_says_how_each_job_has_ended(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", "y", max_retries=1)
    worker.finish(worker.grant())
    worker.finish(worker.grant(), None, outcome="signal", signal=9)

    [told] = wait(broker, "a2", "a1", "a2")

    assert told["jobs"] == [
        {"id": "a2", "state": "dead", "exit_code": None, "signal": 9, "reason": "signal"},
        {"id": "a1", "state": "completed", "exit_code": 0, "signal": None, "reason": None},
    ]
    assert (told["done"], told["jobs_left"]) == (True, 0)


def test_one_of_them_may_be_enough(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", "y")
    grant = worker.grant()
    assert wait(broker, "a1", "a2", any=True) == []

    worker.finish(grant)

    told = broker.answer()
    assert (told["done"], told["jobs_left"], [job["state"] for job in told["jobs"]]) == (
        True,
        1,
        ["completed", "processing"],
    )
    worker.grant()
    assert wait(broker, "a1", "a2", any=True)[0]["done"]


def test_who_wants_to_hear_of_progress_does(broker: BrokerHarness, worker: FakeWorker) -> None:
    broker.enqueue("x", "y")
    assert [told["jobs_left"] for told in wait(broker, "a1", "a2", seen=3)] == [2]
    assert wait(broker, "a1", "a2", seen=2) == []

    worker.finish(worker.grant())

    told = broker.answer()
    assert (told["done"], told["jobs_left"]) == (False, 1)
    worker.grant()


def test_progress_is_of_jobs(broker: BrokerHarness) -> None:
    for how in ({"any": True}, {"seen": 1}):
        assert isinstance(broker.refused("wait", empty=True, **how), BadRequest)
