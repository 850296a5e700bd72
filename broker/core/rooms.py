"""Who could take another job, the least busy first: kept as it changes, so that no turn walks over all sessions.

Whoever changes what a session may have, or what it has, says so (`touch`); it is looked at again when somebody
asks who could take a job. Nothing in here is told to the store: after a failed turn all of it is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from broker.core.access import Queues
from broker.core.memory import Place, Session

STALE_PLACES_MAX = 64  # beyond one for each session: then they are thrown out


class Group:
    """Sessions that serve the same queues."""

    __slots__ = ("members", "places", "queues", "room")

    def __init__(self, queues: Queues):
        self.queues = queues
        self.members = 0
        self.room = 0  # leases that its sessions may have, beyond those they have
        self.places: list[Place] = []  # a heap; a place that its session has left since is skipped

    def put(self, session: Session, room: int) -> None:
        """The session may have so many leases more, beyond those it has now."""
        self.room += room - session.credit
        session.credit = room
        if room == 0:
            session.place = None
            return
        busy = len(session.holder.leases)
        session.place = (busy >= session.slots, busy / max(session.slots, 1), session.number, session)
        heappush(self.places, session.place)
        if len(self.places) > 2 * self.members + STALE_PLACES_MAX:
            self.places = [place for place in self.places if place[3].place is place]
            heapify(self.places)

    def least_busy(self) -> Session | None:
        """The first of those with room: free slots come before leases ahead, the emptier worker before the fuller."""
        places = self.places
        while places:
            place = places[0]
            if place[3].place is place:
                return place[3]
            heappop(places)
        return None

    def least_busy_without_suspect(self) -> Session | None:
        """The same among those that run no job that is suspected to kill its workers."""
        passed_over = []
        while (session := self.least_busy()) is not None and session.has_suspect:
            passed_over.append(heappop(self.places))
        for place in passed_over:
            heappush(self.places, place)
        return session


class Rooms:
    """The groups of all sessions."""

    def __init__(self, sessions: Iterable[Session] = ()):
        self._groups: dict[Queues, Group] = {}
        self._touched: dict[int, Session] = {}
        self._paused: dict[int, tuple[int, Session]] = {}  # when the next of its pauses is over, monotonic
        for session in sessions:
            self.open(session)

    def open(self, session: Session) -> None:
        """A session begins."""
        session.credit, session.place = 0, None
        self._groups.setdefault(session.queues, Group(session.queues)).members += 1
        self.touch(session)

    def touch(self, session: Session) -> None:
        """Something has changed for this session."""
        self._touched[session.number] = session

    def close(self, session: Session) -> None:
        """A session is over."""
        group = self._groups[session.queues]
        group.put(session, 0)
        group.members -= 1
        if not group.members:
            del self._groups[session.queues]
        self._touched.pop(session.number, None)
        self._paused.pop(session.number, None)

    def groups(self, mono_ms: int) -> Iterator[Group]:
        """The groups that have room now."""
        for end_ms, session in self._paused.values():
            if end_ms <= mono_ms:
                self.touch(session)
        for session in self._touched.values():
            self._groups[session.queues].put(session, max(0, session.room(mono_ms)))
            self._paused.pop(session.number, None)
            if (pause_ms := session.back_in_ms(mono_ms)) is not None:
                self._paused[session.number] = mono_ms + pause_ms, session
        self._touched.clear()
        return (group for group in self._groups.values() if group.room)

    def back_in_ms(self, mono_ms: int) -> int | None:
        """Milliseconds until the next pause of a session is over; None: there is no pause."""
        return min((max(0, end_ms - mono_ms) for end_ms, _ in self._paused.values()), default=None)
