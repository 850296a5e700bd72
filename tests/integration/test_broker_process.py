"""The broker as a process: what it refuses to start on, how it ends, how it comes back, and a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker.store.schema import SCHEMA_VERSION
from queuectl.home import SOCKET_PATH_BYTES_MAX, Home
from queuectl.messages import Beat, Echo, Recorded, Results, Who
from tests.harness_process import (
    LIMIT_S,
    BrokerProcess,
    RawClient,
    ScriptedWorker,
    StartFailed,
    free_port,
    result_of,
    running_broker,
    until,
)


@pytest.fixture
def broker(home: Path) -> Iterator[BrokerProcess]:
    """A broker that runs, and may be ended."""
    with running_broker(home) as process:
        yield process


@pytest.fixture
def stopped(broker: BrokerProcess) -> BrokerProcess:
    """A broker that has run, stored one job, and ended."""
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
    assert broker.stop() == 0
    return broker


def refused(broker: BrokerProcess, exit_code: int, code: str) -> str:
    """Start it in vain; what it said."""
    with pytest.raises(StartFailed) as caught:
        broker.start()
    assert (caught.value.exit_code, caught.value.error["code"]) == (exit_code, code)
    assert caught.value.error.get("hint") or code == "database_refused"
    return str(caught.value.error["message"])


def facts(data_dir: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(data_dir / "queue.db")) as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return dict(db.execute("SELECT key, value FROM meta"))


# --- one broker for a home and for a data directory ----------------------------------------------------------


def test_second_broker_on_the_same_data_is_refused(broker: BrokerProcess, home: Path) -> None:
    with BrokerProcess(home / "other", data_dir=home) as second:
        said = refused(second, 4, "broker_running")

    assert said == f"a broker of this data directory runs already (pid {broker.process.pid}, data in {home})"
    with RawClient(broker.endpoint) as client:
        assert client.ok("ping")["epoch"] == 1


def test_second_data_directory_under_the_same_home_is_refused(broker: BrokerProcess, home: Path) -> None:
    with BrokerProcess(home, data_dir=home / "data") as second:
        said = refused(second, 4, "broker_running")

    assert said == f"a broker of this home runs already (pid {broker.process.pid}, data in {home})"
    assert not (home / "data" / "queue.db").exists()
    with RawClient(broker.endpoint) as client:
        assert client.ok("ping")["epoch"] == 1


def test_who_runs_shows_in_the_error(broker: BrokerProcess, home: Path) -> None:
    with BrokerProcess(home) as second, pytest.raises(StartFailed) as caught:
        second.start()

    assert caught.value.error["details"] == {"pid": broker.process.pid, "data_dir": str(home), "home": str(home)}


def test_a_lock_left_behind_by_a_crash_is_no_lock(broker: BrokerProcess) -> None:
    broker.kill()

    broker.start()


# --- databases that are not taken ----------------------------------------------------------------------------


def spoil_newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA user_version = 99")


def spoil_text(database: Path) -> None:
    database.write_text("dear diary, " * 1000)


def spoil_foreign(database: Path) -> None:
    database.unlink()
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE song (title TEXT)")


def spoil_directory(database: Path) -> None:
    database.unlink()
    database.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_newer, f"was written by a newer queuectl (schema 99, this one knows {SCHEMA_VERSION})"),
        (spoil_text, "file is not a database"),
        (spoil_foreign, "is a database, but not one of queuectl"),
        (spoil_directory, "unable to open database file"),
    ],
)
def test_a_database_that_is_not_ours_is_refused_and_left_alone(
    stopped: BrokerProcess, spoil: Callable[[Path], None], words: str
) -> None:
    database = stopped.data_dir / "queue.db"
    spoil(database)
    before = database.read_bytes() if database.is_file() else b""
    database.chmod(0o644)

    assert words in refused(stopped, 1, "database_refused")
    assert (database.read_bytes() if database.is_file() else b"") == before
    assert database.stat().st_mode & 0o777 == 0o644
    assert not database.with_name("queue.db-wal").exists()


def test_a_missing_database_is_not_made_anew(stopped: BrokerProcess) -> None:
    database = stopped.data_dir / "queue.db"
    database.rename(stopped.data_dir / "elsewhere")

    assert "is missing, but this directory had a database" in refused(stopped, 1, "database_refused")
    assert not database.exists()


def test_an_empty_database_is_not_begun_anew(stopped: BrokerProcess) -> None:
    database = stopped.data_dir / "queue.db"
    database.write_bytes(b"")

    for _ in range(2):
        assert "is empty, but this directory had a database" in refused(stopped, 1, "database_refused")
        assert database.read_bytes() == b""


def test_a_replaced_database_is_refused(stopped: BrokerProcess, home: Path) -> None:
    with running_broker(home / "other") as other:
        other.stop()
    shutil.copy(home / "other" / "queue.db", stopped.data_dir / "queue.db")
    before = facts(home / "other")

    assert "is not the database that was here before" in refused(stopped, 1, "database_refused")
    assert facts(stopped.data_dir) == before


def test_a_log_is_not_read_into_the_file_of_another_database(broker: BrokerProcess, home: Path) -> None:
    with running_broker(home / "other") as other:
        other.stop()
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
        broker.kill()
        database, log = broker.data_dir / "queue.db", broker.data_dir / "queue.db-wal"
        mine, written = database.read_bytes(), log.read_bytes()
        shutil.copy(home / "other" / "queue.db", database)

        for _ in range(2):
            assert "is not the database that was here before" in refused(broker, 1, "database_refused")
        assert database.read_bytes() == (home / "other" / "queue.db").read_bytes()
        assert log.read_bytes() == written

        database.write_bytes(mine)
        broker.start()
        assert client.ask("status")["ok"]["jobs"]["total"] == 1


@pytest.mark.parametrize("times", [1, 2], ids=["first", "later"])
def test_a_log_that_went_away_is_missed_and_taken_again(broker: BrokerProcess, home: Path, times: int) -> None:
    for _ in range(times - 1):
        broker.stop()
        broker.start()
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
        broker.kill()
        log = broker.data_dir / "queue.db-wal"
        log.rename(home / "elsewhere")

        for _ in range(3):
            assert "was not closed, and what was written last is missing" in refused(broker, 1, "database_refused")
        (home / "elsewhere").rename(log)
        broker.start()
        assert client.ok("status")["jobs"]["total"] == 1


def test_a_log_that_another_program_took_in_is_not_waited_for(broker: BrokerProcess) -> None:
    database = broker.data_dir / "queue.db"
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
        broker.kill()
        assert facts(broker.data_dir)["clean"] == 0  # a look that takes the log in, and deletes it
        refused(broker, 1, "database_refused")

        database.with_name("queue.db-wal").touch()
        broker.start()
        assert client.ok("status")["jobs"]["total"] == 1


def test_a_damaged_database_is_refused_after_a_crash(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client:
        for _ in range(5):
            client.ok("enqueue", jobs=[{"command": "x" * 2000}] * 200)
    broker.stop()
    database = broker.data_dir / "queue.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
        db.commit()
    database.with_name("queue.db-wal").touch()
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        file.write(os.urandom(64 * 1024))

    for _ in range(2):
        assert "is damaged" in refused(broker, 1, "database_refused")


def test_identity_half_written_leaves_no_trace(broker: BrokerProcess) -> None:
    identity = broker.data_dir / "broker.id"
    broker.kill()
    identity.rename(identity.with_suffix(".new"))  # as a crash between writing and renaming would leave it
    broker.start()

    assert identity.read_text().strip() == facts_of(broker)["broker"]
    assert not identity.with_suffix(".new").exists()


def facts_of(broker: BrokerProcess) -> dict[str, Any]:
    with RawClient(broker.endpoint) as client:
        return client.ok("ping")


# --- where the sockets stand -----------------------------------------------------------------------------------


@pytest.fixture
def deep(home: Path) -> Iterator[Home]:
    """A home whose path leaves no room for a socket's name."""
    place = Home(home / ("d" * SOCKET_PATH_BYTES_MAX))
    yield place
    if place.sockets.is_symlink():
        place.sockets.unlink()
    shutil.rmtree(place.sockets, ignore_errors=True)


