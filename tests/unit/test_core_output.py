"""Output: kept at both ends, with gaps of known size, once, and not for ever."""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker.core import outputs
from queuectl.messages import Grant, Output, Piece, Taken, Took
from tests.harness import BrokerHarness, FakeWorker, held, piece


def working(broker: BrokerHarness, name: str = "w", **job: Any) -> tuple[FakeWorker, Grant]:
    worker = broker.worker(name)
    worker.hello()
    broker.enqueue(**job)
    return worker, worker.grant()


def write(worker: FakeWorker, grant: Grant, data: bytes, *, offset: int = 0, stream: int = 1) -> int:
    """Send a piece; up to where it was taken."""
    worker.write(grant, data, offset=offset, stream=stream)
    took = worker.take(Took)
    [taken] = took.taken
    assert (taken.lease, taken.stream) == (grant.lease, stream)
    return taken.upto


def kept(broker: BrokerHarness, job: str, **args: Any) -> dict[int, list[tuple[int, bytes]]]:
    """What is kept of each stream, over all slices, neighbouring pieces joined."""
    streams: dict[int, list[tuple[int, bytes]]] = {}
    while True:
        reply = broker.ask("output", id=job, **args)
        for stream, offset, data in reply["segments"]:
            pieces = streams.setdefault(stream, [])
            if pieces and pieces[-1][0] + len(pieces[-1][1]) == offset:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + data)
            else:
                pieces.append((offset, data))
        if reply["next"] is None:
            return streams
        args |= {"attempt": reply["attempt"], "cursor": reply["next"]}


# --- in ------------------------------------------------------------------------------------------------


