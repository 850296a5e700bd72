"""The broker behind its codec: whatever workers and clients say, in whatever order, a turn never fails.

Around a real core and store stands a small valid workload. What is refused changes nothing, neither on disk nor in
memory; good requests in the same turn are answered; the invariants hold.
"""

from __future__ import annotations

from random import Random
from typing import Any

from broker.core.core import Core
from broker.core.operations import OPERATIONS
from queuectl.credentials import ROLES
from queuectl.errors import BY_CODE
from queuectl.jobs import JobSpec, JobState, Outcome
from queuectl.messages import Grant, Recorded, Refuse, Who
from queuectl.settings import SETTINGS
from tests.fuzz import mutate, samples
from tests.harness import USER, BrokerHarness, FakeWorker, request, result
from tests.invariants import find_broken

KEYED = b"keyed"  # the route of a stranger with a worker's key
INPUTS = 100  # messages in a case
CHECK_EVERY = 20  # inputs between two looks at all invariants
SETTLED_AFTER = 100  # turns without a message, at most
STEPS_MS = (*(0, 0, 0, 1, 1, 500) * 5, 2000, 8000, 40_000)
# What a refused message may change: counters, whom to ask for a HELLO, and what every turn writes anew.
_MAY_CHANGE = frozenset({"store", "before", "malformed", "denied", "pace", "asked_who"})
_MAY_STORE = {"worker": (), "submit": ("enqueue", "cancel"), "read": (), "admin": tuple(OPERATIONS)}  # by role
# The number of losses allowed may be set lower than what jobs have had; the invariants know of one limit only. And
# good requests are refused as well when a queue is full.
_NOT_SET = frozenset({"max_losses", "max_backlog", "max_queue_backlog"})
_KEYS = [*(key for key in SETTINGS if key not in _NOT_SET), "no_such_setting", "max-retries"]


