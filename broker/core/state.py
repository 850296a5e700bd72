"""What the broker knows between two turns: a mirror of the store, and who is connected.

The rooms of the core read and change it; `core.py` says in which order. `rebuild` makes it what the store
says, which is how a failed turn is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from broker.core.access import Access, Actor, Pace
from broker.core.memory import Cancellation, Holder, Kept, Lease, Session, Setback, Tally, lease_from_row
from broker.core.rooms import Rooms
from broker.core.turn import Turn
from broker.store import Store
from broker.store.rows import CODES, StopRow, WorkerRow
from queuectl.clock import Now
from queuectl.errors import QueueFull
from queuectl.jobs import JobState
from queuectl.settings import DEFAULTS, Value

QUEUES_MAX = 1000  # each that has jobs is asked in each turn that may lease one
RETIRE_FROM_MS = 60_000  # from the start of the broker
RETIRE_OLD_FROM_MS = 86_400_000  # from the first start of a version that does
SILENCE_HEARTBEATS = 5  # silence after which a worker connects anew
RIDDLES_PER_SECOND = 500  # of each key: a few statements each
BACKOFF_MAX_MS = 5000  # longest pause of a worker between two tries to connect


@dataclass(slots=True)
class Waiter:
    """A client whose reply is held. It is never changed by a turn: the turn may fail yet."""

    envelope: tuple[bytes, ...]
    request_id: str
    deadline_ms: int  # monotonic
    by: Actor
    is_next: bool = field(default=False, kw_only=True)  # it has read nothing yet of what came true in an earlier turn

    def must_read(self, turn: Turn) -> bool:
        """Whether to look costs something, because what it waits for may have come true in this turn."""
        return False

    def look(self, core: State, turn: Turn) -> dict[str, Any] | Waiter:
        """The data of the reply if what it waits for has come true in this turn, else who waits on."""
        raise NotImplementedError

    def give_up(self, core: State, turn: Turn) -> dict[str, Any]:
        """The data of the reply when it has waited long enough."""
        raise NotImplementedError


class Chance(Protocol):
    """The randomness that the core needs; random.Random is one."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...


class Identity(NamedTuple):
    """What the process around the core knows and `status` tells."""

    pid: int
    version: str
    endpoints: tuple[str, ...]
    database: str
    data_dir: str
    started: str
    advertised: tuple[str, ...] = ()  # TCP endpoints of the workers' port, as others reach them


class Doors(Protocol):
    """How others come in, as far as the core must know: it knows no socket and no file."""

    @property
    def server_keys(self) -> tuple[str, ...]:
        """The public keys that others may be told to trust, the one in use first."""

    def reload(self) -> tuple[str, ...]:
        """Read them again; connections made under another key are cut a moment later."""

    def cut(self) -> None:
        """Cut all TCP connections a moment later: whoever may come in comes back."""


class NoDoors:
    """Nobody comes in from elsewhere."""

    server_keys: tuple[str, ...] = ()

    def reload(self) -> tuple[str, ...]:
        """There is nothing to read."""
        return ()

    def cut(self) -> None:
        """There is nothing to cut."""


class Before(NamedTuple):
    """What a turn may change in memory and the store does not hold: put back if the turn fails."""

    sessions: dict[bytes, Session]
    holders: dict[str, Holder]
    waiters: list[Waiter]
    stopping: bool
    clock_ms: int
    setbacks: tuple[Setback, ...]
    stops: dict[int, StopRow]


