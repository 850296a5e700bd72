"""A worker on another machine, as users start it: who does not let it in, what it says of that, how it is back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from queuectl.credentials import Credentials, text_of, write_secret
from queuectl.home import Home
from tests.harness_keys import Domain, credentials, keyed_broker
from tests.harness_process import ROOT, RawClient, TcpProxy, free_port, running_broker, until
from tests.harness_worker import WorkerProcess, below

STRANGER = "#" * 40  # looks like a key


@pytest.fixture
def domain(home: Path) -> Iterator[Domain]:
    with keyed_broker(home) as domain:
        yield domain


class Machine:
    """Another machine: a home of its own, and a file of credentials that may be exchanged."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path / "far")
        self.file = path / "far.toml"
        self.home.prepare()

    def hold(self, who: Credentials, *endpoints: str, server_keys: tuple[str, ...] = ()) -> None:
        """Put these into the file."""
        changed = replace(who, endpoints=endpoints, server_keys=server_keys or who.server_keys)
        write_secret(self.file, text_of(changed), replace=True)

    @contextmanager
    def worker(self, **environment: str) -> Iterator[WorkerProcess]:
        worker = WorkerProcess(self.home, 2, QUEUECTL_CREDENTIALS=str(self.file), **environment)
        try:
            yield worker
        finally:
            worker.end()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def await_event(worker: WorkerProcess, name: str, count: int = 1, **keys: Any) -> dict[str, Any]:
    """The record of this event with these keys, the last of so many."""

    def found() -> list[dict[str, Any]]:
        return [told for told in worker.events(name) if all(told[key] == value for key, value in keys.items())]

    until(lambda: len(found()) >= count, f"{name} {keys} in {[told['event'] for told in worker.events()]}")
    return found()[count - 1]


