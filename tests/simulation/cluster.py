"""One seed, one cluster: put together, let go wrong for a while, healed, and held to its promises."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path as FilePath
from unittest.mock import patch

from broker.backoff import Policy, backoff_ms
from broker.core.memory import rules_of
from broker.store.rows import HELD
from tests.simulation.broker import BrokerMachine
from tests.simulation.checks import Checks
from tests.simulation.client import Asked, Client
from tests.simulation.clock import MachineClock, Timeline
from tests.simulation.faults import SCHEDULED, Faults
from tests.simulation.network import Network, Path
from tests.simulation.plan import Plan, make_plan
from tests.simulation.processes import Processes
from tests.simulation.tape import Tape
from tests.simulation.worker import WorkerMachine
from worker.adopt import Dead

UNFINISHED = (0, 1, 3)  # codes of pending, processing, failed
RUN_MS = 3000  # of one attempt in peace, and its way there and back
RECOVERY_MS = 120_000  # for starts, pauses after faults, and the grace of what does not heed SIGTERM
ARRIVED_MS = 8000  # by when all that clients have sent has arrived
QUIET_MS = 20_000
MAX_LEASES = 2  # how much longer clients may have made the lease
_POLICIES = """
SELECT run_at_ms, attempts, max_retries, backoff_base, backoff_max, rules FROM job JOIN spec USING (seq)
WHERE state IN (0, 1, 3)"""
DAY_MS = 86_400_000


class Cluster:
    """A broker, its workers and clients, and everything between them."""

    def __init__(self, seed: int, folder: FilePath, *, is_readable: bool = False) -> None:
        self.plan: Plan = make_plan(seed, tuple(SCHEDULED))
        self.folder = folder
        self.timeline = Timeline()
        self.tape = Tape(self.timeline, is_readable=is_readable)
        self.chance = random.Random(f"{seed}/cluster")
        self.asked: dict[str, Asked] = {}
        self.overlaps: Counter[str] = Counter()
        self.machines: list[WorkerMachine] = []
        self.clients: list[Client] = []
        self._keys: dict[str, int] = {}  # that each machine has
        plan = self.plan
        self.network = Network(
            self.timeline,
            self.tape,
            random.Random(f"{seed}/network"),
            plan.latency_ms,
            lambda path: self.faults.mishap(path),
        )
        self.network.queue_max = plan.queue_max
        self.broker = BrokerMachine(self.timeline, self.tape, self.network, self._clock(), seed)
        self.broker.messages_max, self.broker.turn_ms = plan.messages_max, plan.turn_ms
        self.faults = Faults(self)
        self.processes = Processes(
            self.timeline,
            self.tape,
            random.Random(f"{seed}/processes"),
            self.faults.decide,
            lambda process: self.checks.on_start(process),
        )
        self.checks = Checks(self)
        self._connect_checks()

    def _connect_checks(self) -> None:
        self.broker.on_send = self.checks.on_send
        self.broker.on_turn = self.checks.on_turn
        self.broker.on_down = self.checks.on_down
        self.broker.restart_ms = lambda: 0 if self.faults.is_over else self.faults.span_ms(2)
        self.broker.connection.on_strike = self._on_strike

    def _on_strike(self, kind: str) -> None:
        self.faults.note(kind)
        if kind == "store_stalled":
            self.broker.clock.lag_ms += self.faults.span_ms(2)
        elif kind == "broker_killed_between_sends":
            self.broker.sends_left = self.chance.randrange(3)

    # --- its parts ---

    def _clock(self) -> MachineClock:
        return MachineClock(
            self.timeline, mono_ms=self.chance.randrange(DAY_MS), ahead_ms=self.chance.randint(-2000, 2000)
        )

    def add_machine(self, *, is_picky: bool) -> None:
        """One more machine with a worker, for some queues only if it is picky."""
        number = len(self.machines)
        name = f"w{number}"
        machine = WorkerMachine(
            name,
            self.plan.seed,
            timeline=self.timeline,
            tape=self.tape,
            network=self.network,
            processes=self.processes,
            clock=self._clock(),
            folder=self.folder / name,
            slots=self.plan.slots[number],
            queues=(self.chance.choice(self.plan.queues),) if is_picky else (),
        )
        self.machines.append(machine)
        if self.plan.is_keyed:
            self.take_key(machine)
            machine.path.user = lambda: self._user_of(machine)
        machine.start_in(self.chance.randrange(1000))

    def take_key(self, machine: WorkerMachine) -> None:
        """A person copies the newest key of a machine to it."""
        self._keys[machine.name] = self.broker.newest_key(machine.name)

    def _user_of(self, machine: WorkerMachine) -> str:
        if self.faults.is_over:
            self.take_key(machine)
        return f"key:{self._keys[machine.name]}"

    def clocks(self) -> list[tuple[str, MachineClock]]:
        """The clocks of all machines."""
        return [("everywhere", self.broker.clock), *((machine.name, machine.clock) for machine in self.machines)]

    def paths(self) -> list[Path]:
        """What lies between the broker's machine and each other one."""
        return [*(machine.path for machine in self.machines), *(client.path for client in self.clients)]

    def machine_of(self, boot: str) -> WorkerMachine:
        """The machine of a start of a worker."""
        return next(machine for machine in self.machines if boot in machine.boots)

    def sweep(self, dead: Collection[Dead], on_swept: object) -> bool:
        """What a starting worker does about the processes of dead ones."""
        self.processes.kill_boots([worker.boot for worker in dead])
        return True

    def make_room(self) -> None:
        """The broker's disk has room again."""
        self.broker.connection.is_full = self.broker.disk.is_short = False

    # --- a run ---

    def run(self) -> None:
        """Trouble, then peace. Raises Violation."""
        with patch("worker.adopt.sweep", self.sweep):
            try:
                self._begin()
                self.timeline.run(self.plan.trouble_ms)
                self._heal()
                self._expect_an_end()
                self._expect_no_leaks()
            finally:
                for machine in self.machines:
                    for worker in machine.alive():
                        worker.kill()
                self.broker.connection.abandon()

    def _begin(self) -> None:
        self.broker.configure(self.plan.settings)
        if self.plan.is_keyed:
            for number in range(len(self.plan.slots)):
                self.broker.add_key(f"w{number}", number)
        self.broker.start()
        for number in range(self.plan.machines):
            self.add_machine(is_picky=number > 0 and self.chance.random() < 0.3)
        for number in range(self.plan.clients):
            name, look = f"client{number}", self.checks.by_state
            self.clients.append(Client(name, self.plan, self.timeline, self.network, self.asked, look))
        for client in self.clients:
            self.timeline.after(self.chance.randrange(1000), client.work)
        self.faults.begin()

    def _heal(self) -> None:
        self.tape.note("cluster", "healed")
        self.faults.end()
        self.make_room()
        self.broker.connection.armed = None
        self.broker.sends_left = None
        self.broker.recover()
        self.network.queue_max = 1000
        for path in self.paths():
            self.network.clear(path)
        self.broker.start()
        for client in self.clients:
            client.may_ask = False
        for machine in self.machines:
            machine.is_full = False
            machine.start()
            for worker in machine.alive():
                worker.resume()
        self.add_machine(is_picky=False)

    def _expect_an_end(self) -> None:
        """Every job comes to its end within the time that its policy, its delay and the leases allow."""
        self.timeline.run(self.timeline.now_ms + ARRIVED_MS)
        limit_ms = self._longest_ms()
        end_ms = self.timeline.now_ms + limit_ms
        while self.checks.is_unfinished and self.timeline.now_ms < end_ms:
            self._let_go()
            self.timeline.run(min(end_ms, self.timeline.now_ms + self.plan.lease_ms))
        if self.checks.is_unfinished:
            left = [row for row in self.checks.rows.values() if row.state in UNFINISHED]
            self.checks.fail(f"not over {limit_ms} ms after all was well: {left}")

    def _let_go(self) -> None:
        """What cannot come to its end without a person: jobs that are held, and those that never end by themselves."""
        rows = self.checks.rows.values()
        if any(row.ready == HELD for row in rows):
            self.clients[0].insist("release", {"select": {}})
        endless = {process.grant.lease for process in self.processes.running() if process.fate.is_endless}
        stopping = self.checks.wishes.stopping
        for row in rows:
            if row.lease in endless and row.seq not in stopping:
                self.clients[0].insist("cancel", {"select": {"ids": [row.id]}, "grace_ms": 1000})

    def _longest_ms(self) -> int:
        now_ms, wall_ms = self.timeline.now_ms, self.broker.clock().wall_ms
        lives_ms = [
            p.started_ms + p.fate.duration_ms - now_ms for p in self.processes.running() if not p.fate.is_endless
        ]
        limit_ms = max(lives_ms, default=0) + 4 * MAX_LEASES * self.plan.lease_ms + RECOVERY_MS
        delays_ms = [0]
        for run_at_ms, attempts, retries, base, longest, rules in self.broker.connection.ask(_POLICIES):
            delays_ms.append(run_at_ms - wall_ms)
            backoff = rules_of(rules)[0]
            kind = backoff if isinstance(backoff, str) else tuple(backoff)
            policy = Policy(retries, base, longest, "none", backoff=kind)
            limit_ms += sum(RUN_MS + backoff_ms(number + 1, policy, 0.0) for number in range(attempts, retries))
        return limit_ms + max(delays_ms)

    def _expect_no_leaks(self) -> None:
        """When all is over, nobody remembers anything that is."""
        self.timeline.run(self.timeline.now_ms + 2 * self.plan.lease_ms + QUIET_MS)
        self.checks.look_at_everything()
        core = self.broker.core
        workers = [worker for machine in self.machines for worker in machine.alive()]
        left: dict[str, object] = {"running commands": self.processes.running()}
        if core is not None:
            left |= {"leases": core.leases, "waiters": core.waiters}
            left["holders without a worker"] = core.holders.keys() - {worker.boot for worker in workers}
            left["workers without a session"] = {worker.boot for worker in workers} - core.holders.keys()
        for worker in workers:
            left[worker.name] = [*worker.core.slots.held(), *worker.core.reports.results.leases()]
            name = f"{worker.machine.name}-{worker.boot[:6]}"
            if name in self.checks.told_to_stop and not worker.core.is_draining:
                left["workers that were told to stop"] = name
        if found := {what: things for what, things in left.items() if things}:
            self.checks.fail(f"left over when all was done: {found}")
