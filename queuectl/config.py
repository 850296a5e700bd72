"""Machine settings: flag > environment (`QUEUECTL_*`) > `config.toml` > default, validated once at the door.

Only what belongs to this machine stands here: where the broker is, where data lies, how to log. What
belongs to the queue (retries, timeouts …) lives in the broker's database; found here, it is refused with
the `config set` line to use instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from queuectl.errors import BadConfig
from queuectl.home import Home
from queuectl.suggest import did_you_mean

LOCAL = "local"
DEFAULT_PORT = 7710  # workers; clients use the next one
LOG_FORMATS = ("auto", "json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error")
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Config:
    """The machine settings in force. `origins` says for each key where it came from."""

    endpoint: str = LOCAL  # `local`, or tcp://HOST:PORT of the broker's worker port
    data_dir: Path = Path()  # of the broker; default: the home
    autostart: bool = True  # start a local broker when a command needs one
    log_format: str = "auto"
    log_level: str = "info"
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.endpoint == LOCAL

    def endpoints(self, home: Home) -> tuple[str, str]:
        """The endpoints for workers and for clients."""
        if self.is_local:
            return home.worker_endpoint, home.client_endpoint
        return tcp_pair(self.endpoint)


def tcp_pair(endpoint: str) -> tuple[str, str]:
    """`tcp://host:7710` → itself for workers, and the next port for clients."""
    match = _TCP.fullmatch(endpoint)
    if match is None or not 1 <= int(match[2]) <= 65534:
        raise BadConfig(f"endpoint: {endpoint!r} is not one", hint=f"write local, or tcp://HOST:{DEFAULT_PORT}")
    return endpoint, f"tcp://{match[1]}:{int(match[2]) + 1}"


def _endpoint(value: Any) -> str:
    if value != LOCAL:
        tcp_pair(str(value))
    return str(value)


def _directory(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise BadConfig(f"data_dir: {value!r} is not a directory")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~somebody, and there is no such user
        raise BadConfig(f"data_dir: {value!r}: {error}") from None


def _switch(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise BadConfig(f"autostart: {value!r} is neither true nor false")
    return words[str(value).lower()]


def _one_of(key: str, words: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise BadConfig(f"{key}: must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    return parse


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "endpoint": _endpoint,
    "data_dir": _directory,
    "autostart": _switch,
    "log_format": _one_of("log_format", LOG_FORMATS),
    "log_level": _one_of("log_level", LOG_LEVELS),
}
KEYS = tuple(_PARSERS)
_NOT_KEYS = frozenset({"QUEUECTL_HOME", "QUEUECTL_CREDENTIALS"})  # read elsewhere
assert set(KEYS) == {entry.name for entry in fields(Config)} - {"origins"}


def load_config(home: Home, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of this process. Flags that are None count as not given. Raises BadConfig."""
    given: dict[str, Any] = {"data_dir": home.path}
    origins = dict.fromkeys(KEYS, "default")
    layers = (
        (f"file {home.config_file}", _from_file(home)),
        ("environment", _from_environment(os.environ if environ is None else environ)),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    )
    for origin, layer in layers:
        for key, value in layer.items():
            given[key] = _parse(key, value, origin)
            origins[key] = origin
    return Config(**given, origins=origins)


def parse_machine_setting(key: str, value: str) -> tuple[str, Any]:
    """A machine setting given by a person: its canonical key and checked value. Raises BadConfig."""
    from queuectl.settings import canonical

    return canonical(key), _parse(canonical(key), value, "command line")


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a config.toml; empty if there is none. Raises BadConfig."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from None
    return _from_toml(text, path)


def _from_toml(text: str, path: Path) -> dict[str, Any]:
    import tomllib

    from queuectl.settings import canonical

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: thousands of digits, or of brackets
        raise BadConfig(f"{path} is not valid TOML: {error}") from None
    return {canonical(key): value for key, value in table.items()}


def _from_file(home: Home) -> dict[str, Any]:
    table = read_file(home.config_file)
    directory = table.get("data_dir")
    if isinstance(directory, str) and directory and not directory.startswith("~"):
        table["data_dir"] = str(home.path / directory)  # the file means the same wherever one stands
    return table


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    given = {
        name.removeprefix("QUEUECTL_"): value
        for name, value in environ.items()
        if name.startswith("QUEUECTL_") and name not in _NOT_KEYS and not name.startswith("QUEUECTL_JOB_")
    }
    if not given:
        return {}
    from queuectl.settings import canonical

    return {canonical(name): value for name, value in given.items()}


def _parse(key: str, value: Any, origin: str) -> Any:
    if key not in _PARSERS:
        raise _not_ours(key, value, origin)
    try:
        return _PARSERS[key](value)
    except BadConfig as error:
        raise BadConfig(f"{error.message} (from {origin})", hint=error.hint) from None


def _not_ours(key: str, value: Any, origin: str) -> BadConfig:
    from queuectl.settings import SETTINGS

    if key in SETTINGS:
        return BadConfig(
            f"{key} (from {origin}) is a setting of the queue, not of this machine",
            hint=f"set it once for all: queuectl config set {key} {value}",
        )
    hint = did_you_mean(key, KEYS) or f"known: {', '.join(KEYS)}"
    return BadConfig(f"unknown setting '{key}' (from {origin})", hint=hint)
