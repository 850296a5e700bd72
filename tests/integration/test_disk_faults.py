"""A disk that fails under a running broker, and a database that is damaged: nothing is said that is not so.

The faults of the first part are put into the system calls of a real broker by strace.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import msgpack
import pytest

from broker.core import Core
from broker.service import DATABASE, IDENTITY_FILE, _begin, _end, _open_database
from queuectl.errors import DatabaseRefused, StorageFailed
from tests.crashpoints.contents import digest
from tests.harness import IDENTITY, BrokerHarness
from tests.harness_cli import CommandLine
from tests.harness_process import BrokerProcess, RawClient, running_broker, until
from tests.invariants import find_broken

PAGE_BYTES = 4096
SYNCS = "fsync,fdatasync"
ENQUEUE = {"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": [{"command": "echo lost?"}]}}


@contextmanager
def failing(broker: BrokerProcess, calls: str, error: str, when: str, *, only: Path | None = None) -> Iterator[None]:
    """Let these system calls of a running broker fail so, counted from now on; or `only` those on one file."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not here")
    log = broker.log_file.with_name("strace.log")
    command = [strace, "-f", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"]
    command += [] if only is None else ["-P", str(only)]
    with subprocess.Popen([*command, "-p", str(broker.process.pid)], stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if b"attached" not in said:
            tracer.wait()
            pytest.skip(f"processes cannot be traced here: {said.decode().strip()}")
        try:
            yield
        finally:
            tracer.terminate()
    assert "(INJECTED)" in log.read_text(), "nothing failed"


@pytest.fixture
def broker(home: Path, unmeasured: None) -> Iterator[BrokerProcess]:
    """A broker that has acknowledged one job."""
    with running_broker(home) as process, RawClient(process.endpoint) as client:
        client.enqueue("echo kept")
        yield process


@pytest.mark.parametrize(
    ("calls", "error", "when"),
    [
        (SYNCS, "EIO", "1"),
        (SYNCS, "EIO", "1+"),
        (SYNCS, "ENOSPC", "1"),
        ("pwrite64", "EIO", "1"),
        ("pwrite64", "EIO", "2+"),
    ],
)
def test_a_disk_that_fails_ends_the_broker_without_an_answer(
    broker: BrokerProcess, calls: str, error: str, when: str
) -> None:
    with RawClient(broker.endpoint) as client:
        with failing(broker, calls, error, when):
            client.send(msgpack.packb(ENQUEUE))

            assert broker.wait() == 74
        with pytest.raises(TimeoutError):
            client.receive(limit_s=0.1)
    assert broker.logged("storage_failed")
    assert not [record for record in broker.logged("jobs_enqueued") if record["request_id"] == "request-1"]

    broker.start()
    with RawClient(broker.endpoint) as client:
        assert client.ok("job", id="a1")["job"]["command"] == "echo kept"
        client.send(msgpack.packb(ENQUEUE))
        assert client.receive()["ok"]["ids"] == ["a2"]
        assert client.ok("status")["jobs"]["total"] == 2


def test_a_checkpoint_that_fails_ends_the_broker_and_loses_nothing(broker: BrokerProcess) -> None:
    answered = 0
    jobs = [{"command": "x" * 9000} for _ in range(100)]
    with RawClient(broker.endpoint) as client, failing(broker, SYNCS, "EIO", "1+", only=broker.data_dir / "queue.db"):
        while broker.is_running():
            with suppress(TimeoutError, AssertionError):  # it ended before, or while, it was asked
                answered += len(client.ask("enqueue", jobs=jobs, limit_s=2)["ok"]["ids"])
        assert broker.wait() == 74
    assert answered >= 500

    broker.start()
    with RawClient(broker.endpoint) as client:
        assert client.ok("status")["jobs"]["total"] >= 1 + answered


def test_a_disk_that_fails_at_the_end_is_said(broker: BrokerProcess) -> None:
    with failing(broker, SYNCS, "EIO", "1+"):
        assert broker.stop() == 74
    assert broker.logged("storage_failed")
    assert not broker.logged("broker_stopped")

    broker.start()
    with RawClient(broker.endpoint) as client:
        assert client.ok("job", id="a1")["job"]["command"] == "echo kept"


def test_a_write_without_room_refuses_the_request_and_the_broker_goes_on(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client:
        with failing(broker, "pwrite64", "ENOSPC", "1"):
            client.send(msgpack.packb(ENQUEUE))
            assert client.receive()["error"]["code"] == "disk_full"

        until(lambda: client.ok("status")["broker"]["accepting"], "room is noticed")
        client.send(msgpack.packb(ENQUEUE))
        reply = client.receive()
        assert (reply["ok"]["ids"], "repeated" in reply) == (["a2"], False)


# --- a nearly full disk, as people meet it -------------------------------------------------------------------


@pytest.fixture
def q(home: Path, tmp_path: Path) -> Iterator[CommandLine]:
    with CommandLine(home, tmp_path) as commands:
        yield commands


def test_on_a_nearly_full_disk_enqueue_says_try_later_and_jobs_end(q: CommandLine) -> None:
    gate = q.gate()
    q.broker()
    running = q.enqueue(f": < {gate.path}")
    q.worker()
    q.await_state("processing", running)
    q.ok("config", "set", "min_free", str(2**50))

    ran = q.run("enqueue", "--json", '{"id":"later","command":"true"}')
    assert (ran.code, ran.json["error"]["code"], ran.json["error"]["retryable"]) == (75, "disk_full", True)
    gate.open()
    q.await_state("completed", running)
    assert q.run("show", "later").code == 3

    q.ok("config", "set", "min_free", "0")
    q.ok("enqueue", '{"id":"later","command":"true"}')
    q.await_state("completed", "later")


# --- a damaged database ----------------------------------------------------------------------------------------


class Fixture(NamedTuple):
    """A data directory with a whole database, and what is in it."""

    directory: Path
    data: bytes
    digest: str


@pytest.fixture(params=["closed", "not closed"])
def fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Fixture:
    """A database with jobs of all kinds, that was closed, or was in use when the machine stopped."""
    path = tmp_path / DATABASE
    broker = BrokerHarness(path, seed=1)
    worker = broker.worker(slots=8)
    worker.hello()
    for number in range(40):  # no text is so long that it fills pages of its own: in these SQLite has nothing to check
        broker.enqueue("x" * 200, max_retries=1, queue=f"queue-{number % 3}")
    for grant in worker.grants():
        worker.write(grant, b"y" * 500)
        worker.finish(grant, grant.attempt % 2)
    if request.param == "closed":
        broker.store.begin()
        broker.core.stop(broker.clock.now)
        broker.store.commit()
    whole = digest(broker.store._db)
    broker.store.close()
    if request.param == "not closed":
        path.with_name(f"{DATABASE}-wal").touch()
    (tmp_path / IDENTITY_FILE).write_text("broker-1\n")
    return Fixture(tmp_path, path.read_bytes(), whole)


def open_as_the_broker_does(fixture: Fixture) -> str:
    """What comes of it: `refused`, `stopped` where damage is met later, or `whole`. Anything else is an error."""
    log = Mock()
    try:
        store = _open_database(fixture.directory, log)
    except DatabaseRefused as error:
        return "refused" if error.hint else "refused without advice"
    try:
        assert digest(store._db) == fixture.digest, "something else is in it, and nobody said so"
        core = Core(store, random.Random(0), IDENTITY, verbose=False)
        _begin(core, store, fixture.directory, log)
        assert find_broken(core) == []
    except (StorageFailed, DatabaseRefused):
        return "stopped"
    finally:
        store.abandon()
    return "whole"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "every bit": lambda page: bytes(byte ^ 0xFF for byte in page),
    "zeros": lambda page: bytes(len(page)),
    "noise": lambda page: random.Random(len(page)).randbytes(len(page)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_page_is_never_passed_over(fixture: Fixture, damage: Callable[[bytes], bytes]) -> None:
    database, was_closed = fixture.directory / DATABASE, not (fixture.directory / f"{DATABASE}-wal").exists()
    found: list[str] = []
    for start in range(0, len(fixture.data), PAGE_BYTES):
        end = start + PAGE_BYTES
        spoiled = fixture.data[:start] + damage(fixture.data[start:end]) + fixture.data[end:]
        database.write_bytes(spoiled)
        if not was_closed:
            database.with_name(f"{DATABASE}-wal").touch()
        found.append(open_as_the_broker_does(fixture))
        if found[-1] == "refused":
            assert database.read_bytes() == spoiled, "it was written to"

    assert len(found) > 20
    assert found[0] == "refused"
    assert set(found) <= {"refused", "stopped", "whole"}
    assert was_closed or set(found) == {"refused"}, "what was not closed is looked through"


def test_a_database_cut_short_is_refused(fixture: Fixture) -> None:
    database = fixture.directory / DATABASE
    for size in (0, 1, 99, 100, *range(PAGE_BYTES, len(fixture.data), PAGE_BYTES)):
        database.write_bytes(fixture.data[:size])

        assert open_as_the_broker_does(fixture) == "refused", size
        assert database.read_bytes() == fixture.data[:size]


def test_the_file_holds_everything_before_it_says_that_it_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / DATABASE
    broker = BrokerHarness(path)
    broker.enqueue("true")
    in_file: list[tuple[Any, ...]] = []

    def look() -> None:  # where the last transaction is about to be copied into the file
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            in_file.extend(db.execute("SELECT command, (SELECT value FROM meta WHERE key = 'clean') FROM spec"))

    with monkeypatch.context() as patch:
        patch.setattr(broker.store, "close", look)
        _end(broker.core, broker.store, Mock())

    assert in_file == [("true", 0)]
    broker.close()


def test_the_same_database_is_taken_when_it_is_whole(fixture: Fixture) -> None:
    assert open_as_the_broker_does(fixture) == "whole"
