"""The feed of what happens, for whoever reads it: a slice at a time, or followed for as long as wanted.

A follower keeps its place, so it outlives a restart of the broker and neither misses an event nor gets one twice. A
cursor is text here, `ROW.PLACE`; that of an event says where the feed goes on after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from queuectl.errors import BadRequest, UnknownJob
from queuectl.patience import Away, patiently

if TYPE_CHECKING:
    from queuectl.client import Client

OLDEST = "0"
PURGED = "purged"
MISSED = "missed"  # type of the event that stands for those which were forgotten before they were read
EVENTS_PER_REPLY = 500
WAIT_S = 10.0  # the broker holds a reply so long; then the client asks again
ENDS = frozenset({"completed", "dead", "cancelled"})
_LEADS_TO = {"cancelled": "cancelled", "replaced": "cancelled", "expired": "cancelled", "dead": "dead"}
_ALL_HAVE = ("type", "at", "job_id", "attempt", "worker", "by", "cursor")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `more` has what only events of its `type` have, such as `exit_code` or `reason`.

    `at` is RFC 3339 in UTC; it is empty for the type `missed`, which stands for events that were forgotten before they
    were read. `cursor` is None for what is told from the stored history of a job.
    """

    type: str
    at: str = ""
    job_id: str | None = None
    attempt: int | None = None
    worker: str | None = None
    by: str | None = None
    cursor: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ends_job(self) -> bool:
        """Whether its job is over with it: nothing follows unless somebody has it run again."""
        return self.type == PURGED or _LEADS_TO.get(self.type, self.more.get("state")) in ENDS

    def as_dict(self) -> dict[str, Any]:
        """All of it as one flat map."""
        plain = asdict(self)
        more = plain.pop("more")
        return {**plain, **more}


def text_of(cursor: Sequence[int]) -> str:
    """A cursor as text."""
    return ".".join(map(str, cursor))


def parse_cursor(text: str) -> list[int]:
    """The cursor of a text: `0` is the oldest event that is kept. Raises BadRequest."""
    parts = text.split(".")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise BadRequest(f"'{text}' is not a cursor", hint="take that of an event (--json shows it), or 0 for all")
    return [int(part) for part in parts]


class Feed:
    """A reader with its place in the feed. `cursor` is where it goes on."""

    def __init__(
        self,
        client: Client,
        *,
        job_id: str | None = None,
        since: str | None = None,
        types: Sequence[str] = (),
        on_away: Away | None = None,
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._types = list(types)
        self._cursor = None if since is None else parse_cursor(since)
        self._on_away = on_away

    @property
    def cursor(self) -> str | None:
        """Where to go on; None before anything has been asked."""
        return None if self._cursor is None else text_of(self._cursor)

    def begin(self) -> list[Event]:
        """Take up the feed where it is now: nothing, or the whole history of the job that is named."""
        return self._take(self._ask({}))

    def last(self, count: int) -> list[Event]:
        """The latest events that are kept, oldest first; the feed goes on after them."""
        events = self.begin()
        assert self._cursor is not None
        if self._job_id is not None or not count:
            return events[len(events) - min(count, len(events)) :]
        end, rows = self._cursor[0], count
        while True:
            begin = max(end - rows, 0)
            self._cursor = [begin]
            latest = deque((event for event in self.rest() if event.type != MISSED), maxlen=count)
            if len(latest) == count or begin == 0:
                return list(latest)
            rows *= 8

    def rest(self, *, patient: bool = False) -> Iterator[Event]:
        """What has happened since, up to now; `patient`: though the broker is away meanwhile."""
        ask = self._ask_patiently if patient else self._ask
        while True:
            reply = ask({"limit": EVENTS_PER_REPLY})
            yield from self._take(reply)
            if not reply["more"]:
                return

    def follow(self) -> Iterator[Event]:
        """What has happened since, and all that happens from now on; of one job until that is over, and stays so.

        While the broker is away it waits, and then goes on where it was.
        """
        if self._job_id is not None and (yield from self._to_the_end()):
            return
        while True:
            reply = self._ask_patiently({"limit": EVENTS_PER_REPLY, "wait_ms": int(WAIT_S * 1000)})
            yield from self._take(reply)
            ends = [raw["type"] for raw in reply["events"] if _event(raw).ends_job]
            if self._job_id is None or not ends:
                continue
            if PURGED in ends or (yield from self._to_the_end()):
                return

    def _to_the_end(self) -> Generator[Event, None, bool]:
        """If the job is over: what else has happened. Whether that is all: nobody has had it run again since."""
        while (state := self._state()) in ENDS:
            yield from self.rest(patient=True)
            if self._state() in (*ENDS, PURGED):
                return True
        return state == PURGED

    def _state(self) -> str:
        try:
            return str(patiently(lambda: self._client.get(str(self._job_id)), self._on_away)["state"])
        except UnknownJob:  # it was there when this began
            return PURGED

    def _ask(self, how: dict[str, Any]) -> dict[str, Any]:
        about: dict[str, Any] = {"types": self._types} if self._job_id is None else {"id": self._job_id}
        about |= {"cursor": self._cursor} if self._cursor is not None else {}
        return self._client.request(
            "events", {**about, **how}, timeout=how.get("wait_ms", 0) / 1000 + self._client.timeout
        )

    def _ask_patiently(self, how: dict[str, Any]) -> dict[str, Any]:
        return patiently(lambda: self._ask(how), self._on_away)

    def _take(self, reply: dict[str, Any]) -> list[Event]:
        """The events of a reply, as far as they are of the types that are wanted: of one job, all are asked for."""
        self._cursor = reply["cursor"]
        missed = [Event(MISSED)] if reply["missed"] else []
        return [*missed, *(_event(raw) for raw in reply["events"] if not self._types or raw["type"] in self._types)]


def _event(raw: dict[str, Any]) -> Event:
    cursor = raw["cursor"]
    more = {name: value for name, value in raw.items() if name not in _ALL_HAVE}
    return Event(
        raw["type"],
        raw["at"],
        raw["job_id"],
        raw["attempt"],
        raw["worker"],
        raw["by"],
        None if cursor is None else text_of(cursor),
        more,
    )


def events(
    client: Client, job_id: str | None, *, since: str | None, types: Sequence[str], follow: bool
) -> Iterator[Event]:
    """What `Client.events` yields."""
    if since is None and job_id is None and not follow:
        since = OLDEST
    feed = Feed(client, job_id=job_id, since=since, types=types)
    if since is None:
        yield from feed.begin()
    if follow:
        yield from feed.follow()
    elif since is not None:
        yield from feed.rest()
