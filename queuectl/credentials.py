"""Credentials: the one file that lets its holder in at a broker on another machine.

    # queuectl credentials of 'builder' (worker). Whoever has this file is 'builder': keep it to yourself.
    name = "builder"
    role = "worker"
    endpoints = ["tcp://queue.example:7710"]
    server_keys = ["…"]
    public_key = "…"
    secret_key = "…"

Keys are CurveZMQ keys (RFC 26) in 40 characters of Z85 (RFC 32). The name and the role are for people: the broker
knows them by the public key. More than one endpoint: each is tried. More than one server key: the broker's is being
exchanged.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from queuectl.errors import BadCredentials, NotAllowed

ROLES = {
    "worker": "lease and report jobs of its queues",
    "submit": "enqueue, and see its own jobs",
    "read": "see everything, change nothing",
    "admin": "everything",
}
Z85_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of file systems that have none
_LISTS = ("endpoints", "server_keys")
_TEXTS = ("name", "role", "public_key", "secret_key")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who one is to a broker, where that is, and by what it is known."""

    name: str
    role: str
    endpoints: tuple[str, ...]  # tcp://HOST:PORT of the workers' port
    server_keys: tuple[str, ...]  # public; the broker has one of them
    public_key: str
    secret_key: str = field(repr=False)


def fingerprint(public_key: str) -> str:
    """What people compare in place of a public key."""
    digest = hashlib.sha256(public_key.encode()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def new_key_pair() -> tuple[str, str]:
    """A fresh public and secret key."""
    import zmq

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def load_credentials(path: Path) -> Credentials:
    """Read a file of credentials. Raises BadCredentials; NotAllowed if others can read it."""
    return _parse(read_secret(path), path)


def read_secret(path: Path) -> str:
    """The text of a file that is ours alone. Raises BadCredentials; NotAllowed if others can read it."""
    try:
        # NONBLOCK: what was meant to be a file may be a pipe that nobody writes to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            _refuse_open(os.fstat(file.fileno()), path)
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadCredentials(f"cannot read {path}: {reason}") from None


def write_secret(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a file that nobody else can read, whole or not at all.

    Raises FileExistsError unless it may `replace`, BadCredentials where nothing can be written.
    """
    if replace:
        path = path.resolve()  # a link stays one: others read what it leads to
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:  # of the draft, of which nobody has heard
        raise BadCredentials(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _put(draft, path, replace=replace)
        _sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path, *, replace: bool) -> None:
    if replace:
        draft.replace(path)
        return
    try:
        os.link(draft, path)  # fails if there is one, which a rename would not
    except FileExistsError as error:
        raise FileExistsError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(f"{path} is there already") from None
        draft.rename(path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def text_of(credentials: Credentials) -> str:
    """The file of these credentials."""
    who = f"'{credentials.name}'"
    lines = [
        f"# queuectl credentials of {who} ({credentials.role}). Whoever has this file is {who}: keep it to yourself."
    ]
    for key in ("name", "role", "endpoints", "server_keys", "public_key", "secret_key"):
        value = getattr(credentials, key)
        lines.append(f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    return "\n".join(lines) + "\n"


def _refuse_open(info: os.stat_result, path: Path) -> None:
    """A secret that others could read is none. What a service manager hands over is kept by it."""
    handed_over = os.environ.get("CREDENTIALS_DIRECTORY")
    mask = 0o007 if handed_over and path.is_relative_to(handed_over) else 0o077
    if not stat.S_ISREG(info.st_mode):
        raise BadCredentials(f"{path} is not a file")
    if info.st_mode & mask:
        raise NotAllowed(f"{path} can be read by others (mode {info.st_mode & 0o777:04o})", hint=f"chmod 600 {path}")


def _parse(text: str, path: Path) -> Credentials:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCredentials(f"{path} is not valid TOML: {error}") from None
    problem = _problem(table)
    if problem is not None:
        raise BadCredentials(f"{path}: {problem}", hint="have it made anew: queuectl auth add")
    return Credentials(
        name=table["name"],
        role=table["role"],
        endpoints=tuple(table["endpoints"]),
        server_keys=tuple(table["server_keys"]),
        public_key=table["public_key"],
        secret_key=table["secret_key"],
    )


def _problem(table: dict[str, Any]) -> str | None:
    from queuectl.config import tcp_pair

    for key in _TEXTS:
        if not isinstance(table.get(key), str):
            return f"{key} is missing, or not text"
    for key in _LISTS:
        value = table.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            return f"{key} is missing, or not a list of texts"
    for each in (*table["server_keys"], table["public_key"], table["secret_key"]):
        if not Z85_KEY.fullmatch(each):
            return "a key in it is not one"
    for endpoint in table["endpoints"]:
        tcp_pair(endpoint)
    if table["role"] not in ROLES:
        return f"unknown role {table['role']!r}"
    return None
