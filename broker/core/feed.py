"""The feed of what happens: noted while a turn goes on, stored as one row in its transaction, read in slices.

An event is a short tuple: the code of its kind, then the values of its fields in the order of KINDS, with numbers for
workers, queues and who did it; what is null at the end is left out. Neighbours of generated ids that were enqueued
together are one tuple, and many events for whoever reads. A cursor is the number of a row and how many of its events
have been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import msgpack

from broker.core import timeline, views
from broker.core.access import SUBMIT, Actor
from broker.core.find import find
from broker.core.state import State, Waiter
from broker.core.turn import Happened, Turn
from broker.store.events import EventRow
from broker.store.rows import STATES, NewJob
from queuectl.clock import Now
from queuectl.errors import BadRequest, NotAllowed
from queuectl.ids import job_id_of
from queuectl.jobs import JobSpec
from queuectl.requests import Events
from queuectl.suggest import did_you_mean
from queuectl.times import rfc3339

ROWS_PER_SLICE = 1000  # with a few bytes each, where little happens
BYTES_PER_SLICE = 128 * 1024  # some thousand events, where much does: some milliseconds
FORGOTTEN_PER_TURN = 500


class Kind(NamedTuple):
    """A kind of event, and the fields of one."""

    name: str
    fields: tuple[str, ...]


# Codes stand in databases: new ones come at the end, and none changes its fields but for more at their end.
ENQUEUED, ENQUEUED_IN_A_ROW, LEASED, FINISHED, REQUEUED, LOST, ADOPTED = range(7)
CANCELLED, CANCEL_ASKED, EXPIRED, DEAD, HELD, RELEASED, EDITED, RETRIED, PURGED, REPLACED = range(7, 17)
WORKER_JOINED, WORKER_LEFT, SETTING_CHANGED, KEY_ADDED, KEY_REVOKED, BROKER_STARTED, BROKER_STOPPED = range(17, 24)

KINDS: dict[int, Kind] = {
    ENQUEUED: Kind("enqueued", ("job_id", "queue", "by")),
    ENQUEUED_IN_A_ROW: Kind("enqueued", ("first", "count", "queue", "by")),  # the seq of the first, and how many
    LEASED: Kind("leased", ("job_id", "attempt", "worker")),
    FINISHED: Kind(
        "finished",
        ("job_id", "attempt", "worker", "outcome", "exit_code", "signal", "duration_s", "state", "run_at"),
    ),
    REQUEUED: Kind("requeued", ("job_id", "attempt", "worker", "reason", "state")),
    LOST: Kind("lost", ("job_id", "attempt", "worker", "reason", "state")),
    ADOPTED: Kind("adopted", ("job_id", "attempt", "worker")),
    CANCELLED: Kind("cancelled", ("job_id", "by", "reason")),
    CANCEL_ASKED: Kind("cancel_asked", ("job_id", "by", "reason", "attempt")),
    EXPIRED: Kind("expired", ("job_id",)),
    DEAD: Kind("dead", ("job_id", "reason")),
    HELD: Kind("held", ("job_id", "by", "reason")),
    RELEASED: Kind("released", ("job_id", "by", "reason")),
    EDITED: Kind("edited", ("job_id", "by", "changes")),
    RETRIED: Kind("retried", ("job_id", "by", "state", "copy")),  # copy: the id of the job that runs in its place
    PURGED: Kind("purged", ("job_id", "by")),
    REPLACED: Kind("replaced", ("job_id", "by")),
    WORKER_JOINED: Kind("worker_joined", ("worker", "by", "slots")),
    WORKER_LEFT: Kind("worker_left", ("worker", "reason")),
    SETTING_CHANGED: Kind("setting_changed", ("by", "key", "value", "before")),
    KEY_ADDED: Kind("key_added", ("by", "key_name", "role")),
    KEY_REVOKED: Kind("key_revoked", ("by", "key_name")),
    BROKER_STARTED: Kind("broker_started", ("epoch", "version")),
    BROKER_STOPPED: Kind("broker_stopped", ("epoch",)),
}
TYPES: dict[str, frozenset[int]] = {
    kind.name: frozenset(code for code, other in KINDS.items() if other.name == kind.name) for kind in KINDS.values()
}
_OF_WORKERS = frozenset({WORKER_JOINED, WORKER_LEFT})
_OF_NO_JOB = frozenset(code for code, kind in KINDS.items() if kind.fields[0] != "job_id")

Place = tuple[int, int]  # a row, and how many of its events lie behind


# --- noting and writing ----------------------------------------------------------------------------


def note_enqueued(
    turn: Turn, jobs: Sequence[NewJob], specs: Sequence[JobSpec], actors: Sequence[int], refused: AbstractSet[int]
) -> None:
    """These jobs of consecutive seq were stored, but for those refused: generated ids in a row are noted as one."""
    happened, before = turn.happened, None
    for job, spec, actor in zip(jobs, specs, actors, strict=True):
        if job[-1] in refused:
            before = None
        elif spec.id is not None:
            turn.note(ENQUEUED, job[0], job[1], actor)
            before = None
        elif before == (job[1], actor):
            _, first, count, bucket, _ = happened[-1]
            happened[-1] = (ENQUEUED_IN_A_ROW, first, count + 1, bucket, actor)
        else:
            before = (job[1], actor)
            turn.note(ENQUEUED_IN_A_ROW, job[-1], 1, job[1], actor)


def write(core: State, turn: Turn) -> None:
    """Store what has happened, in the transaction of the turn."""
    if happened := _to_be_stored(core, turn):
        append(core, turn.now, happened)


def _to_be_stored(core: State, turn: Turn) -> list[Happened]:
    """Where nothing can be written, that workers come and go is no reason to try: the turn would fail for it."""
    if not core.storage_full:
        return turn.happened
    return [event for event in turn.happened if event[0] not in _OF_WORKERS]


def append(core: State, now: Now, happened: list[Happened]) -> None:
    """One more row."""
    core.store.events.append(core.next_event, now.wall_ms, msgpack.packb(happened))
    core.next_event += 1


def forget(core: State, now: Now) -> int:
    """Forget some of what is older than is kept; how many rows went. A clock that is set makes nothing older."""
    before_ms = core.surely_ms(now) - core.seconds_ms("keep_events")
    return core.store.events.forget(before_ms, core.next_event - 1, FORGOTTEN_PER_TURN)


# --- reading ---------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """Which events somebody asks for."""

    codes: frozenset[int] | None = None  # None: all kinds
    job_id: str | None = None
    seq: int = 0  # of that job
    row: int = 0  # that tells that it came: before that, its id was another job's
    since_ms: int = 0  # the same of a job of which the row was not noted

    def may_be_in(self, turn: Turn) -> bool:
        """Whether it is worth while to look at what happened in a turn: many may wait, and few are meant."""
        if turn.heard is None:
            turn.heard = {event[0] for event in turn.happened}, {event[1] for event in turn.happened}
        codes, subjects = turn.heard
        if self.job_id is not None and self.job_id not in subjects:
            return False
        return self.codes is None or not self.codes.isdisjoint(codes)

    def places(self, event: Happened) -> range:
        """Which of the events that this one stands for are asked for."""
        code = event[0]
        if self.codes is not None and code not in self.codes:
            return range(0)
        if self.job_id is None:
            return range(_count(event))
        if code == ENQUEUED_IN_A_ROW:
            place = self.seq - event[1]
            return range(place, place + 1) if 0 <= place < event[2] else range(0)
        return range(code not in _OF_NO_JOB and event[1] == self.job_id)


def _count(event: Happened) -> int:
    """How many events this one stands for."""
    return int(event[2]) if event[0] == ENQUEUED_IN_A_ROW else 1


class Found(NamedTuple):
    """One event, and where to go on after it."""

    after: Place
    at_ms: int
    event: Happened


def _in_row(row: EventRow, skip: int, wanted: Wanted) -> Iterator[Found]:
    """The wanted events of a row, without the first so many of all of them."""
    place = 0
    happened = msgpack.unpackb(row.body, use_list=False)
    if row.event == wanted.row:
        skip = max(skip, _start(happened, wanted))
    for event in happened:
        places = wanted.places(event)
        for offset in range(max(places.start, skip - place), places.stop):
            yield Found((row.event, place + offset + 1), row.at_ms, _one_of(event, offset))
        place += _count(event)


def _start(happened: Sequence[Happened], wanted: Wanted) -> int:
    """How many events of the row that tells that a job came lie before that: its id may have been another's in them."""
    place = start = 0
    of_all = wanted._replace(codes=None)
    for event in happened:
        if event[0] in (ENQUEUED, ENQUEUED_IN_A_ROW) and (places := of_all.places(event)):
            start = place + places.start
        place += _count(event)
    return start


