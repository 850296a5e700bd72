"""The network as ZeroMQ over TCP shows it: lines that are first in, first out, break, and come up again elsewhere.

Each machine has one path to the broker's. A blocked path delays, as TCP does; what a broken line carried is
lost. Beyond what TCP does, messages may be lost, doubled, held up and overtaken: the cores must bear that, too.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from tests.harness import USER
from tests.simulation.clock import Timeline
from tests.simulation.tape import Tape

if TYPE_CHECKING:
    from tests.simulation.router import SimulatedRouter

TO_BROKER, TO_PEER = 0, 1
WORKERS, CLIENTS = "workers", "clients"
REAPED_MS = 75_000  # when ZMTP's heartbeats give up a peer that vanished without a word
RECONNECT_MS = 300

Mishap = Callable[[str], str | None]


class Peer(Protocol):
    """One end of a line: a worker's or a client's socket."""

    name: str

    def on_connected(self) -> None: ...
    def on_lost(self, again: Line) -> None: ...  # the socket connects by itself
    def on_arrived(self, body: bytes) -> None: ...


class Path:
    """What lies between one machine and the broker's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocked = [False, False]
        self.held: tuple[deque[tuple[Line, bytes | None]], ...] = (deque(), deque())
        self.lines: dict[Line, None] = {}
        self.user: Callable[[], str] = lambda: USER  # who comes from there, as the gate would tell it

    @property
    def is_clear(self) -> bool:
        return not any(self.blocked)


class Line:
    """One connection. `is_open`: the broker's end and the peer's; each learns of the other's end when it learns."""

    def __init__(self, path: Path, peer: Peer, door: str) -> None:
        self.path, self.peer, self.door = path, peer, door
        self.route = b""
        self.user = ""  # from when it is up
        self.router: SimulatedRouter | None = None
        self.is_open = [False, False]
        self.is_wanted = True  # the peer's socket is there
        self.last_ms = [0, 0]
        self.queued = 0  # messages for the peer that it has not got yet


