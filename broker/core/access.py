"""Who speaks: every message comes with the user id that the gate gave its connection, and this says who that is.

A user id is `uid:1000` for a user of this machine (the sockets let in nobody but the broker's own user and root),
`key:7` for a key, or OPEN for whoever reaches a loopback port that asks for no keys. A key that was revoked is
nobody, whatever connection it still has. What somebody may do follows from the role of the key alone, never from
what a message says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from broker.store.rows import KeyRow

WORKER, SUBMIT, READ, ADMIN = "worker", "submit", "read", "admin"
EVERYBODY = frozenset({WORKER, SUBMIT, READ, ADMIN})
OPEN = "tcp:open"  # whoever comes in without a key, where none is asked for
_UID = "uid:"


class Queues(NamedTuple):
    """The queues that a worker serves, or that a key may use: of these names if any are given, and like these globs."""

    names: frozenset[str] = frozenset()
    globs: tuple[str, ...] = ()

    def has(self, queue: str) -> bool:
        """Whether this queue is one of them."""
        return (not self.names or queue in self.names) and (not self.globs or _is_like(queue, self.globs))


ALL_QUEUES = Queues()


@lru_cache(maxsize=4096)
def _is_like(queue: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(queue, glob) for glob in globs)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who speaks, and what for."""

    name: str  # of the key, or the user id
    role: str
    queues: Queues = ALL_QUEUES
    key: int | None = None  # its number; None: a user of this machine

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN


class Access:
    """Who may come in, as the store has it, and how fast each key asks."""

    def __init__(self, rows: Iterable[KeyRow] = ()) -> None:
        self.rows = list(rows)
        self._named: dict[str, list[KeyRow]] = {}
        self._public: dict[str, str] = {}  # the user id of each key that is accepted
        self._actors: dict[str, Actor] = {}
        for row in self.rows:
            self._named.setdefault(row.name, []).append(row)
            if row.revoked_at_ms is None:
                user = f"key:{row.key}"
                self._public[row.public_key] = user
                self._actors[user] = Actor(row.name, row.role, Queues(globs=row.queues), row.key)

    def user_of(self, public_key: str) -> str | None:
        """The user id of a connection with this key; None: it lets nobody in."""
        return self._public.get(public_key)

    def actor(self, user: str) -> Actor | None:
        """Who that is; None: its key was revoked, or never was one."""
        actor = self._actors.get(user)
        if actor is None and (user.startswith(_UID) or user == OPEN):
            actor = self._actors[user] = Actor(user, ADMIN)
        return actor

    def named(self, name: str) -> list[KeyRow]:
        """All keys of this name, the oldest first."""
        return self._named.get(name, [])


@dataclass(slots=True)
class Bucket:
    """Requests that a key may make now; it fills up again with time (a token bucket)."""

    tokens: float
    at_ms: int


class Pace:
    """How often each name has done something lately that it may not do at will. Users of this machine may."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def may_ask(self, actor: Actor, mono_ms: int, per_second: int, *, at_once: int = 0) -> bool:
        """Whether it may do it once more; a second's worth, or so many, may come at once."""
        if actor.key is None:
            return True
        most = max(per_second, at_once)
        bucket = self._buckets.setdefault(actor.name, Bucket(most, mono_ms))
        bucket.tokens = min(most, bucket.tokens + (mono_ms - bucket.at_ms) * per_second / 1000)
        bucket.at_ms = mono_ms
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
