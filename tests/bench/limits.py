"""What the machine itself can do: the figures that ours stand beside."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

_TABLE = """
CREATE TABLE jobs (id INTEGER PRIMARY KEY, command TEXT NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL,
  run_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, rc INTEGER, finished_at INTEGER,
  env BLOB)"""
_INDEX = "CREATE INDEX ready ON jobs (state, priority, run_at) WHERE state = 0"
_INSERT = "INSERT INTO jobs (command, state, priority, run_at, env) VALUES (?, 0, ?, ?, ?)"
_LEASE = """
UPDATE jobs SET state = 1, worker = ?, attempts = attempts + 1
WHERE id IN (SELECT id FROM jobs WHERE state = 0 ORDER BY priority, run_at LIMIT ?) RETURNING id"""
_FINISH = "UPDATE jobs SET state = 2, rc = 0, finished_at = ? WHERE id = ? AND worker = ?"


def _database(directory: str) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(directory) / "limit.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    connection.execute(_INDEX)
    return connection


def _rows(first: int, count: int) -> list[tuple[object, ...]]:
    return [(f"echo job {number}" + "x" * 80, number % 3, number, b"e" * 80) for number in range(first, first + count)]


def xargs(jobs: int) -> float:
    """Jobs per second of `xargs -P2` running `sh -c true`."""
    began = time.perf_counter()
    subprocess.run(f"seq {jobs} | xargs -P2 -I{{}} sh -c true", shell=True, check=True)
    return jobs / (time.perf_counter() - began)


def sqlite_inserts(rows: int, batch: int = 1000) -> float:
    """Rows per second into a table of jobs, FULL, in batches."""
    with tempfile.TemporaryDirectory(prefix="qbench-") as directory:
        connection = _database(directory)
        began = time.perf_counter()
        for first in range(0, rows, batch):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, _rows(first, batch))
            connection.execute("COMMIT")
        rate = rows / (time.perf_counter() - began)
        connection.close()
    return rate


def sqlite_cycles(rows: int, batch: int = 100) -> float:
    """Lease + complete cycles per second, FULL: the results of a batch and the next leases in one commit."""
    with tempfile.TemporaryDirectory(prefix="qbench-") as directory:
        connection = _database(directory)
        connection.execute("BEGIN")
        connection.executemany(_INSERT, _rows(0, rows))
        connection.execute("COMMIT")
        leased: list[tuple[int]] = []
        began = time.perf_counter()
        for _ in range(0, rows, batch):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_FINISH, [(1, number, "w") for (number,) in leased])
            leased = connection.execute(_LEASE, ("w", batch)).fetchall()
            connection.execute("COMMIT")
        rate = rows / (time.perf_counter() - began)
        connection.close()
    return rate