def _one_of(event: Happened, offset: int) -> Happened:
    if event[0] != ENQUEUED_IN_A_ROW:
        return event
    _, first, _, queue, by = event
    return ENQUEUED, job_id_of(first + offset), queue, by


def _slice(core: State, wanted: Wanted, cursor: Place, limit: int) -> dict[str, Any]:
    """The next events after a cursor: as many as are wanted, or as may be looked at in one turn."""
    number, skip = max(cursor, (wanted.row, 0))
    found: list[Found] = []
    missed = False
    for row in core.store.events.page(number, rows_max=ROWS_PER_SLICE, bytes_max=BYTES_PER_SLICE):
        if row.event != number:
            missed |= cursor[0] > 0
            skip = 0
        if row.at_ms >= wanted.since_ms:
            for each in _in_row(row, skip, wanted):
                found.append(each)
                is_its_end = each.event[0] == PURGED and wanted.job_id is not None
                if len(found) == limit or is_its_end:
                    return _reply(core, found, each.after, missed=missed)
        number, skip = row.event + 1, 0
    return _reply(core, found, (number or core.next_event, skip), missed=missed)


def _reply(core: State, found: Sequence[Found], cursor: Place, *, missed: bool = False) -> dict[str, Any]:
    return {"events": _views(core, found), "cursor": cursor, "more": cursor[0] < core.next_event, "missed": missed}


