"""Local endpoints: connect to one, or find out at once whether somebody listens there.

zmq itself would try again and again until a time-out; a plain connect is refused on the spot.
"""

from __future__ import annotations

import socket

from queuectl.errors import NotAllowed
from queuectl.home import refuse_foreign_directory

IPC = "ipc://"


def dial(endpoint: str) -> socket.socket | None:
    """A socket that is connected to this ipc endpoint, or None if nobody listens there.

    Raises NotAllowed where others could have put a socket.
    """
    path = endpoint.removeprefix(IPC)
    line = socket.socket(socket.AF_UNIX)
    try:
        refuse_foreign_directory(path.rpartition("/")[0])
        line.connect(path)
    except BaseException as error:
        line.close()
        if isinstance(error, PermissionError):
            raise NotAllowed(f"{path} belongs to another user") from None
        if isinstance(error, OSError):
            return None
        raise
    return line


def somebody_listens(endpoint: str) -> bool:
    """Whether a process listens on this ipc endpoint. Raises NotAllowed as `dial` does."""
    line = dial(endpoint)
    if line is not None:
        line.close()
    return line is not None
