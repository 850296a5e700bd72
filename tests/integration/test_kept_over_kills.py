"""What people say is kept: the broker is killed as soon as it has answered, and the next one knows of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.core.operations import OPERATIONS
from queuectl.messages import Grant, Stop
from tests.harness_process import BrokerProcess, RawClient, ScriptedWorker, running_broker

PUBLIC_KEYS = ["rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"]  # Z85
BOOT = "b" * 32


class Scene(NamedTuple):
    """A broker, who asks it, and a lease that one of its workers holds, which is away."""

    broker: BrokerProcess
    client: RawClient
    lease: Grant


Look = Callable[[Scene], Any]


def job(name: str, *fields: str) -> Look:
    return lambda scene: tuple(scene.client.ok("job", id=name)["job"][field] for field in fields)


def setting(key: str) -> Look:
    return lambda scene: scene.client.ok("config_show")["settings"][key]


def ids(**select: Any) -> Look:
    return lambda scene: {each["id"] for each in scene.client.ok("list", **select)["jobs"]}


def keys(name: str) -> Look:
    """How many keys it has had, and how many of them are good."""

    def look(scene: Scene) -> tuple[int, int]:
        found = [key for each in scene.client.ok("key_list")["keys"] if each["name"] == name for key in each["keys"]]
        return len(found), sum(key["revoked_at"] is None for key in found)

    return look


def told_to_stop(scene: Scene) -> list[bool]:
    """What the worker that was away hears of it when it is back; the answer to its heartbeat comes after that."""
    with ScriptedWorker(scene.broker.home.worker_endpoint, boot=BOOT) as worker:
        worker.grants = {scene.lease.lease: scene.lease}
        worker.broker_id = scene.client.ok("ping")["broker"]
        worker.hello()
        worker.beat()
        return [message.now for message in worker._waiting if isinstance(message, Stop)]


def asked_to_end(scene: Scene) -> list[str]:
    events = scene.client.ok("events", id="runs")["events"]
    return [event["reason"] for event in events if event["type"] == "cancel_asked"]


class Deed(NamedTuple):
    """A request, and what somebody who looks sees from then on."""

    op: str
    args: dict[str, Any]
    look: Look
    seen: Any


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"select": {"ids": [name]}, **more}


EDITS = {"command": "false", "queue": "elsewhere", "priority": 7, "max_retries": 9, "timeout": 60.0}
LATER = {"command": "true", "id": "new", "unique": "k", "tags": {"a": "b"}, "hold": True}
DEEDS = {
    "enqueue": Deed("enqueue", {"jobs": [LATER]}, ids(select={"tags": ["a=b"], "where": ["reason=held"]}), {"new"}),
    "hold": Deed("hold", named("waits", reason="lunch"), job("waits", "held", "reason"), (True, "held")),
    "release": Deed("release", named("held"), job("held", "held"), (False,)),
    "edit": Deed("edit", named("waits", changes=EDITS), job("waits", *EDITS), tuple(EDITS.values())),
    "cancel": Deed(
        "cancel", named("waits", reason="no need"), job("waits", "state", "cancel_reason"), ("cancelled", "no need")
    ),
    "cancel what runs": Deed("cancel", named("runs", reason="no need"), asked_to_end, ["no need"]),
    "retry": Deed("retry", named("dead", delay=3600.0), job("dead", "state", "reason"), ("pending", "delayed")),
    "retry as a copy": Deed("retry", named("done", hold=True), ids(select={"where": ["reason=held"]}), {"held", "a6"}),
    "dlq retry": Deed("dlq_retry", {"ids": ["dead"]}, job("dead", "state", "attempts"), ("pending", 0)),
    "dlq purge": Deed("dlq_purge", {"all": True}, ids(state="dead"), set()),
    "purge": Deed("purge", named("done"), ids(state="completed"), set()),
    "config set": Deed("config_set", {"key": "lease", "value": "90"}, setting("lease"), 90),
    "config unset": Deed("config_unset", {"key": "max_retries"}, setting("max_retries"), 3),
    "auth add": Deed("key_add", {"name": "new", "role": "read", "public_key": PUBLIC_KEYS[1]}, keys("new"), (1, 1)),
    "auth rotate": Deed("key_rotate", {"name": "desk", "public_key": PUBLIC_KEYS[1]}, keys("desk"), (2, 2)),
    "auth revoke": Deed("key_revoke", {"name": "desk"}, keys("desk"), (1, 0)),
    "worker stop": Deed("worker_stop", {}, told_to_stop, [False]),
    "worker stop --now": Deed("worker_stop", {"now": True}, told_to_stop, [True]),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grant]:
    """The home of a broker that was killed, with jobs of all kinds, and the lease of the one that runs."""
    home = tmp_path_factory.mktemp("stage")
    with (
        running_broker(home) as broker,
        RawClient(broker.endpoint) as client,
        ScriptedWorker(broker.home.worker_endpoint, boot=BOOT) as worker,
    ):
        client.ok("config_set", key="max_retries", value=1)
        client.ok("key_add", name="desk", role="submit", public_key=PUBLIC_KEYS[0])
        worker.hello(queues=("default",))
        for name, code in (("done", 0), ("dead", 1)):
            client.enqueue("true", id=name)
            worker.finish(*worker.pushed(), exit_code=code)
        client.enqueue("true", id="runs")
        [lease] = worker.pushed()
        client.enqueue("true", id="waits", queue="later")
        client.enqueue("true", id="held", queue="later", hold=True)
        broker.kill()
    return home, lease


@pytest.fixture
def scene(stage: tuple[Path, Grant], home: Path) -> Iterator[Scene]:
    source, lease = stage
    for path in source.glob("queue.db*"):
        shutil.copyfile(path, home / path.name)
    with running_broker(home) as broker, RawClient(broker.endpoint) as client:
        yield Scene(broker, client, lease)


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_what_was_answered_is_known_after_a_kill(scene: Scene, deed: Deed) -> None:
    assert deed.look(scene) != deed.seen

    scene.client.ok(deed.op, **deed.args)
    scene.broker.kill()
    scene.broker.start()

    assert deed.look(scene) == deed.seen


def test_every_change_is_in_the_table() -> None:
    changes = {name for name, operation in OPERATIONS.items() if operation.changes}
    assert {deed.op for deed in DEEDS.values()} == changes | {"worker_stop"}