class Place:
    """A broker with two workers at work, and somebody who says things."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.broker = BrokerHarness(seed=chance.getrandbits(32))
        self.workers = [self.broker.worker(name, slots=2) for name in ("one", "two")]
        self.liar = self.broker.worker("liar", slots=0, home="/elsewhere")
        self.roles = {USER: "admin"} | dict(self.key_of(role) for role in ROLES)
        self.broker.users[KEYED] = next(user for user, role in self.roles.items() if role == "worker")
        self.grants: list[Grant] = []
        self.ids: list[str] = []
        self.good = 0
        self.user = USER  # who says the next thing as a client
        self.work()

    def key_of(self, role: str) -> tuple[str, str]:
        """A key of this role: its user id, and the role."""
        public_key = f"{self.chance.getrandbits(100):040}"
        self.broker.ask("key_add", name=f"{role}-key", role=role, public_key=public_key)
        user = self.broker.core.access.user_of(public_key)
        assert user is not None
        return user, role

    # --- the valid workload ---

    def work(self) -> None:
        """Jobs come and some end: there is something in every state."""
        broker = self.broker
        broker.core.waiters = []  # held replies would come among those that are looked for here
        broker.outbox.clear()
        for worker in (*self.workers, self.liar):
            if worker.route not in broker.core.sessions:  # its boot may have been taken by a message
                worker.boot = f"{self.chance.getrandbits(128):032x}"
                worker.hello()
        self.ids += broker.enqueue("true", "false", "sleep 1", max_retries=1)
        self.ids += broker.enqueue("later", delay=3600, queue="other")
        for worker in self.workers:
            self.listen(worker)
        if self.grants and self.chance.random() < 0.7:
            grant = self.grants.pop(self.chance.randrange(len(self.grants)))
            worker = self.chance.choice(self.workers)
            worker.tell(_results(worker, grant, self.chance.randrange(2)))
            broker.take_all(worker.route, Recorded)
        broker.outbox.clear()

    def listen(self, worker: FakeWorker) -> None:
        if session := self.broker.core.sessions.get(worker.route):
            worker.session, worker.received = session.number, 0
            self.grants = [*self.grants, *worker.grants()][-8:]

    # --- what is said ---

    def say(self) -> None:
        """One input, and what must be true after it."""
        is_client = self.chance.random() < 0.5
        route = self.route()
        self.user = USER if self.chance.random() < 0.6 else self.chance.choice([*self.roles])
        body = self.client_body() if is_client else self.worker_body(route)
        self.broker.clock.advance(self.chance.choice(STEPS_MS))
        before = self.settle()
        if self.chance.random() < 0.3:
            self.among_good(route, is_client, body)
        else:
            self.alone(route, is_client, body, before)
        self.broker.core.stopping = False  # one that was told to stop would refuse the rest

    def settle(self) -> tuple[int, str]:
        """Let everything happen that is due anyway; what there is then."""
        before = picture(self.broker.core)
        for _ in range(SETTLED_AFTER):
            self.broker.turn()
            after = picture(self.broker.core)
            if after == before:
                break
            before = after
        self.broker.outbox.clear()
        return before

    def alone(self, route: bytes, is_client: bool, body: bytes, before: tuple[int, str]) -> None:
        """A turn of its own: if it is refused, nothing is different after it."""
        waiting, logged = len(self.broker.core.waiters), len(self.broker.logs)
        self.broker.turn([] if is_client else [(route, body)], [body] if is_client else [], user=self.user)
        if is_client and not self.may_store(body):
            assert picture(self.broker.core)[0] == before[0], "a key stores nothing but what its role may"
        refused = self.is_refused_request(waiting) if is_client else self.is_refused_message(route, logged)
        if refused:
            assert picture(self.broker.core) == before, "what is refused changes nothing"

    def may_store(self, body: bytes) -> bool:
        """Whether this request may change the store, by the role of whoever makes it."""
        ops = _MAY_STORE[self.roles[self.user]]
        return any(f"\xa2op{chr(0xA0 + len(op))}{op}".encode("latin-1") in body for op in ops)

    def is_refused_request(self, waiting: int) -> bool:
        replies = self.broker.replies()
        held = len(self.broker.core.waiters) - waiting
        assert len(replies) + held == 1, "a request has one reply, now or later"
        for reply in replies:
            assert reply["v"] == 1
            if "error" in reply:
                assert reply["error"]["code"] in BY_CODE
                assert reply["error"]["code"] != "internal"
                return True
            assert "ok" in reply
        return False

    def is_refused_message(self, route: bytes, logged: int) -> bool:
        said = [said.message for said in self.broker.outbox if said.to == route]
        events = {record.event for record in self.broker.logs[logged:]}
        if said:
            return events <= {"worker_denied"} and all(isinstance(message, Who | Refuse) for message in said)
        return events == {"message_malformed"}

    def among_good(self, route: bytes, is_client: bool, body: bytes) -> None:
        """Between requests that make sense, which are answered as if nothing were."""
        self.good += 1
        ids = [f"good-request-{self.good}-{place}" for place in "ab"]
        good = [request("enqueue", request_id=ids[0], jobs=[{"command": "true"}]), request("ping", request_id=ids[1])]
        workers = [] if is_client else [(route, body)]
        self.broker.turn(workers, [good[0], *([body] if is_client else []), good[1]])
        answered = {reply["id"]: reply for reply in self.broker.replies()}
        is_stopping = self.broker.core.stopping
        for request_id in ids:
            assert "ok" in answered[request_id] or is_stopping, "a good request suffers from no other"

    def route(self) -> bytes:
        return self.chance.choice((self.liar.route, *(worker.route for worker in self.workers), b"stranger", KEYED))

    # --- what it says ---

    def worker_body(self, route: bytes) -> bytes:
        hints = self.hints()
        if session := self.broker.core.sessions.get(route):
            hints["session"] = [*[session.number] * 8, *hints["session"]]
        return self.spoilt(samples.to_broker(self.chance, hints), lambda: samples.to_broker(self.chance))

    def client_body(self) -> bytes:
        hints = self.hints()
        plain = samples.request(self.chance, hints)
        if plain["op"] == "enqueue":
            jobs = [samples.fields_of(self.chance, JobSpec, hints) for _ in range(self.chance.randint(1, 3))]
            plain["args"] = {"jobs": [{**job, "command": job["command"] or "true"} for job in jobs]}
        return self.spoilt(plain, lambda: samples.request(self.chance))

    def spoilt(self, plain: Any, another: Any) -> bytes:
        """Mostly the message as it is, for its content is odd enough; else with something wrong."""
        kind = self.chance.random()
        if kind < 0.7:
            return mutate.packed(plain)
        if kind < 0.85:
            return mutate.packed(mutate.data_of(self.chance, plain))
        if kind < 0.95:
            return mutate.bytes_of(self.chance, mutate.packed(plain), mutate.packed(another()))
        return mutate.nonsense(self.chance)

    def hints(self) -> dict[str, list[Any]]:
        core = self.broker.core
        leases = [*core.leases][:6] + [grant.lease for grant in self.grants[:3]] + [1, 2**63 - 1]
        jobs = [lease.job for lease in list(core.leases.values())[:4]] + self.ids[-4:] + ["a", "none"]
        sessions = [session.number for session in core.sessions.values()]
        holders = list(core.holders.values())
        return {
            **dict.fromkeys(("lease", "held", "done", "leases"), leases),
            **dict.fromkeys(("job", "id", "ids", "jobs"), jobs),
            "session": sessions or [1],
            "attempt": [1, 1, 1, 2, 0],
            "version_min": [1],
            "version_max": [1],
            "broker": [core.broker_id, ""],
            "boot": [holder.worker.boot for holder in holders] or ["0" * 32],
            "boots": [holder.worker.boot for holder in holders] or ["0" * 32],
            "n": [1, 2, 1000],
            "received": [0, 1, 2],
            "slots": [0, 1, 3],
            "outcome": [*Outcome, "won"],
            "reason": ["draining", "busy", "stopped", "worker_fault", "lost", "odd"],
            "state": [*JobState, "undead"],
            "queue": ["default", "other", "x" * 64],
            "key": _KEYS,
            "workers": [holder.worker.name for holder in holders] or ["w"],
            "offset": [0, 1, 10, 2**62],
            "output_limit": [0, 1, 2, 100],
        }

    # --- what must hold ---

    def check(self) -> None:
        assert find_broken(self.broker.core) == []


def picture(core: Core) -> tuple[int, str]:
    """All that the store and the memory of the core hold: how many rows were ever written, and every field."""
    told = {name: value for name, value in vars(core).items() if name not in _MAY_CHANGE}
    return core.store._db._db.total_changes, repr((told, core.tally._jobs))


def _results(worker: FakeWorker, grant: Grant, exit_code: int) -> Any:
    return ["results", worker.session, [result(grant, exit_code)]]


def feed(chance: Random) -> None:
    """A case: messages that make sense, and many that make none."""
    place = Place(chance)
    try:
        for number in range(1, INPUTS + 1):
            place.say()
            if number % CHECK_EVERY == 0:
                place.check()
                place.work()
    finally:
        place.broker.close()