def test_pieces_are_taken_and_kept_in_order(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    assert write(worker, grant, b"hello ") == 6
    assert write(worker, grant, b"world", offset=6) == 11
    assert write(worker, grant, b"oops", stream=2) == 4

    assert kept(broker, grant.job) == {1: [(0, b"hello world")], 2: [(0, b"oops")]}


def test_pieces_of_one_message_are_acknowledged_together(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    pieces = [piece(grant, b"ab"), piece(grant, b"cd", offset=2), piece(grant, b"x", stream=2)]

    worker.tell(Output(worker.session, pieces), Output(worker.session, [piece(grant, b"ef", offset=4)]))

    assert worker.take(Took).taken == [Taken(grant.lease, 1, 4), Taken(grant.lease, 2, 1), Taken(grant.lease, 1, 6)]
    assert kept(broker, grant.job) == {1: [(0, b"abcdef")], 2: [(0, b"x")]}


def test_piece_that_comes_twice_is_kept_once(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"hello")

    assert write(worker, grant, b"hello") == 5
    assert write(worker, grant, b"lo world", offset=3) == 11
    assert write(worker, grant, b"ell", offset=1) == 11

    assert kept(broker, grant.job) == {1: [(0, b"hello world")]}


def test_jump_in_the_offsets_is_a_gap_of_that_size(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"begin")

    assert write(worker, grant, b"end", offset=100) == 103

    assert kept(broker, grant.job) == {1: [(0, b"begin"), (100, b"end")]}


def test_empty_piece_says_how_far_the_stream_went(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    assert write(worker, grant, b"", offset=7) == 7
    assert kept(broker, grant.job) == {}


def test_small_pieces_share_a_row(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    for offset in range(100):
        write(worker, grant, b"%c" % (65 + offset % 26), offset=offset)

    [(rows,)] = broker.store._db.query("SELECT count(*) FROM output")

    assert rows == 1
    assert len(kept(broker, grant.job)[1][0][1]) == 100


def test_streams_that_take_turns_keep_their_order(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    for step in range(4):
        write(worker, grant, b"o", offset=step, stream=1)
        write(worker, grant, b"e", offset=step, stream=2)

    segments = broker.ask("output", id=grant.job)["segments"]

    assert [(stream, offset) for stream, offset, _ in segments] == [(1 + n % 2, n // 2) for n in range(8)]


# --- head and tail ---------------------------------------------------------------------------------------


def test_head_and_tail_are_kept_with_the_exact_gap(broker: BrokerHarness) -> None:
    worker, grant = working(broker, output_limit=1000)
    data = random.Random(1).randbytes(5000)
    for offset in range(0, 5000, 50):
        write(worker, grant, data[offset : offset + 50], offset=offset)

    [(start, head), (tail_start, tail)] = kept(broker, grant.job)[1]

    assert (start, head) == (0, data[:500])
    assert tail == data[tail_start:]
    assert 430 <= len(tail) <= 500


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 10, 1000, 4096])
def test_one_large_piece_is_cut_to_both_ends(broker: BrokerHarness, limit: int) -> None:
    worker, grant = working(broker, output_limit=limit)
    data = random.Random(1).randbytes(20_000)

    assert write(worker, grant, data) == 20_000

    pieces = kept(broker, grant.job).get(1, [])
    assert b"".join(part for _, part in pieces) == data[: limit // 2] + data[len(data) - limit // 2 :]


@pytest.mark.parametrize("size", [1, 7, 100, 4096, 65536])
@pytest.mark.parametrize("limit", [64, 1000, 100_000])
def test_tail_lacks_at_most_an_eighth_whatever_the_pieces(broker: BrokerHarness, size: int, limit: int) -> None:
    worker, grant = working(broker, output_limit=limit)
    total = min(3 * limit + 5 * size, 500 * size)
    data = random.Random(1).randbytes(total)
    pieces = [piece(grant, data[at : at + size], offset=at) for at in range(0, total, size)]
    for at in range(0, len(pieces), 50):
        worker.tell(Output(worker.session, pieces[at : at + 50]))
        worker.take(Took)

    stored = kept(broker, grant.job)[1]

    for at, part in stored:
        assert data[at : at + len(part)] == part
    assert stored[0][0] == 0
    assert len(stored[0][1]) >= min(limit // 2, total)
    assert stored[-1][0] + len(stored[-1][1]) == total
    lacking = min(limit, total) - sum(len(part) for _, part in stored)
    assert 0 <= lacking <= max(1, limit // 16)


def test_piece_that_grows_and_goes_in_one_turn_is_gone(broker: BrokerHarness) -> None:
    worker, grant = working(broker, output_limit=64)
    write(worker, grant, b"h" * 32 + b"a")

    worker.tell(Output(worker.session, [piece(grant, b"b", offset=33), piece(grant, b"c" * 40, offset=34)]))
    worker.take(Took)

    assert kept(broker, grant.job) == {1: [(0, b"h" * 32), (42, b"c" * 32)]}


def test_limit_holds_for_each_stream_apart(broker: BrokerHarness) -> None:
    worker, grant = working(broker, output_limit=10)
    write(worker, grant, b"a" * 100, stream=1)
    write(worker, grant, b"b" * 3, stream=2)

    assert kept(broker, grant.job) == {1: [(0, b"a" * 5), (95, b"a" * 5)], 2: [(0, b"bbb")]}


# --- after the end -----------------------------------------------------------------------------------------


def test_output_may_come_after_the_result(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"hello ")
    worker.finish(grant, stdout_bytes=11)
    assert list(broker.core.closing) == [grant.lease]

    assert write(worker, grant, b"world", offset=6) == 11

    assert kept(broker, grant.job) == {1: [(0, b"hello world")]}
    assert broker.core.closing == {}


def test_output_may_come_after_the_result_and_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker, output_limit=20)
    write(worker, grant, b"0123456789abcdefghij")
    worker.finish(grant, stdout_bytes=25)
    broker.crash()
    worker.hello()

    assert write(worker, grant, b"hijklmnop", offset=17) == 26
    assert broker.core.closing == {}
    assert kept(broker, grant.job) == {1: [(0, b"0123456789"), (16, b"ghijklmnop")]}


def test_output_is_not_finished_after_a_crash_while_the_rest_is_on_its_way(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker)
    worker.finish(grant, stdout_bytes=4)
    broker.crash()
    worker.hello()

    assert write(worker, grant, b"ab") == 2
    assert broker.ask("output", id=grant.job)["finished"] is False
    assert write(worker, grant, b"cd", offset=2) == 4

    assert broker.ask("output", id=grant.job)["finished"] is True


def test_output_of_a_running_job_goes_on_after_a_crash(broker_on_disk: BrokerHarness) -> None:
    broker = broker_on_disk
    worker, grant = working(broker, output_limit=20)
    write(worker, grant, b"0123456789abcdef")
    broker.crash()
    worker.hello(held=[held(grant)])

    assert write(worker, grant, b"efghij", offset=14) == 20

    assert kept(broker, grant.job) == {1: [(0, b"0123456789abcdefghij")]}


def test_output_of_an_adopted_lease_goes_on(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"hello ")
    broker.after(31_000)
    worker.hello(held=[held(grant)])

    write(worker, grant, b"world", offset=6)

    assert kept(broker, grant.job) == {1: [(0, b"hello world")]}


def test_output_of_a_lost_lease_is_taken_and_not_kept(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    broker.after(31_000)
    other = broker.worker("o")
    other.hello()
    other.grant()
    worker.hello()

    assert write(worker, grant, b"late") == 4

    assert kept(broker, grant.job, attempt=1) == {}


def test_output_of_an_attempt_that_was_given_back_is_kept(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    worker.release(grant, reason="stopped")

    write(worker, grant, b"last words")

    assert kept(broker, grant.job, attempt=1) == {1: [(0, b"last words")]}
    assert broker.ask("output", id=grant.job, attempt=1)["finished"] is True, "nobody has told how much there is"


@pytest.mark.parametrize("changes", [{"job": "nobody"}, {"attempt": 9}, {"lease": 1}])
def test_output_that_belongs_nowhere_is_taken_and_not_kept(broker: BrokerHarness, changes: dict[str, Any]) -> None:
    worker, grant = working(broker)
    worker.finish(grant)
    stray: dict[str, Any] = {"lease": grant.lease, "job": grant.job, "attempt": grant.attempt} | changes

    worker.tell(Output(worker.session, [Piece(**stray, stream=1, offset=0, data=b"x")]))

    worker.take(Took)
    assert broker.core.output_bytes == 0


def test_attempts_that_wait_for_their_output_are_not_remembered_without_end(
    broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "CLOSING_MAX", 2)
    worker = broker.worker()
    worker.hello()
    grants = []
    for _ in range(3):
        broker.enqueue()
        grants.append(worker.grant())
        worker.finish(grants[-1], stdout_bytes=5)
    assert list(broker.core.closing) == [grant.lease for grant in grants[1:]]

    grant = grants[0]
    write(worker, grant, b"hello")

    assert kept(broker, grant.job) == {1: [(0, b"hello")]}


def test_result_of_a_job_of_which_nothing_is_kept_waits_for_no_output(broker: BrokerHarness) -> None:
    worker, grant = working(broker, output_limit=0)

    worker.finish(grant, stdout_bytes=500)

    assert broker.core.closing == {}


def test_result_without_output_waits_for_none(broker: BrokerHarness) -> None:
    worker, grant = working(broker)

    worker.finish(grant)

    assert broker.core.closing == {}


# --- eviction ------------------------------------------------------------------------------------------------


def finished(broker: BrokerHarness, name: str, data: bytes, **report: Any) -> str:
    worker, grant = working(broker, name, max_retries=1)
    write(worker, grant, data)
    worker.finish(grant, stdout_bytes=len(data), **report)
    worker.bye()
    broker.outbox.clear()
    return grant.job


def test_oldest_output_of_finished_jobs_goes_first(broker: BrokerHarness) -> None:
    first, second, third = (finished(broker, name, b"x" * 6000) for name in ("a", "b", "c"))

    broker.ask("config_set", key="output_total", value=12_500)

    assert [kept(broker, job) != {} for job in (first, second, third)] == [False, True, True]
    assert broker.ask("output", id=first)["totals"] == {"1": 6000, "2": 0}
    assert broker.events("output_evicted") == [{"bytes": 6000}]


def test_output_of_running_jobs_stays(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"x" * 6000)
    done = finished(broker, "d", b"y" * 100)

    broker.ask("config_set", key="output_total", value=50)

    assert (kept(broker, done), len(kept(broker, grant.job)[1][0][1])) == ({}, 6000)
    worker.beat(grant)
    broker.outbox.clear()


def test_eviction_goes_in_steps(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "EVICTED_PER_TURN", 2)
    for name in "abcde":
        finished(broker, name, b"x" * 100)
    broker.ask("config_set", key="output_total", value=0)
    assert broker.core.output_bytes == 300

    broker.turn()
    broker.turn()

    assert broker.core.output_bytes == 0


def test_late_output_of_an_evicted_attempt_is_counted_right(broker: BrokerHarness) -> None:
    worker, grant = working(broker, output_limit=40)
    write(worker, grant, b"x" * 30)
    worker.finish(grant, stdout_bytes=60)
    broker.ask("config_set", key="output_total", value=0)
    assert broker.core.output_bytes == 0
    broker.ask("config_unset", key="output_total")

    write(worker, grant, b"y" * 30, offset=30)

    [(_, data), *_] = kept(broker, grant.job)[1]
    assert set(data) == set(b"y")


# --- out -------------------------------------------------------------------------------------------------------


def test_output_of_the_latest_attempt_is_the_default(broker: BrokerHarness) -> None:
    worker, grant = working(broker, backoff_base=0)
    write(worker, grant, b"first")
    worker.finish(grant, 1, stdout_bytes=5)
    again = worker.grant()
    write(worker, again, b"second")

    reply = broker.ask("output", id=grant.job)

    assert (reply["id"], reply["attempt"], reply["finished"], reply["totals"]) == (grant.job, 2, False, None)
    assert reply["segments"] == [[1, 0, b"second"]]
    older = broker.ask("output", id=grant.job, attempt=1)
    assert (older["segments"], older["finished"], older["totals"]) == ([[1, 0, b"first"]], True, {"1": 5, "2": 0})


def test_output_of_a_job_that_has_not_run(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()

    reply = broker.ask("output", id=job)

    assert (reply["attempt"], reply["segments"], reply["totals"], reply["finished"]) == (0, [], None, False)
    assert (reply["next"], reply["cursor"]) == (None, [0, 0])


def test_one_stream_of_two(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"out", stream=1)
    write(worker, grant, b"err", stream=2)

    assert kept(broker, grant.job, stream=2) == {2: [(0, b"err")]}


@pytest.mark.parametrize(
    ("tail_bytes", "expected"), [(0, b""), (1, b"j"), (4, b"ghij"), (10, b"abcdefghij"), (99, b"abcdefghij")]
)
def test_tail_of_each_stream(broker: BrokerHarness, tail_bytes: int, expected: bytes) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"abcde")
    broker.core.leases[grant.lease].output.last = None
    write(worker, grant, b"fghij", offset=5)
    write(worker, grant, b"E", stream=2)

    found = kept(broker, grant.job, tail_bytes=tail_bytes)

    assert b"".join(data for _, data in found.get(1, [])) == expected
    assert (2 in found) == (tail_bytes > 0)


def test_tail_of_a_stream_that_the_command_did_not_use_is_empty(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    write(worker, grant, b"abcde")

    assert kept(broker, grant.job, tail_bytes=2) == {1: [(3, b"de")]}


def test_long_output_comes_in_slices(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.reading.OUTPUT_BYTES_PER_REPLY", 10_000)
    worker, grant = working(broker)
    data = random.Random(1).randbytes(60_000)
    for offset in range(0, 60_000, 6000):
        write(worker, grant, data[offset : offset + 6000], offset=offset)

    first = broker.ask("output", id=grant.job)

    assert sum(len(segment[2]) for segment in first["segments"]) == 12_000
    assert kept(broker, grant.job) == {1: [(0, data)]}


def test_many_small_pieces_come_in_slices(broker: BrokerHarness) -> None:
    worker, grant = working(broker)
    for step in range(70):
        write(worker, grant, b"o", offset=step, stream=1)
        write(worker, grant, b"e", offset=step, stream=2)

    assert kept(broker, grant.job) == {1: [(0, b"o" * 70)], 2: [(0, b"e" * 70)]}


def test_cursor_goes_on_within_a_piece_that_has_grown(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.reading.OUTPUT_BYTES_PER_REPLY", 1)
    worker, grant = working(broker)
    write(worker, grant, b"hello ")
    cursor = broker.ask("output", id=grant.job)["next"]
    write(worker, grant, b"world", offset=6)

    reply = broker.ask("output", id=grant.job, cursor=cursor)

    assert reply["segments"] == [[1, 6, b"world"]]


@pytest.mark.parametrize("cursor", [[], [1], [1, 2, 3], [-1, 0], [0, 2**63], ["a", 0]])
def test_strange_cursor_is_refused(broker: BrokerHarness, cursor: list[Any]) -> None:
    [job] = broker.enqueue()

    assert broker.refused("output", id=job, cursor=cursor).code == "bad_request"


def test_attempt_that_never_was(broker: BrokerHarness) -> None:
    [job] = broker.enqueue()

    assert broker.ask("output", id=job, attempt=5)["segments"] == []
    assert broker.refused("output", id=job, attempt=0).code == "bad_request"
