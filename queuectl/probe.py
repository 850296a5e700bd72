"""Who listens at an endpoint, asked without ZeroMQ: on this machine at once, elsewhere in a moment.

zmq itself would try again and again until a time-out; a plain connect is refused on the spot.
"""

from __future__ import annotations

import socket
import struct

from queuectl.errors import BrokerUnreachable, NotAllowed
from queuectl.home import refuse_foreign_directory

IPC = "ipc://"
GREETING_TIMEOUT_S = 2.0
_GREETING_BYTES = 64
_GREETING_START = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0"  # to the version: whoever heard of another mechanism would hang up
_CONNECT_TIMEVAL = struct.pack("ll", 3, 0)  # seconds, microseconds: longer where a listener has a queue that is full


def dial(endpoint: str) -> socket.socket | None:
    """A socket that is connected to this ipc endpoint, or None if nobody listens there.

    Raises NotAllowed where others could have put a socket, BrokerUnreachable where the listener takes no more.
    """
    path = endpoint.removeprefix(IPC)
    line = socket.socket(socket.AF_UNIX)
    try:
        refuse_foreign_directory(path.rpartition("/")[0])
        line.settimeout(None)  # whatever the program has set for others: a local connect has one of its own
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _CONNECT_TIMEVAL)
        line.connect(path)
    except BaseException as error:
        line.close()
        if isinstance(error, BlockingIOError):
            raise silent(endpoint) from None
        if isinstance(error, PermissionError):
            raise NotAllowed(f"{path} belongs to another user") from None
        if isinstance(error, OSError) and error.errno is not None:
            return None
        raise
    return line


def mechanism_at(endpoint: str) -> str | None:
    """What `hear_greeting` says; None also where nobody answers."""
    try:
        return hear_greeting(endpoint)
    except OSError:
        return None


def hear_greeting(endpoint: str) -> str | None:
    """How whoever listens at this TCP endpoint secures its connections, as its greeting says (NULL, CURVE); None: it
    does not greet as ZeroMQ does (ZMTP 3, RFC 23). Raises OSError where nobody answers, TimeoutError if not in time.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    greeting = bytearray()
    with socket.create_connection((host.strip("[]"), int(port)), timeout=GREETING_TIMEOUT_S) as line:
        line.sendall(_GREETING_START)
        while len(greeting) < _GREETING_BYTES and (more := line.recv(_GREETING_BYTES - len(greeting))):
            greeting += more
    is_zmtp_3 = len(greeting) == _GREETING_BYTES and (greeting[0], greeting[9]) == (0xFF, 0x7F) and greeting[10] >= 3
    return bytes(greeting[12:32]).rstrip(b"\0").decode(errors="replace") if is_zmtp_3 else None


def silent(endpoint: str) -> BrokerUnreachable:
    """Somebody listens there, and does not answer."""
    return BrokerUnreachable(
        f"whoever listens at {endpoint} does not answer; nothing was sent",
        hint="it is a broker that is stopped (SIGSTOP) or overloaded, or another program",
        details={"endpoint": endpoint},
    )


def somebody_listens(endpoint: str) -> bool:
    """Whether a process listens on this ipc endpoint. Raises NotAllowed as `dial` does."""
    line = dial(endpoint)
    if line is not None:
        line.close()
    return line is not None
