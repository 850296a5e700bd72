"""Files of credentials as the command line makes them and keeps them current."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.escape import visible
from queuectl.credentials import Credentials, fingerprint, load_credentials, text_of, write_secret
from queuectl.errors import BrokerUnreachable, OutcomeUnknown, QueuectlError, WrongState

if TYPE_CHECKING:
    from cli.session import Session
    from queuectl.client import Client


_TO_LISTEN = "queuectl broker start --listen tcp://0.0.0.0:7710 --advertise HOST"


class Face(NamedTuple):
    """How a broker is reached from elsewhere, and by which public keys it is known."""

    endpoints: tuple[str, ...]
    server_keys: tuple[str, ...]


def broker_of(session: Session) -> Client:
    """The broker that is asked for keys: one that was started unasked would have none. Raises BrokerUnreachable."""
    client = session.client(autostart=False)
    if session.config.is_local and not client.connect():
        raise BrokerUnreachable(f"no broker runs at {client.endpoint}", hint=f"start one: {_TO_LISTEN}")
    return client


def face_of(client: Client) -> Face:
    """What credentials for this broker are to say of it. Raises WrongState if it takes no keys."""
    told = client.request("whoami")
    if not told["endpoints"] or not told["server_keys"]:
        raise WrongState(
            "this broker takes no keys: it was not started to be reached from other machines",
            hint=f"stop it, and: {_TO_LISTEN}",
        )
    return Face(tuple(told["endpoints"]), tuple(told["server_keys"]))


@contextmanager
def handed_out(session: Session, made: Credentials, file: Path) -> Iterator[None]:
    """The file stands while the broker is told of its key, and goes away if the broker will not have it.

    Raises WrongState if there is a file already.
    """
    try:
        write_secret(file, text_of(made))
    except FileExistsError:
        raise WrongState(f"{file} is there already", hint="name another file: --out FILE") from None
    try:
        yield
    except (OutcomeUnknown, KeyboardInterrupt):
        shown = visible(f"{file} is kept: its key {fingerprint(made.public_key)} may be known to the broker")
        session.warn(f"{shown}; see: queuectl auth show {visible(made.name)}")
        raise
    except QueuectlError:
        file.unlink(missing_ok=True)
        raise


def refreshed(file: Path, face: Face) -> tuple[list[str], Credentials]:
    """Have a file say how the broker is reached now; what has changed, in lines, and what it says."""
    before = load_credentials(file)
    after = replace(before, endpoints=face.endpoints, server_keys=face.server_keys)
    if after != before:
        write_secret(file, text_of(after), replace=True)
    changes = _changes("server key", map(fingerprint, before.server_keys), map(fingerprint, after.server_keys))
    return changes + _changes("endpoint", before.endpoints, after.endpoints), after


def _changes(what: str, before: Iterable[str], after: Iterable[str]) -> list[str]:
    old, new = list(before), list(after)
    lines = [f"  new {what}: {visible(each)}" for each in new if each not in old]
    lines += [f"  {what} no more: {visible(each)}" for each in old if each not in new]
    return lines or ([f"  {what}s in another order"] if old != new else [])
