"""What lies in deploy/ is read by other programs: here it is checked as far as they, or their grammars, are at hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from queuectl.config import KEYS, Config, load_config
from queuectl.credentials import Credentials, new_key_pair, text_of, write_secret
from queuectl.home import Home
from queuectl.jobs import parse_job

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = ("queuectl-broker.service", "queuectl-worker@.service")
EXECUTABLE = "/opt/queuectl/bin/queuectl"
SHIPPER_LINES_MAX = 40
EXPOSURE_MAX = 20  # of 100, as systemd-analyze counts

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def place_units(directory: Path, *, text: str = "") -> list[Path]:
    """Copy the units, with an executable that exists; the verifier refuses one that does not."""
    placed = []
    for name in UNITS:
        placed.append(directory / name)
        placed[-1].write_text((DEPLOY / name).read_text().replace(EXECUTABLE, "/bin/true") + text)
    return placed


def write_credentials(directory: Path, name: str = "credentials.toml") -> Path:
    """Credentials as `auth add` writes them."""
    (public, secret), (server, _) = new_key_pair(), new_key_pair()
    path = directory / name
    write_secret(
        path, text_of(Credentials("builder", "worker", ("tcp://queue.example:7710",), (server,), public, secret))
    )
    return path


def verify(*units: Path) -> str:
    """What systemd-analyze complains about: its exit code is 0 even for a key that it does not know."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False
    )
    return done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def sections(name: str) -> list[tuple[str, dict[str, str]]]:
    """The sections of a file of Fluent Bit: a name in brackets, then one key and value a line."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif line.strip() and not line.strip().startswith("#"):
            key, value = line.split(maxsplit=1)
            found[-1][1][key] = value
    return found


@needs_systemd
def test_units_are_valid(tmp_path: Path) -> None:
    assert verify(*place_units(tmp_path)) == ""


@needs_systemd
def test_hardened_worker_is_valid(tmp_path: Path) -> None:
    _, worker = place_units(tmp_path)
    drop_in = tmp_path / f"{worker.name}.d"
    drop_in.mkdir()
    shutil.copy(DEPLOY / "hardening.conf", drop_in)

    assert verify(worker) == ""


@needs_systemd
def test_fault_in_a_unit_is_found(tmp_path: Path) -> None:
    assert "Sing" in verify(*place_units(tmp_path, text="\n[Service]\nSing=yes\n"))


def test_hardened_broker_keeps_what_zeromq_aborts_without() -> None:
    lines = (DEPLOY / "queuectl-broker.service").read_text().splitlines()

    assert lines.index("SystemCallFilter=sched_setscheduler") > lines.index("SystemCallFilter=~@privileged @resources")
    assert any(line.startswith("RestrictAddressFamilies=") and "AF_NETLINK" in line for line in lines)


@pytest.mark.parametrize("name", UNITS)
def test_unit_runs_queuectl_with_machine_settings_that_exist(name: str, tmp_path: Path) -> None:
    text = re.sub(r"^#.*", "", (DEPLOY / name).read_text(), flags=re.MULTILINE)
    variables = dict(re.findall(r"(QUEUECTL_[A-Z_]+)=(\S+)", text))
    home = Home(Path(variables.pop("QUEUECTL_HOME")))
    if "QUEUECTL_CREDENTIALS" in variables:
        assert Path(variables["QUEUECTL_CREDENTIALS"]).parent == home.path
        variables["QUEUECTL_CREDENTIALS"] = str(write_credentials(tmp_path))

    assert re.search(rf"^ExecStart={EXECUTABLE} (broker|worker) start", text, re.MULTILINE)
    assert load_config(home, environ=variables).log_format == "json"


def test_worker_is_another_user_than_the_broker_and_cannot_enter_its_home() -> None:
    broker, worker = ((DEPLOY / name).read_text() for name in UNITS)

    for key in ("User", "Group", "StateDirectory", "WorkingDirectory"):
        (of_broker,), (of_worker,) = (re.findall(rf"^{key}=(.*)", text, re.MULTILINE) for text in (broker, worker))
        assert of_broker != of_worker
    assert all("StateDirectoryMode=0700\n" in text for text in (broker, worker))
    assert "ReadWritePaths=/var/lib/queuectl-worker\n" in (DEPLOY / "hardening.conf").read_text()


@needs_systemd
def test_broker_stays_locked_in(tmp_path: Path) -> None:
    broker, _ = place_units(tmp_path)
    line = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(broker)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-300:]


@needs_systemd
def test_drop_ins_of_the_readme_are_valid(tmp_path: Path) -> None:
    broker, worker = place_units(tmp_path)
    readme = (DEPLOY / "README.md").read_text()
    (printed,) = re.findall(r"^printf '(.*?)' (\S+) (\S+) ", readme, re.MULTILINE)
    (written,) = re.findall(r"^```ini\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    listen = printed[0].replace("\\n", "\n") % printed[1:]
    for unit, text in ((broker, listen), (worker, written)):
        (tmp_path / f"{unit.name}.d").mkdir()
        (tmp_path / f"{unit.name}.d" / "own.conf").write_text(text)

    assert verify(broker, worker) == ""
    variables = dict(re.findall(r"(QUEUECTL_[A-Z_]+)=(\S+)", listen))
    assert load_config(Home(tmp_path), environ=variables).advertise == printed[2]


def settings_shown(mark: str) -> dict[str, str]:
    """The lines of config.toml that begin like this, without the mark, by their keys."""
    lines = re.findall(rf"^# {mark}((\w+) = .*)", (DEPLOY / "config.toml").read_text(), re.MULTILINE)
    return {key: line for line, key in lines}


def test_config_shows_every_setting_with_its_default_or_an_example(tmp_path: Path) -> None:
    defaults, examples = settings_shown(""), settings_shown("Example: ")
    (tmp_path / "config.toml").write_text("\n".join(defaults.values()))

    shown = load_config(Home(tmp_path), environ={})

    assert shown == Config(data_dir=Path("/var/lib/queuectl"), origins=shown.origins)
    assert {key for key in KEYS if shown.origins[key].startswith("file")} == set(defaults)
    assert {key for key in KEYS if getattr(shown, key) is None} == set(examples)
    assert set(defaults) | set(examples) == set(KEYS)


@pytest.mark.parametrize("key", settings_shown("Example: "))
def test_examples_in_config_are_good(tmp_path: Path, key: str) -> None:
    write_credentials(tmp_path, "builder.toml")
    (tmp_path / "contexts").mkdir()
    write_credentials(tmp_path / "contexts", "office.toml")
    (tmp_path / "config.toml").write_text(settings_shown("Example: ")[key])

    shown = load_config(Home(tmp_path), environ={})

    assert shown.origins[key].startswith("file")
    assert getattr(shown, key) is not None


def test_config_changes_nothing_as_it_stands(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "config.toml", tmp_path)

    assert set(load_config(Home(tmp_path), environ={}).origins.values()) == {"default"}


def test_vector_reads_what_exists() -> None:
    table = tomllib.loads((DEPLOY / "vector.toml").read_text())
    outputs = {*table["sources"], *table["transforms"], *(f"{name}.dropped" for name in table["transforms"])}
    inputs = {name for kind in ("transforms", "sinks") for each in table[kind].values() for name in each["inputs"]}

    assert inputs <= outputs


def test_fluent_bit_reads_what_exists() -> None:
    parts = sections("fluent-bit.conf")
    tags = {keys["Tag"] for kind, keys in parts if kind == "INPUT"}
    parsers = {keys["Name"] for kind, keys in sections("fluent-bit-parsers.conf") if kind == "PARSER"}

    assert {keys["Match"] for kind, keys in parts if kind in ("FILTER", "OUTPUT")} == tags
    assert {keys["Parser"] for _, keys in parts if "Parser" in keys} == parsers
    assert [keys["Parsers_File"] for kind, keys in parts if kind == "SERVICE"] == ["fluent-bit-parsers.conf"]


@pytest.mark.parametrize("name", ["vector.toml", "fluent-bit.conf", "fluent-bit-parsers.conf"])
def test_shippers_look_for_the_name_that_the_units_give(name: str) -> None:
    text = (DEPLOY / name).read_text()

    assert len(text.splitlines()) <= SHIPPER_LINES_MAX
    if "SYSLOG_IDENTIFIER" in text:
        (identifier,) = set(re.findall(r"SYSLOG_IDENTIFIER\W+(\w+)", text))
        assert all(f"SyslogIdentifier={identifier}\n" in (DEPLOY / unit).read_text() for unit in UNITS)


def test_demo_is_a_shell_script() -> None:
    script = DEPLOY / "demo" / "demo.sh"
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert script.stat().st_mode & 0o111


def test_demo_enqueues_valid_jobs() -> None:
    lines = (DEPLOY / "demo" / "jobs.jsonl").read_text().splitlines()

    assert len({parse_job(json.loads(line)).id for line in lines}) == len(lines)


def test_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()

    assert [path.name for path in DEPLOY.iterdir() if path.name not in text and path.suffix != ".md"] == []
