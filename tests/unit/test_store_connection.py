"""The database file: opening and refusing, what is in force, what survives, what its errors mean."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.store import DatabaseMissing, Store, StoreFull, StoreRefused, open_store
from broker.store.connection import CHECKPOINT_BYTES, Connection, _meaning, open_connection
from broker.store.schema import APPLICATION_ID, SCHEMA_VERSION, migrate
from queuectl.errors import DatabaseRefused, StorageFailed


def note(store: Store, **facts: int) -> None:
    """Facts in a turn of their own."""
    store.begin()
    store.ledger.note(facts)
    store.commit()


def pragma(store: Store, name: str) -> object:
    return store._db.query(f"PRAGMA {name}")[0][0]


# --- open and refuse -------------------------------------------------------------------------------------


def test_new_database_is_made_and_marked(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")

    assert pragma(store, "application_id") == APPLICATION_ID
    assert pragma(store, "user_version") == SCHEMA_VERSION
    assert store.check() == []
    store.close()


def test_missing_database_is_refused_where_it_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissing, match=r"queue\.db is missing"):
        open_store(tmp_path / "queue.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_existing_database_is_opened_where_it_must_exist(tmp_path: Path) -> None:
    open_store(tmp_path / "queue.db").close()

    open_store(tmp_path / "queue.db", create=False).close()


def test_foreign_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE x (y)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()

    with pytest.raises(DatabaseRefused, match="is a database, but not one of queuectl"):
        open_store(path)

    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["queue.db"]


def test_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)
    store._db.query(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()

    with pytest.raises(DatabaseRefused, match="written by a newer queuectl") as caught:
        open_store(path)
    assert caught.value.hint is not None


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"something else entirely, and long enough to be read as a header" * 20)

    with pytest.raises(DatabaseRefused, match="cannot be used"):
        open_store(path)
    assert path.read_bytes().startswith(b"something else")


@pytest.mark.parametrize("name", ["directory", "missing/queue.db"])
def test_path_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()

    with pytest.raises(DatabaseRefused, match="cannot be used"):
        open_store(tmp_path / name)


def test_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch()

    open_store(tmp_path / "queue.db").close()


def test_empty_file_is_refused_where_a_database_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.touch()

    with pytest.raises(DatabaseMissing, match=r"queue\.db is empty"):
        open_store(path, create=False)
    assert path.stat().st_size == 0
    assert list(tmp_path.iterdir()) == [path]


def test_file_system_without_a_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Connection.query

    def query(self: Connection, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        return [("delete",)] if "journal_mode" in sql else ask(self, sql, parameters)

    monkeypatch.setattr(Connection, "query", query)

    with pytest.raises(DatabaseRefused, match="does not take a write-ahead log"):
        open_store(tmp_path / "queue.db")


def test_interrupted_opening_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Connection) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("broker.store.connection.migrate", fail)

    with pytest.raises(KeyboardInterrupt):
        open_connection(tmp_path / "queue.db", create=True)
    monkeypatch.undo()
    open_store(tmp_path / "queue.db").close()


def test_migration_of_a_database_that_is_up_to_date_does_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")

    migrate(store._db)

    assert not store._db.in_transaction
    store.close()


def test_jobs_from_before_a_choice_existed_are_retried(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    shutil.copyfile(Path(__file__).parents[1] / "fixtures" / "queue-0.1.0.db", path)

    store = open_store(path)

    assert pragma(store, "user_version") == SCHEMA_VERSION
    assert store._db.query("SELECT DISTINCT on_lost FROM spec") == [("retry",)]
    store.close()


def test_migrated_database_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    shutil.copyfile(Path(__file__).parents[1] / "fixtures" / "queue-0.1.0.db", path)

    old, new = open_store(path), open_store(tmp_path / "new.db")

    assert _columns(old) == _columns(new)
    assert _checks_of_job(old) == _checks_of_job(new)
    assert _indexes(old) == _indexes(new)
    old.close()
    new.close()


def _columns(store: Store) -> list[tuple[object, ...]]:
    """Every column of every table: name, type, whether NULL is refused, default."""
    tables = [name for (name,) in store._db.query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return [(table, *row[1:5]) for table in tables for row in store._db.query(f"PRAGMA table_info({table})")]


def _checks_of_job(store: Store) -> list[str]:
    """The last rules of the largest table, which are worked out for each row that is written."""
    [(sql,)] = store._db.query("SELECT sql FROM sqlite_schema WHERE name = 'job'")
    return [line.split("--")[0].strip() for line in str(sql).splitlines() if line.startswith("  CHECK")]


def _indexes(store: Store) -> set[tuple[str, str]]:
    """Every index that was made by a statement of its own, however that was spaced."""
    rows = store._db.query("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
    return {(name, " ".join(sql.split())) for name, sql in rows}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0"])
def test_rules_of_a_migrated_database_are_in_force(tmp_path: Path, version: str) -> None:
    path = tmp_path / "queue.db"
    shutil.copyfile(Path(__file__).parents[1] / "fixtures" / f"queue-{version}.db", path)
    store = open_store(path)

    store.begin()
    with pytest.raises(StoreRefused, match="CHECK"):
        store._db.run("UPDATE job SET finished_at_ms = NULL WHERE id = 'completed'")
    store.rollback()

    assert store.check() == []
    store.close()


# --- in force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_pragmas_are_in_force(tmp_path: Path, times: int) -> None:
    path = tmp_path / "queue.db"
    for _ in range(times - 1):
        store = open_store(path)
        note(store, x=1)
        store.close()
    store = open_store(path)

    found = {
        name: pragma(store, name)
        for name in ("journal_mode", "synchronous", "locking_mode", "wal_autocheckpoint", "auto_vacuum", "mmap_size")
    }

    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "locking_mode": "exclusive",
        "wal_autocheckpoint": 0,
        "auto_vacuum": 2,
        "mmap_size": 0,
    }
    store.close()


def test_nobody_else_gets_in(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)

    with pytest.raises(DatabaseRefused, match="SQLITE_BUSY"):
        open_store(path)
    reader = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        reader.execute("SELECT * FROM meta")
    reader.close()

    note(store, still=1)
    store.close()


def test_no_shared_memory_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)
    note(store, x=1)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{tmp_path}/copy.db{suffix}")
    store.close()

    again = open_store(tmp_path / "copy.db")
    note(again, x=2)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy.db", "copy.db-wal", "queue.db"]
    again.close()


# --- what survives -------------------------------------------------------------------------------------------


def test_what_was_committed_survives_a_kill_and_the_rest_does_not(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)
    note(store, first=1)
    note(store, second=2)
    store.begin()
    store.ledger.note({"third": 3})
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{tmp_path}/killed.db{suffix}")
    store.abandon()

    for name in ("killed.db", "queue.db"):
        reopened = open_store(tmp_path / name)
        assert reopened.ledger.facts() == {"first": 1, "second": 2}
        reopened.close()


def test_database_that_was_closed_is_one_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    note(store, x=1)

    store.close()

    assert [entry.name for entry in tmp_path.iterdir()] == ["queue.db"]


def test_rolled_back_turn_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    store.begin()
    store.ledger.note({"x": 1})

    store.rollback()
    store.rollback()

    assert store.ledger.facts() == {}
    store.close()


def test_commit_without_a_transaction_is_a_failure(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")

    with pytest.raises(StorageFailed, match="gone before its commit"):
        store.commit()
    store.close()


def test_long_log_is_copied_into_the_file_once(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    assert store.tidy() is False
    blob = bytes(300_000)

    def write(times: int) -> list[bool]:
        done = []
        for number in range(times):
            store.begin()
            store._db.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"blob-{number % 5}", blob))
            store.commit()
            done.append(store.tidy())
        return done

    turns = CHECKPOINT_BYTES // len(blob) + 1
    first = write(turns)
    assert first.count(True) == 1
    assert any(first[-3:])
    assert store.tidy() is False
    second = write(turns - 4)

    assert second.count(True) == 0
    assert write(10).count(True) == 1
    assert (tmp_path / "queue.db-wal").stat().st_size < CHECKPOINT_BYTES + 2 * len(blob)
    store.close()


def test_database_in_memory_has_no_log() -> None:
    store = open_store(":memory:")

    assert store.tidy() is False
    store._db.checkpoint()
    assert store._db.wal_bytes() == 0
    store.close()


def test_log_that_is_not_there_has_no_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    (tmp_path / "queue.db-wal").unlink()

    assert store._db.wal_bytes() == 0
    store.abandon()


# --- a log that is gone ----------------------------------------------------------------------------------------


def in_use(path: Path, **facts: int) -> Path:
    """A database as a broker that was killed leaves it, in one file but for its log; where that is."""
    store = open_store(path)
    note(store, clean=0)
    store.write_through()
    note(store, **facts)
    store.abandon()
    return path.with_name(f"{path.name}-wal")


def old_database(path: Path, *, clean: int) -> None:
    """A database of version 0.1.0, in one file."""
    shutil.copyfile(Path(__file__).parents[1] / "fixtures" / "queue-0.1.0.db", path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'clean'", (clean,))
        db.commit()


def refuse_for_its_log(path: Path) -> DatabaseRefused:
    """It is refused, and nothing is made or changed."""
    before = path.read_bytes()
    with pytest.raises(
        DatabaseRefused, match=r"was not closed, and what was written last is missing: .*-wal$"
    ) as caught:
        open_store(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return caught.value


def test_log_of_a_database_that_was_not_closed_stays(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    log = in_use(path, first=1)

    for _ in range(3):
        store = open_store(path)
        assert store.ledger.facts() == {"clean": 0, "first": 1}
        store.abandon()
        assert log.exists()


def test_database_without_its_log_is_refused_however_often_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    in_use(path).unlink()

    for _ in range(3):
        refuse_for_its_log(path)


def test_start_that_is_killed_does_not_bring_a_log_about(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    in_use(path).unlink()
    start = (
        "import os, sys; from broker.store import open_store\n"
        "try: open_store(sys.argv[1])\n"
        "finally: os._exit(9)"  # before anything is put right
    )

    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", start, str(path)], check=False).returncode == 9
        refuse_for_its_log(path)


def test_old_database_without_its_log_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    old_database(path, clean=0)

    for _ in range(3):
        refuse_for_its_log(path)


def test_old_database_that_was_killed_needs_no_help(tmp_path: Path) -> None:
    path, killed = tmp_path / "queue.db", tmp_path / "killed" / "queue.db"
    old_database(path, clean=1)
    killed.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA synchronous = FULL; UPDATE meta SET value = 0 WHERE key = 'clean'")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{killed}{suffix}")

    store = open_store(killed)

    assert store.ledger.facts()["clean"] == 0
    assert pragma(store, "user_version") == SCHEMA_VERSION
    store.abandon()


def test_empty_log_says_that_nothing_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    log = in_use(path)

    for _ in range(3):
        log.unlink()
        hint = refuse_for_its_log(path).hint
        assert hint is not None
        subprocess.run(hint.rpartition(": ")[2], shell=True, check=True)
        assert log.stat().st_size == 0
        open_store(path).abandon()
        assert log.exists()
        open_store(path).abandon()


def test_log_that_is_put_back_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)
    note(store, clean=0)
    store.write_through()
    note(store, last=1)
    there = tmp_path / "there.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{there}{suffix}")
    store.close()
    elsewhere = (tmp_path / "there.db-wal").rename(tmp_path / "elsewhere")

    for _ in range(2):
        with pytest.raises(DatabaseRefused, match="is missing"):
            open_store(there)
    elsewhere.rename(tmp_path / "there.db-wal")

    store = open_store(there)
    assert store.ledger.facts() == {"clean": 0, "last": 1}
    store.close()


def test_database_that_was_closed_misses_no_log(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    in_use(path)
    for _ in range(2):
        store = open_store(path)
        note(store, clean=1)
        store.close()
        store.abandon()  # as the broker does at its end

        assert [entry.name for entry in tmp_path.iterdir()] == ["queue.db"]


def test_rollback_journal_is_left_to_sqlite(tmp_path: Path) -> None:
    path, cut = tmp_path / "queue.db", tmp_path / "cut.db"
    store = open_store(path)
    note(store, clean=1, first=1)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("UPDATE meta SET value = 0")
        db.execute("INSERT INTO meta VALUES ('much', zeroblob(100000))")  # more than the cache: it gets into the file
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{path}{suffix}", f"{cut}{suffix}")

    store = open_store(cut)

    assert store.ledger.facts() == {"clean": 1, "first": 1}
    store.close()


@pytest.mark.parametrize("name", ["with space", "100%25", "a?mode=rw#b", "\N{SNOWMAN}'"])
def test_log_is_missed_wherever_the_database_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "queue.db"
    path.parent.mkdir()
    log = in_use(path)
    open_store(path).abandon()
    log.unlink()

    hint = refuse_for_its_log(path).hint

    assert hint is not None
    subprocess.run(hint.rpartition(": ")[2], shell=True, check=True)
    open_store(path).abandon()


def test_log_is_beside_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    path, link = tmp_path / "queue.db", tmp_path / "link.db"
    log = in_use(path)
    link.symlink_to(path)

    open_store(link).abandon()
    assert log.exists()
    log.unlink()
    with pytest.raises(DatabaseRefused, match=r"it was in queue\.db-wal"):
        open_store(link)


def test_database_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    in_use(path).unlink()
    path.write_bytes(path.read_bytes()[:4096])

    for _ in range(2):
        with pytest.raises(DatabaseRefused, match="cannot be used"):
            open_store(path)
        assert list(tmp_path.iterdir()) == [path]


# --- what errors mean ------------------------------------------------------------------------------------------


def test_full_disk_is_said_and_the_database_goes_on(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    [(pages,)] = store._db.query("PRAGMA page_count")
    store._db.query(f"PRAGMA max_page_count = {pages + 10}")
    store.begin()
    with pytest.raises(StoreFull, match="SQLITE_FULL"):
        store._db.run("INSERT INTO meta VALUES ('x', ?)", (bytes(10**6),))
    store.rollback()

    store._db.query("PRAGMA max_page_count = 1000000")
    note(store, x=1)

    assert store.check() == []
    store.close()


def test_broken_rule_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "queue.db")
    store.begin()
    store.ledger.add_bucket(1, "q")

    with pytest.raises(StoreRefused, match="SQLITE_CONSTRAINT"):
        store.ledger.add_bucket(2, "q")

    store.rollback()
    store.close()


def test_statement_that_makes_no_sense_is_refused() -> None:
    store = open_store(":memory:")

    with pytest.raises(StoreRefused, match="no such table"):
        store._db.query("SELECT * FROM nowhere")
    with pytest.raises(StoreRefused, match="ProgrammingError"):
        store._db.query("SELECT ?", ())
    store.close()


@pytest.mark.parametrize(
    ("error", "name", "kind"),
    [
        (sqlite3.OperationalError("x"), "SQLITE_FULL", StoreFull),
        (sqlite3.OperationalError("x"), "SQLITE_IOERR_FSYNC", StorageFailed),
        (sqlite3.OperationalError("x"), "SQLITE_IOERR_WRITE", StorageFailed),
        (sqlite3.OperationalError("Could not decode to UTF-8 column"), "", StorageFailed),
        (sqlite3.OperationalError("x"), "SQLITE_READONLY", StorageFailed),
        (sqlite3.OperationalError("x"), "SQLITE_BUSY", StorageFailed),
        (sqlite3.DatabaseError("x"), "SQLITE_CORRUPT", StorageFailed),
        (sqlite3.OperationalError("x"), "SQLITE_ERROR", StoreRefused),
        (sqlite3.IntegrityError("x"), "SQLITE_CONSTRAINT_CHECK", StoreRefused),
        (sqlite3.DataError("x"), "SQLITE_TOOBIG", StoreRefused),
        (sqlite3.ProgrammingError("x"), "", StoreRefused),
    ],
)
def test_meaning_of_an_error(error: sqlite3.Error, name: str, kind: type[Exception]) -> None:
    if name:
        error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)

    meant = _meaning(error)

    assert type(meant) is kind
    assert meant.message == f"{name or type(error).__name__}: {error}"


def test_meaning_does_not_hang_on_a_name_that_the_driver_does_not_know() -> None:
    error = sqlite3.IntegrityError("cannot store TEXT value in INTEGER column")
    error.sqlite_errorname, error.sqlite_errorcode = "unknown", 3091  # SQLITE_CONSTRAINT_DATATYPE

    assert type(_meaning(error)) is StoreRefused


def test_damage_that_stops_the_check_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "queue.db")

    def query(sql: str) -> list[tuple[object, ...]]:
        raise StorageFailed("SQLITE_CORRUPT: malformed")

    with monkeypatch.context() as patch:
        patch.setattr(store._db, "query", query)
        assert store.check() == ["SQLITE_CORRUPT: malformed"]
    store.close()


def test_abandoned_database_is_not_written_to_where_sqlite_can_be_told_so(tmp_path: Path) -> None:
    told: list[object] = []

    class Database:
        def setconfig(self, *how: object) -> None:
            told.extend(how)

        def close(self) -> None:
            told.append("closed")

    store = open_store(tmp_path / "queue.db")
    store._db._db.close()
    store._db._db = Database()  # type: ignore[assignment]
    (tmp_path / "queue.db-wal").write_bytes(b"something")
    store.abandon()

    assert told == [1006, True, "closed"]


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = open_store(path)
    store.begin()
    for number in range(500):
        store.ledger.add_bucket(number + 1, f"queue-{number:04d}")
    store.commit()
    store.close()
    body = bytearray(path.read_bytes())
    at = body.index(b"queue-0100") // 4096 * 4096
    body[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(body)

    store = open_store(path)

    assert store.check() != []
    store.abandon()
