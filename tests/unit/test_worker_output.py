"""Output on its way: what is kept and dropped, what may go now, what goes again. Every gap has its exact size."""

from __future__ import annotations

import random

import pytest

from queuectl.messages import CHUNK_BYTES_MAX, Piece
from worker.core.output import LEASE_WINDOW_BYTES, MESSAGE_BYTES_MAX, PACE_MS, Attempt, OutputBook

WINDOW = 1 << 20


def new_book(window_bytes: int = WINDOW) -> OutputBook:
    book = OutputBook()
    book.restart(window_bytes)
    return book


def attempt(lease: int = 1, limit: int = 1 << 20) -> Attempt:
    return Attempt(lease, f"job-{lease}", 1, limit)


def collect(book: OutputBook, now_ms: int = 0) -> list[Piece]:
    """All that may be sent now."""
    pieces: list[Piece] = []
    while batch := book.collect(now_ms):
        assert sum(len(piece.data) for piece in batch) <= MESSAGE_BYTES_MAX
        assert all(len(piece.data) <= CHUNK_BYTES_MAX for piece in batch)
        pieces += batch
    return pieces


def take_all(book: OutputBook, pieces: list[Piece]) -> None:
    for piece in pieces:
        book.acknowledge(piece.lease, piece.stream, piece.offset + len(piece.data))


def drain(book: OutputBook, now_ms: int = 0) -> list[Piece]:
    """Send and acknowledge until nothing is left."""
    pieces: list[Piece] = []
    while batch := collect(book, now_ms):
        take_all(book, batch)
        pieces += batch
    return pieces


def spans(pieces: list[Piece]) -> list[tuple[int, int]]:
    """The pieces as (offset, end), neighbours joined."""
    joined: list[tuple[int, int]] = []
    for piece in pieces:
        end = piece.offset + len(piece.data)
        if joined and joined[-1][1] == piece.offset:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((piece.offset, end))
    return joined


def test_small_writes_are_joined() -> None:
    book, out = new_book(), attempt()
    for letter in (b"a", b"b", b"c"):
        book.write(out, 1, letter)
    book.write(out, 2, b"err")

    assert collect(book) == [Piece(1, "job-1", 1, 1, 0, b"abc"), Piece(1, "job-1", 1, 2, 0, b"err")]
    assert not book.is_waiting


def test_output_of_many_jobs_shares_a_message() -> None:
    book = new_book()
    for lease in range(1, 6):
        book.write(attempt(lease), 1, b"x")

    assert [piece.lease for piece in book.collect(0)] == [1, 2, 3, 4, 5]


def test_head_and_tail_are_kept_and_the_gap_is_exact() -> None:
    book, out = OutputBook(), attempt(limit=1000)
    for _ in range(100):
        book.write(out, 1, b"x" * 99)
    out.is_finished = True
    book.restart(WINDOW)

    assert spans(drain(book)) == [(0, 500), (9400, 9900)]
    assert out.totals() == (9900, 0)
    assert out.dropped() == 8900


@pytest.mark.parametrize(
    ("limit", "expected"), [(0, []), (1, [(0, 1)]), (2, [(0, 1), (9, 10)]), (9, [(0, 5), (6, 10)]), (10, [(0, 10)])]
)
def test_limits_of_a_few_bytes_hold(limit: int, expected: list[tuple[int, int]]) -> None:
    book, out = OutputBook(), attempt(limit=limit)
    book.write(out, 1, b"0123456789")
    out.is_finished = True
    book.restart(WINDOW)

    assert spans(drain(book)) == expected


@pytest.mark.parametrize("limit", [*range(12), 19, 20])
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_what_is_kept_does_not_depend_on_how_a_command_splits_its_writes(limit: int, size: int) -> None:
    book, out = new_book(window_bytes=0), attempt(limit=limit)
    for start in range(0, 10, size):
        book.write(out, 1, b"0123456789"[start : start + size])
    out.is_finished = True
    book.restart(WINDOW)

    pieces = drain(book)

    assert all(piece.data == b"0123456789"[piece.offset :][: len(piece.data)] for piece in pieces)
    assert all(piece.data for piece in pieces), "nothing is not sent"
    assert spans(pieces) == [span for span in _halves(limit) if span[0] < span[1]]


