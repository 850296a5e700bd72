"""`queuectl config`: one object to show, two places to keep settings, one spelling of each key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl.errors import BadConfig
from queuectl.settings import DEFAULTS, SETTINGS
from tests.harness_client import ScriptedBroker, run_cli, scripted_broker


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        broker.on("config_show", {"settings": DEFAULTS, "changed": [], "data_dir": str(home)})
        broker.on("config_set", lambda args: {**args, "before": 3, "per_job": SETTINGS[args["key"]].per_job})
        broker.on("config_unset", lambda args: {**args, "value": 3, "before": 5, "per_job": True})
        yield broker


def test_show_is_one_object_with_all_settings(broker: ScriptedBroker, home: Path) -> None:
    ran = run_cli("config", "show")

    assert ran.json.items() >= {"data_dir": str(home), "max_retries": 3, "backoff_base": 2}.items()
    assert ran.json.keys() >= {*SETTINGS, "endpoint", "autostart", "log_format", "log_level"}
    assert ran.json.items() >= {"credentials": None, "context": None, "listen": None, "advertise": None}.items()
    assert ran.err == ""


@pytest.mark.parametrize("key", ["max-retries", "max_retries", "MAX-RETRIES"])
def test_set_word_for_word(broker: ScriptedBroker, key: str) -> None:
    ran = run_cli("config", "set", key, "5")

    assert (ran.code, ran.out) == (0, "Set max_retries = 5\n")
    assert "from now on" in ran.err
    assert broker.only("config_set").args == {"key": "max_retries", "value": 5}


@pytest.mark.parametrize(
    ("key", "text", "value", "shown"),
    [
        ("backoff-base", "2.5", 2.5, "2.5"),
        ("backoff-max", "1h", 3600, "3600"),
        ("timeout", "none", None, "none"),
        ("backoff-jitter", "full", "full", "full"),
        ("output-limit", "64KiB", 65536, "65536"),
    ],
)
def test_values_are_read_as_people_write_them(
    broker: ScriptedBroker, key: str, text: str, value: Any, shown: str
) -> None:
    assert run_cli("config", "set", key, text).out == f"Set {key.replace('-', '_')} = {shown}\n"
    assert broker.only("config_set").args["value"] == value


def test_setting_that_is_not_copied_into_jobs_says_nothing_of_them(broker: ScriptedBroker) -> None:
    assert run_cli("config", "set", "lease", "60").err == "That is 1m00s.\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["set", "max-retris", "5"], "did you mean 'max_retries'?"),
        (["set", "endpiont", "local"], "did you mean 'endpoint'?"),
        (["set", "zzz", "5"], "known: max_retries"),
        (["set", "max-retries", "many"], "is not an integer"),
        (["set", "max-retries", "-1"], "must be between"),
        (["set", "endpoint", "host"], "write local, or tcp://HOST:7710"),
        (["get", "zzz"], "unknown setting"),
        (["unset", "zzz"], "unknown setting"),
    ],
)
def test_wrong_key_or_value_is_refused(broker: ScriptedBroker, args: list[str], message: str) -> None:
    ran = run_cli("config", *args)

    assert (ran.code, ran.out, broker.asked) == (2, "", [])
    assert message in ran.err


def test_broker_may_refuse_what_only_it_can_know(broker: ScriptedBroker) -> None:
    broker.on("config_set", BadConfig("lease (1 s) must be at least 5 heartbeats (2 s each)"))

    assert run_cli("config", "set", "lease", "1").code == 2


def test_machine_setting_is_written_to_the_file(home: Path) -> None:
    ran = run_cli("config", "set", "log-level", "debug")

    assert (ran.code, ran.out) == (0, "Set log_level = debug\n")
    assert (home / "config.toml").read_text() == 'log_level = "debug"\n'
    assert run_cli("config", "get", "log-level").out == "debug\n"


@pytest.mark.parametrize(("key", "value"), [("listen", "tcp://0.0.0.0:7710"), ("advertise", "queue.example,10.0.0.1")])
def test_where_the_broker_listens_may_be_kept(home: Path, key: str, value: str) -> None:
    assert run_cli("config", "set", key, value).out == f"Set {key} = {value}\n"
    assert run_cli("config", "get", key).out == f"{value}\n"
    assert run_cli("config", "unset", key).out == f"Set {key} = none\n"


def test_machine_setting_is_unset(home: Path) -> None:
    run_cli("config", "set", "autostart", "false")

    assert run_cli("config", "get", "autostart").out == "false\n"
    assert run_cli("config", "unset", "autostart").out == "Set autostart = true\n"
    assert (home / "config.toml").read_text() == ""


def test_environment_that_says_otherwise_is_mentioned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_LOG_LEVEL", "error")

    ran = run_cli("config", "set", "log-level", "debug")

    assert ran.out == "Set log_level = error\n"
    assert "environment" in ran.err


def test_data_dir_says_when_it_applies_and_how_to_move(broker: ScriptedBroker, home: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "where it runs", tmp_path / "db"
    old.mkdir()
    (old / "queue.db").touch()
    broker.on("ping", {"data_dir": str(old)})

    ran = run_cli("config", "set", "data-dir", str(new))

    assert ran.out == f"Set data_dir = {new}\n"
    assert "next broker start" in ran.err
    assert f"mv -n '{old}'/queue.db* '{old}'/broker.id {new}/" in ran.err
    shown = run_cli("config", "show")
    assert shown.json["data_dir"] == str(home)
    assert f"data_dir = {tmp_path / 'db'} is set, and applies at the next broker start." in shown.err


def test_data_dir_with_a_queue_is_not_to_be_moved_into(home: Path, tmp_path: Path) -> None:
    for place in (home, tmp_path / "other"):
        place.mkdir(exist_ok=True)
        (place / "queue.db").touch()

    ran = run_cli("config", "set", "data-dir", str(tmp_path / "other"))

    assert (
        f"There is another queue already, with which the broker goes on then:\n  {tmp_path}/other/queue.db" in ran.err
    )
    assert "mv " not in ran.err


def test_wrong_setting_is_mended_by_the_command(home: Path) -> None:
    (home / "config.toml").write_text('log-level = "loud"\n')

    assert run_cli("list").code == 2
    assert run_cli("config", "set", "log-level", "info").code == 0
    assert run_cli("config", "show", "--no-autostart").code == 69


def test_data_dir_of_no_queue_has_nothing_to_be_moved(home: Path, tmp_path: Path) -> None:
    assert run_cli("config", "set", "data-dir", str(tmp_path / "db")).err == "It applies at the next broker start.\n"


def test_get_and_unset_of_a_queue_setting(broker: ScriptedBroker) -> None:
    assert run_cli("config", "get", "max-retries").out == "3\n"
    assert run_cli("config", "get", "timeout", "--json").out == "null\n"
    assert run_cli("config", "unset", "max-retries").out == "Set max_retries = 3\n"


def test_json(broker: ScriptedBroker, home: Path) -> None:
    assert run_cli("config", "set", "max-retries", "5", "--json").json["value"] == 5
    assert run_cli("config", "set", "autostart", "no", "--json").json == {
        "key": "autostart",
        "value": False,
        "file": str(home / "config.toml"),
    }


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("keep_completed", 604800, "That is 7d00h.\n"),
        ("heartbeat", 0.5, "That is 0.50s.\n"),
        ("keep_dead", None, ""),
        ("max_retries", 5, ""),
        ("output_limit", 4096, ""),
    ],
)
def test_times_are_told_with_their_unit(broker: ScriptedBroker, key: str, value: float | None, told: str) -> None:
    broker.on("config_set", {"key": key, "value": value, "before": 1, "per_job": False})

    ran = run_cli("config", "set", key, "none" if value is None else str(value))

    assert (ran.out, ran.err) == (f"Set {key} = {'none' if value is None else value}\n", told)


def test_nothing_is_kept_for_no_time(broker: ScriptedBroker) -> None:
    ran = run_cli("config", "set", "keep-completed", "0")

    assert (ran.code, broker.asked) == (2, [])
    assert "write none to keep them for ever" in ran.err
