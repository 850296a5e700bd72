"""A closer look at who ended a connection in the handshake, which ZeroMQ does not tell apart.

In a thread of its own: the name of a host may have to be looked up, which cannot be waited for otherwise.
"""

from __future__ import annotations

import select
import socket
import threading

from queuectl import handshake
from queuectl.errors import QueuectlError
from queuectl.ways import Way
from worker.children import Poller


class Look:
    """One look. Its descriptor is readable when it is over; `cause` then says what was seen."""

    def __init__(self, way: Way, poller: Poller) -> None:
        """Begin. Raises OSError, RuntimeError where there is no descriptor or thread to be had."""
        self.cause: QueuectlError = handshake.unreachable(way)
        self._poller = poller
        self._ours, theirs = socket.socketpair()
        try:
            threading.Thread(target=self._look, args=(way, theirs), daemon=True).start()
        except RuntimeError:
            self._ours.close()
            theirs.close()
            raise
        poller.register(self.fileno(), select.EPOLLIN)

    def _look(self, way: Way, theirs: socket.socket) -> None:
        with theirs:  # its end is what tells that this is over
            self.cause = handshake.look_closer(way, way.endpoint)

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        """Hear no more of it; a look that is not over ends by itself."""
        self._poller.unregister(self.fileno())
        self._ours.close()
