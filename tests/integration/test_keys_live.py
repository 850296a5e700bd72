"""Keys on a live broker: revoked with open connections, exchanged, cut; and the server's own key exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from queuectl.ids import new_request_id
from queuectl.messages import Echo, Refuse
from queuectl.server_keys import prepare_next, put_next_in_place
from queuectl.ways import Way
from tests.harness_keys import Domain, Line, credentials, keyed_broker
from tests.harness_process import LIMIT_S, RawClient, ScriptedWorker, until

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def domain(home: Path) -> Iterator[Domain]:
    with keyed_broker(home) as domain:
        yield domain


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


def fate(context: Context, way: Way) -> str:
    """What becomes of a new connection."""
    with Line(context, way) as line:
        return line.fate()


def code(client: RawClient, op: str = "ping") -> str:
    """How a request is answered: ok, or the code of the error."""
    reply = client.ask(op)
    return "ok" if "ok" in reply else str(reply["error"]["code"])


def test_revoked_client_is_refused_on_its_live_connection_and_on_every_new_one(
    domain: Domain, context: Context
) -> None:
    who = domain.add("ann", "read")
    with RawClient(domain.client_way(who)) as client:
        assert code(client, "status") == "ok"
        domain.local.ok("key_revoke", name="ann")
        assert code(client, "status") == "key_not_accepted"
        assert code(client) == "key_not_accepted"
    assert fate(context, domain.client_way(who)) == "key_not_accepted"
    assert domain.broker.logged("key_revoked")[0]["key_name"] == "ann"


def test_revoked_worker_is_told_to_drop_its_jobs_and_others_have_them_at_once(domain: Domain, context: Context) -> None:
    who = domain.add("builder", "worker")
    [job] = domain.local.enqueue("sleep 1000")
    with ScriptedWorker(domain.worker_way(who)) as worker:
        worker.hello()
        [grant] = worker.pushed()
        with ScriptedWorker(domain.worker_way(domain.add("other", "worker"))) as other:
            other.hello()
            assert domain.local.ok("key_revoke", name="builder")["sessions"] == 1

            assert [taken.job for taken in other.pushed()] == [job]
            assert worker.hear(Echo).drop == [grant.lease]
            assert worker.hear(Refuse).code == "key_not_accepted"
            other.finish(*other.grants.values())
    assert domain.local.ok("job", id=job)["job"]["state"] == "completed"
    assert fate(context, domain.worker_way(who)) == "key_not_accepted"


def test_held_reply_of_a_revoked_key_ends_at_once(domain: Domain, context: Context) -> None:
    domain.local.enqueue("true")
    with Line(context, domain.client_way(domain.add("ann", "read"))) as line:
        body = {"v": 1, "id": new_request_id(), "op": "wait", "args": {"empty": True, "timeout_ms": 60_000}}
        line.send(b"", msgpack.packb(body))
        assert line.fate() == "open"
        with RawClient(domain.client_way(domain.add("bob", "read"))) as bob:
            bob.ok("status")
        assert not line.has_message()
        domain.local.ok("key_revoke", name="ann")

        assert msgpack.unpackb(line.receive())["error"]["code"] == "key_not_accepted"


def test_cut_ends_all_connections_and_who_may_come_in_comes_back(domain: Domain, context: Context) -> None:
    bad, good = domain.add("bad", "worker"), domain.add("good", "worker")
    ann = domain.add("ann", "read")
    [job] = domain.local.enqueue("sleep 1000", queue="q")
    with (
        ScriptedWorker(domain.worker_way(good)) as worker,
        Line(context, domain.worker_way(bad)) as line,
        RawClient(domain.client_way(ann)) as client,
    ):
        worker.hello()
        [grant] = worker.pushed()
        assert line.fate() == "open"
        assert domain.local.ok("key_revoke", name="bad", cut=True)["cut"] is True

        assert line.ends()
        until(lambda: domain.broker.logged("connections_cut"), "the cut")
        assert code_when_back(client) == "ok"
        worker.reconnect()
        assert worker.hello().keep == [grant.lease], "the job goes on"
        assert worker.finish(grant) == ["recorded"]
    assert domain.local.ok("job", id=job)["job"]["attempt"] == 1
    assert fate(context, domain.worker_way(bad)) == "key_not_accepted"


def code_when_back(client: RawClient) -> str:
    """How the first request is answered that gets through."""

    def once() -> str:
        try:
            reply = client.ask("ping", limit_s=1.0)
        except TimeoutError:
            return ""
        return "ok" if "ok" in reply else str(reply["error"]["code"])

    return until(once, "the broker listens again")


def test_local_connections_are_not_cut(domain: Domain) -> None:
    domain.add("ann", "read")
    with ScriptedWorker(domain.broker.home.worker_endpoint) as worker:
        session = worker.hello().session
        domain.local.ok("key_revoke", name="ann", cut=True)
        until(lambda: domain.broker.logged("connections_cut"), "the cut")
        assert worker.beat().session == session
    assert code(domain.local) == "ok"


def test_exchanged_key_and_the_old_one_both_come_in_until_that_is_revoked(domain: Domain, context: Context) -> None:
    old = domain.add("ann", "submit")
    new = credentials("ann", "submit", old.server_keys)
    domain.local.ok("key_rotate", name="ann", public_key=new.public_key)
    for who in (old, new):
        assert fate(context, domain.client_way(who)) == "open"
    with RawClient(domain.client_way(old)) as client:
        [job] = client.enqueue("true")

    domain.local.ok("key_revoke", name="ann", old=True)

    assert fate(context, domain.client_way(old)) == "key_not_accepted"
    with RawClient(domain.client_way(new)) as client:
        assert client.ok("job", id=job)["job"]["enqueued_by"] == "ann"


def test_server_key_is_exchanged_while_the_broker_runs(domain: Domain, context: Context) -> None:
    who = domain.add("builder", "worker")
    keys = domain.broker.home.keys
    old = domain.server_key
    domain.local.enqueue("sleep 1000")
    with ScriptedWorker(domain.worker_way(who)) as worker:
        worker.hello()
        [grant] = worker.pushed()

        new = prepare_next(keys).public[1]
        assert domain.local.ok("reload")["server_keys"] == [old, new]
        assert domain.local.ok("whoami")["server_keys"] == [old, new]
        assert worker.beat().drop == []
        assert fate(context, domain.worker_way(who, old)) == "open"
        assert fate(context, domain.worker_way(who, new)) == "server_key_mismatch", "it is not in use yet"

        put_next_in_place(keys)
        assert fate(context, domain.worker_way(who, old)) == "open", "nothing changes before it is read"
        assert domain.local.ok("reload")["server_keys"] == [new]
        until(lambda: domain.broker.logged("connections_cut"), "the cut")

        assert fate(context, domain.worker_way(who, old)) == "server_key_mismatch"
        assert fate(context, domain.client_way(who, old)) == "server_key_mismatch"
        worker.way = domain.worker_way(who, new)
        worker.reconnect()
        assert worker.hello().keep == [grant.lease], "the job goes on"
        assert worker.finish(grant) == ["recorded"]


def test_reload_of_the_same_key_cuts_nothing(domain: Domain) -> None:
    with ScriptedWorker(domain.worker_way(domain.add("builder", "worker"))) as worker:
        session = worker.hello().session
        domain.local.ok("reload")
        domain.local.ok("ping")

        assert worker.beat().session == session
    assert not domain.broker.logged("connections_cut")


@pytest.mark.parametrize("damage", ["open", "nonsense"])
def test_reload_of_a_key_that_cannot_be_read_is_an_error_and_all_stays_as_it_is(domain: Domain, damage: str) -> None:
    path = domain.broker.home.keys / "server.key"
    if damage == "open":
        path.chmod(0o644)
    else:
        path.write_text("{}")

    reply = domain.local.ask("reload")

    assert reply["error"]["code"] == ("not_allowed" if damage == "open" else "bad_credentials"), reply
    assert not domain.broker.logged("message_failed")
    path.chmod(0o600)
    if damage == "open":
        with RawClient(domain.client_way(domain.add("ann", "read"))) as client:
            assert code(client) == "ok"


def test_restarted_broker_has_the_same_key_and_knows_the_same_holders(domain: Domain, context: Context) -> None:
    good, bad = domain.add("good", "read"), domain.add("bad", "read")
    domain.local.ok("key_revoke", name="bad")
    before = domain.server_key
    domain.broker.kill()
    domain.broker.start()

    assert domain.server_key == before
    assert fate(context, domain.client_way(good)) == "open"
    assert fate(context, domain.client_way(bad)) == "key_not_accepted"


def test_sessions_of_a_key_have_a_limit_on_real_connections(domain: Domain) -> None:
    domain.local.ok("config_set", key="max_sessions", value=1)
    who = domain.add("builder", "worker")
    with ScriptedWorker(domain.worker_way(who)) as first, ScriptedWorker(domain.worker_way(who)) as second:
        first.hello()
        with pytest.raises(TimeoutError):
            second.hello(limit_s=0.5)
        assert second.hear(Refuse).code == "too_many_sessions"
        first.leave()
        assert second.hello(limit_s=LIMIT_S).session
