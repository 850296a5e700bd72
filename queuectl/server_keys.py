"""The broker's own keys, in `keys/` of its home: the one it has now, and the one that will take its place.

To exchange the key, the next one is made first and made known to everybody (`queuectl auth refresh`), then put in
the place of the old one. The files hold secrets: 0600 in a directory of 0700, and refused if others can read them.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import NamedTuple

from queuectl.credentials import Z85_KEY, new_key_pair, read_secret, write_secret
from queuectl.errors import BadCredentials, NotAllowed, WrongState

CURRENT, NEXT = "server.key", "server.next"


class KeyPair(NamedTuple):
    """A public key and its secret half."""

    public: str
    secret: str


class ServerKeys(NamedTuple):
    """The key that the broker proves itself with, and the one that it will have next."""

    current: KeyPair
    following: KeyPair | None

    @property
    def public(self) -> tuple[str, ...]:
        """The public keys that credentials are to name."""
        return (self.current.public, *([self.following.public] if self.following is not None else []))


def load_server_keys(directory: Path, *, create: bool = False) -> ServerKeys | None:
    """The keys of the broker whose `keys/` this is; None if it has none yet, unless one is to be made.

    Raises BadCredentials; NotAllowed where others could read them.
    """
    path = directory / CURRENT
    if not path.exists():
        if not create:
            return None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_open(directory)
        _write(path)
    _refuse_open(directory)
    following = directory / NEXT
    return ServerKeys(_read(path), _read(following) if following.exists() else None)


def prepare_next(directory: Path) -> ServerKeys:
    """Make the key that is to take the place of the present one. Raises WrongState if there is one already."""
    if load_server_keys(directory) is None:
        raise WrongState("this broker has no key yet", hint="it makes one when it is started with --listen")
    try:
        _write(directory / NEXT)
    except FileExistsError:
        raise WrongState(
            "the next server key is made already", hint="finish: queuectl auth rotate --server --finish"
        ) from None
    keys = load_server_keys(directory)
    assert keys is not None
    return keys


def put_next_in_place(directory: Path) -> ServerKeys:
    """The next key becomes the key; the old one is gone. Raises WrongState if there is none."""
    try:
        (directory / NEXT).replace(directory / CURRENT)
    except FileNotFoundError:
        raise WrongState("no next server key was made", hint="begin with: queuectl auth rotate --server") from None
    keys = load_server_keys(directory)
    assert keys is not None
    return keys


def _write(path: Path) -> None:
    public, secret = new_key_pair()
    write_secret(path, json.dumps({"public_key": public, "secret_key": secret}) + "\n")


def _read(path: Path) -> KeyPair:
    text = read_secret(path)
    try:
        table = json.loads(text)
        pair = KeyPair(str(table["public_key"]), str(table["secret_key"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadCredentials(f"{path} is not a server key") from None
    if not all(map(Z85_KEY.fullmatch, pair)):
        raise BadCredentials(f"{path} is not a server key")
    return pair


def _refuse_open(directory: Path) -> None:
    if stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise NotAllowed(f"{directory} can be read by others", hint=f"chmod 700 {directory}")
