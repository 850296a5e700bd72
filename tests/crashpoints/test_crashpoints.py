"""The store loses nothing to a power cut at any moment, nor to an operation that fails; and this could tell."""

from __future__ import annotations

from typing import Any

import pytest

from broker.store import Store, open_store
from queuectl.errors import DatabaseRefused
from tests.crashpoints.campaign import CONTROLS, Found, cut_power, lose_log
from tests.crashpoints.disk import Disk
from tests.crashpoints.failing import Answers, fail_each
from tests.crashpoints.judge import LOG
from tests.crashpoints.vfs import ApswConnection
from tests.crashpoints.workload import DATABASE

FRESH, OLD = 1, 2  # seeds that begin with nothing, and with an old database


@pytest.mark.parametrize("seed", [FRESH, OLD])
def test_power_cut_at_any_moment_loses_nothing(seed: int) -> None:
    found = Found()

    cut_power(seed, found, steps=25, share=0.5)

    assert found.faults == []
    assert found.jobs_lost == 0
    assert found.states > 500
    assert found.of_second_cuts > 5
    assert found.jobs > 10


@pytest.mark.parametrize("seed", [FRESH, OLD])
def test_operation_that_fails_is_said_and_loses_nothing(seed: int) -> None:
    answers = Answers()

    fail_each(seed, answers, every=12)

    assert answers.faults == []
    assert answers.jobs_lost == 0
    told = {(operation, answer) for operation, _, answer in answers.answers}
    assert {("write", "went on"), ("write", "StorageFailed"), ("sync", "StorageFailed")} <= told


@pytest.mark.parametrize("seed", [FRESH, OLD])
def test_log_that_is_gone_after_a_kill_is_never_passed_over(seed: int) -> None:
    found = Found()

    lose_log(seed, found, steps=25, share=0.3)

    assert found.faults == []
    assert found.jobs_lost == 0
    assert found.states > found.refused > 80


@pytest.mark.parametrize("keeps_log", [True, False], ids=["SQLite keeps it", "SQLite deletes it"])
def test_log_is_missed_however_sqlite_lets_go(keeps_log: bool) -> None:
    disk = Disk()

    def reopen() -> Store:
        return open_store(DATABASE, connect=lambda path: ApswConnection(path, disk, keeps_log=keeps_log))

    store = reopen()
    store.begin()
    store.ledger.note({"clean": 0})
    store.commit()
    store.write_through()
    store.abandon()
    reopen().abandon()
    assert set(disk.files) == {DATABASE, LOG}
    del disk.files[LOG]

    for _ in range(3):
        with pytest.raises(DatabaseRefused, match="is missing"):
            reopen()
        assert set(disk.files) == {DATABASE}


@pytest.mark.parametrize("how", CONTROLS.values(), ids=CONTROLS.keys())
def test_broken_rule_loses_acknowledged_jobs(how: dict[str, Any]) -> None:
    found = Found()

    cut_power(FRESH, found, steps=25, share=0.1, **how)

    assert found.jobs_lost > 0
