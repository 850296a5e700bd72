"""The spool: what is written is read again, whatever tore it; who is dead is known by a lock."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

import pytest

from queuectl.messages import Piece, Result, Returned
from worker.adopt import Adoption, end_dead
from worker.spool import LOG_NAME, SYNC_AFTER_MS, Holder, Spool, holder_of, read_spool, take_lock

BOOT, OTHER = secrets.token_hex(16), secrets.token_hex(16)
PIECE = Piece(2, "job-2", 1, 1, 500, b"\xff\0tail")


def result(lease: int, note: str = "") -> Result:
    return Result(lease, f"job-{lease}", 1, "completed", 0, None, 1, 1, 0, 0, "", note)


def never(pid: int) -> None:
    raise AssertionError(f"process {pid} was killed")


def new_spool(root: Path, boot: str = BOOT) -> Spool:
    return Spool(root, boot, host="here", brand=7)


def abandon(spool: Spool) -> None:
    """Let go of it as a killed process does."""
    os.close(spool._log)
    assert spool._lock is not None
    os.close(spool._lock)


def test_what_was_not_settled_is_read_again(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 0)
    spool.add_result(result(2), "broker-2", 0)
    spool.add_output([PIECE], "broker-2", 0)
    spool.add_returned([Returned(3, "stopped"), Returned(4, "lost")], "broker-2")
    spool.settle([1], may_truncate=True)
    abandon(spool)

    legacy = read_spool(tmp_path / BOOT)

    assert legacy.results == {2: ("broker-2", result(2))}
    assert legacy.torn_bytes == 0
    assert legacy.pieces == [("broker-2", PIECE)]
    assert legacy.returned == [("broker-2", Returned(3, "stopped")), ("broker-2", Returned(4, "lost"))]
    assert not legacy.has_ended


@pytest.mark.parametrize("cut", [1, 5, 12, 40])
def test_torn_end_is_ignored(tmp_path: Path, cut: int) -> None:
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 0)
    spool.add_result(result(2), "broker-1", 0)
    abandon(spool)
    log = tmp_path / BOOT / LOG_NAME
    whole = log.stat().st_size // 2
    log.write_bytes(log.read_bytes()[:-cut])

    legacy = read_spool(tmp_path / BOOT)

    assert (list(legacy.results), legacy.torn_bytes) == ([1], whole - cut)
    adoption = Adoption(tmp_path, host="elsewhere", own_boot="0" * 32)
    adoption.take(never)
    assert adoption.torn == {BOOT: whole - cut}
    adoption.close()


def test_damaged_record_ends_the_file(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 0)
    length = (tmp_path / BOOT / LOG_NAME).stat().st_size
    spool.add_result(result(2), "broker-1", 0)
    abandon(spool)
    log = tmp_path / BOOT / LOG_NAME
    content = bytearray(log.read_bytes())
    content[length + 12] ^= 1
    log.write_bytes(content)

    assert list(read_spool(tmp_path / BOOT).results) == [1]


def test_record_of_a_newer_version_is_passed_over(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool._append(["hologram", 1])
    spool._append(["result", "broker-1", ["not", "a", "result"]])
    spool.add_result(result(1), "broker-1", 0)
    abandon(spool)

    assert list(read_spool(tmp_path / BOOT).results) == [1]


def test_file_that_ends_in_zeros_is_read_up_to_them(tmp_path: Path) -> None:
    """As a file may be found after the power was cut: its length was on disk, its end was not."""
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 0)
    abandon(spool)
    log = tmp_path / BOOT / LOG_NAME
    log.write_bytes(log.read_bytes() + bytes(100))

    legacy = read_spool(tmp_path / BOOT)

    assert (list(legacy.results), legacy.torn_bytes) == ([1], 100)


@pytest.mark.parametrize("record", [["settled", [[1]]], ["settled", [None]], ["settled", "1"], ["result"], {}, 7])
def test_record_that_makes_no_sense_is_passed_over(tmp_path: Path, record: object) -> None:
    spool = new_spool(tmp_path)
    spool._append(record)  # type: ignore[arg-type]
    spool.add_result(result(1), "broker-1", 0)
    abandon(spool)

    assert list(read_spool(tmp_path / BOOT).results) == [1]


def test_disk_is_waited_for_only_where_a_result_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 1000)
    spool.settle([1], may_truncate=True)
    assert spool.next_deadline() is None

    spool.add_result(result(2), "broker-1", 2000)
    spool.tick(2000 + SYNC_AFTER_MS - 1)
    assert synced == []
    assert spool.next_deadline() == 2000 + SYNC_AFTER_MS
    spool.tick(2000 + SYNC_AFTER_MS)

    assert len(synced) == 1
    assert spool.next_deadline() is None
    spool.close(is_tidy=True, is_quiet=True)


def test_disk_is_waited_for_where_leases_were_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    spool = new_spool(tmp_path)

    spool.add_returned([Returned(1, "stopped")], "broker-1")

    assert len(synced) == 1
    spool.close(is_tidy=True, is_quiet=True)


def test_disk_is_not_waited_for_under_a_stream_of_results_that_are_answered_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", pytest.fail)
    spool = new_spool(tmp_path)
    for lease in range(100):
        spool.add_result(result(lease), "broker-1", lease * 100)
        spool.settle([lease - 1], may_truncate=True)
        spool.tick(lease * 100)

    abandon(spool)


def test_file_is_emptied_when_it_is_long_and_nothing_is_outstanding(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    log = tmp_path / BOOT / LOG_NAME
    for lease in range(2500):
        spool.add_result(result(lease, note="x" * 500), "broker-1", 0)
    spool.settle(list(range(2499)), may_truncate=True)
    assert log.stat().st_size > 1 << 20
    spool.settle([2499], may_truncate=False)
    assert log.stat().st_size > 1 << 20

    spool.settle([], may_truncate=True)

    assert log.stat().st_size == 0
    spool.close(is_tidy=True, is_quiet=True)


def test_full_disk_keeps_results_in_memory_and_writes_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path)
    spool.add_result(result(1), "broker-1", 0)
    write = os.write

    def write_half(fd: int, data: bytes) -> int:
        if len(data) > 10:
            return write(fd, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", write_half)
    with pytest.raises(OSError, match="short write"):
        spool.add_result(result(2), "broker-1", 0)
    monkeypatch.setattr("os.write", write)
    assert list(read_spool(tmp_path / BOOT).results) == [1]

    spool.add_result(result(3), "broker-1", 0)
    abandon(spool)

    assert list(read_spool(tmp_path / BOOT).results) == [1, 2, 3]


def test_tidy_end_leaves_nothing(tmp_path: Path) -> None:
    new_spool(tmp_path).close(is_tidy=True, is_quiet=True)

    assert list(tmp_path.iterdir()) == []


def test_tidy_end_with_a_process_left_leaves_the_folder_to_whoever_sweeps(tmp_path: Path) -> None:
    new_spool(tmp_path).close(is_tidy=True, is_quiet=False)

    assert not read_spool(tmp_path / BOOT).has_ended
    assert (tmp_path / BOOT).is_dir()


@pytest.mark.parametrize("is_quiet", [True, False])
def test_untidy_end_says_that_no_process_is_left_only_if_that_is_so(tmp_path: Path, is_quiet: bool) -> None:
    new_spool(tmp_path).close(is_tidy=False, is_quiet=is_quiet)

    assert read_spool(tmp_path / BOOT).has_ended == is_quiet


def test_folder_is_closed_to_others(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)

    assert (tmp_path / BOOT).stat().st_mode & 0o077 == 0
    assert (tmp_path / BOOT / LOG_NAME).stat().st_mode & 0o077 == 0
    spool.close(is_tidy=True, is_quiet=True)


def test_lock_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    assert take_lock(tmp_path / BOOT) is None

    abandon(spool)
    lock = take_lock(tmp_path / BOOT)

    assert lock is not None
    assert holder_of(lock) == Holder("here", 7)
    assert take_lock(tmp_path / BOOT) is None
    os.close(lock)
    assert take_lock(tmp_path / "nowhere") is None


@pytest.mark.parametrize("told", ["{", "[]", "[" * 4000, '{"pid": 1}'])
def test_lock_file_that_says_nothing_is_of_an_unknown_host(tmp_path: Path, told: str) -> None:
    folder = tmp_path / BOOT
    folder.mkdir()
    (folder / "lock").write_text(told)
    lock = take_lock(folder)

    assert lock is not None
    assert holder_of(lock) == Holder()
    os.close(lock)


def test_lock_file_of_an_older_version_knows_no_brand(tmp_path: Path) -> None:
    folder = tmp_path / BOOT
    folder.mkdir()
    (folder / "lock").write_text('{"host": "here", "pid": 1}')
    lock = take_lock(folder)

    assert lock is not None
    assert holder_of(lock) == Holder("here", None)
    os.close(lock)


def test_only_dead_workers_are_adopted_and_only_once(tmp_path: Path) -> None:
    living, dead = new_spool(tmp_path, BOOT), new_spool(tmp_path, OTHER)
    dead.add_result(result(1), "broker-1", 0)
    abandon(dead)
    (tmp_path / "rubbish").mkdir()
    first = Adoption(tmp_path, host="here", own_boot=BOOT)
    second = Adoption(tmp_path, host="here", own_boot=BOOT)

    found = first.take(never)

    assert [(legacy.boot, legacy.results, legacy.is_gone) for legacy in found] == [
        (OTHER, [("broker-1", result(1))], True)
    ]
    assert second.take(never) == []
    first.forget([OTHER])
    assert not (tmp_path / OTHER).exists()
    first.close()
    living.close(is_tidy=True, is_quiet=True)


def test_adoption_that_was_not_completed_is_left_to_the_next_worker(tmp_path: Path) -> None:
    abandon(new_spool(tmp_path, OTHER))
    first = Adoption(tmp_path, host="here", own_boot=BOOT)
    assert len(first.take(never)) == 1

    first.close()

    second = Adoption(tmp_path, host="here", own_boot=BOOT)
    assert len(second.take(never)) == 1
    second.close()


def test_results_of_another_host_are_adopted_but_it_is_not_said_to_be_gone(tmp_path: Path) -> None:
    abandon(new_spool(tmp_path, OTHER))
    adoption = Adoption(tmp_path, host="elsewhere", own_boot=BOOT)

    (legacy,) = adoption.take(never)

    assert not legacy.is_gone
    adoption.close()


def test_dead_are_seen_and_left_to_be_adopted(tmp_path: Path) -> None:
    def is_any_dead(root: Path) -> bool:
        return end_dead(root, host="here", on_swept=never)

    assert not is_any_dead(tmp_path / "none")
    living = new_spool(tmp_path)
    assert not is_any_dead(tmp_path)
    abandon(new_spool(tmp_path, OTHER))

    assert is_any_dead(tmp_path)

    adoption = Adoption(tmp_path, host="here", own_boot=BOOT)
    assert [legacy.boot for legacy in adoption.take(never)] == [OTHER]
    adoption.close()
    living.close(is_tidy=True, is_quiet=True)


def test_home_without_spools_has_nothing_to_adopt(tmp_path: Path) -> None:
    assert Adoption(tmp_path / "none", host="here", own_boot=BOOT).take(never) == []
