"""The broker without sockets: real core, real store, a clock that tests move, and everything it says.

One call is one turn: begin → turn → commit → collect. What the broker sends goes through the wire's codec, as
it would on its way, and waits in `outbox` until a test takes it; `assert_quiet` proves that nothing is left.
Tests speak as workers (FakeWorker) and as clients (`ask`), in encoded bytes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgpack
from zmq.utils import z85

from broker.core import Core, Identity, Turn
from broker.core.turn import LogRecord
from broker.store import Store, open_store
from broker.store.connection import Connection
from broker.store.rows import STATES
from queuectl.clock import Now
from queuectl.errors import QueuectlError, StorageFailed, from_wire
from queuectl.ids import new_request_id
from queuectl.messages import (
    TO_WORKER,
    Beat,
    Bye,
    Gone,
    Grant,
    Held,
    Hello,
    Output,
    Piece,
    Push,
    Recorded,
    Release,
    Result,
    Results,
    Returned,
    Welcome,
)
from queuectl.wire import decode, encode
from tests.invariants import find_broken

M = TypeVar("M")

ENVELOPE = (b"client", b"")
USER = "uid:1000"  # whose connection it is, unless a test says otherwise
PUSH_BYTES_MAX = 4 * 2**20  # worker/link.py takes no larger message
IDENTITY = Identity(4711, "0.0.0", ("ipc://worker.sock", "ipc://client.sock"), "/data/queue.db", "/data", "explicit")


class FakeClock:
    """Both clocks, moved by the test only."""

    def __init__(self, wall_ms: int = 1_800_000_000_000, mono_ms: int = 1_000_000):
        self.wall_ms = wall_ms
        self.mono_ms = mono_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.wall_ms += ms
        self.mono_ms += ms

    @property
    def now(self) -> Now:
        return Now(self.wall_ms, self.mono_ms)


class Said(NamedTuple):
    """Something the broker sent: to a worker's route, or to a client (then `message` is the reply as a map)."""

    to: bytes
    message: Any


