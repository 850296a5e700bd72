"""The store's own guards: verbs that count what they change, and books that are read back as written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.store import Store, StoreRefused, open_store
from broker.store.rows import Move, NewJob, NewSpec


@pytest.fixture
def store() -> Iterator[Store]:
    store = open_store(":memory:")
    store.begin()
    yield store
    store.rollback()
    store.close()


def new_job(seq: int, job_id: str, *, bucket: int = 1, ready: int = 1, run_at_ms: int = 0) -> tuple[NewJob, NewSpec]:
    return (
        (job_id, bucket, 0, ready, run_at_ms, 0, seq),
        (seq, "true", 3, 2.0, 3600.0, "none", None, 100, 0, None, None, "retry", 1, 1),
    )


def enqueue(store: Store, *new: tuple[NewJob, NewSpec]) -> set[int]:
    return store.jobs.enqueue([job for job, _ in new], [spec for _, spec in new])


def move(seq: int, lease: int, from_state: int = 1) -> Move:
    return Move(2, 0, 0, 1, 0, 0, None, None, 0, None, 5, 5, seq, lease, from_state)


def test_ids_in_use_are_left_out_and_named(store: Store) -> None:
    assert enqueue(store, new_job(1, "a"), new_job(2, "b")) == set()

    assert enqueue(store, new_job(3, "b"), new_job(4, "c"), new_job(5, "c")) == {3, 5}

    assert store._db.query("SELECT seq FROM spec") == [(1,), (2,), (4,)]


def test_move_needs_its_lease(store: Store) -> None:
    enqueue(store, new_job(1, "a"))
    store.jobs.lease([(77, 1, 1, 0, 1)])

    with pytest.raises(StoreRefused, match="move: 1 rows were to change, 0 did"):
        store.jobs.move([move(1, 78)])


def test_move_needs_its_state(store: Store) -> None:
    enqueue(store, new_job(1, "a"))
    store.jobs.lease([(77, 1, 1, 0, 1)])

    with pytest.raises(StoreRefused):
        store.jobs.move([move(1, 77, from_state=0)])


def test_job_is_leased_once(store: Store) -> None:
    enqueue(store, new_job(1, "a"))
    store.jobs.lease([(77, 1, 1, 0, 1)])

    with pytest.raises(StoreRefused, match="lease: 1 rows"):
        store.jobs.lease([(78, 1, 1, 0, 1)])


def test_delayed_job_is_not_leased(store: Store) -> None:
    enqueue(store, new_job(1, "a", ready=2))

    with pytest.raises(StoreRefused):
        store.jobs.lease([(78, 1, 1, 0, 1)])


def test_only_the_dead_are_revived(store: Store) -> None:
    enqueue(store, new_job(1, "a"))

    with pytest.raises(StoreRefused, match="revive"):
        store.jobs.revive([(1, 0, 0, 1)])


def test_only_what_is_there_is_deleted(store: Store) -> None:
    with pytest.raises(StoreRefused, match="delete"):
        store.jobs.delete([1])


def test_adoption_needs_the_lost_lease(store: Store) -> None:
    enqueue(store, new_job(1, "a"))
    store.jobs.lease([(77, 1, 0, 0, 1)])
    store.jobs.move([move(1, 77)._replace(state=0, ready=1, losses=1, keep_lease=77, finished_at_ms=None)])

    assert store.jobs.adopt(1, 78, 2, 0) is False
    assert store.jobs.adopt(1, 77, 2, 0) is True
    assert store.jobs.adopt(1, 77, 2, 0) is False
    [row] = store.jobs.leased()
    assert (row.lease, row.worker, row.losses, row.slot) == (77, 2, 0, 1)


def test_suspected_jobs_are_promoted_to_run_alone(store: Store) -> None:
    enqueue(store, new_job(1, "a", ready=2), new_job(2, "b", ready=2, bucket=2))
    store._db.run("UPDATE job SET losses = 2 WHERE seq = 2")

    assert store.jobs.promote_due(0, 10, alone_from_losses=2) == {1, 2}

    assert [row.id for row in store.jobs.candidates(1, 5)] == ["a"]
    assert [row.id for row in store.jobs.candidates(2, 5)] == []
    assert [row.id for row in store.jobs.candidates(2, 5, alone=True)] == ["b"]


def test_promotion_takes_the_longest_due_first(store: Store) -> None:
    enqueue(store, new_job(1, "a", ready=2, run_at_ms=9), new_job(2, "b", ready=2, run_at_ms=3))

    store.jobs.promote_due(10, 1, alone_from_losses=2)

    assert store.jobs.next_due_ms() == 9


def test_books_are_read_back_as_written(store: Store) -> None:
    ledger = store.ledger
    ledger.note({"a": 1, "b": "text"})
    ledger.note({"a": 2})
    for key, value in {"x": 1.5, "y": None, "z": "word"}.items():
        ledger.set_setting(key, value)
    ledger.unset_setting("y")
    ledger.add_bucket(3, "q")
    ledger.write_tallies([(3, 0, 5), (3, 1, 1)])
    ledger.write_tallies([(3, 0, 4)])

    assert ledger.facts() == {"a": 2, "b": "text"}
    assert ledger.settings() == {"x": 1.5, "z": "word"}
    assert ledger.buckets() == {"q": 3}
    assert ledger.tallies() == {(3, 0): 4, (3, 1): 1}


def test_worker_is_known_by_its_boot(store: Store) -> None:
    about = {"name": "n", "host": "h", "home": "o", "software": "1"}
    added = store.ledger.add_worker(boot="b", pid=1, slots=2, now_ms=0, actor=1, **about)

    assert store.ledger.worker_of("b") == added
    assert store.ledger.worker_of("c") is None
    assert store.ledger.workers([added.worker, 99]) == [added]


def test_replies_are_forgotten_from_the_oldest(store: Store) -> None:
    store.ledger.keep_replies([(f"r{n}", "enqueue", n, b"x") for n in range(5)])

    assert store.ledger.forget_replies(3, 2) == 2
    assert store.ledger.forget_replies(3, 2) == 1
    assert set(store.ledger.replies([f"r{n}" for n in range(5)])) == {"r3", "r4"}


def test_eviction_goes_on_from_where_it_was(store: Store) -> None:
    enqueue(store, new_job(1, "a"), new_job(2, "b"))
    store._db.run("UPDATE job SET state = 2, ready = 0, finished_at_ms = 1 WHERE seq = 2")
    for offset in range(3):
        store._db.run("INSERT INTO output (seq, attempt, stream, offset, data) VALUES (1, 1, 1, ?, x'00')", (offset,))
    store._db.run("INSERT INTO output (seq, attempt, stream, offset, data) VALUES (2, 1, 1, 0, x'0000')")

    first = store.history.evict(0, 100, 2)
    second = store.history.evict(first.after_chunk, 100, 3)

    assert (first.freed, first.seqs, first.after_chunk) == (0, set(), 2)
    assert (second.freed, second.seqs, second.after_chunk) == (2, {2}, 0)
