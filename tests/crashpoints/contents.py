"""What is in a database: all of it as one digest, and what its broker has promised to somebody."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from broker.store.connection import Connection

Promises = dict[tuple[str, ...], Any]  # what somebody was told is so, as (kind, name, …) → value

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"

_JOBS = "SELECT id, command FROM job JOIN spec ON spec.seq = job.seq"
_OUTCOMES = "SELECT id, a.attempt, outcome FROM attempt a JOIN job ON job.seq = a.seq"
_SETTINGS = "SELECT key, value FROM setting"
_REPLIES = "SELECT id, op FROM reply"


def digest(db: Connection) -> str:
    """One line that is the same for the same schema and the same rows in every table."""
    found = hashlib.blake2b(digest_size=8)
    for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT sql FROM sqlite_master ORDER BY name"):
        found.update(repr(db.query(question)).encode())
    for (table,) in db.query(_TABLES):
        found.update(repr((table, db.query(f"SELECT * FROM {table}"))).encode())
    return found.hexdigest()


def kept(db: Connection) -> Promises:
    """All that could have been promised and is there."""
    return (
        {("job", name): command for name, command in db.query(_JOBS)}
        | {("outcome", name, str(attempt)): outcome for name, attempt, outcome in db.query(_OUTCOMES)}
        | {("setting", key): json.loads(value) for key, value in db.query(_SETTINGS)}
        | {("reply", request): op for request, op in db.query(_REPLIES)}
    )
