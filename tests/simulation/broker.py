"""The broker's machine: the real core, store and loop, driven by simulated time, killed, held up and started again."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Mapping

from broker.core import Core, Identity
from broker.loop import Loop, Wait
from broker.store import OF_THE_STORE
from queuectl.errors import StorageFailed
from queuectl.settings import DEFAULTS
from tests.harness import USER
from tests.simulation.clock import MachineClock, Timeline
from tests.simulation.disk import Crash, SimulatedConnection, SimulatedDisk, SimulatedStore
from tests.simulation.network import CLIENTS, WORKERS, Line, Network
from tests.simulation.router import SimulatedRouter
from tests.simulation.tape import Tape, TapedLog

IDENTITY = Identity(1, "0.0.0", (), "/data/queue.db", "/data", "explicit")
OPERATOR = 1  # the number of who lets in
NEWEST_KEY = "SELECT max(key) FROM access_key WHERE name = ? AND revoked_at_ms IS NULL"
START_RETRY_MS = 1000  # of a service manager, where the disk is full


class BrokerMachine:
    """At most one broker at a time. `on_turn` and `on_down` are the checks' chance to look at the store."""

    def __init__(self, timeline: Timeline, tape: Tape, network: Network, clock: MachineClock, seed: int) -> None:
        self._timeline, self._tape, self._network = timeline, tape, network
        self.clock = clock
        self._chance = random.Random(f"{seed}/broker")
        self.connection = SimulatedConnection()
        self.disk = SimulatedDisk(self.connection)
        self.core: Core | None = None
        self.routers: dict[str, SimulatedRouter] = {}
        self.messages_max = 1000
        self.turn_ms = 1  # the longest that a turn takes
        self.sends_left: int | None = None  # until it is killed between two of them
        self.late_ms = 0  # how long its last step had taken when it ended
        self.starts = 0
        self.turns = 0
        self.paused_until_ms = 0
        self.on_send: Callable[[Line, bytes], None] = lambda line, body: None
        self.on_turn: Callable[[], None] = lambda: None
        self.on_down: Callable[[], None] = lambda: None
        self.restart_ms: Callable[[], int] = lambda: 100
        self._steps: Generator[Wait, Collection[object], None] | None = None
        self._wait_for = Wait(0, 0)
        self._busy_until_ms = 0
        self._wake_at_ms = self._hears_at_ms = 0
        self._wakes = 0

    # --- life ---

    def configure(self, settings: Mapping[str, float]) -> None:
        """Write settings into the database before the first start."""
        ledger = SimulatedStore(self.connection).ledger
        for key, value in settings.items():
            if value != DEFAULTS[key]:
                ledger.set_setting(key, value)
        SimulatedStore(self.connection).keys.add_actor(OPERATOR, USER)

    def add_key(self, name: str, number: int) -> None:
        """Let a worker of this name in, before the first start."""
        keys = SimulatedStore(self.connection).keys
        keys.add(name=name, role="worker", queues=(), public_key=f"{number:040}", now_ms=0, added_by=OPERATOR)

    def newest_key(self, name: str) -> int:
        """The key of this name that a person would copy to its machine now."""
        [(key,)] = self.connection.ask(NEWEST_KEY, (name,))
        return int(key)

    def start(self) -> None:
        """Start a broker, unless one runs. On a full disk it is tried again."""
        if self.core is not None:
            return
        store = SimulatedStore(self.connection)
        core = Core(store, self._chance, IDENTITY)
        try:
            store.begin()
            core.start(self.clock(), f"{self._chance.getrandbits(128):032x}")
            store.commit()
        except (*OF_THE_STORE, Crash):
            self.connection.power_off()
            self._timeline.after(START_RETRY_MS, self.start)
            return
        self.starts += 1
        self._tape.note("broker", "started", core.epoch)
        self.core = core
        self.routers = {
            WORKERS: SimulatedRouter(self._network, self._on_worker, self._on_send),
            CLIENTS: SimulatedRouter(self._network, self.wake, self._on_send),
        }
        for router in self.routers.values():
            router.messages_max = self.messages_max
        loop = Loop(
            core=core,
            store=store,
            workers=self.routers[WORKERS],
            clients=self.routers[CLIENTS],
            disk=self.disk,
            log=TapedLog(self._tape, "broker"),
            wakeup=-1,
            clock=self.clock,
        )
        self._steps = loop.turns(lambda: False)
        self._wait_for = next(self._steps)
        self._rest()
        self._wait()
        self._network.open_doors(self.routers)
        self.on_turn()

    def recover(self) -> None:
        """Nothing holds it up any more."""
        self.turn_ms, self.messages_max = 1, 1000
        for router in self.routers.values():
            router.messages_max = 1000
        self.paused_until_ms = self._busy_until_ms = 0
        self._wake_at_ms = 2**62
        self.wake()

    def kill(self) -> None:
        """SIGKILL: memory is gone, and what was not committed."""
        if self.core is None:
            return
        self._tape.note("broker", "killed")
        self.connection.power_off()
        self.core = self._steps = self.sends_left = None
        self.routers = {}
        self._wakes += 1
        self.paused_until_ms = 0
        self._network.close_doors()
        self.on_down()
        self._timeline.after(self.restart_ms(), self.start)

    def pause(self, ms: int) -> None:
        """SIGSTOP, or a machine that hangs; messages pile up meanwhile."""
        self.paused_until_ms = max(self.paused_until_ms, self._timeline.now_ms + ms)
        self._timeline.after(ms, self.wake)

    def _stop(self) -> None:
        """It was told to end: a clean end, as far as the disk lets it."""
        assert self.core is not None
        try:
            self.core.store.begin()
            self.core.stop(self.clock())
            self.core.store.commit()
        except (*OF_THE_STORE, Crash):
            pass
        self.kill()

    # --- turns ---

    def wake(self) -> None:
        """There is news."""
        self._wake_in(0)

    def _on_worker(self) -> None:
        """A worker has said something, or a connection has ended."""
        is_prompt = self.routers[WORKERS].monitor.events
        self._wake_in(0 if is_prompt else max(0, self._hears_at_ms - self._timeline.now_ms))

    def _wait(self) -> None:
        self._wakes += 1
        self._wake_at_ms = 2**62
        self._hears_at_ms = self._timeline.now_ms + self.clock.true_ms(self._wait_for.deaf_ms)
        self._wake_in(self.clock.true_ms(self._wait_for.timeout_ms))
        if self.routers[CLIENTS].inbox:
            self.wake()
        elif self.routers[WORKERS].inbox or self.routers[WORKERS].monitor.events:
            self._on_worker()

    def _wake_in(self, ms: int) -> None:
        now_ms = self._timeline.now_ms
        at_ms = max(now_ms + ms, self._busy_until_ms, self.paused_until_ms)
        if at_ms < self._wake_at_ms:
            self._wake_at_ms = at_ms
            self._wakes += 1
            self._timeline.after(at_ms - now_ms, self._turn, self._wakes)

    def _turn(self, number: int) -> None:
        if number != self._wakes or self._steps is None:
            return
        if self._timeline.now_ms < self.paused_until_ms:
            self._wait_for = Wait(0, 0)
            self._wait()
            return
        self.turns += 1
        readable: set[object] = {router.socket for router in self.routers.values() if router.inbox}
        if (monitor := self.routers[WORKERS].monitor).events:
            readable.add(monitor)
        try:
            self._wait_for = self._steps.send(readable)
        except StopIteration:
            self._stop()
            return
        except (Crash, StorageFailed):
            self.clock.lag_ms = 0
            self.kill()
            return
        except RuntimeError as error:
            if "a turn without messages failed" not in str(error):
                raise
            self.kill()  # by its own decision: duties that fail would fail for ever
            return
        self._rest()
        self.on_turn()
        self._wait()

    def _rest(self) -> None:
        """What it did has taken its time."""
        self._busy_until_ms = self._timeline.now_ms + self.clock.lag_ms + self._chance.randrange(self.turn_ms + 1)
        self.late_ms, self.clock.lag_ms = self.clock.lag_ms, 0

    def _on_send(self, line: Line, body: bytes) -> int:
        """Something is about to leave. How long after the time of this event that is, in ms."""
        if self.sends_left is not None:
            self.sends_left -= 1
            if self.sends_left < 0:
                self.sends_left = None
                raise Crash
        self.on_send(line, body)
        return self.clock.lag_ms