class State:
    """What the broker knows. One instance for the life of the process; `rebuild` renews it from the store."""

    def __init__(
        self,
        store: Store,
        chance: Chance,
        identity: Identity,
        *,
        verbose: bool = False,
        doors: Doors | None = None,
    ):
        self.store = store
        self.doors = doors or NoDoors()
        self.verbose = verbose  # whether anybody reads what is logged at debug for every job
        self.chance = chance
        self.identity = identity
        self.broker_id = ""
        self.epoch = 0
        self.sessions: dict[bytes, Session] = {}  # by route
        self.holders: dict[str, Holder] = {}  # by boot
        self.leases: dict[int, Lease] = {}  # all of them
        self.closing: dict[int, Kept] = {}  # ended attempts whose output is still on its way
        self.waiters: list[Waiter] = []  # never changed in place: the turn may fail yet
        self.rooms = Rooms()
        self.takes_output = False  # in the last turn: more of it may be on its way
        self.stopping = False
        self.disk_low = False  # no new jobs
        self.storage_full = False  # nothing can be written: what needs no message to happen waits
        self.sessions_opened = 0
        self.malformed = 0
        self.turned_away = 0  # connections
        self.denied = 0  # requests and messages of those who may not
        self.access = Access()
        self.pace = Pace()  # of requests
        self.boots = Pace()  # of new boots that say hello
        self.riddles = Pace()  # of reports about leases that are not live
        self.evicted_upto = 0  # the piece of output up to which eviction has looked
        self.asked_who: dict[bytes, int] = {}
        self.missed: dict[str, tuple[int, int]] = {}  # boot: sessions in a row that missed a message, and the last time
        self.settings: dict[str, Value] = dict(DEFAULTS)
        self.read_pace()
        self.moved: dict[int, tuple[int, int]] = {}  # session and push of leases that this turn has ended, or met anew
        self.has_doomed = True  # perhaps: deleted jobs of which something is left
        self.grants_left = False  # more could be leased than one turn may lease
        self.reads_left = False  # some who wait are to be told what one turn has no time for
        self.next_sweep_ms = 0
        self.next_retire_ms = 0
        self.retiring = 0  # which of the states that jobs end in is being walked over
        self.retired_upto = 0  # and up to which job
        self.next_tidy_ms = 0
        self.suspects: set[int] = set()  # queues that may have jobs which are suspected to kill their workers
        self.started_ms = 0
        self.clock_ms = 0  # wall clock less monotonic clock, as last seen
        self.steady_ms = 0  # the same when this epoch began
        self.setbacks: tuple[Setback, ...] = ()  # of the clock, that have made retries late which wait
        self.stops: dict[int, StopRow] = {}  # workers that were told to stop, by number; never changed in place
        self.before = self.before_turn()

    # --- life ----------------------------------------------------------------------------------

    def start(self, now: Now, new_broker_id: str) -> None:
        """Begin a new epoch. Leases found in the store get a full lease and time to be adopted."""
        facts = self.store.ledger.facts()
        self.broker_id = str(facts.get("broker", new_broker_id))
        self.epoch = int(facts.get("epoch", 0)) + 1
        self.store.ledger.note({"broker": self.broker_id, "epoch": self.epoch, "clean": 0})
        self.started_ms = now.mono_ms
        self.clock_ms = self.steady_ms = now.wall_ms - now.mono_ms
        self.stops = {row.worker: row for row in self.store.ledger.stops()}
        self.before = self.before_turn()
        self.next_retire_ms = now.mono_ms + max(RETIRE_FROM_MS, self._retire_from_ms(facts, now) - now.wall_ms)
        self.rebuild(now)

    def _retire_from_ms(self, facts: dict[str, Any], now: Now) -> int:
        """Before when nothing is deleted for its age: who comes from a version that kept all has a day to object."""
        if "retire_from_ms" not in facts:
            facts["retire_from_ms"] = now.wall_ms + (RETIRE_OLD_FROM_MS if self.epoch > 1 else 0)
            self.store.ledger.note({"retire_from_ms": facts["retire_from_ms"]})
        return int(facts["retire_from_ms"])

    def before_turn(self) -> Before:
        """What the turn that begins now may have to leave as it was."""
        return Before(
            self.sessions, self.holders, self.waiters, self.stopping, self.clock_ms, self.setbacks, self.stops
        )

    def rebuild(self, now: Now) -> None:
        """Read from the store what memory mirrors; after a failed turn nothing of it is left in memory."""
        self._put_back()
        ledger = self.store.ledger
        facts = ledger.facts()
        self.settings = {**DEFAULTS, **ledger.settings()}
        self.read_pace()
        self.buckets: dict[str, int] = ledger.buckets()
        self.queues: dict[int, str] = {bucket: queue for queue, bucket in self.buckets.items()}
        self.actors: dict[str, int] = self.store.keys.actors()
        self.actor_names: dict[int, str] = {number: name for name, number in self.actors.items()}
        self.read_keys()
        self.tally = Tally(ledger.tallies())
        self.next_seq = max(int(facts.get("next_seq", 1)), self.store.jobs.last_seq() + 1)
        self.next_event = self.store.events.newest() + 1
        self.output_bytes = self.written_bytes = int(facts.get("output_bytes", 0))
        self.ready: set[int] = {bucket for bucket in self.queues if self.store.jobs.any_ready(bucket)}
        self.suspects = set(self.ready)
        self.next_due_ms = self.store.jobs.next_due_ms()
        self.next_until_ms = self.store.changes.next_until_ms()
        self.closing.clear()
        self._reload_leases(now)
        self.rooms = Rooms(self.sessions.values())

    def _put_back(self) -> None:
        """Sessions and waiters as they were before the turn; what only steers them for a moment is left."""
        before = self.before
        self.sessions, self.holders, self.waiters, self.stopping = before[:4]
        self.clock_ms, self.setbacks, self.stops = before[4:]
        self.reads_left = True
        for holder in self.holders.values():
            holder.session, holder.leases, holder.stop = None, {}, self.stop_of(holder.worker)
        for session in self.sessions.values():
            session.holder.session = session

    def _reload_leases(self, now: Now) -> None:
        before = self.leases
        self.leases = {}
        rows = sorted(self.store.jobs.leased(), key=lambda row: row.updated_at_ms)  # as they were granted
        by_number = {holder.worker.worker: holder for holder in self.holders.values()}
        missing = {row.worker for row in rows} - by_number.keys()
        grace_ms = self.silence_ms + BACKOFF_MAX_MS  # beyond the lease: for workers to find us again
        for worker in self.store.ledger.workers(missing):
            holder = self.holders[worker.boot] = Holder(worker, now.mono_ms + grace_ms, stop=self.stop_of(worker))
            by_number[worker.worker] = holder
        cancellations = self.store.changes.cancellations()
        for row in rows:
            lease = lease_from_row(row, by_number[row.worker])
            if row.seq in cancellations:
                lease.cancel = Cancellation(*cancellations[row.seq])
            if row.lease in self.moved:
                lease.session, lease.push = self.moved[row.lease]
            elif old := before.get(row.lease):
                lease.session, lease.push = old.session, old.push
            self.leases[row.lease] = lease
            lease.holder.leases[row.lease] = lease

    # --- settings --------------------------------------------------------------------------------

    def seconds_ms(self, key: str) -> int:
        """A setting that is a number of seconds, in milliseconds."""
        value = self.settings[key]
        assert isinstance(value, int | float)
        return round(value * 1000)

    def read_pace(self) -> None:
        """Take over the settings that every turn asks for."""
        self.heartbeat_ms = self.seconds_ms("heartbeat")
        self.lease_ms = self.seconds_ms("lease")

    def read_keys(self) -> None:
        """Take over who may come in."""
        self.access = Access(self.store.keys.all())

    @property
    def silence_ms(self) -> int:
        return self.heartbeat_ms * SILENCE_HEARTBEATS

    def is_awaited(self) -> bool:
        """Whether anything waits for what workers say next: a job for room, a client, a worker for room for output."""
        return bool(self.ready or self.waiters or self.takes_output)

    # --- helpers of all rooms -------------------------------------------------------------------------

    def steady_wall_ms(self, now: Now) -> int:
        """The wall clock as if it had not been set since this epoch began: how old something is, it tells truly."""
        return now.mono_ms + self.steady_ms

    def surely_ms(self, now: Now) -> int:
        """The wall clock, or the steady one if that is behind: by it nothing is older because a clock was set."""
        return min(now.wall_ms, self.steady_wall_ms(now))

    def bucket_of(self, queue: str) -> int:
        """The number of a queue; a queue exists from when it is first named."""
        bucket = self.buckets.get(queue)
        if bucket is None:
            bucket = max(self.queues, default=0) + 1
            self.store.ledger.add_bucket(bucket, queue)
            self.buckets[queue] = bucket
            self.queues[bucket] = queue
        return bucket

    def actor_number(self, name: str) -> int:
        """The number of an actor; it has one from when it first does something."""
        number = self.actors.get(name)
        if number is None:
            number = max(self.actor_names, default=0) + 1
            self.store.keys.add_actor(number, name)
            self.actors[name] = number
            self.actor_names[number] = name
        return number

    def actor_name(self, number: int | None) -> str | None:
        """Who that is; None: it was done before anybody asked who does things."""
        return None if number is None else self.actor_names[number]

    def trusts(self, by: Actor, worker: WorkerRow) -> bool:
        """Whether what somebody says may be about the leases of this worker: it is its own, or it is an admin."""
        return by.is_admin or (worker.actor is not None and worker.actor == self.actors.get(by.name))

    def may_puzzle(self, by: Actor, now: Now) -> bool:
        """Whether somebody may have the store asked once more what became of a lease that is not live."""
        return self.riddles.may_ask(by, now.mono_ms, RIDDLES_PER_SECOND)

    def part(self) -> None:
        """Before this turn changes who is connected: from what was before it, which it may fail and leave."""
        if self.sessions is self.before.sessions:
            self.sessions, self.holders = dict(self.sessions), dict(self.holders)

    def stop_of(self, worker: WorkerRow) -> bool | None:
        """Whether a worker was told to stop; True: at once."""
        told = self.stops.get(worker.worker)
        return None if told is None else bool(told.at_once)

    def dismiss(self, holder: Holder) -> None:
        """A boot that holds nothing any more is forgotten."""
        self.part()
        self.holders.pop(holder.worker.boot, None)

    def has_changed(self, holder: Holder) -> None:
        """It holds another number of leases, so there may be room in its session, or none any more."""
        if holder.session is not None:
            self.rooms.touch(holder.session)

    def move(self, lease: Lease) -> None:
        """Before this turn changes when a lease was pushed, or forgets it: the turn may fail yet."""
        self.moved.setdefault(lease.lease, (lease.session, lease.push))

    def wait_until(self, due_ms: int) -> None:
        """A job has become due later."""
        if self.next_due_ms is None or due_ms < self.next_due_ms:
            self.next_due_ms = due_ms

    def refuse_new_queues(self, queues: Iterable[str]) -> None:
        """Take no queues beyond those that there may be. Raises QueueFull."""
        new = {queue for queue in queues if queue not in self.buckets}
        if new and len(self.buckets) + len(new) > QUEUES_MAX:
            raise QueueFull(
                f"there are {len(self.buckets)} queues, and at most {QUEUES_MAX} may be",
                hint="use one that is there; a queue is for a kind of jobs, not for each job",
                details={"limit": "queues", "value": QUEUES_MAX},
            )

    def look_by(self, until_ms: int | None) -> None:
        """A job that waits is to be looked at then, if it has such a time."""
        if until_ms is not None and (self.next_until_ms is None or until_ms < self.next_until_ms):
            self.next_until_ms = until_ms

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state, and in all."""
        counts = {state.value: self.tally.total(CODES[state]) for state in JobState}
        counts["total"] = sum(counts.values())
        return counts
