"""Identifiers."""

from __future__ import annotations

import itertools

import pytest

from queuectl.ids import JOB_ID, REQUEST_ID, job_id_of, job_ids, lease_text, new_request_id


@pytest.mark.parametrize(
    ("seq", "job_id"), [(1, "a1"), (9, "a9"), (10, "b10"), (99, "b99"), (100, "c100"), (10**18, "s1" + "0" * 18)]
)
def test_job_id_tells_how_many_digits_follow(seq: int, job_id: str) -> None:
    assert job_id_of(seq) == job_id
    assert JOB_ID.fullmatch(job_id)


def test_job_ids_sort_in_order_of_arrival_and_none_begins_another() -> None:
    ids = [job_id_of(seq) for seq in (*range(1, 250), 999, 1000, 10**6 - 1, 10**6)]

    assert ids == sorted(ids)
    assert not [pair for pair in itertools.permutations(ids, 2) if pair[1].startswith(pair[0])]


@pytest.mark.parametrize(("first", "count"), [(1, 1), (1, 9), (1, 10), (95, 1000), (100, 900), (1000, 3), (5, 0)])
def test_job_ids_in_a_row_are_those_of_each(first: int, count: int) -> None:
    assert job_ids(first, count) == [job_id_of(seq) for seq in range(first, first + count)]


def test_request_ids_are_unique_and_ordered_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuectl.ids.time.time", lambda: 1_800_000_000.0)
    early = {new_request_id() for _ in range(100)}
    monkeypatch.setattr("queuectl.ids.time.time", lambda: 1_800_000_000.001)
    late = {new_request_id() for _ in range(100)}

    assert len(early | late) == 200
    assert max(early) < min(late)
    assert all(REQUEST_ID.fullmatch(each) and len(each) == 32 for each in early)


def test_lease_is_written_in_16_digits() -> None:
    assert lease_text(0) == "0" * 16
    assert lease_text(2**63 - 1) == "7" + "f" * 15
