"""Exchange the broker's own key, on its machine: the next key is made, made known, and put in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.options import usage
from queuectl.credentials import fingerprint
from queuectl.errors import WrongState
from queuectl.server_keys import ServerKeys, load_server_keys, prepare_next, put_next_in_place

if TYPE_CHECKING:
    from cli.session import Session


def prepare_exchange(session: Session) -> int:
    """Make the next key, and have the broker tell it to those who ask. Raises WrongState."""
    _refuse_elsewhere(session)
    keys = _prepare(session)
    assert keys.following is not None
    return _conclude(
        session,
        keys,
        f"The next server key is {fingerprint(keys.following.public)}.",
        "Now, with each file of credentials: queuectl auth refresh FILE\n"
        "When all have it: queuectl auth rotate --server --finish",
    )


def finish_exchange(session: Session) -> int:
    """Put the next key in the place of the present one, at once. Raises WrongState."""
    _refuse_elsewhere(session)
    keys = _put_in_place(session)
    return _conclude(
        session,
        keys,
        f"The server key is now {fingerprint(keys.current.public)}.",
        "Connections under the old key have ended; who has the new one is back by itself.\n"
        "Who has not needs a new file: queuectl auth rotate NAME --out FILE",
    )


def _prepare(session: Session) -> ServerKeys:
    """The keys with the next one, made now or by a run that the broker did not hear of. Raises WrongState."""
    try:
        return prepare_next(session.home.keys)
    except WrongState:
        keys = load_server_keys(session.home.keys)
        if keys is None or not _differs(session, keys):
            raise
        return keys


def _put_in_place(session: Session) -> ServerKeys:
    """The keys afterwards. A finish that the broker did not hear of may be repeated. Raises WrongState."""
    try:
        return put_next_in_place(session.home.keys)
    except WrongState:
        keys = load_server_keys(session.home.keys)
        if keys is None or not _differs(session, keys):
            raise
        return keys


def _differs(session: Session, keys: ServerKeys) -> bool:
    """Whether the broker of this home, if one runs, goes by another key than the one in place."""
    from queuectl.client import Client

    with Client("local", home=session.home) as client:
        return client.connect() and client.request("whoami")["server_keys"] != list(keys.public)


def _conclude(session: Session, keys: ServerKeys, deed: str, steps: str) -> int:
    was_told = _told_broker(session)
    following = None if keys.following is None else fingerprint(keys.following.public)
    if session.as_json:
        session.emit({"current": fingerprint(keys.current.public), "next": following, "broker_told": was_told})
    elif session.quiet:
        session.print(following or fingerprint(keys.current.public))
    else:
        session.print(deed)
        session.note(steps if was_told else "No broker runs here; it will read its keys when it starts.\n" + steps)
    return 0


def _told_broker(session: Session) -> bool:
    """Have the broker of this home read its keys again; False if none runs."""
    from queuectl.client import Client

    with Client("local", home=session.home) as client:
        if not client.connect():
            return False
        client.request("reload")
    return True


def _refuse_elsewhere(session: Session) -> None:
    if any(session.flags[key] for key in ("endpoint", "credentials", "context")):
        usage("the server key is in the home of its broker", "run this there, as the user who runs the broker")
