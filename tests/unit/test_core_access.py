"""Who may do what in the core: roles, own jobs, own leases, own queues."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.access import ADMIN, READ, SUBMIT, WORKER
from broker.core.find import LOOKED_THROUGH
from broker.core.operations import OPERATIONS
from broker.core.sessions import DENIED_RETRY_MS
from queuectl.errors import AmbiguousId, JobExists, KeyNotAccepted, NotAllowed, UnknownJob
from queuectl.ids import lease_text
from queuectl.messages import Beat, Refuse, Took, Who
from tests.harness import BrokerHarness, FakeWorker, held, request, result

ARGS: dict[str, dict[str, Any]] = {
    "enqueue": {"jobs": [{"command": "true"}]},
    "job": {"id": "job-1"},
    "output": {"id": "job-1", "attempt": 1},
    "events": {"id": "job-1"},
    "wait": {"jobs": ["job-1"], "timeout_ms": 0},
    "dlq_retry": {"all": True},
    "dlq_purge": {"all": True},
    "config_set": {"key": "max_retries", "value": 5},
    "config_unset": {"key": "max_retries"},
    "key_add": {"name": "new", "role": READ, "public_key": "x" * 40},
    "key_rotate": {"name": "me", "public_key": "y" * 40},
    "key_revoke": {"name": "me"},
    "why": {"id": "job-1"},
    "edit": {"select": {}, "changes": {"priority": 1}},
    **{op: {"select": {}} for op in ("cancel", "hold", "release", "retry", "purge", "export")},
}
MAY = {
    WORKER: {"ping", "whoami"},
    SUBMIT: {"ping", "whoami", "enqueue", "job", "output", "list", "events", "wait", "why", "cancel"},
    READ: {"ping", "whoami", "job", "output", "list", "events", "wait", "why", "status", "config_show", "key_list"},
    ADMIN: set(OPERATIONS),
}


def may(broker: BrokerHarness, op: str, user: str) -> bool:
    try:
        broker.ask(op, user=user, **ARGS.get(op, {}))
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("op", OPERATIONS)
def test_role_may_do_what_it_is_for(broker: BrokerHarness, role: str, op: str) -> None:
    me = broker.key("me", role)
    broker.enqueue(id="job-1", user=me if role == SUBMIT else "uid:0")

    assert may(broker, op, me) == (op in MAY[role])


def test_refusal_says_who_one_is_and_which_role_it_takes(broker: BrokerHarness) -> None:
    error = broker.refused("key_list", user=broker.key("ann", SUBMIT))

    assert error.code == "not_allowed"
    assert error.message == "'ann' has the role submit, and may not do this (key_list)"
    assert error.hint == "it takes the role admin or read"
    assert error.details == {"op": "key_list", "role": "submit"}
    assert broker.core.denied == 1
    assert broker.events("request_refused")[-1]["by"] == "ann"


@pytest.mark.parametrize("user", ["uid:0", "uid:1000", "tcp:open"])
def test_who_comes_in_without_a_key_is_an_admin_of_that_name(broker: BrokerHarness, user: str) -> None:
    told = broker.ask("whoami", user=user)

    assert (told["name"], told["role"], told["queues"]) == (user, "admin", [])


@pytest.mark.parametrize("user", ["", "key:99", "key:", "nobody", "UID:0", "tcp:opened", "tcp:", "1"])
def test_user_whom_nobody_let_in_may_do_nothing(broker: BrokerHarness, user: str) -> None:
    for op in OPERATIONS:
        assert isinstance(broker.refused(op, user=user, **ARGS.get(op, {})), KeyNotAccepted)


def test_whoami_tells_role_and_queues(broker: BrokerHarness) -> None:
    told = broker.ask("whoami", user=broker.key("ann", SUBMIT, "ci-*", "docs"))

    assert told == {"name": "ann", "role": "submit", "queues": ["ci-*", "docs"], "endpoints": [], "server_keys": []}


def test_environment_is_told_by_name_and_its_values_to_an_admin_only(broker: BrokerHarness) -> None:
    submit, read = broker.key("ann", SUBMIT), broker.key("rob", READ)
    [job] = broker.enqueue(env={"TOKEN": "s3cret"}, user=submit)

    for user in (submit, read, "uid:0"):
        assert "s3cret" not in str(broker.ask("job", id=job, user=user))
        assert broker.ask("job", id=job, user=user)["job"]["env"] == ["TOKEN"]
    for user in (submit, read):
        assert isinstance(broker.refused("job", id=job, env=True, user=user), NotAllowed)
    assert broker.ask("job", id=job, env=True)["env_values"] == {"TOKEN": "s3cret"}
    assert "s3cret" not in str(broker.logs)


# --- own jobs -------------------------------------------------------------------------------------------


@pytest.fixture
def ann(broker: BrokerHarness) -> str:
    return broker.key("ann", SUBMIT)


@pytest.fixture
def bob(broker: BrokerHarness) -> str:
    return broker.key("bob", SUBMIT)


@pytest.mark.parametrize("text", ["bobs-job", "bobs-jo", "b", "nothing"])
@pytest.mark.parametrize(
    ("op", "args"), [("job", {}), ("job", {"state": "pending"}), ("output", {}), ("output", {"wait_ms": 100})]
)
def test_job_of_another_is_not_there(
    broker: BrokerHarness, ann: str, bob: str, text: str, op: str, args: dict[str, Any]
) -> None:
    broker.enqueue(id="bobs-job", user=bob)

    error = broker.refused(op, id=text, user=ann, **args)

    assert isinstance(error, UnknownJob)
    assert error.to_wire() == {**UnknownJob(f"there is no job '{text}'").to_wire(), **told_of_unknown(text)}


def told_of_unknown(text: str) -> dict[str, Any]:
    return {"hint": "see: queuectl list", "details": {"id": text}}


def test_job_of_another_cannot_be_waited_for(broker: BrokerHarness, ann: str, bob: str) -> None:
    [mine] = broker.enqueue(user=ann)
    broker.enqueue(id="bobs-job", user=bob)

    for jobs in (["bobs-job"], ["bobs"], [mine, "bobs-job"]):
        assert isinstance(broker.refused("wait", jobs=jobs, user=ann), UnknownJob)
    assert broker.ask("wait", jobs=[mine], timeout_ms=0, user=ann)["done"] is False


@pytest.mark.parametrize("args", [{"empty": True}, {"workers": ["w"]}, {"workers": []}, {}])
def test_submit_key_waits_for_nothing_but_jobs(broker: BrokerHarness, ann: str, args: dict[str, Any]) -> None:
    assert isinstance(broker.refused("wait", user=ann, **args), NotAllowed)


def test_submit_key_is_not_told_how_many_jobs_others_have(broker: BrokerHarness, ann: str, bob: str) -> None:
    broker.enqueue("a", "b", user=bob)
    [mine] = broker.enqueue(user=ann)

    told = broker.ask("wait", jobs=[mine], timeout_ms=0, user=ann)
    assert (told["done"], told["jobs_left"], told["counts"]) == (False, 1, None)
    assert broker.ask("wait", jobs=[mine], timeout_ms=0)["counts"]["pending"] == 3


def test_listing_has_own_jobs_only(broker: BrokerHarness, ann: str, bob: str) -> None:
    own = broker.enqueue("1", "2", "3", user=ann)
    broker.enqueue("4", "5", user=bob, queue="private")

    assert [job["id"] for job in broker.ask("list", user=ann)["jobs"]] == own[::-1]
    assert broker.ask("list", user=ann, queue="private") == broker.ask("list", user=ann, queue="never-heard-of")
    assert broker.ask("list", user=broker.key("new", SUBMIT))["jobs"] == []
    assert len(broker.ask("list", user=broker.key("rob", READ))["jobs"]) == 5


def test_listing_of_own_jobs_among_many_comes_in_slices(broker: BrokerHarness, ann: str, bob: str) -> None:
    own = []
    for _ in range(5):
        own += broker.enqueue(user=ann)
        broker.enqueue(*["x"] * 7, user=bob)

    found, cursor = [], None
    for _ in range(100):
        slice_ = broker.ask("list", user=ann, limit=2, cursor=cursor)
        assert len(slice_["jobs"]) <= 2
        found += [job["id"] for job in slice_["jobs"]]
        if (cursor := slice_["next"]) is None:
            break
    assert found == own[::-1]


def test_prefix_means_own_jobs_whatever_others_have(broker: BrokerHarness, ann: str, bob: str) -> None:
    broker.enqueue(id="run-z1", user=ann)
    for number in range(10):
        broker.enqueue(id=f"run-{number}", user=bob)

    assert broker.ask("job", id="run-", user=ann)["job"]["id"] == "run-z1"

    broker.enqueue(id="run-00", user=ann)
    error = broker.refused("job", id="run-", user=ann)
    assert isinstance(error, AmbiguousId)
    assert error.message == "'run-' could be run-00, run-z1"


def test_prefix_of_more_jobs_than_are_looked_through_is_too_short(broker: BrokerHarness, ann: str, bob: str) -> None:
    broker.enqueue(id="run-9999", user=ann)
    jobs = [{"command": "true", "id": f"run-{number:04}"} for number in range(LOOKED_THROUGH)]
    broker.ask("enqueue", jobs=jobs, user=bob)

    error = broker.refused("job", id="run-", user=ann)

    assert isinstance(error, UnknownJob)
    assert not any(job["id"] in str(error.to_wire()) for job in jobs)
    assert broker.ask("job", id="run-9", user=ann)["job"]["id"] == "run-9999"


def test_id_in_use_by_another_is_said_to_be_in_use_and_no_more(broker: BrokerHarness, ann: str, bob: str) -> None:
    broker.enqueue(id="taken", user=bob)

    reply = broker.ask("enqueue", jobs=[{"command": "true", "id": "taken"}], user=ann)

    [error] = reply["errors"]
    assert error["code"] == JobExists.code
    assert error["message"] == "the id 'taken' is in use"
    assert "pending" not in str(error)
    assert "details" not in error
    again = broker.ask("enqueue", jobs=[{"command": "true", "id": "taken"}], user=bob)
    assert again["errors"][0]["details"] == {"id": "taken", "state": "pending"}


def test_request_ids_of_one_key_are_nothing_to_another(broker: BrokerHarness, ann: str, bob: str) -> None:
    spec = [{"command": "echo ann"}]
    [mine] = broker.ask("enqueue", request_id="same-request", jobs=spec, user=ann)["ids"]

    for user, jobs in ((bob, spec), (bob, [{"command": "other"}]), ("uid:0", spec)):
        request_id = "same-request" if jobs is spec else "other-request"
        broker.turn(clients=[request("enqueue", request_id=request_id, jobs=jobs)], user=user)
        [reply] = broker.replies()
        assert "repeated" not in reply
        assert reply["ok"]["ids"] != [mine]
    broker.turn(clients=[request("enqueue", request_id="same-request", jobs=spec)], user=ann)
    [reply] = broker.replies()
    assert (reply["repeated"], reply["ok"]["ids"]) == (True, [mine])


def test_same_request_id_of_two_keys_in_one_turn_is_two_requests(broker: BrokerHarness, ann: str, bob: str) -> None:
    body = request("enqueue", request_id="same-request", jobs=[{"command": "true"}])
    broker.store.begin()
    turn = broker.core.turn(broker.clock.now, [], [((b"a", b""), body, ann), ((b"b", b""), body, bob)])
    broker.store.commit()

    assert [reply.envelope[0] for reply in turn.to_clients] == [b"a", b"b"]
    assert broker.core.counts()["pending"] == 2


def test_jobs_of_a_name_stay_its_own_when_its_key_is_exchanged(broker: BrokerHarness, ann: str) -> None:
    [job] = broker.enqueue(user=ann)
    new = broker.key("ann", SUBMIT)
    broker.ask("key_revoke", name="ann", old=True)

    assert broker.ask("job", id=job, user=new)["job"]["enqueued_by"] == "ann"
    assert isinstance(broker.refused("job", id=job, user=ann), KeyNotAccepted)


def test_jobs_without_an_owner_are_nobody_s(broker: BrokerHarness, ann: str) -> None:
    [job] = broker.enqueue()
    broker.store.begin()
    broker.store._db.run("UPDATE spec SET enqueued_by = NULL")
    broker.store.commit()

    assert isinstance(broker.refused("job", id=job, user=ann), UnknownJob)
    assert broker.ask("list", user=ann)["jobs"] == []


# --- queues ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "is_ok"),
    [("ci-1", True), ("ci-", True), ("docs", True), ("ci", False), ("docs2", False), ("CI-1", False), (None, False)],
)
def test_submit_key_enqueues_into_its_queues_only(broker: BrokerHarness, queue: str | None, is_ok: bool) -> None:
    ann = broker.key("ann", SUBMIT, "ci-*", "docs")
    job = {"command": "true"} | ({} if queue is None else {"queue": queue})

    reply = broker.ask("enqueue", jobs=[job], user=ann)

    assert [error["code"] for error in reply["errors"]] == ([] if is_ok else ["not_allowed"])
    assert broker.core.counts()["total"] == int(is_ok)


def test_good_jobs_of_a_request_are_stored_beside_those_for_other_queues(broker: BrokerHarness) -> None:
    ann = broker.key("ann", SUBMIT, "ci-*")
    jobs = [{"command": "true", "queue": queue} for queue in ("ci-1", "prod", "ci-2")]

    reply = broker.ask("enqueue", jobs=jobs, user=ann)

    assert [job_id is None for job_id in reply["ids"]] == [False, True, False]
    assert [error["index"] for error in reply["errors"]] == [1]


@pytest.fixture
def builder(broker: BrokerHarness) -> FakeWorker:
    """A worker whose key is for some queues only."""
    return broker.worker("b", user=broker.key("builder", WORKER, "ci-*"), slots=8)


def test_worker_key_gets_jobs_of_its_queues_only(broker: BrokerHarness, builder: FakeWorker) -> None:
    broker.enqueue(queue="prod")
    [wanted] = broker.enqueue(queue="ci-1")
    builder.hello()

    assert builder.grant().job == wanted
    broker.enqueue(queue="default")
    assert builder.grants() == []


def test_worker_that_asks_for_some_queues_gets_those_that_its_key_is_for(
    broker: BrokerHarness, builder: FakeWorker
) -> None:
    builder.queues = ["ci-1", "prod"]
    for queue in ("prod", "ci-2"):
        broker.enqueue(queue=queue)
    [wanted] = broker.enqueue(queue="ci-1")
    builder.hello()

    assert builder.grant().job == wanted


def test_worker_for_queues_that_its_key_is_not_for_is_refused(broker: BrokerHarness, builder: FakeWorker) -> None:
    builder.queues = ["prod"]
    builder.tell(builder.hello_message())

    refuse = builder.take(Refuse)
    assert (refuse.code, refuse.retry_ms) == ("not_allowed", DENIED_RETRY_MS)
    assert refuse.text == "'builder' may serve the queues ci-*, and none of those that this worker is for"
    assert broker.core.sessions == {}


# --- own leases -----------------------------------------------------------------------------------------


@pytest.fixture
def victim(broker: BrokerHarness) -> FakeWorker:
    """A worker with a key of its own that runs a job."""
    broker.enqueue(id="job-1")
    victim = broker.worker("v", user=broker.key("victim", WORKER), home="/home")
    victim.hello()
    return victim


@pytest.fixture
def thief(broker: BrokerHarness, victim: FakeWorker) -> FakeWorker:
    """A worker with another key that says to be of the same machine and home."""
    thief = broker.worker("t", user=broker.key("thief", WORKER), home="/home", slots=0)
    thief.host = victim.host
    thief.hello()
    return thief


def test_result_of_another_key_s_lease_is_refused(broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker) -> None:
    grant = victim.grant()

    assert thief.report(result(grant, 1)) == ["stale"]
    assert broker.core.denied == 1
    assert broker.events("report_denied") == [{"job_id": "job-1", "lease_id": lease_text(grant.lease), "by": "thief"}]
    assert victim.finish(grant) == "recorded"


def test_lease_of_another_key_cannot_be_given_back(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    grant = victim.grant()
    broker.turn(gone=[victim.route])  # it is away, so that one of its home might speak for it

    for reason in ("draining", "lost"):
        thief.release(grant, reason=reason)

    assert broker.state("job-1") == "processing"
    assert broker.core.denied == 2


def test_output_of_another_key_s_lease_cannot_be_written(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    grant = victim.grant()
    thief.write(grant, b"forged")

    assert thief.take(Took).taken[0].upto == 6  # it is not to come again
    assert broker.ask("output", id="job-1")["segments"] == []
    victim.write(grant, b"true")
    victim.take(Took)
    assert broker.ask("output", id="job-1")["segments"] == [[1, 0, b"true"]]


@pytest.mark.parametrize("is_known", [True, False], ids=["awaited", "forgotten"])
def test_late_output_of_another_key_s_job_cannot_be_written(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker, is_known: bool
) -> None:
    grant = victim.grant()
    assert victim.finish(grant, stdout_bytes=4) == "recorded"
    if not is_known:
        broker.core.closing.clear()

    thief.write(grant, b"lies")
    assert broker.ask("output", id="job-1")["segments"] == []

    victim.write(grant, b"true")
    assert broker.ask("output", id="job-1")["segments"] == [[1, 0, b"true"]]
    broker.outbox.clear()


def test_late_output_that_an_admin_brings_is_taken(broker: BrokerHarness, victim: FakeWorker) -> None:
    grant = victim.grant()
    victim.finish(grant, stdout_bytes=4)
    friend = broker.worker("f", slots=0)
    friend.hello()
    friend.write(grant, b"true")
    friend.take(Took)

    assert broker.ask("output", id="job-1")["segments"] == [[1, 0, b"true"]]


def test_worker_of_another_key_cannot_be_declared_dead(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    grant = victim.grant()
    thief.gone(victim.boot)

    assert broker.state("job-1") == "processing"
    assert broker.events("boot_gone") == []
    assert victim.finish(grant) == "recorded"


def test_boot_of_another_key_cannot_be_taken_over(broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker) -> None:
    grant = victim.grant()
    thief.boot, thief.route = victim.boot, b"t2"
    broker.users[b"t2"] = broker.users[b"t"]

    for is_away in (False, True):
        if is_away:
            broker.turn(gone=[victim.route])
        thief.tell(thief.hello_message(held=[held(grant)], n=100))
        refuse = thief.take(Refuse)
        assert (refuse.code, refuse.text) == ("not_allowed", "this boot is that of a worker with another key")

    victim.route = b"v2"
    broker.users[b"v2"] = broker.users[b"v"]
    assert victim.hello(held=[held(grant)]).keep == [grant.lease]
    assert victim.finish(grant) == "recorded"


def test_boot_of_another_key_cannot_be_taken_over_when_memory_has_forgotten_it(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    victim.finish(victim.grant())
    victim.bye()
    broker.outbox.clear()
    assert victim.boot not in broker.core.holders

    thief.boot, thief.route = victim.boot, b"t2"
    broker.users[b"t2"] = broker.users[b"t"]
    thief.tell(thief.hello_message())

    assert thief.take(Refuse).code == "not_allowed"


def test_lease_of_another_key_that_is_named_in_hello_is_to_be_dropped(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    grant = victim.grant()
    thief.route = b"t2"
    broker.users[b"t2"] = broker.users[b"t"]

    assert thief.hello(held=[held(grant)]).drop == [grant.lease]
    assert victim.finish(grant) == "recorded"


def test_lost_lease_of_another_key_is_not_adopted(broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker) -> None:
    grant = victim.grant()
    broker.clock.advance(40_000)
    thief.beat()
    broker.after(0)  # the victim is lost, and nobody has room for its job
    assert broker.state("job-1") == "pending"
    broker.outbox.clear()

    assert thief.report(result(grant)) == ["stale"]
    thief.route = b"t2"
    broker.users[b"t2"] = broker.users[b"t"]
    assert thief.hello(held=[held(grant)]).drop == [grant.lease]

    victim.route = b"v2"
    broker.users[b"v2"] = broker.users[b"v"]
    assert victim.hello(held=[held(grant)]).keep == [grant.lease]


def test_new_key_of_the_same_name_speaks_for_the_leases_of_the_old_one(
    broker: BrokerHarness, victim: FakeWorker
) -> None:
    grant = victim.grant()
    victim.route = b"v2"
    broker.users[b"v2"] = broker.key("victim", WORKER)

    assert victim.hello(held=[held(grant)]).keep == [grant.lease]
    assert victim.finish(grant) == "recorded"


@pytest.mark.parametrize("role", [SUBMIT, READ])
def test_key_that_is_none_of_a_worker_says_nothing_on_the_workers_port(
    broker: BrokerHarness, victim: FakeWorker, role: str
) -> None:
    grant = victim.grant()
    stranger = broker.worker("s", user=broker.key("stranger", role))
    stranger.tell(stranger.hello_message())

    refuse = stranger.take(Refuse)
    assert (refuse.code, refuse.retry_ms) == ("not_allowed", DENIED_RETRY_MS)
    assert "stranger" in refuse.text
    stranger.session = victim.session
    stranger.tell(Beat(victim.session, 1, 1, [], [], draining=False))  # told once a second, and counted each time
    assert (broker.core.denied, stranger.route in broker.core.sessions) == (2, False)
    assert [event["by"] for event in broker.events("worker_denied")] == ["stranger"]
    assert victim.finish(grant) == "recorded"


def test_session_of_another_connection_cannot_be_used(
    broker: BrokerHarness, victim: FakeWorker, thief: FakeWorker
) -> None:
    grant = victim.grant()
    broker.clock.advance(2000)
    thief.session = victim.session
    thief.tell(Beat(victim.session, 1, 9, [], [], draining=False))

    thief.take(Who)
    assert victim.finish(grant) == "recorded"


def test_worker_of_a_user_of_this_machine_needs_no_key(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()
    worker = broker.worker(user="uid:0")
    worker.hello()

    assert worker.finish(worker.grant()) == "recorded"
    assert broker.job(job)["enqueued_by"] == "uid:1000"
