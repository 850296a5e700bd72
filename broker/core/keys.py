"""Keys that let people and workers in from elsewhere: added, exchanged, revoked, listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from broker.core import feed, sessions, waits, writing
from broker.core.access import Actor
from broker.core.state import State
from broker.core.turn import Turn
from broker.store.rows import KeyRow
from queuectl.credentials import fingerprint
from queuectl.errors import BadRequest, KeyExists, NotAllowed, UnknownKey
from queuectl.requests import KeyAdd, KeyList, KeyRevoke, KeyRotate, Reload
from queuectl.suggest import did_you_mean
from queuectl.times import rfc3339

KEYS_MAX = 2000  # of all times: memory mirrors all of them
_OF_QUEUES = ("worker", "submit")


def add(core: State, turn: Turn, by: Actor, args: KeyAdd) -> dict[str, Any]:
    """Let somebody in who never was."""
    if core.access.named(args.name):
        raise KeyExists(
            f"a key of the name '{args.name}' was added before",
            hint="a name is never given twice; for a new key of the same holder: queuectl auth rotate",
        )
    if args.queues and args.role not in _OF_QUEUES:
        raise BadRequest(f"queues are for the roles {' and '.join(_OF_QUEUES)}; {args.role} sees all of them")
    row = _store(core, turn, by, args.name, args.role, tuple(args.queues), args.public_key)
    return _told(row)


def rotate(core: State, turn: Turn, by: Actor, args: KeyRotate) -> dict[str, Any]:
    """A second key for a name, so that the first can be taken away when it is not used any more."""
    before = _accepted(_named(core, args.name))
    if not before:
        raise NotAllowed(f"all keys of '{args.name}' were revoked", hint="add it under another name: queuectl auth add")
    row = _store(core, turn, by, args.name, before[-1].role, before[-1].queues, args.public_key)
    return {**_told(row), "old": [fingerprint(old.public_key) for old in before]}


def revoke(core: State, turn: Turn, by: Actor, args: KeyRevoke) -> dict[str, Any]:
    """Let a name in no more, or only with its newest key."""
    chosen = _accepted(_named(core, args.name))
    if args.old:
        chosen = chosen[:-1]
    keys = [row.key for row in chosen]
    core.store.keys.revoke(keys, turn.now.wall_ms, core.actor_number(by.name))
    core.read_keys()
    ended = sessions.end_sessions_of(core, turn, frozenset(keys))
    if not args.old:
        sessions.lose_those_away(core, turn, args.name)
    writing.flush(core, turn)
    waits.end_waits_of(core, turn, frozenset(keys))
    for row in chosen:
        turn.note(feed.KEY_REVOKED, core.actor_number(by.name), args.name)
        turn.log("warning", "key_revoked", key_name=args.name, fingerprint=fingerprint(row.public_key), by=by.name)
    if args.cut:
        core.doors.cut()
    return {
        "name": args.name,
        "revoked": [fingerprint(row.public_key) for row in chosen],
        "sessions": ended,
        "cut": args.cut,
    }


def show(core: State, turn: Turn, by: Actor, args: KeyList) -> dict[str, Any]:
    """Who may come in, or might once, in the order in which they were added."""
    rows = core.access.rows if args.name is None else _named(core, args.name)
    names = dict.fromkeys(row.name for row in rows)
    sessions_of = Counter(session.by.name for session in core.sessions.values())
    return {"keys": [_view(core, name, sessions_of[name]) for name in names]}


def reload(core: State, turn: Turn, by: Actor, args: Reload) -> dict[str, Any]:
    """Take up server keys that were made, or put in place, since they were read last."""
    public = core.doors.reload()
    turn.log("info", "server_keys_read", by=by.name, count=len(public))
    return {"server_keys": list(public)}


def _store(
    core: State, turn: Turn, by: Actor, name: str, role: str, queues: tuple[str, ...], public_key: str
) -> KeyRow:
    if any(row.public_key == public_key for row in core.access.rows):
        raise KeyExists("this very key was added before", hint="make a new one")
    if len(core.access.rows) >= KEYS_MAX:
        raise NotAllowed(f"there are {KEYS_MAX} keys already, the most that there may be")
    row = core.store.keys.add(
        name=name,
        role=role,
        queues=queues,
        public_key=public_key,
        now_ms=turn.now.wall_ms,
        added_by=core.actor_number(by.name),
    )
    core.read_keys()
    turn.note(feed.KEY_ADDED, core.actor_number(by.name), name, role)
    turn.log("info", "key_added", key_name=name, role=role, fingerprint=fingerprint(public_key), by=by.name)
    return row


def _named(core: State, name: str) -> list[KeyRow]:
    rows = core.access.named(name)
    if not rows:
        known = {row.name for row in core.access.rows}
        raise UnknownKey(f"there is no key of the name '{name}'", hint=did_you_mean(name, known))
    return rows


def _accepted(rows: Iterable[KeyRow]) -> list[KeyRow]:
    return [row for row in rows if row.revoked_at_ms is None]


def _told(row: KeyRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "role": row.role,
        "queues": list(row.queues),
        "fingerprint": fingerprint(row.public_key),
    }


def _view(core: State, name: str, connected: int) -> dict[str, Any]:
    rows = core.access.named(name)
    return {
        "name": name,
        "role": rows[-1].role,
        "queues": list(rows[-1].queues),
        "sessions": connected,
        "keys": [
            {
                "fingerprint": fingerprint(row.public_key),
                "added_at": rfc3339(row.added_at_ms),
                "added_by": core.actor_name(row.added_by),
                "revoked_at": None if row.revoked_at_ms is None else rfc3339(row.revoked_at_ms),
                "revoked_by": None if row.revoked_by is None else core.actor_name(row.revoked_by),
            }
            for row in rows
        ],
    }
