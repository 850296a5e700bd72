"""`queuectl context`: added, used, listed, removed; also where the present one is broken, or gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from queuectl.credentials import Credentials, fingerprint, load_credentials, new_key_pair, text_of, write_secret
from queuectl.home import Home
from tests.harness_cli import CommandLine
from tests.harness_client import Ran, run_cli
from tests.harness_keys import Domain, keyed_broker

PUBLIC, SECRET = new_key_pair()
DESK = Credentials("desk", "submit", ("tcp://127.0.0.1:9",), (PUBLIC,), PUBLIC, SECRET)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "desk.toml"
    write_secret(path, text_of(DESK))
    return path


@pytest.fixture
def office(home: Path, file: Path) -> Path:
    """The kept file of a context that is in force."""
    run_cli("context", "add", "office", str(file))
    assert run_cli("context", "use", "office").code == 0
    return Home(home).context_file("office")


def marked() -> list[str]:
    """The contexts that `list` marks."""
    return [view["name"] for view in run_cli("context", "list", "--json").json if view["in_force"]]


def error_of(ran: Ran) -> str:
    """What a command that failed said, and nothing else."""
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    return ran.err


def test_context_is_a_copy_that_nobody_else_can_read(home: Path, file: Path) -> None:
    umask = os.umask(0)
    try:
        ran = run_cli("context", "add", "office", str(file))
    finally:
        os.umask(umask)
    kept = Home(home).context_file("office")

    assert (ran.code, ran.out) == (0, "Added context office: desk (submit).\n")
    assert load_credentials(kept) == DESK
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert SECRET not in ran.out + ran.err


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("office", 4, "there is a context of the name 'office' already"),
        ("local", 4, "'local' is the broker of this machine"),
        ("../up", 2, "is not a name for a context"),
    ],
)
def test_names_that_cannot_be_had(office: Path, file: Path, name: str, code: int, message: str) -> None:
    ran = run_cli("context", "add", name, str(file))

    assert ran.code == code
    assert message in error_of(ran)


def test_bad_file_is_not_taken(home: Path, file: Path) -> None:
    bad = file.with_name("bad.toml")
    write_secret(bad, text_of(replace(DESK, role="king")))
    file.chmod(0o644)

    assert "unknown role 'king'" in error_of(run_cli("context", "add", "bad", str(bad)))
    assert run_cli("context", "add", "open", str(file)).code == 5
    assert run_cli("context", "add", "gone", str(file.with_name("gone"))).code == 2
    assert run_cli("context", "list", "-q").out == "local\n"


def test_context_in_force_is_marked_with_who_one_is(office: Path) -> None:
    local, kept = run_cli("context", "list", "--json").json

    assert (local["name"], local["in_force"]) == ("local", False)
    assert kept == {
        "name": "office",
        "in_force": True,
        "holder": "desk",
        "role": "submit",
        "endpoints": ["tcp://127.0.0.1:9"],
        "fingerprint": fingerprint(PUBLIC),
    }
    assert [row.split()[:2] for row in run_cli("context", "list").out.splitlines()[1:]] == [
        ["local", "-"],
        ["*", "office"],
    ]


def test_what_comes_first_is_in_force(office: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert marked() == ["office"]
    assert run_cli("context", "list", "--json", "--context", "local").json[0]["in_force"]
    monkeypatch.setenv("QUEUECTL_ENDPOINT", "tcp://127.0.0.1:10")
    assert marked() == ["office"]  # another way to the same broker
    monkeypatch.setenv("QUEUECTL_ENDPOINT", "local")
    assert marked() == ["local"]
    monkeypatch.delenv("QUEUECTL_ENDPOINT")
    monkeypatch.setenv("QUEUECTL_CREDENTIALS", str(file))
    assert marked() == []
    assert "None of them is in force" in run_cli("context", "list").err
    ran = run_cli("context", "use", "local")
    assert "says otherwise and comes first" in ran.err


def test_context_of_one_command(home: Path, file: Path, office: Path) -> None:
    run_cli("context", "use", "local")

    assert run_cli("config", "get", "endpoint", "--context", "office").out == "tcp://127.0.0.1:9\n"
    assert run_cli("config", "get", "context").out == "local\n"


def test_unknown_context_is_not_found(office: Path) -> None:
    for args in (["context", "use", "offic"], ["context", "rm", "offic"], ["config", "set", "context", "offic"]):
        ran = run_cli(*args)

        assert ran.code == 3
        assert "did you mean 'office'?" in error_of(ran)
    assert marked() == ["office"]


def test_setting_the_context_is_using_it(office: Path) -> None:
    ran = run_cli("config", "set", "context", "local")

    assert ran == run_cli("context", "use", "local")
    assert ran.out == "Set context = local\n"
    assert marked() == ["local"]


def test_context_in_use_is_not_removed(home: Path, office: Path) -> None:
    ran = run_cli("context", "rm", "office")

    assert ran.code == 4
    assert "queuectl context use local" in error_of(ran)
    run_cli("context", "use", "local")
    assert run_cli("context", "rm", "office").out == "Removed context office.\n"
    assert not office.exists()
    assert run_cli("context", "rm", "local").code == 4


@pytest.mark.parametrize("damage", ["gone", "nonsense", "open to others"])
def test_broken_context_is_shown_and_can_be_left(office: Path, damage: str) -> None:
    if damage == "gone":
        office.unlink()
    elif damage == "nonsense":
        office.write_text("nonsense")
    else:
        office.chmod(0o644)

    assert run_cli("status").code in (2, 5)
    assert "hint: " in run_cli("status").err
    views = run_cli("context", "list", "--json").json
    assert ("error" in views[-1]) is (damage != "gone")
    plain = run_cli("context", "list")
    assert plain.code == 0
    assert ("broken: " in plain.out) is (damage != "gone")
    assert ("office, which is not there" in plain.err) is (damage == "gone")
    assert run_cli("context", "use", "local").code == 0
    assert run_cli("config", "get", "endpoint").out == "local\n"
    assert run_cli("context", "rm", "office").code == (3 if damage == "gone" else 0)


def test_broken_context_is_not_used(home: Path, office: Path) -> None:
    run_cli("context", "use", "local")
    office.write_text("nonsense")

    assert run_cli("context", "use", "office").code == 2
    assert marked() == ["local"]


def test_second_word_on_where_the_broker_is_is_refused_before_it_is_written(home: Path, office: Path) -> None:
    ran = run_cli("config", "set", "endpoint", "tcp://127.0.0.1:9")

    assert ran.code == 4
    assert "queuectl config unset context" in error_of(ran)
    assert run_cli("config", "unset", "context").out == "Set context = none\n"
    assert run_cli("config", "set", "endpoint", "tcp://127.0.0.1:9").code == 0
    assert "queuectl config unset endpoint" in error_of(run_cli("context", "use", "office"))


def test_bad_credentials_are_not_set(home: Path, file: Path) -> None:
    assert run_cli("config", "set", "credentials", str(file.with_name("gone"))).code == 2
    assert not (home / "config.toml").exists()
    assert run_cli("config", "set", "credentials", str(file)).out == f"Set credentials = {file}\n"
    assert run_cli("config", "get", "endpoint").out == "tcp://127.0.0.1:9\n"


@pytest.fixture
def domain(home: Path) -> Iterator[Domain]:
    with keyed_broker(home) as domain:
        yield domain


def test_commands_go_to_the_broker_of_the_context(domain: Domain, tmp_path: Path) -> None:
    boss = replace(domain.add("boss", "admin"), endpoints=(domain.worker_endpoint,))
    write_secret(tmp_path / "boss.toml", text_of(boss))
    elsewhere = tmp_path / "elsewhere"

    with CommandLine(elsewhere, tmp_path) as line:
        line.ok("context", "add", "office", "../boss.toml")
        line.ok("context", "use", "office")
        job = line.enqueue("echo hi")

        assert line.show(job)["enqueued_by"] == "boss"
        assert line.json("auth", "whoami")["endpoint"] == domain.client_endpoint
        assert line.run("list", "--context", "local", "--no-autostart").code == 69
    assert domain.local.ok("job", id=job)["job"]["enqueued_by"] == "boss"
    assert not (elsewhere / "queue.db").exists()
