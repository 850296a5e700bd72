"""Machine settings: where they come from, which one wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from queuectl.config import Config, load_config, parse_machine_setting, tcp_pair
from queuectl.errors import BadConfig
from queuectl.home import Home


def load(home: Path, flags: dict[str, Any] | None = None, **environ: str) -> Config:
    return load_config(Home(home), flags, environ)


def refused(home: Path, flags: dict[str, Any] | None = None, **environ: str) -> BadConfig:
    with pytest.raises(BadConfig) as caught:
        load(home, flags, **environ)
    return caught.value


def test_defaults(home: Path) -> None:
    config = load(home)

    assert (config.endpoint, config.data_dir, config.autostart) == ("local", home, True)
    assert (config.log_format, config.log_level) == ("auto", "info")
    assert set(config.origins.values()) == {"default"}
    assert config.is_local


def test_flag_beats_environment_beats_file(home: Path) -> None:
    (home / "config.toml").write_text('log_level = "error"\nlog-format = "json"\nautostart = false\n')

    config = load(
        home, {"log_level": "debug", "log_format": None}, QUEUECTL_LOG_LEVEL="warning", QUEUECTL_AUTOSTART="yes"
    )

    assert (config.log_level, config.log_format, config.autostart) == ("debug", "json", True)
    assert config.origins["log_level"] == "flag"
    assert config.origins["log_format"] == f"file {home / 'config.toml'}"
    assert config.origins["autostart"] == "environment"
    assert config.origins["endpoint"] == "default"


def test_environment_of_the_process_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_LOG_LEVEL", "error")

    assert load_config(Home(home)).log_level == "error"


def test_variables_of_jobs_and_the_home_are_no_settings(home: Path) -> None:
    environ = {"QUEUECTL_HOME": "/x", "QUEUECTL_JOB_ID": "a1", "QUEUECTL_JOB_NEW": "z"}

    assert set(load_config(Home(home), None, environ).origins.values()) == {"default"}


@pytest.mark.parametrize("word", ["true", "1", "YES", "on"])
def test_switch_on(home: Path, word: str) -> None:
    assert load(home, QUEUECTL_AUTOSTART=word).autostart is True


@pytest.mark.parametrize("word", ["false", "0", "No", "off"])
def test_switch_off(home: Path, word: str) -> None:
    assert load(home, QUEUECTL_AUTOSTART=word).autostart is False


def test_directory_is_no_text_with_a_nul(home: Path) -> None:
    (home / "config.toml").write_text('data_dir = "a\\u0000b"')

    assert "is not a directory" in refused(home).message


def test_directory_is_made_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", "/home/me")

    assert load(home, QUEUECTL_DATA_DIR="data").data_dir == home / "data"
    assert load(home, {"data_dir": "~/data"}).data_dir == Path("/home/me/data")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"QUEUECTL_AUTOSTART": "maybe"}, "autostart: 'maybe' is neither true nor false (from environment)"),
        ({"QUEUECTL_DATA_DIR": ""}, "data_dir: '' is not a directory (from environment)"),
        (
            {"QUEUECTL_DATA_DIR": "~nobody-of-that-name/q"},
            "data_dir: '~nobody-of-that-name/q': Could not determine home directory. (from environment)",
        ),
        ({"QUEUECTL_ENDPOINT": "tcp://h:\uff17"}, "endpoint: 'tcp://h:\uff17' is not an endpoint (from environment)"),
        (
            {"QUEUECTL_LOG_LEVEL": "loud"},
            "log_level: must be one of debug, info, warning, error, not 'loud' (from environment)",
        ),
        ({"QUEUECTL_ENDPOINT": "broker:7710"}, "endpoint: 'broker:7710' is not an endpoint (from environment)"),
        ({"QUEUECTL_ENDPOIN": "local"}, "unknown setting 'endpoin' (from environment)"),
        (
            {"QUEUECTL_MAX_RETRIES": "5"},
            "max_retries (from environment) is a setting of the queue, not of this machine",
        ),
    ],
    ids=str,
)
def test_refusal_says_where_it_came_from(home: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load_config(Home(home), None, environ)
    assert caught.value.message == message


def test_setting_of_the_queue_is_refused_with_the_line_to_use(home: Path) -> None:
    (home / "config.toml").write_text("max-retries = 5\n")

    mend = "it is set once for all by: queuectl config set max_retries 5"
    assert refused(home).hint == f"take it out of {home / 'config.toml'}; {mend}"
    (home / "config.toml").unlink()
    assert refused(home, QUEUECTL_MAX_RETRIES="5").hint == f"unset QUEUECTL_MAX_RETRIES; {mend}"


def test_value_that_is_wrong_says_how_it_is_taken_away(home: Path) -> None:
    (home / "config.toml").write_text('log-level = "loud"\n')

    assert refused(home).hint == f"take it out of {home / 'config.toml'}, or write another"


def test_unknown_setting_says_what_was_meant(home: Path) -> None:
    assert refused(home, QUEUECTL_ENDPOIN="x").hint == "did you mean 'endpoint'?"
    assert (refused(home, QUEUECTL_ZZZ="x").hint or "").startswith("known: endpoint")


@pytest.mark.parametrize("text", ["this is not toml", f"a = {'9' * 5000}", f"a = {'[' * 5000}"], ids=len)
def test_file_that_is_no_toml(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text)

    assert "is not valid TOML" in refused(home).message


@pytest.mark.parametrize("kind", ["directory", "not utf-8"])
def test_file_that_cannot_be_read(home: Path, kind: str) -> None:
    if kind == "directory":
        (home / "config.toml").mkdir()
    else:
        (home / "config.toml").write_bytes(b"\xff\xfe")

    assert "cannot read" in refused(home).message


@pytest.mark.parametrize(
    ("endpoint", "clients"),
    [
        ("tcp://broker.example:7710", "tcp://broker.example:7711"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:2"),
        ("tcp://[::1]:7710", "tcp://[::1]:7711"),
    ],
)
def test_clients_use_the_next_port(home: Path, endpoint: str, clients: str) -> None:
    config = load(home, QUEUECTL_ENDPOINT=endpoint)

    assert config.endpoints(Home(home)) == (endpoint, clients)
    assert not config.is_local


def test_local_may_be_said(home: Path) -> None:
    assert load(home, QUEUECTL_ENDPOINT="local").is_local


def test_local_endpoints_are_those_of_the_home(home: Path) -> None:
    workers, clients = load(home).endpoints(Home(home))

    assert (workers, clients) == (f"ipc://{home}/run/worker.sock", f"ipc://{home}/run/client.sock")


@pytest.mark.parametrize(
    "endpoint", ["tcp://x:0", "tcp://x:65535", "tcp://x", "ipc://x", "tcp://:7710", "tcp://a b:1", ""]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(BadConfig, match="is not an endpoint"):
        tcp_pair(endpoint)


def test_setting_given_by_a_person() -> None:
    assert parse_machine_setting("Log-Level", "debug") == ("log_level", "debug")
    with pytest.raises(BadConfig, match="from command line"):
        parse_machine_setting("log_level", "loud")