class Network:
    """All lines. `mishap` says what befalls the next message on a path."""

    def __init__(self, timeline: Timeline, tape: Tape, chance: random.Random, latency_ms: int, mishap: Mishap) -> None:
        self._timeline, self._tape, self._chance = timeline, tape, chance
        self._latency_ms = latency_ms
        self._mishap = mishap
        self._routers: dict[str, SimulatedRouter] = {}
        self._waiting: dict[Line, None] = {}  # for the broker, or for their path
        self._routes = 0
        self.queue_max = 1000

    def _transit_ms(self) -> int:
        return self._chance.randrange(self._latency_ms + 1)

    # --- lines come up and break ---

    def connect(self, peer: Peer, path: Path, door: str) -> Line:
        """Ask for a line; the peer hears when it is up."""
        line = Line(path, peer, door)
        path.lines[line] = None
        self._timeline.after(1 + self._transit_ms(), self._establish, line)
        return line

    def _establish(self, line: Line) -> None:
        router = self._routers.get(line.door)
        if not line.is_wanted or line.route:
            return
        if router is None or not line.path.is_clear:
            self._waiting[line] = None
            return
        self._routes += 1
        line.route, line.router = self._routes.to_bytes(5, "big"), router
        line.user = line.path.user()
        line.is_open = [True, True]
        router.lines[line.route] = line
        self._tape.note(line.peer.name, "connected", self._routes)
        line.peer.on_connected()

    def hang_up(self, line: Line, *, is_silent: bool = False) -> None:
        """The peer's socket is gone; silently where its machine is."""
        line.is_wanted = False
        line.path.lines.pop(line, None)
        self._waiting.pop(line, None)
        if line.is_open[TO_PEER]:
            line.is_open[TO_PEER] = False
            if is_silent:
                self._timeline.after(REAPED_MS, self._arrive, line, TO_BROKER, None)
            else:
                self._carry(line, TO_BROKER, None, self._transit_ms())

    def reset(self, line: Line) -> None:
        """The line breaks, and takes with it what it carries."""
        for direction in (TO_BROKER, TO_PEER):
            self._arrive(line, direction, None)

    def open_doors(self, routers: dict[str, SimulatedRouter]) -> None:
        """The broker is there."""
        self._routers = routers
        self._retry()

    def close_doors(self) -> None:
        """The broker is not there any more; its peers learn it, sooner or later."""
        for router in self._routers.values():
            for line in list(router.lines.values()):
                line.is_open[TO_BROKER] = False
                if self._chance.random() < 0.5:
                    self._carry(line, TO_PEER, None, self._transit_ms())
                else:  # what was still in the broker's queue never left
                    self._timeline.after(self._transit_ms(), self._arrive, line, TO_PEER, None)
            router.lines.clear()
        self._routers = {}

    def _retry(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for line in waiting:
            self._timeline.after(self._chance.randrange(RECONNECT_MS), self._establish, line)

    # --- paths ---

    def block(self, path: Path, directions: tuple[int, ...]) -> None:
        """Nothing gets through any more."""
        for direction in directions:
            path.blocked[direction] = True

    def clear(self, path: Path) -> None:
        """What was held up arrives."""
        path.blocked[:] = [False, False]
        for direction in (TO_BROKER, TO_PEER):
            held = path.held[direction]
            while held:
                line, body = held.popleft()
                self._timeline.after(1, self._arrive, line, direction, body)
        self._retry()

    # --- messages ---

    def send(self, line: Line, direction: int, body: bytes, lag_ms: int = 0) -> None:
        """Hand over a message; `lag_ms` from now, for a sender that was held up."""
        transit_ms = lag_ms + self._transit_ms()
        mishap = self._mishap(line.path.name)
        if mishap == "message_dropped":
            return
        if direction == TO_PEER:
            line.queued += 1
        if mishap == "message_reordered":
            self._timeline.after(transit_ms + self._chance.randrange(500), self._arrive, line, direction, body)
            return
        if mishap == "message_delayed":
            transit_ms += self._chance.randrange(5000)
        self._carry(line, direction, body, transit_ms)
        if mishap == "message_doubled":
            line.queued += direction
            late_ms = line.last_ms[direction] - self._timeline.now_ms + self._chance.randrange(500)  # never before it
            self._timeline.after(late_ms, self._arrive, line, direction, body)

    def _carry(self, line: Line, direction: int, body: bytes | None, transit_ms: int) -> None:
        """First in, first out. No body: the end of the line."""
        at_ms = max(self._timeline.now_ms + transit_ms, line.last_ms[direction])
        line.last_ms[direction] = at_ms
        self._timeline.after(at_ms - self._timeline.now_ms, self._arrive, line, direction, body)

    def _arrive(self, line: Line, direction: int, body: bytes | None) -> None:
        if line.path.blocked[direction]:
            line.path.held[direction].append((line, body))
        elif line.is_open[direction]:
            if body is not None:
                self._tape.note(line.peer.name, "<-" if direction else "->", crc32(body), detail=body)
                self._hand_over(line, direction, body)
            else:
                self._end(line, direction)

    def _hand_over(self, line: Line, direction: int, body: bytes) -> None:
        if direction == TO_PEER:
            line.queued -= 1
            line.peer.on_arrived(body)
        elif line.router is not None:
            line.router.on_arrived(line.route, body, line.user)

    def _end(self, line: Line, direction: int) -> None:
        line.is_open[direction] = False
        if direction == TO_BROKER:
            if line.router is not None:
                line.router.on_gone(line.route)
            return
        self._tape.note(line.peer.name, "disconnected")
        line.path.lines.pop(line, None)
        again = Line(line.path, line.peer, line.door)
        line.path.lines[again] = None
        self._timeline.after(self._chance.randrange(RECONNECT_MS), self._establish, again)
        line.peer.on_lost(again)