def _views(core: State, found: Sequence[Found]) -> list[dict[str, Any]]:
    """Events as clients see them, with names in the place of numbers."""
    named = [dict(zip_longest(KINDS[each.event[0]].fields, each.event[1:])) for each in found]
    numbers = {values["worker"] for values in named if values.get("worker") is not None}
    workers = {row.worker: row.name for row in core.store.ledger.workers(numbers)} if numbers else {}
    shown = []
    for each, values in zip(found, named, strict=True):
        for field, value in values.items():
            if value is not None:
                values[field] = _tell(core, workers, field, value)
        shown.append(views.event(each.at_ms, KINDS[each.event[0]].name, values, cursor=each.after))
    return shown


def _tell(core: State, workers: dict[int, str], field: str, value: Any) -> Any:
    match field:
        case "worker":
            return workers[value]
        case "by":
            return core.actor_name(value)
        case "queue":
            return core.queues[value]
        case "state":
            return STATES[value].value
        case "duration_s":
            return value / 1000
        case "run_at":
            return rfc3339(value)
    return value


# --- the operation ---------------------------------------------------------------------------------


def events(core: State, turn: Turn, by: Actor, args: Events) -> dict[str, Any]:
    """A slice of the feed; without a cursor where it goes on from now, and all of one job if it is about one."""
    if args.id is None and by.role == SUBMIT:
        raise NotAllowed(f"'{by.name}' ({by.role}) may see what happens to its own jobs: name one")
    wanted = _wanted(core, by, args)
    if args.cursor is not None:
        return _slice(core, wanted, _place(core, args.cursor), args.limit)
    now = (core.next_event, sum(map(_count, _to_be_stored(core, turn))))
    told = [] if wanted.job_id is None else timeline.of(core, wanted.seq)
    return {
        "events": [event for event in told if not args.types or event["type"] in args.types],
        "cursor": now,
        "more": False,
        "missed": False,
    }


def _wanted(core: State, by: Actor, args: Events) -> Wanted:
    codes: frozenset[int] | None = None
    for name in args.types:
        if name not in TYPES:
            raise BadRequest(
                f"unknown type of event '{name}'", hint=did_you_mean(name, TYPES) or f"known: {', '.join(TYPES)}"
            )
        codes = (codes or frozenset()) | TYPES[name]
    if args.id is None:
        return Wanted(codes)
    known = find(core, args.id, by)
    row, created_at_ms = core.store.listing.beginning(known.seq)
    return Wanted(codes, known.id, known.seq, row or 0, created_at_ms if row is None else 0)


def _place(core: State, cursor: list[int]) -> Place:
    if cursor[0] > core.next_event:
        raise BadRequest(
            "cursor: that many things have not happened here yet",
            hint="it may be of another broker, or of this one before its database was restored; begin at 0",
        )
    return cursor[0], cursor[1] if len(cursor) == 2 else 0


@dataclass(slots=True)
class Watcher(Waiter):
    """A client that has heard of all that has happened, and waits for something to happen."""

    wanted: Wanted
    place: Place
    limit: int

    def must_read(self, turn: Turn) -> bool:
        return bool(turn.happened) and self.wanted.may_be_in(turn)

    def look(self, core: State, turn: Turn) -> dict[str, Any] | Waiter:
        if not self.is_next and not self.must_read(turn):
            return replace(self, place=(core.next_event, 0)) if turn.happened else self
        reply = _slice(core, self.wanted, self.place, self.limit)
        return reply if reply["events"] else replace(self, place=reply["cursor"], is_next=reply["more"])

    def give_up(self, core: State, turn: Turn) -> dict[str, Any]:
        return _reply(core, [], self.place)


def watcher(
    core: State,
    turn: Turn,
    envelope: tuple[bytes, ...],
    by: Actor,
    request_id: str,
    args: Events,
    reply: dict[str, Any],
) -> Watcher | None:
    """Who is to be answered later, because there is nothing to say now; None if the reply can go."""
    if not args.wait_ms or args.cursor is None or reply["events"] or reply["more"] or reply["missed"]:
        return None
    deadline_ms = turn.now.mono_ms + args.wait_ms
    return Watcher(envelope, request_id, deadline_ms, by, _wanted(core, by, args), reply["cursor"], args.limit)
