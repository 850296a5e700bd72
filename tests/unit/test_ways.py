"""The ways to a broker: which endpoint with which key, and which is next when one has failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from queuectl import handshake
from queuectl.config import Config, load_config
from queuectl.credentials import Credentials, new_key_pair, text_of, write_secret
from queuectl.errors import BadConfig, BadCredentials, BrokerUnreachable, KeyNotAccepted, NotAllowed, ServerKeyMismatch
from queuectl.home import Home
from queuectl.ways import Way, Ways, is_loopback, ways_of

PUBLIC, SECRET = new_key_pair()
ONE, TWO = new_key_pair()[0], new_key_pair()[0]
WHO = Credentials("builder", "worker", ("tcp://a:7710", "tcp://b:7710"), (ONE, TWO), PUBLIC, SECRET)
AWAY, MISMATCH = BrokerUnreachable("away"), ServerKeyMismatch("other")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "builder.toml"
    write_secret(path, text_of(WHO))
    return path


def load(home: Path, flags: dict[str, Any] | None = None, **environ: str) -> Config:
    return load_config(Home(home), flags, {f"QUEUECTL_{key.upper()}": value for key, value in environ.items()})


def tried(ways: Ways, error: Exception, times: int) -> list[tuple[str, str | None]]:
    found = []
    for _ in range(times):
        found.append((ways.present.endpoint, ways.present.server_key))
        ways.failed(error)  # type: ignore[arg-type]
    return found


# --- the next way -----------------------------------------------------------------------------------------------


def test_local_is_one_way_without_keys(tmp_path: Path) -> None:
    for_workers, for_clients = (ways_of(load(tmp_path), Home(tmp_path), for_workers=is_it) for is_it in (True, False))

    assert for_workers.present == Way(Home(tmp_path).worker_endpoint)
    assert for_clients.present == Way(Home(tmp_path).client_endpoint)
    assert for_workers.present.is_local
    for_workers.failed(AWAY)
    assert for_workers.present == Way(Home(tmp_path).worker_endpoint)


def test_where_nobody_answers_other_keys_do_not_help(file: Path) -> None:
    ways = Ways([], file, for_workers=True)

    assert len(ways) == 8
    assert tried(ways, AWAY, 5) == [(f"tcp://{host}:7710", ONE) for host in "aabba"]


def test_worker_looks_for_a_name_by_ipv6_and_then_by_ipv4_alone(file: Path) -> None:
    write_secret(
        file, text_of(replace(WHO, endpoints=("tcp://a:1", "tcp://10.0.0.1:1", "tcp://[fd00::1]:1"))), replace=True
    )
    ways = Ways([], file, for_workers=True)

    found = []
    for _ in range(4):
        found.append((ways.present.endpoint, ways.present.ipv6))
        ways.failed(AWAY)
    assert found == [("tcp://a:1", True), ("tcp://a:1", False), ("tcp://10.0.0.1:1", True), ("tcp://[fd00::1]:1", True)]


def test_where_somebody_else_answers_the_next_key_may(file: Path) -> None:
    assert tried(Ways([], file), MISMATCH, 5) == [
        ("tcp://a:7711", ONE),
        ("tcp://a:7711", TWO),
        ("tcp://b:7711", ONE),
        ("tcp://b:7711", TWO),
        ("tcp://a:7711", ONE),
    ]


def test_credentials_that_were_exchanged_are_taken_up(file: Path) -> None:
    ways = Ways([], file)
    write_secret(file, text_of(replace(WHO, server_keys=(TWO,))), replace=True)
    assert ways.present.server_key == ONE

    ways.failed(KeyNotAccepted("revoked"))
    assert (ways.present.endpoint, ways.present.server_key) == ("tcp://a:7711", TWO)
    assert len(ways) == 2


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_text("half of"), lambda path: path.chmod(0o644)]
)
def test_credentials_that_are_being_exchanged_are_good_for_now(file: Path, change: Any) -> None:
    ways = Ways([], file)
    change(file)

    ways.failed(MISMATCH)
    assert (ways.present.endpoint, ways.present.server_key) == ("tcp://a:7711", TWO)


def test_endpoint_that_was_given_goes_with_the_keys_of_the_file(file: Path, tmp_path: Path) -> None:
    config = load(tmp_path, {"endpoint": "tcp://c:1,tcp://d:3", "credentials": str(file)})
    ways = ways_of(config, Home(tmp_path), for_workers=False)

    assert tried(ways, MISMATCH, 4) == [("tcp://c:2", ONE), ("tcp://c:2", TWO), ("tcp://d:4", ONE), ("tcp://d:4", TWO)]


# --- who is spoken to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:7711", "tcp://queue.example:7711", "tcp://localhost:7711"])
def test_without_credentials_only_this_machine(endpoint: str) -> None:
    with pytest.raises(NotAllowed, match="is on another machine"):
        Ways([endpoint])
    with pytest.raises(NotAllowed):
        Ways(["tcp://127.0.0.1:1", endpoint])


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:7711", "tcp://127.9.9.9:1", "tcp://[::1]:7711"])
def test_loopback_is_this_machine(endpoint: str) -> None:
    assert is_loopback(endpoint)
    assert Ways([endpoint]).present == Way(endpoint)


# --- what says where ------------------------------------------------------------------------------------------------


def where(config: Config) -> tuple[str, Path | None]:
    return config.endpoint, config.credentials


def test_credentials_say_where(file: Path, tmp_path: Path) -> None:
    config = load(tmp_path, credentials=str(file))

    assert where(config) == ("tcp://a:7710,tcp://b:7710", file)
    assert config.endpoint_is_from_credentials
    assert not config.is_local
    assert config.tcp_endpoints() == [("tcp://a:7710", "tcp://a:7711"), ("tcp://b:7710", "tcp://b:7711")]


def test_context_is_credentials_under_a_name(file: Path, tmp_path: Path) -> None:
    kept = Home(tmp_path).context_file("farm")
    kept.parent.mkdir()
    file.rename(kept)

    assert where(load(tmp_path, context="farm")) == ("tcp://a:7710,tcp://b:7710", kept)
    assert where(load(tmp_path, {"endpoint": "local"}, context="farm")) == ("local", None)
    assert where(load(tmp_path, {"context": "local"}, context="farm")) == ("local", None)
    assert where(load(tmp_path, {"endpoint": "tcp://c:1"}, context="farm")) == ("tcp://c:1", kept)


def test_the_last_layer_that_says_where_is_right(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('endpoint = "tcp://c:1"\n')

    assert where(load(tmp_path)) == ("tcp://c:1", None)
    assert where(load(tmp_path, credentials=str(file)))[1] == file
    assert load(tmp_path, credentials=str(file)).endpoint_is_from_credentials
    assert where(load(tmp_path, {"endpoint": "local"}, credentials=str(file))) == ("local", None)


def test_file_of_credentials_is_found_from_where_config_stands(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('credentials = "builder.toml"\n')

    assert load(tmp_path).credentials == file


def test_context_and_another_place_at_once_are_refused(file: Path, tmp_path: Path) -> None:
    for other in ({"endpoint": "local"}, {"credentials": str(file)}):
        with pytest.raises(BadConfig, match="say both where the broker is"):
            load(tmp_path, {"context": "farm", **other})


@pytest.mark.parametrize("name", ["", "a b", "../x", ".x", "a/b"])
def test_what_is_no_name_of_a_context(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadConfig, match="is not a name"):
        load(tmp_path, context=name)


def test_credentials_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match="No such file"):
        load(tmp_path, credentials=str(tmp_path / "none"))


# --- why a connection does not come up ------------------------------------------------------------------------------


def told(event: int, value: int = 0) -> list[bytes]:
    frames = [event.to_bytes(2, "little") + value.to_bytes(4, "little"), b""]
    assert parse_monitor_message(frames)["event"] == event
    return frames


@pytest.mark.parametrize(
    ("event", "value", "has_keys", "code"),
    [
        (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400, True, "key_not_accepted"),
        (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32, True, "server_key_mismatch"),
        (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 32, False, "broker_unreachable"),
        (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, 0x11000002, False, "keys_required"),
        (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, 0x11000002, True, "server_key_mismatch"),
        (zmq.EVENT_CLOSED, 22, True, "broker_unreachable"),
        (zmq.EVENT_DISCONNECTED, 22, True, None),
    ],
)
def test_what_the_monitor_tells(event: int, value: int, has_keys: bool, code: str | None) -> None:
    way = Way("tcp://a:1", ONE, WHO) if has_keys else Way("tcp://a:1")

    error = handshake.cause_of(told(event, value), way)

    assert (error and error.code) == code
    assert error is None or (error.hint and SECRET not in f"{error.message}{error.hint}{error.details}")
    assert handshake.is_certain(told(event, value)) == (code in ("key_not_accepted",) or event == zmq.EVENT_CLOSED)
