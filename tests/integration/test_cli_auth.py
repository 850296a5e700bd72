"""`queuectl auth` on a real broker that listens with keys: let in, seen, exchanged, kept out."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from queuectl.credentials import Credentials, load_credentials, new_key_pair
from queuectl.errors import OutcomeUnknown
from tests.harness_cli import CommandLine, Ran, Running, processes_with, until
from tests.harness_client import scripted_broker
from tests.harness_process import free_port


@pytest.fixture
def line(home: Path, tmp_path: Path) -> Iterator[CommandLine]:
    with CommandLine(home, tmp_path) as line:
        yield line


@pytest.fixture
def broker(line: CommandLine) -> Running:
    """A broker that listens with keys, at a port that nobody else took in the moment before."""
    while True:
        broker = line.start("broker", "start", "--listen", f"tcp://127.0.0.1:{free_port()}")
        until(partial(has_begun, broker), "a broker that is ready")
        if broker.is_running():
            return broker
        assert "in use" in broker.stderr, broker.stderr


def has_begun(broker: Running) -> bool:
    """Whether it is ready, or has ended instead."""
    return bool(broker.logged("broker_ready")) or not broker.is_running()


def add(line: CommandLine, name: str, role: str, *options: str) -> Credentials:
    """Let somebody in; what the file says."""
    path = line.ok("auth", "add", name, "--role", role, *options).strip()
    return load_credentials(line.cwd / path)


def whoami(line: CommandLine, name: str) -> Ran:
    """Ask with the file of this name."""
    return line.run("auth", "whoami", "-q", "--credentials", f"{name}.toml")


def test_key_that_was_added_is_let_in_with_its_role(line: CommandLine, broker: Running) -> None:
    ran = line.run("auth", "add", "desk", "--role", "submit", "--queues", "mail-*", "--queues", "default")

    assert ran.stdout == "desk.toml\n"
    assert "queuectl context add desk desk.toml" in ran.stderr
    assert stat.S_IMODE((line.cwd / "desk.toml").stat().st_mode) == 0o600
    told = line.json("auth", "whoami", "--credentials", "desk.toml")
    assert (told["name"], told["role"], told["queues"]) == ("desk", "submit", ["mail-*", "default"])
    assert told["credentials"] == str(line.cwd / "desk.toml")
    assert told["endpoint"].startswith("tcp://127.0.0.1:")


def test_credentials_may_come_from_the_environment(line: CommandLine, broker: Running) -> None:
    add(line, "boss", "admin")

    assert line.ok("auth", "whoami", "-q", env={"QUEUECTL_CREDENTIALS": "boss.toml"}) == "boss\n"


def test_worker_in_the_background_takes_its_credentials_along(line: CommandLine, broker: Running) -> None:
    ran = line.run("auth", "add", "builder", "--role", "worker", "--out", "builder.toml")
    assert "queuectl worker start --credentials builder.toml" in ran.stderr

    line.ok("worker", "start", "--detach", "--credentials", "builder.toml")
    job = line.enqueue("echo done")
    line.await_state("completed", job)

    assert line.json("auth", "show", "builder")["sessions"] == 1
    line.ok("worker", "stop", "--credentials", "builder.toml")
    until(lambda: not line.client.status()["workers"], "the end of the worker")


@pytest.mark.parametrize(
    ("role", "is_revoked", "code"), [("submit", False, "not_allowed"), ("worker", True, "key_not_accepted")]
)
def test_worker_in_the_background_is_not_waited_for_if_it_is_not_let_in(
    line: CommandLine, broker: Running, role: str, is_revoked: bool, code: str
) -> None:
    add(line, "builder", role)
    if is_revoked:
        line.ok("auth", "revoke", "builder")

    ran = line.run("worker", "start", "--detach", "--json", "--credentials", "builder.toml")

    assert ran.code == 5
    assert json.loads(ran.stdout)["error"]["code"] == code
    until(lambda: not processes_with(str(line.cwd / "builder.toml"), in_file="cmdline"), "the worker has ended")


def test_existing_file_is_not_written_over_and_nobody_is_added(line: CommandLine, broker: Running) -> None:
    (line.cwd / "desk.toml").write_text("precious")

    ran = line.run("auth", "add", "desk", "--role", "read")

    assert (ran.code, ran.stdout) == (4, "")
    assert "desk.toml is there already" in ran.stderr
    assert (line.cwd / "desk.toml").read_text() == "precious"
    assert line.json("auth", "list") == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["desk", "--role", "admin", "--out", "second.toml"], 4, "a key of the name 'desk' was added before"),
        (["other", "--role", "admin", "--queues", "x", "--out", "second.toml"], 2, "queues are for the roles"),
        (["../up", "--role", "read"], 2, "is not a name for a key"),
        (["other", "--role", "submit", "--queues", "mail *"], 2, "--queues 'mail *' is not like a queue's name"),
        (["other", "--role", "king"], 2, "'king' is not one of"),
        (["other", "--role", "read", "--out", "nowhere/other.toml"], 2, "No such file or directory"),
    ],
)
def test_refused_key_leaves_no_file(
    line: CommandLine, broker: Running, args: list[str], code: int, message: str
) -> None:
    add(line, "desk", "read")

    ran = line.run("auth", "add", *args)

    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr
    assert [path.name for path in line.cwd.iterdir()] == ["desk.toml"]
    assert [holder["name"] for holder in line.json("auth", "list")] == ["desk"]


def test_broker_for_this_machine_only_takes_no_keys_and_says_what_to_do(line: CommandLine) -> None:
    away = line.run("auth", "add", "desk", "--role", "read")
    line.broker()
    closed = line.run("auth", "add", "desk", "--role", "read")

    assert (away.code, closed.code) == (69, 4)
    for ran in (away, closed):
        assert "queuectl broker start --listen tcp://0.0.0.0:7710 --advertise HOST" in ran.stderr
    assert list(line.cwd.iterdir()) == []


def test_file_stays_where_the_broker_may_know_its_key(line: CommandLine) -> None:
    with scripted_broker(line.home.path) as broker:
        broker.on("whoami", {"endpoints": ["tcp://127.0.0.1:9"], "server_keys": [new_key_pair()[0]]})
        broker.on("key_add", OutcomeUnknown("no reply came"))
        ran = line.run("auth", "add", "desk", "--role", "read")

    assert (ran.code, ran.stdout) == (69, "")
    assert "desk.toml is kept" in ran.stderr
    assert broker.only("key_add").args["public_key"] == load_credentials(line.cwd / "desk.toml").public_key


def test_revoked_key_is_told_so_in_one_line(line: CommandLine, broker: Running) -> None:
    add(line, "desk", "read")
    assert whoami(line, "desk").stdout == "desk\n"

    revoked = line.run("auth", "revoke", "desk", "--cut")
    ran = line.run("status", "--credentials", "desk.toml")

    assert revoked.stdout.startswith("Revoked SHA256:")
    assert (ran.code, ran.stdout) == (5, "")
    [error, hint] = ran.stderr.splitlines()
    assert error.startswith("error: ")
    assert "does not accept the key of 'desk'" in error
    assert hint.startswith("hint: ")
    again = line.run("auth", "revoke", "desk")
    assert (again.code, again.stdout) == (0, "")
    assert "nothing to revoke" in again.stderr


def test_role_is_not_enough(line: CommandLine, broker: Running) -> None:
    add(line, "desk", "read")

    ran = line.run("enqueue", "--credentials", "desk.toml", "--", "echo hi")

    assert ran.code == 5
    assert "'desk' has the role read, and may not do this" in ran.stderr


def test_second_key_is_good_beside_the_first_until_that_is_revoked(line: CommandLine, broker: Running) -> None:
    first = add(line, "desk", "read")
    ran = line.run("auth", "rotate", "desk", "--out", "new.toml", "--json")
    second = load_credentials(line.cwd / "new.toml")

    assert ran.json["file"] == "new.toml"
    assert (second.name, second.role) == ("desk", "read")
    assert second.public_key != first.public_key
    assert whoami(line, "desk").stdout == whoami(line, "new").stdout == "desk\n"
    assert "queuectl auth revoke desk --old" in line.run("auth", "rotate", "desk", "--out", "third.toml").stderr

    line.ok("auth", "revoke", "desk", "--old")
    assert [whoami(line, name).code for name in ("desk", "new", "third")] == [5, 5, 0]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["rotate"], 2),
        (["rotate", "desk", "--server"], 2),
        (["rotate", "desk", "--finish"], 2),
        (["rotate", "--server", "--out", "f.toml"], 2),
        (["rotate", "--server", "--endpoint", "tcp://127.0.0.1:7710"], 2),
        (["rotate", "--server", "--finish"], 4),
        (["rotate", "nobody"], 3),
        (["show", "nobody"], 3),
        (["revoke", "nobody"], 3),
        (["refresh"], 2),
        (["refresh", "desk.toml", "--credentials", "desk.toml"], 2),
    ],
)
def test_misuse_is_told(line: CommandLine, broker: Running, args: list[str], code: int) -> None:
    ran = line.run("auth", *args)

    assert (ran.code, ran.stdout) == (code, "")
    assert ran.stderr.startswith("error: ")


def test_server_key_is_exchanged_in_three_steps(line: CommandLine, broker: Running) -> None:
    before = add(line, "desk", "read")
    add(line, "late", "read")

    prepared = line.json("auth", "rotate", "--server")
    assert prepared["broker_told"]
    assert line.run("auth", "rotate", "--server").code == 4
    assert "Nothing has changed" not in line.ok("auth", "refresh", "desk.toml")
    assert line.ok("auth", "refresh", "desk.toml") == "Nothing has changed.\n"
    between = load_credentials(line.cwd / "desk.toml")
    assert (between.server_keys[0], len(between.server_keys)) == (before.server_keys[0], 2)
    assert whoami(line, "desk").code == 0

    finished = line.json("auth", "rotate", "--server", "--finish")
    assert (finished["current"], finished["next"]) == (prepared["next"], None)
    assert whoami(line, "desk").stdout == "desk\n"
    told = line.json("auth", "refresh", "--credentials", "desk.toml")
    assert (told["changed"], told["server_keys"]) == (True, [prepared["next"]])
    assert stat.S_IMODE((line.cwd / "desk.toml").stat().st_mode) == 0o600

    late = whoami(line, "late")
    assert late.code == 5
    assert "does not hold the server key that these credentials name" in late.stderr


def test_server_key_is_exchanged_while_the_broker_is_away(line: CommandLine, broker: Running) -> None:
    line.ok("broker", "stop")

    ran = line.run("auth", "rotate", "--server")

    assert ran.stdout.startswith("The next server key is SHA256:")
    assert "No broker runs here" in ran.stderr


def test_those_let_in_are_listed_and_shown(line: CommandLine, broker: Running) -> None:
    add(line, "desk", "submit", "--queues", "mail-*")
    add(line, "boss", "admin")
    line.ok("auth", "revoke", "desk", "--credentials", "boss.toml")

    listed = line.ok("auth", "list").splitlines()
    assert [row.split()[0] for row in listed] == ["NAME", "desk", "boss"]
    assert "mail-*" in listed[1]
    assert [row.rpartition("  ")[2] for row in listed] == ["STATE", "revoked", "let in"]
    assert line.ok("auth", "list", "-q") == "desk\nboss\n"
    [key] = line.json("auth", "show", "desk")["keys"]
    assert (key["revoked_by"], key["added_by"].partition(":")[0]) == ("boss", "uid")
    shown = line.ok("auth", "show", "desk")
    assert key["fingerprint"] in shown
    assert "by boss" in shown
    assert line.ok("auth", "show", "desk", "-q").strip() == key["fingerprint"]


def test_no_secret_is_printed_or_stands_on_a_command_line(line: CommandLine, broker: Running) -> None:
    said = [line.run("auth", "add", "builder", "--role", "worker"), line.run("auth", "add", "boss", "--role", "admin")]
    said += [line.run("auth", "rotate", "boss", "--out", "second.toml", "--json")]
    line.worker(1, "--credentials", "builder.toml")
    said += [line.run("auth", *args, "--credentials", "boss.toml") for args in (["list"], ["show", "boss"], ["whoami"])]
    said += [line.run("auth", "refresh", "boss.toml"), line.run("context", "add", "boss", "boss.toml")]
    said += [line.run("context", "list", "--json"), line.run("config", "show", "--context", "boss", "--debug")]

    for name in ("builder", "boss", "second"):
        secret = load_credentials(line.cwd / f"{name}.toml").secret_key
        assert processes_with(secret, in_file="cmdline") == {}
        assert processes_with(secret) == {}
        assert not [ran for ran in said if secret in ran.stdout + ran.stderr or ran.code]
        assert secret not in broker.stderr
