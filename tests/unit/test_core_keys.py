"""Keys in the core: added, exchanged, revoked with all that hangs on them, listed; the server's keys read again."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core import keys
from broker.core.access import ADMIN, READ, SUBMIT, WORKER
from broker.core.keys import KEYS_MAX
from broker.core.sessions import DENIED_RETRY_MS
from broker.core.state import NoDoors
from queuectl.credentials import fingerprint, new_key_pair
from queuectl.errors import BadRequest, KeyExists, KeyNotAccepted, NotAllowed, UnknownKey
from queuectl.messages import Echo, Refuse, Welcome
from tests.harness import BrokerHarness, FakeWorker, held, request


class FakeDoors:
    """Doors that note what is asked of them."""

    def __init__(self, *server_keys: str):
        self.server_keys = server_keys
        self.cuts = 0
        self.reloads = 0

    def reload(self) -> tuple[str, ...]:
        self.reloads += 1
        return self.server_keys

    def cut(self) -> None:
        self.cuts += 1


@pytest.fixture
def doors(broker: BrokerHarness) -> FakeDoors:
    doors = FakeDoors("server-1", "server-2")
    broker.core.doors = doors
    return doors


def key_of(broker: BrokerHarness, name: str) -> dict[str, Any]:
    """The entry of this name in the list."""
    [entry] = broker.ask("key_list", name=name)["keys"]
    return dict(entry)


def test_added_key_lets_its_holder_in(broker: BrokerHarness) -> None:
    public, _ = new_key_pair()
    assert broker.core.access.user_of(public) is None

    told = broker.ask("key_add", name="ann", role=SUBMIT, public_key=public, queues=["ci-*"])

    assert told == {"name": "ann", "role": "submit", "queues": ["ci-*"], "fingerprint": fingerprint(public)}
    user = broker.core.access.user_of(public)
    assert user is not None
    assert broker.ask("whoami", user=user)["name"] == "ann"
    [event] = broker.events("key_added")
    assert event == {"key_name": "ann", "role": "submit", "fingerprint": fingerprint(public), "by": "uid:1000"}


def test_keys_outlive_the_broker(broker_on_disk: BrokerHarness) -> None:
    user = broker_on_disk.key("ann", SUBMIT)
    gone = broker_on_disk.key("bob", SUBMIT)
    broker_on_disk.ask("key_revoke", name="bob")
    broker_on_disk.crash()

    assert broker_on_disk.ask("whoami", user=user)["name"] == "ann"
    assert isinstance(broker_on_disk.refused("whoami", user=gone), KeyNotAccepted)


def test_key_that_could_not_be_stored_lets_nobody_in(broker: BrokerHarness) -> None:
    public, _ = new_key_pair()
    broker.fail_next = RuntimeError("the turn fails")
    with pytest.raises(RuntimeError):
        broker.turn(clients=[request("key_add", name="ann", role=ADMIN, public_key=public)])

    assert broker.core.access.user_of(public) is None


def test_key_whose_revocation_could_not_be_stored_is_good_yet(broker: BrokerHarness) -> None:
    user = broker.key("ann", READ)
    broker.fail_next = RuntimeError("the turn fails")
    with pytest.raises(RuntimeError):
        broker.turn(clients=[request("key_revoke", name="ann")])

    assert broker.ask("whoami", user=user)["name"] == "ann"


@pytest.mark.parametrize("is_revoked", [False, True])
def test_name_is_given_once(broker: BrokerHarness, is_revoked: bool) -> None:
    broker.key("ann", READ)
    if is_revoked:
        broker.ask("key_revoke", name="ann")

    error = broker.refused("key_add", name="ann", role=ADMIN, public_key="x" * 40)
    assert isinstance(error, KeyExists)
    assert error.message == "a key of the name 'ann' was added before"


@pytest.mark.parametrize("is_revoked", [False, True])
@pytest.mark.parametrize(("op", "more"), [("key_add", {"name": "new", "role": ADMIN}), ("key_rotate", {"name": "bob"})])
def test_public_key_is_added_once(broker: BrokerHarness, is_revoked: bool, op: str, more: dict[str, Any]) -> None:
    broker.key("bob", READ)
    broker.ask("key_add", name="ann", role=READ, public_key="x" * 40)
    if is_revoked:
        broker.ask("key_revoke", name="ann")

    assert isinstance(broker.refused(op, public_key="x" * 40, **more), KeyExists)


@pytest.mark.parametrize("role", [READ, ADMIN])
def test_queues_are_not_for_roles_that_see_all(broker: BrokerHarness, role: str) -> None:
    error = broker.refused("key_add", name="ann", role=role, public_key="x" * 40, queues=["ci-*"])

    assert isinstance(error, BadRequest)
    assert broker.ask("key_list")["keys"] == []


BAD: dict[str, dict[str, Any]] = {
    "no name": {"name": ""},
    "name of a user": {"name": "uid:0"},
    "name of the open door": {"name": "tcp:open"},
    "name with a blank": {"name": "ann bob"},
    "name with a newline": {"name": "ann\n"},
    "long name": {"name": "a" * 65},
    "no role": {"role": "root"},
    "role in capitals": {"role": "ADMIN"},
    "short key": {"public_key": "x" * 39},
    "long key": {"public_key": "x" * 41},
    "key with a newline": {"public_key": "x" * 40 + "\n"},
    "key of other letters": {"public_key": "ü" * 40},
    "secret": {"secret_key": "x" * 40},
    "queue with a blank": {"queues": ["ci *"]},
    "queue with a newline": {"queues": ["ci\n"]},
    "many queues": {"queues": ["q"] * 65},
}


@pytest.mark.parametrize("case", BAD)
def test_key_that_makes_no_sense_is_refused(broker: BrokerHarness, case: str) -> None:
    good = {"name": "ann", "role": WORKER, "public_key": "x" * 40, "queues": []}

    assert isinstance(broker.refused("key_add", **(good | BAD[case])), BadRequest)
    assert broker.ask("key_list")["keys"] == []


def test_keys_have_an_end(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEYS_MAX == 2000
    monkeypatch.setattr(keys, "KEYS_MAX", 2)
    for name in ("a", "b"):
        broker.key(name, READ)

    assert isinstance(broker.refused("key_add", name="c", role=READ, public_key="x" * 40), NotAllowed)
    assert isinstance(broker.refused("key_rotate", name="a", public_key="x" * 40), NotAllowed)


# --- exchange -------------------------------------------------------------------------------------------


def test_exchanged_key_and_the_old_one_are_both_good_until_that_is_revoked(broker: BrokerHarness) -> None:
    old = broker.key("ann", SUBMIT, "ci-*")
    [before] = key_of(broker, "ann")["keys"]
    public, _ = new_key_pair()

    told = broker.ask("key_rotate", name="ann", public_key=public)

    assert told == {
        "name": "ann",
        "role": "submit",
        "queues": ["ci-*"],
        "fingerprint": fingerprint(public),
        "old": [before["fingerprint"]],
    }
    new = broker.core.access.user_of(public)
    assert new is not None
    for user in (old, new):
        assert broker.ask("whoami", user=user)["queues"] == ["ci-*"]

    told = broker.ask("key_revoke", name="ann", old=True)

    assert told == {"name": "ann", "revoked": [before["fingerprint"]], "sessions": 0, "cut": False}
    assert isinstance(broker.refused("whoami", user=old), KeyNotAccepted)
    assert broker.ask("whoami", user=new)["name"] == "ann"
    assert broker.ask("key_revoke", name="ann", old=True)["revoked"] == []


@pytest.mark.parametrize(
    ("op", "args"), [("key_rotate", {"public_key": "x" * 40}), ("key_revoke", {}), ("key_list", {})]
)
def test_name_that_nobody_has_is_unknown(broker: BrokerHarness, op: str, args: dict[str, Any]) -> None:
    broker.key("anna", READ)

    error = broker.refused(op, name="ann", **args)

    assert isinstance(error, UnknownKey)
    assert "anna" in (error.hint or "")


def test_revoked_name_gets_no_new_key(broker: BrokerHarness) -> None:
    broker.key("ann", READ)
    broker.ask("key_revoke", name="ann")

    assert isinstance(broker.refused("key_rotate", name="ann", public_key="x" * 40), NotAllowed)


# --- revocation -----------------------------------------------------------------------------------------


def test_revoked_key_may_do_nothing_more_on_its_live_connection(broker: BrokerHarness) -> None:
    user = broker.key("ann", ADMIN)
    assert broker.ask("ping", user=user)

    broker.ask("key_revoke", name="ann")

    error = broker.refused("ping", user=user)
    assert isinstance(error, KeyNotAccepted)
    assert error.exit_code == 5
    assert broker.core.denied == 1


def test_requests_behind_the_revocation_in_the_same_turn_are_refused_or_done_before_it(broker: BrokerHarness) -> None:
    """Requests are let in when their turn begins: what came with the revocation came before it."""
    user = broker.key("ann", ADMIN)
    broker.store.begin()
    later = [((b"a", b""), request("ping"), user)]
    broker.core.turn(broker.clock.now, [], [((b"b", b""), request("key_revoke", name="ann"), "uid:0"), *later])
    broker.store.commit()

    assert isinstance(broker.refused("ping", user=user), KeyNotAccepted)


def test_admin_may_revoke_itself(broker: BrokerHarness) -> None:
    user = broker.key("ann", ADMIN)

    assert broker.ask("key_revoke", name="ann", user=user)["revoked"]
    assert isinstance(broker.refused("ping", user=user), KeyNotAccepted)
    [entry] = key_of(broker, "ann")["keys"]
    assert entry["revoked_by"] == "ann"


def test_revoked_twice_is_revoked_once(broker: BrokerHarness) -> None:
    broker.key("ann", READ)
    broker.ask("key_revoke", name="ann")
    before = key_of(broker, "ann")
    broker.clock.advance(1000)

    assert broker.ask("key_revoke", name="ann")["revoked"] == []
    assert key_of(broker, "ann") == before


@pytest.fixture
def worker(broker: BrokerHarness) -> FakeWorker:
    """A worker with a key that runs two jobs."""
    broker.enqueue("1", "2")
    worker = broker.worker("w", user=broker.key("builder", WORKER), slots=2)
    worker.hello()
    return worker


def test_jobs_of_a_revoked_worker_go_to_others_at_once(broker: BrokerHarness, worker: FakeWorker) -> None:
    grants = worker.grants()
    other = broker.worker("o", user=broker.key("other", WORKER), slots=2)
    other.hello()

    told = broker.ask("key_revoke", name="builder")

    assert told["sessions"] == 1
    assert worker.take(Echo).drop == [grant.lease for grant in grants]
    refuse = worker.take(Refuse)
    assert (refuse.code, refuse.retry_ms) == ("key_not_accepted", DENIED_RETRY_MS)
    assert {grant.job for grant in other.grants()} == {grant.job for grant in grants}
    assert broker.job(grants[0].job)["losses"] == 1
    assert broker.history(grants[0].job)[0]["note"] == "the key of its worker was revoked"
    assert key_of(broker, "builder")["sessions"] == 0


def test_revoked_worker_can_report_nothing_more(broker: BrokerHarness, worker: FakeWorker) -> None:
    first, second = worker.grants()
    broker.ask("key_revoke", name="builder")
    broker.outbox.clear()

    worker.beat(first, second)
    assert worker.take(Refuse).code == "key_not_accepted"
    for number in range(2):
        broker.clock.advance(1000)
        worker.route = f"new-{number}".encode()
        broker.users[worker.route] = broker.users[b"w"]
        worker.tell(worker.hello_message(held=[held(first), held(second)]))
        assert worker.take(Refuse).code == "key_not_accepted"
    assert broker.core.sessions == {}
    assert broker.state(first.job) == "pending"


def test_jobs_of_a_revoked_worker_that_is_away_go_to_others_at_once(broker: BrokerHarness, worker: FakeWorker) -> None:
    grants = worker.grants()
    broker.turn(gone=[worker.route])
    other = broker.worker("o", slots=2)
    other.hello()
    assert other.grants() == []

    assert broker.ask("key_revoke", name="builder")["sessions"] == 0

    assert {grant.job for grant in other.grants()} == {grant.job for grant in grants}


def test_jobs_of_a_worker_with_another_key_of_the_name_are_left_alone(
    broker: BrokerHarness, worker: FakeWorker
) -> None:
    old = worker.grants()
    broker.enqueue("3")
    fresh = broker.worker("f", user=broker.key("builder", WORKER))
    fresh.hello()
    grant = fresh.grant()

    assert broker.ask("key_revoke", name="builder", old=True)["sessions"] == 1

    worker.take(Echo), worker.take(Refuse)
    assert broker.state(old[0].job) == "pending"
    assert fresh.finish(grant) == "recorded"
    broker.outbox.clear()


def test_worker_with_a_new_key_takes_its_jobs_over_before_the_old_one_is_revoked(
    broker: BrokerHarness, worker: FakeWorker
) -> None:
    grants = worker.grants()
    worker.route = b"w2"
    broker.users[b"w2"] = broker.key("builder", WORKER)
    assert worker.hello(held=[held(grant) for grant in grants]).keep == [grant.lease for grant in grants]

    assert broker.ask("key_revoke", name="builder", old=True)["sessions"] == 0

    assert worker.finish(grants[0]) == "recorded"


def test_worker_that_is_away_keeps_its_jobs_when_an_old_key_of_its_name_is_revoked(
    broker: BrokerHarness, worker: FakeWorker
) -> None:
    """Nobody knows which of the keys it will be back with: it may be exchanging them."""
    grants = worker.grants()
    new = broker.key("builder", WORKER)
    broker.turn(gone=[worker.route])

    broker.ask("key_revoke", name="builder", old=True)

    worker.route = b"w2"
    broker.users[b"w2"] = new
    assert worker.hello(held=[held(grant) for grant in grants]).keep == [grant.lease for grant in grants]


def test_replies_that_are_held_for_a_revoked_key_end_with_it(broker: BrokerHarness) -> None:
    ann, bob = broker.key("ann", SUBMIT), broker.key("bob", SUBMIT)
    [job] = broker.enqueue(user=ann)
    worker = broker.worker()
    worker.hello()
    worker.grant()
    [other] = broker.enqueue(user=bob)
    broker.turn(clients=[request("wait", jobs=[job], request_id="ann-waits")], user=ann)
    broker.turn(clients=[request("output", id=job, wait_ms=60_000, request_id="ann-reads")], user=ann)
    broker.turn(clients=[request("wait", jobs=[other], request_id="bob-waits")], user=bob)
    assert broker.replies() == []

    broker.turn(clients=[request("key_revoke", name="ann", request_id="it-is-revoked")])

    codes = {reply["id"]: reply.get("error", {}).get("code") for reply in broker.replies()}
    assert codes == {"it-is-revoked": None, "ann-waits": "key_not_accepted", "ann-reads": "key_not_accepted"}
    assert len(broker.core.waiters) == 1
    broker.after(20_000)
    assert [reply["id"] for reply in broker.replies()] == ["bob-waits"]


@pytest.mark.parametrize("is_cut", [False, True])
def test_connections_are_cut_if_that_is_asked_for(broker: BrokerHarness, doors: FakeDoors, is_cut: bool) -> None:
    broker.key("ann", READ)

    assert broker.ask("key_revoke", name="ann", cut=is_cut)["cut"] == is_cut
    assert doors.cuts == int(is_cut)


# --- list -----------------------------------------------------------------------------------------------


def test_list_tells_who_added_and_who_revoked_what(broker: BrokerHarness, worker: FakeWorker) -> None:
    worker.grants()
    admin = broker.key("boss", ADMIN)
    broker.ask("key_add", name="ann", role=SUBMIT, public_key="x" * 40, queues=["a"], user=admin)
    broker.clock.advance(1000)
    broker.ask("key_rotate", name="ann", public_key="y" * 40)
    broker.ask("key_revoke", name="ann", old=True, user=admin)

    assert [entry["name"] for entry in broker.ask("key_list")["keys"]] == ["builder", "boss", "ann"]
    assert key_of(broker, "builder")["sessions"] == 1
    entry = key_of(broker, "ann")
    old, new = entry.pop("keys")
    assert entry == {"name": "ann", "role": "submit", "queues": ["a"], "sessions": 0}
    assert old == {
        "fingerprint": fingerprint("x" * 40),
        "added_at": "2027-01-15T08:00:00.000Z",
        "added_by": "boss",
        "revoked_at": "2027-01-15T08:00:01.000Z",
        "revoked_by": "boss",
    }
    assert (new["added_by"], new["revoked_at"], new["revoked_by"]) == ("uid:1000", None, None)


def test_no_public_key_is_told_nor_any_secret(broker: BrokerHarness) -> None:
    public, secret = new_key_pair()
    broker.ask("key_add", name="ann", role=READ, public_key=public)

    told = str([broker.ask("key_list"), broker.logs])
    assert public not in told
    assert secret not in told
    assert fingerprint(public) in told


# --- the server's keys ----------------------------------------------------------------------------------


def test_reload_tells_the_keys_that_were_read(broker: BrokerHarness, doors: FakeDoors) -> None:
    assert broker.ask("reload") == {"server_keys": ["server-1", "server-2"]}
    assert doors.reloads == 1
    assert broker.events("server_keys_read") == [{"by": "uid:1000", "count": 2}]
    assert broker.ask("whoami")["server_keys"] == ["server-1", "server-2"]


def test_broker_that_nobody_reaches_from_elsewhere_has_nothing_to_read_or_cut(broker: BrokerHarness) -> None:
    broker.key("ann", READ)

    assert isinstance(broker.core.doors, NoDoors)
    assert broker.ask("reload") == {"server_keys": []}
    assert broker.ask("key_revoke", name="ann", cut=True)["cut"] is True


def test_worker_whose_key_is_added_later_comes_in_then(broker: BrokerHarness) -> None:
    worker = broker.worker("w", user="key:1")
    worker.tell(worker.hello_message())
    assert worker.take(Refuse).code == "key_not_accepted"

    assert broker.key("builder", WORKER) == "key:1"
    worker.tell(worker.hello_message())
    assert isinstance(worker.take(Welcome), Welcome)


def test_what_comes_in_the_turn_of_its_revocation_comes_too_late(broker: BrokerHarness) -> None:
    boss, spy = broker.key("boss", ADMIN), broker.key("spy", SUBMIT)
    job = broker.ask("enqueue", jobs=[{"command": "true"}], user=spy)["ids"][0]
    backdoor = {"name": "backdoor", "role": "admin", "public_key": "x" * 40}

    broker.turn(
        clients=[
            (request("wait", request_id="wait-before", jobs=[job], timeout_ms=60_000), spy),
            request("key_revoke", name="spy"),
            request("key_revoke", name="boss"),
            (request("wait", request_id="wait-after", jobs=[job], timeout_ms=60_000), spy),
            (request("enqueue", request_id="enqueue-after", jobs=[{"command": "true"}]), spy),
            (request("key_add", request_id="add-after", **backdoor), boss),
        ]
    )

    codes = {reply["id"]: reply.get("error", {}).get("code") for reply in broker.replies()}
    late = ("wait-before", "wait-after", "enqueue-after", "add-after")
    assert {codes[request_id] for request_id in late} == {"key_not_accepted"}
    assert broker.core.waiters == []
    assert broker.core.access.named("backdoor") == []
    assert broker.core.counts()["total"] == 1