def state(domain: Domain, job: str) -> tuple[str, int, int]:
    """State, runs and losses of a job."""
    shown = domain.local.ok("job", id=job)["job"]
    return shown["state"], shown["attempt"], shown["losses"]


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that listens, and is no broker. It is handed each connection; those it leaves open stay so."""
    listener, taken = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            taken.append(line)
            with suppress(OSError):  # it may have hung up in the middle
                answer(line)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for line in taken:
            line.close()


def be_silent(line: socket.socket) -> None:
    pass


def be_a_web_server(line: socket.socket) -> None:
    line.recv(1)
    line.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    line.shutdown(socket.SHUT_RDWR)


# --- let in ----------------------------------------------------------------------------------------


def test_job_runs_on_another_machine_and_hears_nothing_of_its_keys(domain: Domain, machine: Machine) -> None:
    who = domain.add("builder", "worker")
    machine.hold(who, domain.worker_endpoint)
    with machine.worker() as worker:
        domain.local.enqueue("env; ls -l /proc/self/fd; cat /proc/$PPID/cmdline", "exit 3")
        until(lambda: state(domain, "a1")[0] == "completed", "the end of the job")

        seen = b"".join(data for _, _, data in domain.local.ok("output", id="a1", attempt=1)["segments"])
        told = worker._log.read_bytes()
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (worker.pid, *below(worker.pid))]
    assert b"QUEUECTL_JOB_ID=a1" in seen
    assert b"CREDENTIALS" not in seen
    assert machine.file.name.encode() not in seen
    for text in (seen, told, *lines):
        assert who.secret_key.encode() not in text
        assert who.public_key.encode() not in text
    assert worker.events("worker_refused") == []


def test_first_of_several_endpoints_is_dead(domain: Domain, machine: Machine) -> None:
    dead = f"tcp://127.0.0.1:{free_port()}"
    machine.hold(domain.add("builder", "worker"), dead, domain.worker_endpoint)
    with machine.worker() as worker:
        await_event(worker, "worker_connected")
        told = worker.events("connect_failed")
    assert [(each["code"], dead in each["detail"]) for each in told] == [("broker_unreachable", True)]


def test_second_of_two_server_keys_is_the_one(domain: Domain, machine: Machine) -> None:
    who = domain.add("builder", "worker")
    machine.hold(who, domain.worker_endpoint, server_keys=(credentials("x").public_key, *who.server_keys))
    with machine.worker() as worker:
        await_event(worker, "worker_connected")
        assert worker.events("worker_refused") == []


# --- not let in, and then it is ----------------------------------------------------------------------


def test_unknown_key_is_let_in_once_it_was_added(domain: Domain, machine: Machine) -> None:
    who = credentials("builder", "worker", [domain.server_key])
    machine.hold(who, domain.worker_endpoint)
    with machine.worker() as worker:
        told = await_event(worker, "worker_refused", code="key_not_accepted")
        assert "builder" in told["detail"]
        assert "queuectl auth" in told["hint"]
        domain.local.ok("key_add", name="builder", role="worker", public_key=who.public_key, queues=[])
        await_event(worker, "worker_connected")
        assert len(worker.events("worker_refused")) == 1, "once, however often it was tried"
        told_text = worker._log.read_text()
    assert who.secret_key not in told_text
    assert who.public_key not in told_text


def test_credentials_that_are_exchanged_are_taken_up_without_a_new_start(domain: Domain, machine: Machine) -> None:
    machine.hold(credentials("builder", "worker", [domain.server_key]), domain.worker_endpoint)
    with machine.worker() as worker:
        await_event(worker, "worker_refused", code="key_not_accepted")
        machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
        await_event(worker, "worker_connected")


def test_wrong_server_key_is_told_and_the_right_one_taken_up(domain: Domain, machine: Machine) -> None:
    who = domain.add("builder", "worker")
    machine.hold(who, domain.worker_endpoint, server_keys=(credentials("x").public_key,))
    with machine.worker() as worker:
        told = await_event(worker, "worker_refused", code="server_key_mismatch")
        assert "somebody else" in told["hint"]
        machine.hold(who, domain.worker_endpoint)
        await_event(worker, "worker_connected")


def test_role_that_may_not_serve_is_told_and_a_better_one_taken_up(domain: Domain, machine: Machine) -> None:
    machine.hold(domain.add("desk", "submit"), domain.worker_endpoint)
    with machine.worker() as worker:
        told = await_event(worker, "worker_refused", code="not_allowed")
        assert "--role worker" in told["hint"]
        machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
        await_event(worker, "worker_connected")


def test_key_that_has_as_many_workers_as_may_be_is_let_in_when_one_leaves(
    domain: Domain, machine: Machine, tmp_path: Path
) -> None:
    domain.local.ok("config_set", key="max_sessions", value=1)
    machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
    with machine.worker() as first:
        await_event(first, "worker_connected")
        with machine.worker() as second:
            await_event(second, "worker_refused", code="too_many_sessions")
            first.stop()
            await_event(second, "worker_connected")


def test_revoked_worker_is_back_with_a_new_key(domain: Domain, machine: Machine) -> None:
    machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
    with machine.worker() as worker:
        await_event(worker, "worker_connected")
        fresh = credentials("builder", "worker", [domain.server_key])
        domain.local.ok("key_rotate", name="builder", public_key=fresh.public_key)
        domain.local.ok("key_revoke", name="builder", old=True)
        await_event(worker, "worker_refused", code="key_not_accepted")
        machine.hold(fresh, domain.worker_endpoint)
        await_event(worker, "worker_connected", 2)


def test_worker_does_not_change_hands_while_it_runs(domain: Domain, machine: Machine) -> None:
    machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
    with machine.worker() as worker:
        await_event(worker, "worker_connected")
        machine.hold(domain.add("carpenter", "worker"), domain.worker_endpoint)
        domain.local.ok("key_revoke", name="builder", cut=True)
        assert "start it anew" in await_event(worker, "worker_refused", code="not_allowed")["hint"]


def test_unreadable_credentials_are_told_and_their_old_ones_kept(domain: Domain, machine: Machine) -> None:
    machine.hold(credentials("builder", "worker", [domain.server_key]), domain.worker_endpoint)
    with machine.worker() as worker:
        await_event(worker, "worker_refused", code="key_not_accepted")
        machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
        machine.file.chmod(0o644)
        told = await_event(worker, "worker_refused", code="not_allowed")
        assert "chmod 600" in told["hint"]
        machine.file.chmod(0o600)
        await_event(worker, "worker_connected")


_AWAITED = """
import sys
from queuectl.config import load_config
from queuectl.home import find_home
from worker.service import run_worker
home = find_home()
config = load_config(home, {"log_format": "json"})
def refused(error):
    print(error.code, error.hint, flush=True)
