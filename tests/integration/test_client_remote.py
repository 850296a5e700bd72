"""The client with keys, on a real broker: who gets in, what it is told when it does not, and the next way to try."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pytest

from queuectl import link, probe
from queuectl.client import Client
from queuectl.config import client_endpoint_of
from queuectl.credentials import Credentials, text_of, write_secret
from queuectl.errors import (
    BrokerUnreachable,
    KeyNotAccepted,
    KeysNotSpoken,
    KeysRequired,
    NotAllowed,
    QueuectlError,
    ServerKeyMismatch,
)
from queuectl.server_keys import prepare_next, put_next_in_place
from tests.harness_keys import Domain, credentials, keyed_broker
from tests.harness_process import BrokerProcess, free_port, until


@pytest.fixture
def domain(home: Path) -> Iterator[Domain]:
    with keyed_broker(home) as domain:
        yield domain


def file_of(domain: Domain, who: Credentials, **changes: object) -> Path:
    """The file of these credentials, for this broker unless changed."""
    path = domain.broker.home.path / f"{who.name}.toml"
    endpoint = domain.worker_endpoint
    write_secret(path, text_of(replace(who, **{"endpoints": (endpoint,), **changes})), replace=True)  # type: ignore[arg-type]
    return path


def client(domain: Domain, who: Credentials, **changes: object) -> Client:
    """A client with these credentials and nothing else."""
    return Client(credentials=file_of(domain, who, **changes), home=domain.broker.home.path / "elsewhere", timeout=10)


def refused(domain: Domain, who: Credentials, **changes: object) -> QueuectlError:
    """Why these credentials get nobody in."""
    with client(domain, who, **changes) as nobody, pytest.raises(QueuectlError) as caught:
        nobody.ping()
    return caught.value


def test_key_that_was_added_is_who_it_says(domain: Domain) -> None:
    with client(domain, domain.add("laptop", "submit")) as laptop:
        job = laptop.enqueue("echo hi")

        assert laptop.request("whoami")["name"] == "laptop"
        assert laptop.get(job)["enqueued_by"] == "laptop"
        assert [each["id"] for each in laptop.list()] == [job]
        with pytest.raises(NotAllowed, match="'laptop' has the role submit") as caught:
            laptop.status()
    assert caught.value.exit_code == 5


def test_key_that_was_never_added(domain: Domain) -> None:
    error = refused(domain, credentials("stranger", server_keys=[domain.server_key]))

    assert isinstance(error, KeyNotAccepted)
    assert error.exit_code == 5
    assert "'stranger'" in error.message
    assert "queuectl auth" in (error.hint or "")


def test_key_that_was_revoked_is_told_so_at_once_and_at_the_next_connection(domain: Domain) -> None:
    who = domain.add("laptop", "submit")
    with client(domain, who) as laptop:
        laptop.enqueue("true")
        domain.local.ok("key_revoke", name="laptop")

        with pytest.raises(KeyNotAccepted, match="revoked"):
            laptop.enqueue("true")
    assert isinstance(refused(domain, who), KeyNotAccepted)


def test_broker_with_another_key_is_not_spoken_to(domain: Domain) -> None:
    who = domain.add("laptop", "admin")

    error = refused(domain, who, server_keys=(credentials("other").public_key,))

    assert isinstance(error, ServerKeyMismatch)
    assert domain.worker_endpoint.rpartition(":")[0] in error.message


def test_next_server_key_is_tried(domain: Domain) -> None:
    who = domain.add("laptop", "admin")
    keys = (credentials("other").public_key, domain.server_key)

    with client(domain, who, server_keys=keys) as laptop:
        assert laptop.ping()["broker"] == domain.local.ok("ping")["broker"]


def test_next_endpoint_is_tried(domain: Domain) -> None:
    who = domain.add("laptop", "admin")
    dead = f"tcp://127.0.0.1:{free_port()}"

    with client(domain, who, endpoints=(dead, domain.worker_endpoint)) as laptop:
        laptop.ping()
        assert laptop.endpoint == domain.client_endpoint


def test_next_address_of_a_name_is_tried(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    who = domain.add("laptop", "admin")
    dead = "127.77.0.1"  # nobody listens there, though it is this machine
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (dead, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ],
    )

    with client(domain, who, endpoints=(f"tcp://queue.example:{domain.port}",)) as laptop:
        assert laptop.request("whoami")["name"] == "laptop"


def test_nobody_is_there(domain: Domain) -> None:
    nowhere, beside = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    error = refused(domain, domain.add("laptop", "admin"), endpoints=(nowhere, beside))

    assert isinstance(error, BrokerUnreachable)
    assert error.exit_code == 69
    for endpoint in (nowhere, beside):
        assert client_endpoint_of(endpoint) in error.message


def test_ports_that_are_cut_are_tried_again(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    who = domain.add("laptop", "admin")
    domain.broker.stop()
    pauses: list[float] = []

    def come_back(pause_s: float) -> None:
        pauses.append(pause_s)
        domain.broker.start()

    monkeypatch.setattr(link, "time", SimpleNamespace(monotonic=time.monotonic, sleep=come_back))

    with client(domain, who) as laptop:
        assert laptop.request("whoami")["name"] == "laptop"
    assert pauses == [link.ROUND_PAUSE_S]


def test_revoked_key_is_not_taken_for_another_server(domain: Domain) -> None:
    who = credentials("laptop", server_keys=[domain.server_key])
    keys = (credentials("other").public_key, domain.server_key)

    assert isinstance(refused(domain, who, server_keys=keys), KeyNotAccepted)


def test_without_credentials_a_keyed_broker_takes_nobody(domain: Domain) -> None:
    with Client(domain.worker_endpoint, home=domain.broker.home) as nobody, pytest.raises(KeysRequired) as caught:
        nobody.ping()
    assert caught.value.exit_code == 5


def test_without_credentials_nobody_elsewhere_is_spoken_to(tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="there are no credentials") as caught:
        Client("tcp://192.0.2.1:7710", home=tmp_path)
    assert "--credentials" in (caught.value.hint or "")


def test_broker_without_keys_is_told_from_one_with_another(home: Path) -> None:
    port = free_port()
    with BrokerProcess(home, listen=f"tcp://127.0.0.1:{port}") as broker:
        broker.start()
        who = credentials("laptop", server_keys=[credentials("server").public_key])
        path = home / "laptop.toml"
        write_secret(path, text_of(replace(who, endpoints=(f"tcp://127.0.0.1:{port}",))))

        with Client(credentials=path, home=home / "elsewhere") as nobody, pytest.raises(KeysNotSpoken):
            nobody.ping()
        with Client(f"tcp://127.0.0.1:{port}", home=home / "elsewhere") as local:
            assert local.request("whoami")["role"] == "admin"


@contextmanager
def program(answer: bytes) -> Iterator[int]:
    """Another program at a port and the next one: it reads a little, answers, and hangs up."""
    port = free_port()
    with closing(socket.create_server(("127.0.0.1", port + 1))) as listener:
        listener.settimeout(0.05)
        is_over = threading.Event()

        def serve() -> None:
            while not is_over.is_set():
                try:
                    line, _ = listener.accept()
                except TimeoutError:
                    continue
                with line:
                    line.settimeout(5)
                    line.recv(10)
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            is_over.set()
            thread.join()


def test_whoever_listens_and_says_nothing_is_not_waited_for_long(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        who = credentials("laptop", server_keys=[credentials("server").public_key])
        path = tmp_path / "laptop.toml"
        write_secret(path, text_of(replace(who, endpoints=(f"tcp://127.0.0.1:{port - 1}",))))

        with Client(credentials=path, home=tmp_path) as nobody, pytest.raises(BrokerUnreachable, match="not answer"):
            nobody.ping()


def test_greeting_that_comes_a_byte_now_and_then_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "GREETING_TIMEOUT_S", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def drip() -> None:
            line, _ = listener.accept()
            with line, suppress(OSError):
                while True:
                    line.sendall(b"\xff")
                    sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(TimeoutError):
            probe.hear_greeting(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100), b"", b"\xff" * 64])
def test_another_program_is_no_broker(tmp_path: Path, answer: bytes) -> None:
    with program(answer) as port:
        path = tmp_path / "laptop.toml"
        who = credentials("laptop", server_keys=[credentials("server").public_key])
        write_secret(path, text_of(replace(who, endpoints=(f"tcp://127.0.0.1:{port}",))))

        with Client(credentials=path, home=tmp_path) as nobody, pytest.raises(BrokerUnreachable):
            nobody.ping()


def test_credentials_that_are_exchanged_are_taken_up(domain: Domain) -> None:
    who = domain.add("laptop", "admin")
    with client(domain, who) as laptop:
        laptop.ping()
        second = credentials("laptop", "admin", [domain.server_key])
        domain.local.ok("key_rotate", name="laptop", public_key=second.public_key)
        domain.local.ok("key_revoke", name="laptop", old=True)
        file_of(domain, second)

        with pytest.raises(KeyNotAccepted):
            laptop.ping()  # its connection is that of the old key
        assert laptop.request("whoami")["name"] == "laptop"


def test_server_key_is_exchanged_while_a_client_is_connected(domain: Domain) -> None:
    who = domain.add("laptop", "admin")
    keys_dir = domain.broker.home.keys
    following = prepare_next(keys_dir).following
    assert following is not None
    domain.local.ok("reload")
    with client(domain, who) as old, client(domain, who, server_keys=(domain.server_key, following.public)) as both:
        assert both.request("whoami")["server_keys"] == [domain.server_key, following.public]
        old.ping()

        put_next_in_place(keys_dir)
        both.request("reload")  # cuts its own connection, a moment later
        until(lambda: domain.broker.logged("connections_cut"), "connections are cut")

        assert both.request("whoami")["server_keys"] == [following.public]
    assert isinstance(refused(domain, who, server_keys=who.server_keys), ServerKeyMismatch)
