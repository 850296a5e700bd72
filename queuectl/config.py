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
from queuectl.ids import KEY_NAME
from queuectl.suggest import did_you_mean

LOCAL = "local"
DEFAULT_PORT = 7710  # workers; clients use the next one
LOG_FORMATS = ("auto", "json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error")
CREDENTIALS = "credentials"  # where an endpoint may come from
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+")
_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Config:
    """The machine settings in force. `origins` says for each key where it came from."""

    endpoint: str = LOCAL  # `local`, or tcp://HOST:PORT of the broker's worker port, or several with commas between
    credentials: Path | None = None  # who we are to a broker on another machine
    context: str | None = None  # the name of credentials that `queuectl context` keeps; `local`: none
    listen: str | None = None  # tcp://HOST:PORT that the broker serves besides its local sockets
    advertise: str | None = None  # the hosts by which others reach it, with commas between
    data_dir: Path = Path()  # of the broker; default: the home
    autostart: bool = True  # start a local broker when a command needs one
    log_format: str = "auto"
    log_level: str = "info"
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.endpoint == LOCAL

    @property
    def endpoint_is_from_credentials(self) -> bool:
        return self.origins["endpoint"] == CREDENTIALS

    def endpoints(self, home: Home) -> tuple[str, str]:
        """The endpoints for workers and for clients; the first ones, if there are more."""
        if self.is_local:
            return home.worker_endpoint, home.client_endpoint
        return self.tcp_endpoints()[0]

    def tcp_endpoints(self) -> list[tuple[str, str]]:
        """The endpoints for workers and for clients, of each place where the broker may be."""
        return [tcp_pair(endpoint) for endpoint in self.endpoint.split(",")]


def tcp_pair(endpoint: str) -> tuple[str, str]:
    """`tcp://host:7710` → itself for workers, and the next port for clients."""
    match = _TCP.fullmatch(endpoint)
    if match is None or not 1 <= int(match[2]) <= 65534:
        raise BadConfig(f"endpoint: {endpoint!r} is not an endpoint", hint=f"write local, or tcp://HOST:{DEFAULT_PORT}")
    return endpoint, f"tcp://{match[1]}:{int(match[2]) + 1}"


def client_endpoint_of(endpoint: str) -> str:
    """The clients' port beside this one of workers. Raises BadConfig."""
    return tcp_pair(endpoint)[1]


def _endpoint(value: Any) -> str:
    if value != LOCAL:
        for each in str(value).split(","):
            tcp_pair(each)
    return str(value)


def _listen(value: Any) -> str:
    return tcp_pair(str(value))[0]


def _hosts(value: Any) -> str:
    for host in str(value).split(","):
        if not _HOST.fullmatch(host):
            raise BadConfig(f"advertise: {host!r} is not a host", hint="a name or an address, without a port")
    return str(value)


def _context(value: Any) -> str:
    if not KEY_NAME.fullmatch(str(value)):
        raise BadConfig(f"context: {value!r} is not a name", hint="letters, digits, and . _ - between them")
    return str(value)


def _file(value: Any) -> Path:
    return _path("credentials", value)


def _directory(value: Any) -> Path:
    return _path("data_dir", value, "directory")


def _path(key: str, value: Any, kind: str = "file") -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise BadConfig(f"{key}: {value!r} is not a {kind}")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~somebody, and there is no such user
        raise BadConfig(f"{key}: {value!r}: {error}") from None


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
    "credentials": _file,
    "context": _context,
    "listen": _listen,
    "advertise": _hosts,
    "data_dir": _directory,
    "autostart": _switch,
    "log_format": _one_of("log_format", LOG_FORMATS),
    "log_level": _one_of("log_level", LOG_LEVELS),
}
KEYS = tuple(_PARSERS)
_NOT_KEYS = frozenset({"QUEUECTL_HOME"})  # read elsewhere
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
    says_where: dict[str, Any] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            given[key] = _parse(key, value, origin)
            origins[key] = origin
        if not layer.keys().isdisjoint(_WHERE):
            says_where = _where(says_where, {key: given[key] for key in _WHERE if key in layer}, home, origin)
    if "credentials" in says_where and "endpoint" not in says_where:
        from queuectl.credentials import load_credentials

        says_where = {**says_where, "endpoint": ",".join(load_credentials(says_where["credentials"]).endpoints)}
        origins["endpoint"] = CREDENTIALS
    given = {key: value for key, value in given.items() if key not in _WHERE} | says_where
    return Config(**given, origins=origins)


_WHERE = frozenset({"endpoint", "credentials", "context"})


def _where(before: dict[str, Any], layer: Mapping[str, Any], home: Home, origin: str) -> dict[str, Any]:
    """Where the broker is, after a layer has had its say: what it names takes the place of what those before named.

    An endpoint alone is another way to the broker of the same credentials, unless it is the local one.
    """
    if "context" in layer:
        if len(layer) > 1:
            raise BadConfig(
                f"context and {min(layer.keys() - {'context'})} say both where the broker is (from {origin})"
            )
        name = layer["context"]
        return {"context": name} | ({"endpoint": LOCAL} if name == LOCAL else {"credentials": home.context_file(name)})
    if "credentials" in layer:
        before = {}
    if layer.get("endpoint") == LOCAL:
        return {"endpoint": LOCAL}
    return {**before, **layer}


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
    for key in ("data_dir", "credentials"):
        path = table.get(key)
        if isinstance(path, str) and path and not path.startswith("~"):
            table[key] = str(home.path / path)  # the file means the same wherever one stands
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
        mend = error.hint or f"{_out_of(key, origin)}, or write another" if origin != "flag" else error.hint
        raise BadConfig(f"{error.message} (from {origin})", hint=mend) from None


def _out_of(key: str, origin: str) -> str:
    """How a setting is taken away from where it came from."""
    place = origin.removeprefix("file ")
    return f"take it out of {place}" if place != origin else f"unset QUEUECTL_{key.upper()}"


def _not_ours(key: str, value: Any, origin: str) -> BadConfig:
    from queuectl.settings import SETTINGS

    if key in SETTINGS:
        return BadConfig(
            f"{key} (from {origin}) is a setting of the queue, not of this machine",
            hint=f"{_out_of(key, origin)}; it is set once for all by: queuectl config set {key} {value}",
        )
    hint = did_you_mean(key, KEYS) or f"known: {', '.join(KEYS)}"
    return BadConfig(f"unknown setting '{key}' (from {origin})", hint=hint)