class BrokerHarness:
    """A broker in the hands of a test."""

    def __init__(
        self,
        path: Path | str = ":memory:",
        *,
        seed: int = 0,
        clock: FakeClock | None = None,
        connect: Callable[[Path | str], Connection] = Connection,
    ):
        self.path = path
        self.clock = clock or FakeClock()
        self.chance = random.Random(seed)
        self.store: Store = open_store(path, connect=connect)
        self.outbox: list[Said] = []
        self.logs: list[LogRecord] = []
        self.users: dict[bytes, str] = {}  # of workers' routes whose user is another
        self.fail_next: BaseException | None = None  # raised where the next commit would be
        self.start()

    # --- life ----------------------------------------------------------------------------------------

    def start(self, broker_id: str = "broker-1") -> None:
        """Begin a new epoch with a new core."""
        self.core = Core(self.store, self.chance, IDENTITY, verbose=True)
        self.store.begin()
        self.core.start(self.clock.now, broker_id)
        self.store.commit()

    def crash(self) -> None:
        """Kill the broker and start another: memory is gone, so is what was said and not taken."""
        if isinstance(self.path, Path):
            copy = self.path.parent / f"{self.path.name}+"  # as the files are now, before anything is closed
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
            self.store.abandon()
            self.path, self.store = copy, open_store(copy)
        else:
            self.store.rollback()
        self.outbox.clear()
        self.start()

    def close(self) -> None:
        """Let go of the database."""
        self.store.abandon()

    # --- turns ---------------------------------------------------------------------------------------

    def turn(
        self,
        workers: Sequence[tuple[bytes, bytes]] = (),
        clients: Sequence[bytes | tuple[bytes, str]] = (),
        *,
        gone: Sequence[bytes] = (),
        drained: bool = True,
        user: str = USER,
    ) -> Turn:
        """One turn. A turn that fails is undone as the loop does it, and its error comes out."""
        self.store.begin()
        try:
            said = [(route, body, self.users.get(route, user)) for route, body in workers]
            asked = [(each, user) if isinstance(each, bytes) else each for each in clients]
            requests = [(ENVELOPE, *each) for each in asked]
            turn = self.core.turn(self.clock.now, said, requests, gone=gone, drained=drained)
            if self.fail_next is not None:
                error, self.fail_next = self.fail_next, None
                raise error
            self.store.commit()
        except StorageFailed:
            raise
        except BaseException:
            self.store.rollback()
            self.core.rebuild(self.clock.now)
            raise
        self._collect(turn)
        return turn

    def _collect(self, turn: Turn) -> None:
        for route, message in turn.to_workers:
            self.outbox.append(Said(route, decode(encode(message), TO_WORKER, bytes_max=PUSH_BYTES_MAX)))
        for envelope, body in turn.to_clients:
            assert envelope == ENVELOPE
            self.outbox.append(Said(envelope[0], msgpack.unpackb(body)))
        self.logs += turn.logs

    def after(self, ms: int, **how: Any) -> Turn:
        """A turn without messages, some time later."""
        self.clock.advance(ms)
        return self.turn(**how)

    # --- what it said ----------------------------------------------------------------------------------

    def take(self, to: bytes, kind: type[M]) -> M:
        """The one message of this kind to this route; it leaves the outbox."""
        found = self.take_all(to, kind)
        assert len(found) == 1, f"{len(found)} {kind.__name__} to {to!r}; outbox: {self.outbox}"
        return found[0]

    def take_all(self, to: bytes, kind: type[M]) -> list[M]:
        """All messages of this kind to this route; they leave the outbox."""
        found = [said for said in self.outbox if said.to == to and isinstance(said.message, kind)]
        self.outbox = [said for said in self.outbox if said not in found]
        return [said.message for said in found]

    def events(self, event: str) -> list[dict[str, Any]]:
        """The keys of the log records of this event so far."""
        return [record.keys for record in self.logs if record.event == event]

    def assert_quiet(self) -> None:
        """Nothing was said beyond what was taken."""
        assert self.outbox == []

    def check_invariants(self) -> None:
        """Store and memory agree, and every job stands in exactly one consistent state."""
        assert find_broken(self.core) == []

    # --- as a client -------------------------------------------------------------------------------------

    def ask(self, op: str, *, request_id: str | None = None, user: str = USER, **args: Any) -> dict[str, Any]:
        """One request in a turn of its own; its data. Raises the error that it was answered with."""
        self.turn(clients=[request(op, request_id=request_id, **args)], user=user)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The data of the one reply in the outbox. Raises the error that it carries."""
        reply = self.take(ENVELOPE[0], dict)
        if "error" in reply:
            raise from_wire(reply["error"])
        data: dict[str, Any] = reply["ok"]
        return data

    def replies(self) -> list[dict[str, Any]]:
        """All replies in the outbox, envelopes and all."""
        return self.take_all(ENVELOPE[0], dict)

    def refused(self, op: str, **args: Any) -> QueuectlError:
        """The error that this request is answered with."""
        try:
            answer = self.ask(op, **args)
        except QueuectlError as error:
            return error
        raise AssertionError(f"{op} was not refused: {answer}")

    def enqueue(self, *commands: str, **fields: Any) -> list[str]:
        """Store jobs that share these fields, of this `user`; their ids."""
        user = fields.pop("user", USER)
        jobs = [{"command": command, **fields} for command in commands or ("true",)]
        reply = self.ask("enqueue", user=user, jobs=jobs)
        assert reply["errors"] == []
        ids: list[str] = reply["ids"]
        return ids

    def key(self, name: str, role: str, *queues: str) -> str:
        """Let a new key in; the user id of its connections."""
        public_key = z85.encode(random.Random(f"{name} {len(self.core.access.rows)}").randbytes(32)).decode()
        if self.core.access.named(name):
            self.ask("key_rotate", name=name, public_key=public_key)
        else:
            self.ask("key_add", name=name, role=role, public_key=public_key, queues=queues)
        user = self.core.access.user_of(public_key)
        assert user is not None
        return user

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as clients see it."""
        found: dict[str, Any] = self.ask("job", id=job_id)["job"]
        return found

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """Its attempts as clients see them."""
        found: list[dict[str, Any]] = self.ask("job", id=job_id)["history"]
        return found

    def state_of(self, job_id: str) -> str:
        """Where it stands, without a turn."""
        [(code,)] = self.store._db.query("SELECT state FROM job WHERE id = ?", (job_id,))
        return str(STATES[code].value)

    def state(self, job_id: str) -> str:
        """Where it stands."""
        return str(self.job(job_id)["state"])

    def worker(self, name: str = "w", **about: Any) -> FakeWorker:
        """A worker that has not said hello yet, with the connection of this `user`."""
        self.users[name.encode()] = about.pop("user", USER)
        return FakeWorker(self, name, **about)


def request(op: str, *, request_id: str | None = None, **args: Any) -> bytes:
    """The bytes of a request."""
    body: bytes = msgpack.packb({"v": 1, "id": request_id or new_request_id(), "op": op, "args": args})
    return body