def _halves(limit: int) -> list[tuple[int, int]]:
    return [(0, 10)] if limit >= 10 else [(0, (limit + 1) // 2), (10 - limit // 2, 10)]


def test_what_arrives_is_what_was_written_whatever_the_sizes() -> None:
    chance = random.Random(7)
    for _ in range(50):
        book, limit = new_book(chance.choice([1000, 5000, WINDOW])), chance.choice([10, 1000, 100_000])
        out, written, arrived, now_ms = attempt(limit=limit), b"", [], 0
        for _ in range(chance.randrange(1, 30)):
            data = chance.randbytes(chance.randrange(1, 5000))
            book.write(out, 1, data)
            written += data
            if chance.random() < 0.3:
                arrived += collect(book, now_ms)
            if chance.random() < 0.1:
                book.restart(book.window_bytes)
            if chance.random() < 0.3:
                take_all(book, arrived[-3:-1])
            now_ms += chance.randrange(PACE_MS)
        out.is_finished = True
        book.restart(WINDOW)
        arrived += drain(book)

        assert all(written[piece.offset : piece.offset + len(piece.data)] == piece.data for piece in arrived)
        have = set[int]()
        for piece in arrived:
            have.update(range(piece.offset, piece.offset + len(piece.data)))
        kept = [*range(min((limit + 1) // 2, len(written))), *range(max(0, len(written) - limit // 2), len(written))]
        assert have.issuperset(kept)
        assert book.finished() == []


def test_credit_of_the_session_bounds_what_is_on_its_way() -> None:
    book = new_book(window_bytes=100)
    first, second = attempt(1), attempt(2)
    book.write(first, 1, b"x" * 80)
    book.write(second, 1, b"y" * 80)

    assert spans(collect(book)) == [(0, 80), (0, 20)]
    assert book.next_deadline() is None
    book.acknowledge(1, 1, 80)

    assert spans(collect(book)) == [(20, 80)]


def test_credit_of_one_byte_sends_one_byte() -> None:
    book, out = new_book(window_bytes=1), attempt()
    book.write(out, 1, b"ab")

    assert [piece.data for piece in drain(book)] == [b"a", b"b"]


def test_full_head_that_was_sent_sends_no_empty_piece() -> None:
    book, out = new_book(), attempt(limit=8)
    book.write(out, 1, b"head")
    drain(book)

    book.write(out, 1, b"tail")

    assert [(piece.offset, piece.data) for piece in drain(book)] == [(4, b"tail")]


def test_one_job_cannot_use_up_the_credit() -> None:
    book = new_book()
    flood, quick = attempt(1, limit=4 << 20), attempt(2)
    book.write(flood, 1, bytes(1 << 20))
    book.write(quick, 1, b"quick")

    pieces = collect(book)

    assert sum(len(piece.data) for piece in pieces if piece.lease == 1) == LEASE_WINDOW_BYTES
    assert pieces[-1].data == b"quick"
    assert book.next_deadline() is None


def test_beyond_its_head_a_stream_is_paced() -> None:
    book, out = new_book(), attempt(limit=2 << 20)
    book.write(out, 1, bytes(1 << 20))
    drain(book, now_ms=1000)

    book.write(out, 1, bytes(LEASE_WINDOW_BYTES + 5))
    assert len(drain(book, now_ms=1000)) == 4
    assert book.next_deadline() == 1000 + PACE_MS

    assert spans(drain(book, now_ms=1000 + PACE_MS)) == [((1 << 20) + LEASE_WINDOW_BYTES, (1 << 20) + (1 << 18) + 5)]
    assert book.next_deadline() is None


def test_finished_stream_is_not_paced() -> None:
    book, out = new_book(), attempt(limit=2 << 20)
    book.write(out, 1, bytes(2 << 20))
    book.finish(1)
    out.is_finished = True

    assert spans(drain(book, now_ms=1000)) == [(0, 2 << 20)]


def test_what_was_not_taken_goes_again_in_a_new_session() -> None:
    book, out = new_book(), attempt()
    book.write(out, 1, b"one")
    collect(book)
    book.write(out, 1, b"two")
    collect(book)
    book.acknowledge(1, 1, 3)

    book.restart(WINDOW)

    assert [(piece.offset, piece.data) for piece in collect(book)] == [(3, b"two")]


def test_credit_is_whole_again_in_a_new_session() -> None:
    book, out = new_book(LEASE_WINDOW_BYTES), attempt()
    book.write(out, 1, bytes(LEASE_WINDOW_BYTES))
    collect(book)

    book.restart(LEASE_WINDOW_BYTES)

    assert spans(out.rest()) == [(0, LEASE_WINDOW_BYTES)]
    assert spans(collect(book)) == [(0, LEASE_WINDOW_BYTES)]
    assert spans(out.rest()) == [(0, LEASE_WINDOW_BYTES)]


def test_attempt_of_which_all_was_taken_has_nothing_to_send_in_a_new_session() -> None:
    book, out = new_book(), attempt()
    book.write(out, 1, b"x")
    take_all(book, collect(book))

    book.restart(WINDOW)

    assert not book.is_waiting


def test_credit_comes_back_piece_by_piece() -> None:
    book, out = new_book(window_bytes=4), attempt()
    for data in (b"ab", b"cd", b"ef", b"gh"):
        book.write(out, 1, data)
        collect(book)

    book.acknowledge(1, 1, 2)

    assert spans(collect(book)) == [(4, 6)]


def test_jobs_take_turns() -> None:
    book = new_book(window_bytes=1)
    book.write(attempt(1), 1, b"aa")
    book.write(attempt(2), 1, b"bb")

    assert [piece.data for piece in drain(book)] == [b"a", b"b", b"a", b"b"]


def test_end_that_goes_again_makes_room_for_the_newer_end() -> None:
    book, out = new_book(), attempt(limit=8)
    book.write(out, 1, b"headtail")
    collect(book)

    book.restart(WINDOW)
    book.write(out, 1, b"last")

    assert spans(collect(book)) == [(0, 4), (8, 12)]
    assert out.dropped() == 4


def test_what_is_taken_in_the_meantime_does_not_go_again() -> None:
    book, out = new_book(), attempt(limit=8)
    book.write(out, 1, b"head")
    book.write(out, 1, b"tail")
    collect(book)
    book.restart(WINDOW)

    book.acknowledge(1, 1, 8)

    assert collect(book) == []


def test_nothing_goes_without_a_session() -> None:
    book, out = new_book(), attempt()
    book.suspend()
    book.write(out, 1, b"one")

    assert book.collect(0) == []
    assert book.next_deadline() is None


def test_unwanted_output_gives_its_credit_back() -> None:
    book = new_book(window_bytes=10)
    book.write(attempt(1), 1, b"x" * 10)
    collect(book)
    book.write(attempt(2), 1, b"y" * 10)

    book.forget(1)
    book.forget(1)
    book.acknowledge(1, 1, 10)
    book.finish(1)

    assert [piece.lease for piece in collect(book)] == [2]


def test_many_pieces_take_many_messages() -> None:
    book = new_book()
    for lease in range(1500):
        book.write(attempt(lease), 1, b"x")

    assert [len(book.collect(0)) for _ in range(3)] == [1000, 500, 0]


def test_message_has_no_more_pieces_than_the_broker_takes() -> None:
    book = OutputBook()
    for offset in range(0, 4000, 2):
        book.adopt(Piece(1, "job-1", 1, 1 + offset % 4 // 2, offset, b"x"))
    book.restart(WINDOW)

    assert [len(book.collect(0)) for _ in range(3)] == [1000, 1000, 0]


def test_pieces_of_a_dead_worker_keep_their_offsets() -> None:
    book = new_book()
    pieces = [
        Piece(1, "job-1", 1, 1, 0, b"head"),
        Piece(1, "job-1", 1, 1, 900, b"tail"),
        Piece(1, "job-1", 1, 2, 0, b"e"),
    ]
    for piece in pieces:
        book.adopt(piece)

    assert collect(book) == pieces
    book.restart(WINDOW)
    assert collect(book) == pieces
    take_all(book, pieces)
    assert book.finished() == []


def test_rest_is_all_that_was_not_taken() -> None:
    book, out = new_book(window_bytes=4), attempt()
    book.write(out, 1, b"x" * (CHUNK_BYTES_MAX + 10))
    collect(book)
    book.write(out, 1, b"y" * CHUNK_BYTES_MAX)

    rest = out.rest()

    assert spans(rest) == [(0, 2 * CHUNK_BYTES_MAX + 10)]
    assert all(len(piece.data) <= CHUNK_BYTES_MAX for piece in rest)


@pytest.mark.parametrize(
    ("stdout", "stderr", "line"),
    [
        (b"", b"", ""),
        (b"one\ntwo\n", b"", "two"),
        (b"one\n", b"oops\n\n  \n", "oops"),
        (b"  padded  ", b"", "padded"),
        (b"bad \xff byte", b"", "bad \\xff byte"),
        (b"\x1b[31mred\x07", b"", "\\x1b[31mred\\x07"),
        ("grün".encode(), b"", "grün"),
        (b"x" * 5000, b"", "x" * 512),
        (b"first\r\nsecond\r\n", b"", "second"),
    ],
)
def test_last_line_is_fit_for_people(stdout: bytes, stderr: bytes, line: str) -> None:
    book, out = new_book(), attempt()
    book.write(out, 1, stdout)
    book.write(out, 2, stderr)

    assert out.last_line() == line
