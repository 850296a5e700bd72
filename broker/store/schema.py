"""The schema of the database: made anew, or brought up to date from what an earlier version made."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.store.connection import Connection

APPLICATION_ID = 0x5143544C  # "QCTL"
SCHEMA_VERSION = 7


def _create(connection: Connection) -> None:
    for statement in _statements(_schema()):
        connection.run(statement)


def _schema() -> str:
    return (Path(__file__).parent / "schema.sql").read_text()


def _statements(script: str) -> Iterable[str]:
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""


def _add_on_lost(connection: Connection) -> None:
    connection.run(
        "ALTER TABLE spec ADD COLUMN on_lost TEXT NOT NULL DEFAULT 'retry' CHECK (on_lost IN ('retry', 'dead'))"
    )


_SINCE_VERSION_4 = ("TABLE actor ", "TABLE access_key ", "TABLE deed ")


def _change_text(connection: Connection, table: str, before: str, after: str) -> None:
    """Another CHECK, which all rows pass. Rows stay as they are, so it is enough to change its text."""
    connection.query("PRAGMA writable_schema = ON")
    connection.run(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = ?", (before, after, table)
    )
    connection.query("PRAGMA writable_schema = RESET")


def _unfold_check(connection: Connection) -> None:
    """A CHECK that means the same and costs less."""
    _change_text(connection, "job", "state IN (2, 4, 5)", "state = 2 OR state = 4 OR state = 5")


def _add_actors(connection: Connection) -> None:
    connection.run("ALTER TABLE worker ADD COLUMN actor INTEGER")
    connection.run("ALTER TABLE spec ADD COLUMN enqueued_by INTEGER")
    _create_parts(connection, _SINCE_VERSION_4)


_SINCE_VERSION_5 = ("TABLE tag ", "TABLE cancellation ", "TABLE event ", "INDEX job_until ", "INDEX job_unique ")
_COLUMNS_OF_VERSION_5 = (
    ("job", "until_ms", "INTEGER"),
    ("job", "unique_key", "TEXT"),
    ("spec", "rules", "BLOB"),
    ("spec", "tags", "BLOB"),
    ("spec", "expires_ms", "INTEGER"),
    ("spec", "deadline_ms", "INTEGER"),
    ("spec", "retry_of", "TEXT"),
    ("spec", "stdin", "BLOB"),
    ("deed", "note", "TEXT NOT NULL DEFAULT ''"),
    ("output", "at_ms", "INTEGER NOT NULL DEFAULT 0"),
)


def _add_choices(connection: Connection) -> None:
    """What people may choose of jobs since version 5."""
    for table, column, kind in _COLUMNS_OF_VERSION_5:
        if not connection.query(
            "SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)
        ):  # or just created
            connection.run(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    _change_text(connection, "job", "ready BETWEEN 0 AND 3", "ready BETWEEN 0 AND 4")
    _create_parts(connection, _SINCE_VERSION_5)


def _add_event(connection: Connection) -> None:
    connection.run("ALTER TABLE spec ADD COLUMN event INTEGER")


_NUMBER_DEEDS = """
INSERT INTO deed (seq, number, at_ms, action, actor, note)
SELECT seq, row_number() OVER (PARTITION BY seq ORDER BY at_ms, action, actor), at_ms, action, actor, note
FROM deed_6"""


def _add_order(connection: Connection) -> None:
    """In which order jobs died, in which order people did things, and which workers they told to stop."""
    _create_parts(connection, ("INDEX job_death ", "TABLE stop "))
    if connection.query("SELECT 1 FROM pragma_table_info('deed') WHERE name = 'number'"):
        return  # just created
    connection.run("ALTER TABLE deed RENAME TO deed_6")
    _create_parts(connection, ("TABLE deed ",))
    connection.run(_NUMBER_DEEDS)
    connection.run("DROP TABLE deed_6")


def _create_parts(connection: Connection, names: Iterable[str]) -> None:
    for statement in _statements(_schema()):
        if any(name in statement for name in names):
            connection.run(statement)


# From a version to a later one, in one transaction each; 0 is a new file.
MIGRATIONS: dict[int, tuple[int, Callable[[Connection], None]]] = {
    0: (SCHEMA_VERSION, _create),
    1: (2, _add_on_lost),
    2: (3, _unfold_check),
    3: (4, _add_actors),
    4: (5, _add_choices),
    5: (6, _add_event),
    6: (7, _add_order),
}


def migrate(connection: Connection) -> None:
    """Bring the database to SCHEMA_VERSION, each step in its own transaction; forward only."""
    [(version,)] = connection.query("PRAGMA user_version")
    while version < SCHEMA_VERSION:
        version, step = MIGRATIONS[version]
        connection.begin()
        step(connection)
        connection.query(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.query(f"PRAGMA user_version = {version}")
        connection.commit()
