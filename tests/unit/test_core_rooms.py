"""Who could take another job is known without a walk over all, whatever has changed and however often."""

from __future__ import annotations

from broker.core.access import ADMIN, Actor, Queues
from broker.core.memory import Holder, Session
from broker.core.rooms import STALE_PLACES_MAX, Rooms
from broker.store.rows import WorkerRow


def session(number: int, *, slots: int = 2, queues: frozenset[str] = frozenset()) -> Session:
    holder = Holder(WorkerRow(number, f"{number:032x}", "w", "h", "o", 1, slots, "1", None), 0)
    return Session(number, b"%d" % number, holder, slots, Queues(queues), Actor("uid:0", ADMIN))


def test_room_is_that_of_all_sessions_of_the_same_queues() -> None:
    rooms = Rooms([session(1, slots=3), session(2, slots=4), session(3, slots=5, queues=frozenset("a"))])

    assert [(sorted(group.queues.names), group.room) for group in rooms.groups(0)] == [([], 7), (["a"], 5)]


def test_group_without_room_is_left_out() -> None:
    full = session(1, slots=1)
    rooms = Rooms([full])
    full.draining = True
    rooms.touch(full)

    assert list(rooms.groups(0)) == []


def test_session_that_is_over_gives_its_room_back() -> None:
    first, second = session(1), session(2)
    rooms = Rooms([first, second])
    [group] = rooms.groups(0)

    rooms.close(first)
    assert (group.room, group.least_busy()) == (2, second)
    rooms.close(second)

    assert list(rooms.groups(0)) == []


def test_places_that_sessions_have_left_are_thrown_out() -> None:
    busy, idle = session(1, slots=1000), session(2, slots=1)
    rooms = Rooms([busy, idle])
    [group] = rooms.groups(0)

    for room in range(999, 0, -1):
        group.put(busy, room)

    assert len(group.places) <= 2 * 2 + STALE_PLACES_MAX
    assert (group.room, group.least_busy()) == (2, busy)
    group.put(busy, 0)
    assert (group.room, group.least_busy()) == (1, idle)
    group.put(idle, 0)
    assert group.least_busy() is None


def test_each_of_two_pauses_is_over_by_itself() -> None:
    session_ = session(1, slots=2)
    rooms = Rooms([session_])
    session_.observe(1)
    session_.paused_until_ms, session_.no_ahead_until_ms = 100, 190
    assert (list(rooms.groups(0)), rooms.back_in_ms(0)) == ([], 100)

    [group] = rooms.groups(100)
    assert (group.room, rooms.back_in_ms(100)) == (2, 90)
    [group] = rooms.groups(190)
    assert group.room > 2
    assert rooms.back_in_ms(190) is None


def test_pause_is_over_by_itself() -> None:
    paused = session(1)
    rooms = Rooms([paused])
    paused.paused_until_ms = 100
    assert list(rooms.groups(0)) == []
    assert rooms.back_in_ms(40) == 60

    [group] = rooms.groups(100)

    assert (group.room, rooms.back_in_ms(100)) == (2, None)
