"""One turn of the broker: what it has decided so far, to be written, then committed, then said.

Nothing in here has happened until the transaction of the turn is committed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.core.memory import Session
from broker.store.history import ChunkKey
from broker.store.rows import AttemptRow, Completion, Move
from queuectl.clock import Now
from queuectl.messages import Taken, ToWorker, Verdict

if TYPE_CHECKING:
    from broker.core.state import Waiter


Happened = tuple[Any, ...]  # the code of its kind, and its fields: see feed.py


class LogRecord(NamedTuple):
    """Something to be logged once it is true."""

    level: str
    event: str
    keys: dict[str, Any]


class ToRoute(NamedTuple):
    """A message to the worker at a route."""

    route: bytes
    message: ToWorker


class ToClient(NamedTuple):
    """A reply: the frames before the body as they came, and the body."""

    envelope: tuple[bytes, ...]
    body: bytes


class Told(NamedTuple):
    """What a session is told of the results and the pieces of output that it sent in this turn."""

    session: Session
    verdicts: list[Verdict]
    taken: list[Taken]


@dataclass(slots=True)
class Turn:
    """The effects of one turn."""

    now: Now
    to_workers: list[ToRoute] = field(default_factory=list)
    to_clients: list[ToClient] = field(default_factory=list)
    logs: list[LogRecord] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    heard: tuple[set[int], set[Any]] | None = None  # the codes, and the first field, of all that happened
    moves: list[Move] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    ended: list[AttemptRow] = field(default_factory=list)
    new_chunks: dict[ChunkKey, bytes] = field(default_factory=dict)
    longer_chunks: dict[ChunkKey, bytes] = field(default_factory=dict)
    dropped_chunks: list[ChunkKey] = field(default_factory=list)
    replies: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    told: dict[int, Told] = field(default_factory=dict)  # by session
    held: list[Waiter] = field(default_factory=list)  # clients whose reply is held from now on
    waits: Counter[str] | None = None  # how many replies are held for each name, once somebody has counted
    settled: set[int] = field(default_factory=set)  # leases whose result this turn has taken
    over: set[int] = field(default_factory=set)  # seqs of jobs that became terminal
    written: set[int] = field(default_factory=set)  # seqs of jobs with more output, or whose attempt has ended

    def send(self, route: bytes, message: ToWorker) -> None:
        """Say something to a worker after the commit."""
        self.to_workers.append(ToRoute(route, message))

    def reply(self, envelope: tuple[bytes, ...], body: bytes) -> None:
        """Answer a client after the commit."""
        self.to_clients.append(ToClient(envelope, body))

    def tell(self, session: Session) -> Told:
        """Where to put what this session is told after the commit."""
        told = self.told.get(session.number)
        if told is None:
            told = self.told[session.number] = Told(session, [], [])
        return told

    def note(self, *event: Any) -> None:
        """Something has happened, for the feed."""
        self.happened.append(event)

    def log(self, level: str, event: str, **keys: Any) -> None:
        """Log something after the commit."""
        self.logs.append(LogRecord(level, event, keys))