sys.exit(run_worker(home=home, config=config, slots=1, refused=refused))
"""


@pytest.mark.parametrize("fault", ["key_not_accepted", "server_key_mismatch", "not_allowed"])
def test_whoever_waits_for_a_worker_that_is_not_let_in_hears_it_and_the_worker_ends(
    domain: Domain, machine: Machine, fault: str
) -> None:
    who = domain.add("builder", "submit" if fault == "not_allowed" else "worker")
    held = credentials("builder", "worker", [domain.server_key]) if fault == "key_not_accepted" else who
    server_key = credentials("x").public_key if fault == "server_key_mismatch" else domain.server_key
    machine.hold(held, domain.worker_endpoint, server_keys=(server_key,))
    environment = os.environ | {"QUEUECTL_HOME": str(machine.home.path), "QUEUECTL_CREDENTIALS": str(machine.file)}
    ended = subprocess.run(
        [sys.executable, "-c", _AWAITED], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.startswith(fault)
    assert ended.returncode == 5
    assert list(machine.home.spool.iterdir()) == []


# --- nobody there, or somebody else --------------------------------------------------------------------


def test_broker_that_is_away_is_waited_for(home: Path, machine: Machine) -> None:
    with keyed_broker(home) as domain:
        machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
        domain.broker.stop()
        with machine.worker() as worker:
            told = await_event(worker, "connect_failed", code="broker_unreachable")
            assert "--listen" in told["hint"]
            domain.broker.start()
            await_event(worker, "worker_connected")


@pytest.mark.parametrize(
    ("answer", "words"), [(be_silent, "does not answer"), (be_a_web_server, "is no broker")], ids=["silent", "web"]
)
def test_another_program_is_told_apart_and_given_up_for_the_broker(
    domain: Domain, machine: Machine, answer: Callable[[socket.socket], None], words: str
) -> None:
    who = domain.add("builder", "worker")
    with server(answer) as endpoint:
        machine.hold(who, endpoint)
        with machine.worker() as worker:
            until(lambda: [told for told in worker.events("connect_failed") if words in told["detail"]], words)
            machine.hold(who, domain.worker_endpoint)
            await_event(worker, "worker_connected")


def test_name_that_nobody_has_is_told(machine: Machine) -> None:
    machine.hold(credentials("builder", "worker", ["0" * 40]), "tcp://no-such-host.invalid:7710")
    with machine.worker() as worker:
        assert "no-such-host" in await_event(worker, "connect_failed", code="broker_unreachable")["detail"]


def test_broker_without_keys_is_not_spoken_to_with_keys(home: Path, machine: Machine) -> None:
    port = free_port()
    with running_broker(home, listen=f"tcp://127.0.0.1:{port}") as broker, RawClient(broker.endpoint) as client:
        machine.hold(credentials("builder", "worker", [STRANGER.replace("#", "0")]), f"tcp://127.0.0.1:{port}")
        with machine.worker() as worker:
            await_event(worker, "worker_refused", code="keys_not_spoken")
        assert client.ok("status")["workers"] == []


def test_broker_with_keys_takes_nobody_without(domain: Domain, machine: Machine) -> None:
    worker = WorkerProcess(machine.home, 1, QUEUECTL_ENDPOINT=domain.worker_endpoint)
    try:
        told = await_event(worker, "worker_refused", code="keys_required")
        assert "--credentials" in told["hint"]
    finally:
        worker.end()


# --- a link that breaks ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reset", "both", "to_server", "to_client"])
def test_link_that_heals_has_lost_nothing(domain: Domain, machine: Machine, tmp_path: Path, mode: str) -> None:
    domain.local.ok("config_set", key="heartbeat", value=0.2)
    go = tmp_path / "go"
    with TcpProxy(domain.port) as proxy:
        machine.hold(domain.add("builder", "worker"), f"tcp://127.0.0.1:{proxy.port}")
        with machine.worker() as worker:
            domain.local.enqueue(f"until [ -e {go} ]; do sleep 0.01; done", "exit 7", max_retries=1)
            until(lambda: state(domain, "a2")[0] == "dead", "the first to end")
            proxy.set_mode(mode)
            await_event(worker, "worker_disconnected", reason="disconnected" if mode == "reset" else "silence")
            go.touch()
            await_event(worker, "job_finished", job_id="a1")
            await_event(worker, "connect_failed", code="broker_unreachable")

            proxy.set_mode("pass")
            await_event(worker, "worker_connected", 2)
            until(lambda: state(domain, "a1")[0] == "completed", "the result that waited")
    assert state(domain, "a1") == ("completed", 1, 0)


def test_killed_broker_is_found_again_by_a_worker_with_a_running_job(
    home: Path, machine: Machine, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with keyed_broker(home) as domain:
        machine.hold(domain.add("builder", "worker"), domain.worker_endpoint)
        with machine.worker() as worker:
            domain.local.enqueue(f"until [ -e {go} ]; do sleep 0.01; done")
            await_event(worker, "job_started")  # for the broker, it may run before the worker has heard of it
            domain.broker.kill()
            await_event(worker, "connect_failed", code="broker_unreachable")
            domain.broker.start()
            assert await_event(worker, "worker_connected", 2)["leases"] == 1
            go.touch()
            until(lambda: state(domain, "a1")[0] == "completed", "the end of the job")
            assert state(domain, "a1") == ("completed", 1, 0)
