"""What keeps a worker from its broker: said when it begins and each minute that it lasts, and over with a WELCOME."""

from __future__ import annotations

from queuectl.errors import (
    BrokerUnreachable,
    KeyNotAccepted,
    NotAllowed,
    QueuectlError,
    ShuttingDown,
    TooManySessions,
    VersionMismatch,
)

SAY_EVERY_MS = 60_000
_CAUSES_MAX = 100  # a broker that makes up codes must not fill the memory
# What a broker that refuses leaves to be said: what to do.
_HINTS = {
    KeyNotAccepted.code: "see on the broker's machine: queuectl auth list; whose keys were revoked needs another name",
    NotAllowed.code: (
        "give it credentials of the role worker, for these queues: queuectl auth add NAME --role worker; "
        "if they are of another name than before, start it anew"
    ),
    TooManySessions.code: "use a key for each machine, or: queuectl config set max-sessions N",
    VersionMismatch.code: "install the newer version of queuectl on both machines, the broker's first",
}


class Trouble:
    """Which causes were told, and when."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], int] = {}

    def is_to_be_said(self, code: str, endpoint: str, now_ms: int) -> bool:
        """Whether it is new, or was last said a while ago."""
        key = (code, endpoint)
        said_ms = self._said.get(key)
        if said_ms is not None and now_ms < said_ms + SAY_EVERY_MS:
            return False
        if len(self._said) >= _CAUSES_MAX:
            self._said.clear()
        self._said[key] = now_ms
        return True

    def is_over(self) -> None:
        self._said.clear()


def is_of_itself(error: QueuectlError) -> bool:
    """Whether it goes away without anybody's doing."""
    return isinstance(error, BrokerUnreachable | ShuttingDown)


def hint_of(error: QueuectlError) -> str | None:
    """What to do about it."""
    return error.hint or _HINTS.get(error.code)