class FakeWorker:
    """Speaks as a worker, one turn a call, and does nothing by itself. `route` may be changed to connect anew."""

    def __init__(
        self, broker: BrokerHarness, name: str, *, slots: int = 1, queues: Sequence[str] = (), home: str = "/h"
    ):
        self.broker = broker
        self.route = name.encode()
        self.boot = name.encode().hex().ljust(32, "0")
        self.host, self.home = f"host-{name}", home
        self.slots, self.queues = slots, list(queues)
        self.session = 0
        self.hellos = 0
        self.received = 0
        self.beats = 0

    def tell(self, *messages: Any) -> Turn:
        """Send messages in one turn."""
        return self.broker.turn([(self.route, encode(message)) for message in messages])

    def take(self, kind: type[M]) -> M:
        """The one message of this kind to this worker."""
        return self.broker.take(self.route, kind)

    # --- hello ---

    def hello_message(self, *, held: Sequence[Held] = (), broker: str = "broker-1", **changes: Any) -> Hello:
        self.hellos += 1
        fields: dict[str, Any] = {
            "version_min": 1,
            "version_max": 1,
            "boot": self.boot,
            "home": self.home,
            "host": self.host,
            "pid": 100,
            "slots": self.slots,
            "queues": self.queues,
            "software": "0.0.0",
            "draining": False,
            "held": list(held),
            "broker": broker,
            "n": self.hellos,
        }
        return Hello(**(fields | changes))

    def hello(self, *, held: Sequence[Held] = (), **changes: Any) -> Welcome:
        """Say hello and be welcome. Jobs may be pushed in the same turn: see `grants`."""
        self.tell(self.hello_message(held=held, **changes))
        welcome = self.take(Welcome)
        if welcome.session != self.session:
            self.session, self.received = welcome.session, 0
        return welcome

    # --- leases ---

    def grants(self) -> list[Grant]:
        """What has been pushed; the worker has seen it then."""
        found = []
        for push in self.broker.take_all(self.route, Push):
            assert push.session == self.session
            assert push.seq > self.received
            self.received = push.seq
            found += push.grants
        return found

    def grant(self) -> Grant:
        """The one lease that has been pushed."""
        grants = self.grants()
        assert len(grants) == 1, grants
        return grants[0]

    def beat(self, *held: Grant, done: Sequence[Grant] = (), draining: bool = False) -> Turn:
        """A heartbeat that names these leases."""
        self.beats += 1
        names, ready = [grant.lease for grant in held], [grant.lease for grant in done]
        return self.tell(Beat(self.session, self.beats, self.received, names, ready, draining))

    # --- reports ---

    def report(self, *results: Result) -> list[str]:
        """Send results; the verdicts."""
        self.tell(Results(self.session, list(results)))
        return [verdict.verdict for verdict in self.take(Recorded).verdicts]

    def finish(self, grant: Grant, exit_code: int | None = 0, **changes: Any) -> str:
        """Report the end of a job; the verdict."""
        [verdict] = self.report(result(grant, exit_code, **changes))
        return verdict

    def release(self, *grants: Grant, reason: str = "draining") -> Turn:
        return self.tell(Release(self.session, [Returned(grant.lease, reason) for grant in grants]))

    def write(self, grant: Grant, data: bytes, *, offset: int = 0, stream: int = 1) -> Turn:
        """Send a piece of output."""
        return self.tell(Output(self.session, [piece(grant, data, offset=offset, stream=stream)]))

    def gone(self, *boots: str) -> Turn:
        return self.tell(Gone(self.session, list(boots)))

    def bye(self) -> Turn:
        return self.tell(Bye(self.session))


def patient(broker: BrokerHarness) -> None:
    """Let workers be silent for a while, and lose nothing."""
    broker.ask("config_set", key="lease", value=86400)
    broker.ask("config_set", key="heartbeat", value=300)


def held(grant: Grant, *, done: bool = False) -> Held:
    """The lease as HELLO names it."""
    return Held(grant.lease, grant.job, grant.attempt, done)


def piece(grant: Grant, data: bytes, *, offset: int = 0, stream: int = 1) -> Piece:
    """A piece of output of this lease."""
    return Piece(grant.lease, grant.job, grant.attempt, stream, offset, data)


def result(grant: Grant, exit_code: int | None = 0, **changes: Any) -> Result:
    """How the attempt of this lease ended."""
    fields: dict[str, Any] = {
        "lease": grant.lease,
        "job": grant.job,
        "attempt": grant.attempt,
        "outcome": "completed" if exit_code == 0 else "exit",
        "exit_code": exit_code,
        "signal": None,
        "started_at_ms": 1_799_999_999_000,
        "duration_ms": 1000,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "last_line": "",
        "note": "",
    }
    return Result(**(fields | changes))
