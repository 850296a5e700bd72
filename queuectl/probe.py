"""Who listens at an endpoint, and where that is, asked without ZeroMQ: on this machine at once, elsewhere in a moment.

zmq itself would try again and again until a time-out, and of the addresses of a name the first only.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic

from queuectl.errors import BrokerUnreachable, NotAllowed
from queuectl.home import refuse_foreign_directory
from queuectl.ways import address_in
from queuectl.zmtp import LocalLine

IPC = "ipc://"
GREETING_TIMEOUT_S = 2.0
GREETED_WITHIN_S = 0.3  # on this machine; whoever is stopped listens all the same
LOOKUP_TIMEOUT_S = 5.0  # of the address of a name
ADDRESSES_MAX = 4  # of one name; each may take its time
_GREETING_BYTES = 64
_READY_BYTES = 255  # what ZeroMQ says next is a short frame
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


def hear_greeting(endpoint: str) -> str | None:
    """How whoever listens at this TCP endpoint secures its connections, as its greeting says (NULL, CURVE); None: it
    does not greet as ZeroMQ does (ZMTP 3, RFC 23). Raises OSError where nobody answers, TimeoutError if not in time,
    UnicodeError for a name that can be none.
    """
    greeting = bytearray()
    with socket.create_connection(_host_and_port(endpoint), timeout=GREETING_TIMEOUT_S) as line:
        line.sendall(_GREETING_START)
        end = monotonic() + GREETING_TIMEOUT_S
        while len(greeting) < _GREETING_BYTES and (more := line.recv(_GREETING_BYTES - len(greeting))):
            greeting += more
            line.settimeout(max(0.001, end - monotonic()))  # of the whole, not of each byte
    is_zmtp_3 = len(greeting) == _GREETING_BYTES and (greeting[0], greeting[9]) == (0xFF, 0x7F) and greeting[10] >= 3
    return bytes(greeting[12:32]).rstrip(b"\0").decode(errors="replace") if is_zmtp_3 else None


def addresses_of(endpoint: str) -> list[str]:
    """This TCP endpoint with each address of its host in the place of the name, those of IPv4 first: what listens at
    0.0.0.0 has no other, whatever the name has. Raises BrokerUnreachable where there is none, or none in time.
    """
    if address_in(endpoint) is not None:
        return [endpoint]
    host, port = _host_and_port(endpoint)
    found = _look_up(host, port, endpoint)
    hosts = dict.fromkeys(host for _, host in sorted(found, key=lambda each: each[0] != socket.AF_INET))
    return [f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host in hosts][:ADDRESSES_MAX]


def _look_up(host: str, port: int, endpoint: str) -> list[tuple[int, str]]:
    """The family and text of each address. In a thread: to look up a name may take longer than anybody waits."""
    import threading

    found: list[tuple[int, str]] = []
    reasons: list[str] = []

    def look() -> None:
        try:
            answer = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend((int(family), str(address[0])) for family, _, _, _, address in answer)
        except OSError as error:
            reasons.append(error.strerror or str(error))
        except UnicodeError:
            reasons.append("it is not one")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOKUP_TIMEOUT_S)
    if found:
        return found
    reason = reasons[0] if reasons else "nobody answers for names in time"
    raise BrokerUnreachable(
        f"there is no address for the name '{host}': {reason}; nothing was sent",
        hint="is it spelled right? It comes from --endpoint, the credentials or the configuration",
        details={"endpoint": endpoint},
    )


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def silent(endpoint: str) -> BrokerUnreachable:
    """Somebody listens there, and does not answer."""
    return BrokerUnreachable(
        f"whoever listens at {endpoint} does not answer; nothing was sent",
        hint="it is a broker that is stopped (SIGSTOP) or overloaded, or another program",
        details={"endpoint": endpoint},
    )


def somebody_listens(endpoint: str) -> bool:
    """Whether a process listens on this ipc endpoint. Raises NotAllowed as `dial` does.

    It is greeted: a broker counts those who hang up before that as turned away.
    """
    connected = dial(endpoint)
    if connected is None:
        return False
    line = LocalLine(connected, bytes_max=_READY_BYTES)
    line.greet(GREETED_WITHIN_S)
    line.close()
    return True
