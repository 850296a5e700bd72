"""The worker's core: whatever the broker says, it does not fail, and its books stay right.

Around the core stands a world of commands that start when it says so, print, end, or cannot be started.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from msgspec.structs import replace

from queuectl.clock import Now
from queuectl.messages import TO_BROKER, Grant, Piece, Result, Returned, ToWorker
from queuectl.messages import TO_WORKER as KINDS
from queuectl.wire import WORKER_MESSAGE_BYTES_MAX, convert, decode, encode
from tests.fuzz import samples
from worker.core import Adopted, Identity, WorkerCore, effects

INPUTS = 100  # messages in a case
BROKER = "broker-1"
DEAD_BOOT = "d" * 32


class World:
    """A core, its clock, and the commands that it has started."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.now = Now(1_800_000_000_000, 1_000_000)
        self.slots = chance.randrange(4)
        identity = Identity("a" * 32, "/h", "host", 1, self.slots)
        self.core = WorkerCore(identity, chance=chance.random, adopted=_adopted(chance))
        self.running: dict[int, Grant] = {}  # commands, by lease
        self.leases = list(range(1, 12))  # numbers that messages name
        self.has_left = False
        self.core.start(self.now)
        self.core.on_writable(self.now)

    # --- what happens ---

    def hear(self) -> None:
        """One message of the broker, mostly of the session that the worker believes to be in."""
        self.core.on_message(self.message(), self.now)

    def message(self) -> ToWorker:
        session = self.core.session.number
        hints: dict[str, list[Any]] = {
            "session": [session or 0, session or 1, 7],
            "seq": [min(self.core.session.received + 1, 2**63 - 1)],
            "heartbeat_ms": [0, 10, 2000],
            "silence_ms": [0, 10_000],
            "window_bytes": [0, 1, 1000, 2**20],
            "output_limit": [0, 1, 100],
            "broker": [BROKER, BROKER, "other"],
            "n": [self.core.session.beats, 0],
            **dict.fromkeys(("lease", "leases", "keep", "drop"), self.leases),
        }
        plain = samples.to_worker(self.chance, hints)
        message: ToWorker = convert(plain, KINDS[plain[0]])
        return message

    def live(self) -> None:
        """Something that happens on this machine."""
        if self.running:
            self.chance.choice(_DEEDS)(self, self.chance.choice(list(self.running)))

    def print(self, lease: int) -> None:
        data = self.chance.randbytes(self.chance.choice((1, 50, 3000)))
        self.core.on_output(lease, self.chance.randint(1, 2), data)

    def end(self, lease: int) -> None:
        del self.running[lease]
        code, signal = self.chance.choice(((0, None), (1, None), (None, 9)))
        self.core.on_exit(lease, exit_code=code, signal=signal, note=samples.text(self.chance), now=self.now)

    def fail_to_start(self, lease: int) -> None:
        if lease in self.core.reports._attempts:
            return  # it has printed something, so it was started
        del self.running[lease]
        self.chance.choice((self.core.on_spawn_error, self.core.on_worker_fault))(lease, "no", self.now)

    def pass_time(self) -> None:
        ms = self.chance.choice((0, 1, 100, 300, 2000, 40_000))
        self.now = Now(self.now.wall_ms + ms, self.now.mono_ms + ms)
        self.core.tick(self.now)

    def connect(self) -> None:
        """The connection breaks now and then, and comes up again."""
        if self.chance.random() < 0.05:
            self.core.on_disconnected(self.now)
        if self.chance.random() < 0.3:
            self.core.on_writable(self.now)

    # --- what the core wants ---

    def collect(self) -> None:
        """Carry out what the core wants, and check that it can be."""
        outbox = self.core.outbox
        if outbox.is_dirty:
            self.core.flush(self.now)
        for message in outbox.messages:
            again = decode(encode(message), TO_BROKER, bytes_max=WORKER_MESSAGE_BYTES_MAX)
            assert again == message, "the broker would not understand it"
        for effect in outbox.effects:
            self._do(effect)
        outbox.messages.clear()
        outbox.effects.clear()
        assert isinstance(self.core.next_deadline(), int)

    def _do(self, effect: effects.Effect) -> None:
        assert not self.has_left, f"{effect} after the worker has left"
        match effect:
            case effects.Start(grant, slot):
                assert grant.lease not in self.running, "a lease is started once"
                assert 1 <= slot <= self.slots
                self.running[grant.lease] = grant
            case effects.Kill(lease):
                assert lease in self.running, "what does not run cannot be killed"
            case effects.Leave():
                assert not self.running, "the worker leaves nothing running"
                self.has_left = True
            case _:
                pass

    # --- the books ---

    def check(self) -> None:
        """The leases are those that run and those that wait, each slot is used once, and the credit adds up."""
        slots = self.core.slots
        used = {number: lease.slot for number, lease in slots._leases.items() if lease.slot}
        waiting = [number for number, lease in slots._leases.items() if not lease.slot]
        assert used.keys() == self.running.keys()
        assert sorted([*used.values(), *slots._free]) == list(range(1, self.slots + 1))
        assert sorted(slots._waiting) == sorted(waiting)
        assert not (slots._returned.keys() & slots._leases.keys()) or self.core.departure.code == 1
        assert self.core.reports._attempts.keys() <= self.running.keys(), "nothing is kept of what is over"
        output = self.core.reports.output
        assert output._in_flight == sum(attempt.sent_bytes for attempt in output._attempts.values())


_DEEDS: tuple[Callable[[World, int], None], ...] = (World.print, World.print, World.end, World.fail_to_start)


def _adopted(chance: Random) -> list[Adopted]:
    """What a dead worker left, sometimes."""
    if chance.random() < 0.7:
        return []
    hints = {"lease": [chance.randint(1, 12) for _ in range(3)]}
    broker = chance.choice((BROKER, "other"))
    results: list[tuple[str, Result]] = [(broker, convert(samples.fields_of(chance, Result, hints), Result))]
    piece = convert(samples.fields_of(chance, Piece, hints), Piece)
    pieces = [(broker, replace(piece, offset=chance.choice((0, 10, 2**40))))]  # no command writes 4 EiB
    returned = [(broker, convert(samples.fields_of(chance, Returned, hints), Returned))]
    return [Adopted(DEAD_BOOT, results, pieces, returned, is_gone=chance.random() < 0.5)]


def feed(chance: Random) -> None:
    """A case: messages of the broker, and the life of the commands between them."""
    world = World(chance)
    for _ in range(INPUTS):
        for happens in (World.hear, World.live, World.pass_time, World.connect):
            happens(world)
            world.collect()
            if world.has_left:
                world = World(chance)
        world.check()