def test_a_deep_home_has_its_sockets_elsewhere_and_closed(deep: Home) -> None:
    with running_broker(deep.path) as broker, RawClient(broker.endpoint) as client:
        assert client.ok("ping")["data_dir"] == str(deep.path)
        assert deep.sockets.parent == Path("/tmp")
        assert stat.S_IMODE(deep.sockets.stat().st_mode) == 0o700
        for path in (deep.path, deep.run, deep.spool, deep.keys, deep.logs):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in deep.sockets.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def open_to_all(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o755)


def owned_by_another(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)


def symlink(directory: Path) -> None:
    target = directory.with_name(directory.name + "-t")
    target.mkdir(mode=0o700, exist_ok=True)
    directory.symlink_to(target)
    target.rmdir()


@pytest.mark.parametrize("make", [open_to_all, owned_by_another, symlink])
def test_a_directory_of_others_is_no_place_for_sockets(deep: Home, make: Callable[[Path], None]) -> None:
    make(deep.sockets)
    with BrokerProcess(deep.path) as broker, pytest.raises(StartFailed) as caught:
        broker.start()

    assert caught.value.error["code"] in ("not_allowed", "home_unusable")
    assert make is symlink or caught.value.exit_code == 5


def test_a_run_directory_that_is_open_is_closed(home: Path) -> None:
    (home / "run").mkdir()
    (home / "run").chmod(0o777)
    with running_broker(home):
        assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("listen", "insecure"),
    [
        ("tcp://0.0.0.0:7710", True),
        ("tcp://192.0.2.1:7710", True),
        ("tcp://[::]:7710", True),
        ("tcp://localhost:7710", True),
        ("tcp://broker.example:7710", True),
    ],
)
def test_tcp_without_keys_is_refused_but_for_loopback_on_request(home: Path, listen: str, insecure: bool) -> None:
    with BrokerProcess(home, listen=listen, insecure=insecure) as broker:
        refused(broker, 5, "not_allowed")
    assert not (home / "queue.db").exists()


