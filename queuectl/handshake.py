"""Why a connection with keys does not come up: what ZeroMQ's monitor tells, in words.

libzmq says little: a refused key is an event with the status of ZAP (RFC 27), a wrong server key is a connection
that ends in the handshake, other ways of speaking are a protocol error.
"""

from __future__ import annotations

import zmq
from zmq.utils.monitor import parse_monitor_message

from queuectl.errors import (
    BrokerUnreachable,
    KeyNotAccepted,
    KeysNotSpoken,
    KeysRequired,
    QueuectlError,
    ServerKeyMismatch,
)
from queuectl.probe import hear_greeting, silent
from queuectl.ways import Way

WATCHED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED  # nobody listens there
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
KEY_HINT = "see on the broker's machine: queuectl auth list; whose keys were revoked needs another name"
_MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)


def put_keys(socket: zmq.Socket[bytes], way: Way) -> None:
    """Have a socket that is to be connected speak with the keys of this way, if it has some."""
    if way.credentials is None or way.server_key is None:
        return
    socket.curve_serverkey = way.server_key.encode()
    socket.curve_publickey = way.credentials.public_key.encode()
    socket.curve_secretkey = way.credentials.secret_key.encode()


def cause_of(frames: list[bytes], way: Way) -> QueuectlError | None:
    """What a message of the monitor of a connecting socket means; None: an established connection has ended."""
    told = parse_monitor_message(frames)
    event, value = int(told["event"]), int(told["value"])
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return key_not_accepted(way)
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return keys_required(way) if value == _MISMATCH and way.server_key is None else server_key_mismatch(way)
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return server_key_mismatch(way) if way.server_key is not None else unreachable(way)
    return unreachable(way) if event == zmq.EVENT_CLOSED else None


def has_succeeded(frames: list[bytes]) -> bool:
    """Whether the monitor tells that the connection is up."""
    return int(parse_monitor_message(frames)["event"]) == zmq.EVENT_HANDSHAKE_SUCCEEDED


def is_certain(frames: list[bytes]) -> bool:
    """Whether what the monitor tells has one meaning: a key that was refused, or nobody who listens."""
    event = int(parse_monitor_message(frames)["event"])
    return event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_CLOSED)


def look_closer(way: Way, address: str) -> QueuectlError:
    """Why whoever is at this address of the way ends connections in the handshake. Takes seconds where it is silent."""
    try:
        return cause_of_greeting(hear_greeting(address), way)
    except TimeoutError:
        return silent(way.endpoint)
    except (OSError, UnicodeError):  # the latter of a name that can be none
        return unreachable(way)


def cause_of_greeting(mechanism: str | None, way: Way) -> QueuectlError:
    """Why it ends connections of this way in the handshake, by how it greets: a wrong server key, no keys, and another
    program look alike to libzmq."""
    has_keys = way.server_key is not None
    if mechanism == "CURVE":
        return server_key_mismatch(way) if has_keys else keys_required(way)
    if mechanism == "NULL":
        return keys_not_spoken(way) if has_keys else unreachable(way)
    return not_a_broker(way)


def key_not_accepted(way: Way) -> KeyNotAccepted:
    """It knows nobody of this key."""
    who = way.credentials.name if way.credentials is not None else "nobody"
    return KeyNotAccepted(
        f"the broker at {way.endpoint} does not accept the key of '{who}': it was revoked, or never added there",
        hint=KEY_HINT,
        details={"endpoint": way.endpoint},
    )


def server_key_mismatch(way: Way) -> ServerKeyMismatch:
    """It is not the broker that the credentials are for."""
    return ServerKeyMismatch(
        f"whoever answers at {way.endpoint} does not hold the server key that these credentials name",
        hint="if the broker's key was exchanged, have the credentials made anew; if not, it is somebody else",
        details={"endpoint": way.endpoint},
    )


def keys_not_spoken(way: Way) -> KeysNotSpoken:
    """It listens without keys, so it could be anybody."""
    return KeysNotSpoken(
        f"whoever answers at {way.endpoint} speaks without keys; these credentials are for a broker that has one",
        hint="is it a broker that was started with --insecure-no-auth?",
        details={"endpoint": way.endpoint},
    )


def keys_required(way: Way) -> KeysRequired:
    """It takes nobody without keys."""
    return KeysRequired(
        f"the broker at {way.endpoint} takes nobody without credentials",
        hint="have some made there (queuectl auth add NAME --role …) and give them: --credentials FILE",
        details={"endpoint": way.endpoint},
    )


def not_a_broker(way: Way) -> BrokerUnreachable:
    """Another program."""
    return BrokerUnreachable(
        f"whoever answers at {way.endpoint} is no broker; nothing was sent",
        hint="is another program there? The port of clients is one above that of workers",
        details={"endpoint": way.endpoint},
    )


def unreachable(way: Way) -> BrokerUnreachable:
    """Nobody answers there."""
    return BrokerUnreachable(
        f"no broker answers at {way.endpoint}; nothing was sent",
        hint="is a broker running there with --listen, and does the firewall let you through?",
        details={"endpoint": way.endpoint},
    )
