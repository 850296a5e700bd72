"""The conversation with the broker: HELLO, heartbeats, silence, the pause before the next connection.

Silence ends a connection, never a job: the leases stay what they are until the broker says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from queuectl.messages import Welcome

HELLO_EVERY_MS = 1000
HEARTBEAT_MS_MIN = 10
NEVER_MS = 2**62
SILENCE_MS = 10_000  # until a WELCOME has named its own
BEGIN_MS = 5000  # at least so long a session may take to begin, however fast its heart will beat
PAUSE_BASE_MS = 200
PAUSE_MAX_MS = 5000
PAUSE_MAX_HOLDING_MS = 2000  # with leases in hand a worker may not stay away for long


class Session:
    """Where the conversation stands. `number` is None until WELCOME, and again after the connection was lost."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance  # a number in [0, 1)
        self.number: int | None = None
        self.hellos = 0  # said by this boot
        self.heartbeat_ms = 2000
        self.silence_ms = SILENCE_MS
        self.received = 0  # highest push seen
        self.beats = 0
        self.beat_at_ms = 0
        self.hello_at_ms = 0
        self.heard_at_ms = 0
        self.connect_at_ms: int | None = None  # set while there is no socket
        self._failures = 0
        self._last_number: int | None = None

    def connected(self, now_ms: int) -> None:
        """A fresh socket is being connected."""
        self.number = None
        self.connect_at_ms = None
        self.hello_at_ms = self.heard_at_ms = now_ms

    def begun(self, welcome: Welcome, now_ms: int) -> None:
        """WELCOME has come."""
        self.number = welcome.session
        self.connect_at_ms = None
        self.heartbeat_ms = max(welcome.heartbeat_ms, HEARTBEAT_MS_MIN)
        self.silence_ms = max(welcome.silence_ms, 3 * self.heartbeat_ms)
        if welcome.session != self._last_number:  # else only we thought that it was over
            self._last_number = welcome.session
            self.received = self.beats = 0
        self.beat_at_ms = now_ms + self.heartbeat_ms
        self._failures = 0

    def lost(self, now_ms: int) -> None:
        """The broker does not know us any more, or the connection broke: HELLO again, on the same socket."""
        self.number = None
        self.hello_at_ms = now_ms

    def pause(self, now_ms: int, *, is_holding: bool, least_ms: int = 0) -> None:
        """Give the socket up for a while: full jitter, so that not all workers of a broker come back at once."""
        self.number = None
        limit_ms = min(PAUSE_BASE_MS << min(self._failures, 10), PAUSE_MAX_HOLDING_MS if is_holding else PAUSE_MAX_MS)
        self._failures += 1
        self.connect_at_ms = now_ms + max(least_ms, int(limit_ms * self._chance()))

    def beaten(self, now_ms: int) -> int:
        """A heartbeat goes out: its number. The next is due from when this one was, so that delays do not add up.

        One that goes out early, because there is news, leaves the schedule as it is.
        """
        self.beats += 1
        if self.beat_at_ms <= now_ms:
            self.beat_at_ms += self.heartbeat_ms
            if self.beat_at_ms <= now_ms:  # far behind: what was missed is not made up for
                self.beat_at_ms = now_ms + self.heartbeat_ms
        return self.beats

    def give_up(self) -> None:
        """Do not speak to this broker any more."""
        self.number = None
        self.connect_at_ms = NEVER_MS

    def retime(self, heartbeat_ms: int, now_ms: int) -> None:
        """The broker wants heartbeats at another pace."""
        heartbeat_ms = max(heartbeat_ms, HEARTBEAT_MS_MIN)
        if heartbeat_ms != self.heartbeat_ms:
            self.heartbeat_ms = heartbeat_ms
            self.silence_ms = max(self.silence_ms, 3 * heartbeat_ms)
            self.beat_at_ms = min(self.beat_at_ms, now_ms + heartbeat_ms)

    @property
    def patience_ms(self) -> int:
        """How long nothing may be heard before the connection is given up."""
        return self.silence_ms if self.is_open else max(self.silence_ms, BEGIN_MS)

    @property
    def is_open(self) -> bool:
        return self.number is not None

    @property
    def may_hello(self) -> bool:
        """Whether there is a socket, and no session on it."""
        return self.number is None and self.connect_at_ms is None

    def next_deadline(self) -> int:
        """When the session wants to be looked at again."""
        if self.connect_at_ms is not None:
            return self.connect_at_ms
        due_ms = self.hello_at_ms if self.number is None else self.beat_at_ms
        return min(due_ms, self.heard_at_ms + self.patience_ms)
