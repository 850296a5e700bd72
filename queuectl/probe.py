"""Find out at once, and without zmq, whether somebody listens at a local endpoint.

zmq itself would try again and again until a time-out; a plain connect is refused on the spot.
"""

from __future__ import annotations

import socket
from pathlib import Path

from queuectl.errors import NotAllowed
from queuectl.home import refuse_foreign_directory

IPC = "ipc://"


def somebody_listens(endpoint: str) -> bool:
    """Whether a process listens on this ipc endpoint. Raises NotAllowed where others could have put a socket."""
    path = endpoint.removeprefix(IPC)
    try:
        refuse_foreign_directory(Path(path).parent)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except PermissionError:
        raise NotAllowed(f"{path} belongs to another user") from None
    except OSError:
        return False
    return True