def test_a_port_in_use_is_said_and_nothing_is_left(home: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), BrokerProcess(home, listen=f"tcp://127.0.0.1:{port}") as broker:
        said = refused(broker, 1, "error")

    assert f"cannot listen on tcp://127.0.0.1:{port}" in said
    with running_broker(home) as again:
        assert facts_of(again)["epoch"] == 2


# --- ends and beginnings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(broker: BrokerProcess, number: signal.Signals) -> None:
    broker.process.send_signal(number)

    assert broker.wait() == 0
    assert facts(broker.data_dir)["clean"] == 1
    assert [record["event"] for record in broker.logged()][-2:] == ["broker_stopping", "broker_stopped"]
    assert sorted(path.name for path in broker.data_dir.glob("queue.db*")) == ["queue.db"]


def test_no_shared_memory_file_is_made(broker: BrokerProcess) -> None:
    for _ in range(2):
        assert not (broker.data_dir / "queue.db-shm").exists()
        broker.kill()
        broker.start()


def test_after_a_crash_leases_are_recovered_and_adopted(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client, ScriptedWorker(broker.home.worker_endpoint, slots=2) as worker:
        first = worker.hello()
        client.enqueue("sleep 1000", "sleep 2000", "sleep 3000")
        running = worker.pushed()
        worker.beat()
        broker.kill()
        broker.start()

        assert client.ok("ping")["epoch"] == 2
        assert client.ok("status")["jobs"]["processing"] == 2
        worker.reconnect()
        again = worker.hello()
        assert (again.broker, again.epoch, sorted(again.keep), again.drop) == (
            first.broker,
            2,
            sorted(grant.lease for grant in running),
            [],
        )
        assert again.session != first.session
        assert worker.finish(*running) == ["recorded", "recorded"]
        jobs = client.ok("list", state="completed")["jobs"]
    assert [(job["attempt"], job["losses"]) for job in jobs] == [(1, 0), (1, 0)]
    assert broker.logged("broker_recovered")[-1]["leases"] == 2


def test_a_lease_that_was_pushed_to_nobody_goes_back_at_once(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client, ScriptedWorker(broker.home.worker_endpoint) as worker:
        worker.hello()
        client.enqueue("true")
        worker.pushed()
        worker.grants.clear()  # it never arrived
        broker.kill()
        broker.start()
        worker.reconnect()
        worker.hello()

        [grant] = worker.pushed()
        assert (grant.job, grant.attempt) == ("a1", 1)
        assert worker.finish(grant) == ["recorded"]
        assert client.ok("job", id="a1")["job"]["losses"] == 0


def test_the_log_is_json_with_a_growing_seq(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
        client.ask("job", id="nobody")
    until(lambda: broker.logged("request_refused"), "the record, which comes after the reply")
    broker.kill()
    broker.start()
    broker.stop()

    runs: dict[str, list[int]] = {}
    for record in broker.logged():
        assert (record["log_schema"], record["service"]) == (1, "queuectl-broker")
        runs.setdefault(record["instance"], []).append(record["seq"])
    assert len(runs) == 2
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in runs.values())
    assert {"broker_started", "broker_ready", "job_enqueued", "request_refused", "broker_stopped"} <= {
        record["event"] for record in broker.logged()
    }


def test_worker_is_heard_while_a_client_talks_without_a_pause(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client, ScriptedWorker(broker.home.worker_endpoint) as worker:
        worker.hello()
        worker.beat()  # heard just now: it need not be heard again at once
        worker.say(Beat(worker.session, 77, 0, [], [], draining=False))
        end = time.monotonic() + LIMIT_S
        while not worker.socket.poll(0):
            assert time.monotonic() < end, "nobody hears the worker"
            client.ok("ping")
        assert worker.hear(Echo).n == 77


def shorten(client: RawClient, *, heartbeat: float, lease: float) -> None:
    client.ok("config_set", key="heartbeat", value=heartbeat)
    client.ok("config_set", key="lease", value=lease)


def test_a_broker_that_did_not_run_blames_nobody_for_silence(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as client, ScriptedWorker(broker.home.worker_endpoint) as worker:
        shorten(client, heartbeat=0.2, lease=1.5)
        worker.hello()
        client.enqueue("sleep 1000")
        [grant] = worker.pushed()
        worker.beat()
        broker.pause()
        threading.Event().wait(4)  # much longer than a lease
        broker.resume()

        stall = until(lambda: broker.logged("broker_stalled"), "the stall is noticed")[-1]
        client.ok("ping")  # a turn has passed in which silence could have been blamed
        assert stall["stall_ms"] > 3000
        assert worker.beat().drop == []
        assert not broker.logged("worker_lost")
        job = client.ok("job", id=grant.job)["job"]
        assert (job["state"], job["attempt"], job["losses"]) == ("processing", 1, 0)

        until(lambda: broker.logged("worker_lost"), "the end of a lease in real silence")
        assert client.ok("job", id=grant.job)["job"]["losses"] == 1


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_database_that_goes_away_ends_it_without_an_answer(broker: BrokerProcess, replaced: bool) -> None:
    database = broker.data_dir / "queue.db"
    with RawClient(broker.endpoint) as client:
        client.ok("ping")
        database.unlink()
        if replaced:
            database.touch()
        request = {"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": [{"command": "true"}]}}
        client.send(msgpack.packb(request))

        assert broker.wait() == 74
    assert "was deleted or replaced" in broker.logged("storage_failed")[0]["error_message"]


@pytest.mark.usefixtures("unmeasured")
def test_a_disk_that_fails_ends_it_without_an_answer(broker: BrokerProcess) -> None:
    jobs = [{"command": "x" * 5000} for _ in range(100)]
    with RawClient(broker.endpoint) as client:
        client.enqueue("true")
        limit = (broker.data_dir / "queue.db-wal").stat().st_size + 4096
        resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (limit, limit))  # EFBIG, neither full nor written
        request = {"v": 1, "id": "request-1", "op": "enqueue", "args": {"jobs": jobs}}
        client.send(msgpack.packb(request))

        assert broker.wait() == 74
        assert broker.logged("storage_failed")
        with pytest.raises(TimeoutError):
            client.receive(limit_s=0.1)
        broker.start()
        assert client.ok("status")["jobs"]["total"] == 1
        reply = client.ask("enqueue", request_id="request-1", jobs=jobs)
        assert "repeated" not in reply
        assert client.ok("status")["jobs"]["total"] == 101


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = home / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system takes root")
    try:
        yield place
    finally:
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave_bytes: int) -> Path:
    """A file that leaves so much of the disk free; 0: not one byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (info := os.statvfs(disk)).f_bavail * info.f_frsize > leave_bytes:
            room = info.f_bavail * info.f_frsize - leave_bytes
            try:
                file.write(bytes(min(room, 2**20)))
            except OSError:
                break
    return ballast


def test_on_a_nearly_full_disk_jobs_are_refused_and_results_taken(home: Path, small_disk: Path) -> None:
    with (
        running_broker(home, data_dir=small_disk) as broker,
        RawClient(broker.endpoint) as client,
        ScriptedWorker(broker.home.worker_endpoint) as worker,
    ):
        worker.hello()
        client.enqueue("true", "true")
        [grant] = worker.pushed()
        ballast = fill(small_disk, 2 * 2**20)

        error = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])["error"]
        assert (error["code"], error["retryable"]) == ("disk_full", True)
        assert client.ok("status")["broker"]["accepting"] is False
        assert worker.finish(grant) == ["recorded"]
        [following] = worker.pushed()
        assert worker.finish(following) == ["recorded"]

        ballast.unlink()
        reply = client.ask("enqueue", request_id="request-1", jobs=[{"command": "true"}])
        assert reply["ok"]["ids"] == ["a3"]
        assert "repeated" not in reply
        assert client.ok("status")["broker"]["accepting"] is True
        assert [len(broker.logged(event)) for event in ("disk_low", "disk_recovered")] == [1, 1]


def test_a_write_that_finds_no_room_leaves_nothing_half_done(home: Path, small_disk: Path) -> None:
    with (
        running_broker(home, data_dir=small_disk) as broker,
        RawClient(broker.endpoint) as client,
        ScriptedWorker(broker.home.worker_endpoint) as worker,
    ):
        client.ok("config_set", key="min_free", value=0)
        worker.hello(queues=("default",))
        client.enqueue(*["x" * 3000] * 200, queue="later")  # fills what room the log had left
        client.enqueue("true", "true")
        [grant] = worker.pushed()
        ballast = fill(small_disk, 0)
        many = [{"command": "x" * 3000, "queue": "later"} for _ in range(500)]

        error = client.ask("enqueue", request_id="request-1", jobs=many)["error"]
        assert (error["code"], error["retryable"]) == ("disk_full", True)
        worker.say(Results(worker.session, [result_of(grant)]))
        worker.say(Beat(worker.session, 1, worker.received, [grant.lease], [], draining=False))
        echo = worker.hear(Echo)
        assert (echo.n, echo.drop) == (0, []), "the worker is heard, but not told that its result has arrived"
        with pytest.raises(TimeoutError):
            worker.hear(Recorded, limit_s=0)
        assert client.ok("status")["jobs"]["total"] == 202
        assert client.ok("job", id=grant.job)["job"]["state"] == "processing"
        assert broker.logged("storage_full")

        ballast.unlink()
        until(lambda: client.ok("status")["broker"]["accepting"], "room is noticed")
        worker.say(Results(worker.session, [result_of(grant)]))
        worker.hear(Who)  # what it had said was lost: it begins anew, and says it all again
        worker.hello(queues=("default",), done=(grant.lease,))
        assert worker.finish(grant) == ["recorded"]
        [following] = worker.pushed()
        reply = client.ask("enqueue", request_id="request-1", jobs=many)
        assert len(set(reply["ok"]["ids"])) == 500
        assert worker.finish(following) == ["recorded"]
        broker.kill()

        broker.start()
        counts = client.ok("status")["jobs"]
        assert (counts["total"], counts["completed"]) == (702, 2)
        assert not broker.logged("message_failed")
        broker.stop()


def test_a_long_log_that_cannot_be_tidied_away_does_not_end_the_broker(home: Path, small_disk: Path) -> None:
    with running_broker(home, data_dir=small_disk) as broker, RawClient(broker.endpoint) as client:
        client.ok("config_set", key="min_free", value=0)
        wal = small_disk / "queue.db-wal"
        while wal.stat().st_size < 7 * 2**20:
            client.ok("enqueue", jobs=[{"command": "x" * 5000} for _ in range(100)])
        ballast = fill(small_disk, 3 * 2**20)  # room for the log to pass the mark, none to tidy it away
        reply: dict[str, Any] = {}
        while "error" not in reply:
            reply = client.ask("enqueue", jobs=[{"command": "x" * 5000} for _ in range(100)])
        total = client.ok("status")["jobs"]["total"]
        assert reply["error"]["code"] == "disk_full"

        ballast.unlink()
        until(lambda: client.ok("status")["broker"]["accepting"], "room is noticed")
        client.enqueue("true")
        assert client.ok("status")["jobs"]["total"] == total + 1
        assert broker.stop() == 0
    assert facts(small_disk)["clean"] == 1


def test_a_full_disk_at_the_end_and_at_the_start_is_said(home: Path, small_disk: Path) -> None:
    with BrokerProcess(home, data_dir=small_disk) as broker:
        broker.start()
        with RawClient(broker.endpoint) as client:
            client.enqueue(*["x" * 3000] * 300)
        ballast = fill(small_disk, 0)
        assert broker.stop() == 0

        refused(broker, 75, "disk_full")
        ballast.unlink()
        broker.start()
        with RawClient(broker.endpoint) as client:
            assert client.ok("status")["jobs"]["total"] == 300


def test_database_that_others_could_read_is_shut(home: Path) -> None:
    with BrokerProcess(home) as broker:
        broker.start()
        broker.kill()
    files = [home / "queue.db", home / "queue.db-wal"]
    for file in files:
        file.chmod(0o644)

    with BrokerProcess(home) as broker:
        broker.start()
        told = [record["database"] for record in broker.logged("database_shut")]

        assert told == [str(file) for file in files]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
