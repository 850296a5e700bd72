"""What befalls the cluster. Each kind is a name in a table; each seed switches some of them on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from queuectl.messages import Grant
from tests.simulation.disk import AFTER_COMMIT, BEFORE_COMMIT
from tests.simulation.network import TO_BROKER, TO_PEER
from tests.simulation.plan import JOBS_CHANGED, KEY_EXCHANGED, MESSAGE_FAULTS
from tests.simulation.processes import Fate

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.worker import Worker, WorkerMachine

EVERYWHERE = "everywhere"
SPAN_MS_MAX = 900_000
BURST, BURST_MS = 0.3, 60  # how often a fault is followed by another, and how soon


class Strike(NamedTuple):
    """A fault that has come about: when (ms), of which kind, and to whom."""

    at_ms: int
    kind: str
    whom: str


class Faults:
    """Strikes at random times, and remembers each strike and how the jobs stood then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._plan = cluster.plan
        self._chance = random.Random(f"{cluster.plan.seed}/faults")
        self._habits = random.Random(f"{cluster.plan.seed}/habits")
        self.counts: Counter[str] = Counter()
        self.cells: Counter[tuple[str, str]] = Counter()
        self.strikes: list[Strike] = []
        self.is_over = False
        steps = [(kind, self._plan.chances[kind]) for kind in MESSAGE_FAULTS if kind in self._plan.chances]
        self._message_chances = steps
        self._message_chance = sum(odds for _, odds in steps)

    # --- the book ---

    def note(self, kind: str, whom: str = EVERYWHERE) -> None:
        """A fault has come about."""
        self.counts[kind] += 1
        self.strikes.append(Strike(self._cluster.timeline.now_ms, kind, whom))
        for state, jobs in self._cluster.checks.standing.items():
            self.cells[kind, state] += jobs
        self._cluster.tape.note("fault", kind, whom)

    # --- the schedule ---

    def begin(self) -> None:
        """Let every kind that is switched on come at its times."""
        for kind in self._plan.strikes:
            self._next(kind)

    def _next(self, kind: str) -> None:
        mean_ms = self._plan.trouble_ms / self._plan.strikes[kind]
        self._cluster.timeline.after(int(self._chance.expovariate(1 / mean_ms)) + 1, self._strike, kind)

    def _strike(self, kind: str) -> None:
        self._act(kind)
        if not self.is_over:
            self._next(kind)

    def _act(self, kind: str) -> None:
        """Troubles seldom come alone."""
        if not self.is_over:
            SCHEDULED[kind](self, self._cluster, self._chance, kind)
            if self._chance.random() < BURST:
                another = self._chance.choice(list(self._plan.strikes))
                self._cluster.timeline.after(self._chance.randrange(BURST_MS), self._act, another)

    def span_ms(self, leases: float, *, bend: int = 2) -> int:
        """A random time of up to so many leases, yet not too long: a worker without a broker looks every second.

        The more it is bent, the likelier a short one.
        """
        longest_ms = min(int(leases * self._plan.lease_ms), SPAN_MS_MAX)
        return int(longest_ms * self._chance.random() ** bend) + 1

    def end(self) -> None:
        """Nothing goes wrong any more."""
        self.is_over = True
        self._message_chance = 0.0

    # --- messages and commands ---

    def mishap(self, path: str) -> str | None:
        """What befalls the next message on a path."""
        if not self._message_chance:
            return None
        drawn = self._chance.random()
        if drawn >= self._message_chance:
            return None
        for kind, odds in self._message_chances:
            drawn -= odds
            if drawn < 0:
                self.note(kind, path)
                return kind
        return None

    def decide(self, grant: Grant) -> Fate:
        """What a command will do."""
        fate = self._decide()
        if self._plan.is_meddled and not self.is_over and fate.fault is None:
            habits = self._habits
            is_endless = habits.random() < 0.08
            return fate._replace(is_endless=is_endless, farewell=habits.choice((None, None, 0, 7)))
        return fate

    def _decide(self) -> Fate:
        chance, odds = self._chance, {} if self.is_over else self._plan.chances
        drawn = {kind for kind in COMMAND_FATES if chance.random() < odds.get(kind, 0.0)}
        for kind in COMMAND_FATES:
            if kind in drawn:
                self.note(kind)
        for kind in ("spawn_error", "worker_fault"):
            if kind in drawn:
                return Fate(0, None, fault=kind)
        duration_ms = int(1000 * chance.random() ** 3) + 1
        if chance.random() < self._plan.long_jobs and not self.is_over:
            duration_ms = int(chance.choice((1, 4)) * self._plan.lease_ms * chance.random()) + 1
        if "command_slow" in drawn:
            duration_ms = int(8 * self._plan.lease_ms * chance.random()) + 1
        exit_code, number = (1, None) if "command_failed" in drawn else (0, None)
        if "command_signalled" in drawn:
            return Fate(duration_ms, None, 11, output_bytes=40)
        output_bytes = chance.choice((0, 0, 0, 30, 500))
        return Fate(duration_ms, exit_code, number, "command_stubborn" in drawn, output_bytes)


COMMAND_FATES = (
    "spawn_error",
    "worker_fault",
    "command_slow",
    "command_stubborn",
    "command_failed",
    "command_signalled",
)

Deed = Callable[[Faults, "Cluster", random.Random, str], None]


# --- the network -----------------------------------------------------------------------------------------

_DIRECTIONS = {
    "partition": (TO_BROKER, TO_PEER),
    "partition_to_broker": (TO_BROKER,),
    "partition_from_broker": (TO_PEER,),
}


def _block(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    path = chance.choice(cluster.paths())
    if path.is_clear:
        cluster.network.block(path, _DIRECTIONS[kind])
        cluster.timeline.after(faults.span_ms(4, bend=1), cluster.network.clear, path)
        faults.note(kind, path.name)


def _reset(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    path = chance.choice(cluster.paths())
    for line in list(path.lines):
        cluster.network.reset(line)
    faults.note(kind, path.name)


# --- the broker --------------------------------------------------------------------------------------------


def _kill_broker(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    if cluster.broker.core is not None:
        faults.note(kind)
        cluster.broker.kill()


def _pause_broker(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    cluster.broker.pause(faults.span_ms(3))


def _pause_all(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    """As when one machine with all of it is suspended."""
    faults.note(kind)
    pause_ms = faults.span_ms(3)
    cluster.broker.pause(pause_ms)
    for machine in cluster.machines:
        for worker in machine.alive():
            worker.pause(pause_ms)


def _arm(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    """Noted when it strikes."""
    cluster.broker.connection.armed = kind
    if kind in BEFORE_COMMIT and chance.random() < 0.5:
        cluster.broker.connection.statements_left = chance.randint(1, 8)


def _stop_broker(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    chance.choice(cluster.clients).ask("shutdown", {})


def _fill(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    cluster.broker.connection.is_full = True
    cluster.timeline.after(faults.span_ms(2), cluster.make_room)


def _run_short(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    cluster.broker.disk.is_short = True
    cluster.timeline.after(faults.span_ms(3), cluster.make_room)


# --- workers ----------------------------------------------------------------------------------------------


def _machine(cluster: Cluster, chance: random.Random) -> WorkerMachine:
    return chance.choice(cluster.machines)


def _on_worker(act: Callable[[Faults, Worker], None]) -> Deed:
    def strike(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
        worker = _machine(cluster, chance).worker
        if worker is not None:
            faults.note(kind, worker.machine.name)
            act(faults, worker)

    return strike


def _lose_power(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    machine = _machine(cluster, chance)
    others = [other for other in cluster.machines if other is not machine and not other.is_gone]
    if not machine.is_gone:
        faults.note(kind, machine.name)
        machine.lose_power(None if others and chance.random() < 0.3 else faults.span_ms(6) + 1000)


def _arrive(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    if len(cluster.machines) < len(cluster.plan.slots) - 1:
        faults.note(kind)
        cluster.add_machine(is_picky=False)


def _fill_worker(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    machine = _machine(cluster, chance)
    faults.note(kind, machine.name)
    machine.is_full = True
    cluster.timeline.after(faults.span_ms(2), setattr, machine, "is_full", False)


def _tell_to_stop(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    chance.choice(cluster.clients).ask("worker_stop", {"now": chance.random() < 0.5})


def _exchange_key(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    """A new key for a machine; when it gets there, and when the old one is revoked, is anybody's guess."""
    machine = _machine(cluster, chance)
    faults.note(kind, machine.name)
    operator = chance.choice(cluster.clients)
    operator.ask("key_rotate", {"name": machine.name, "public_key": f"{chance.getrandbits(64):040}"})
    cluster.timeline.after(faults.span_ms(3), cluster.take_key, machine)
    cluster.timeline.after(faults.span_ms(3), operator.revoke_old, machine.name)


# --- clocks and clients -----------------------------------------------------------------------------------


def _jump(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    name, clock = chance.choice(cluster.clocks())
    faults.note(kind, name)
    clock.jump(chance.choice((-1, 1)) * chance.choice((500, 5000, 120_000)))


def _drift(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    name, clock = chance.choice(cluster.clocks())
    faults.note(kind, name)
    clock.drift(chance.choice((0.98, 0.999, 1.0, 1.001, 1.02)))


def _flood_with_retries(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    client = chance.choice(cluster.clients)
    for _ in range(chance.randint(5, 15)):
        client.ask(*(client.retry_all(chance) if chance.random() < 0.5 else client.retry_some(chance)))


def _flood_with_settings(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    faults.note(kind)
    client = chance.choice(cluster.clients)
    for _ in range(chance.randint(5, 15)):
        client.ask(*client.configure(chance))


def _change_jobs(faults: Faults, cluster: Cluster, chance: random.Random, kind: str) -> None:
    """Much is changed at once, and all that runs is cancelled just as it may be about to end."""
    faults.note(kind)
    client = chance.choice(cluster.clients)
    if running := [row.id for row in cluster.checks.rows.values() if row.lease is not None]:
        client.ask("cancel", {"select": {"ids": running}, "grace_ms": chance.choice((0, 1000))})
    for _ in range(chance.randint(2, 8)):
        client.ask(*client.change(chance))


SCHEDULED: dict[str, Deed] = {
    **dict.fromkeys(_DIRECTIONS, _block),
    "connection_reset": _reset,
    "broker_killed": _kill_broker,
    "broker_paused": _pause_broker,
    "all_paused": _pause_all,
    "broker_stopped": _stop_broker,
    **dict.fromkeys((*BEFORE_COMMIT, *AFTER_COMMIT), _arm),
    "store_full": _fill,
    "disk_low": _run_short,
    "worker_killed": _on_worker(lambda faults, worker: worker.machine.kill_worker()),
    "worker_and_guards_killed": _on_worker(lambda faults, worker: worker.machine.kill_all_three()),
    "guardian_killed": _on_worker(lambda faults, worker: worker.lose_guardian()),
    "worker_paused": _on_worker(lambda faults, worker: worker.pause(faults.span_ms(3, bend=1))),
    "worker_stopped": _on_worker(lambda faults, worker: worker.stop()),
    "worker_stopped_now": _on_worker(lambda faults, worker: worker.stop(hard=True)),
    "workers_told_to_stop": _tell_to_stop,
    "power_lost": _lose_power,
    "worker_arrived": _arrive,
    "worker_disk_full": _fill_worker,
    KEY_EXCHANGED: _exchange_key,
    JOBS_CHANGED: _change_jobs,
    "wall_clock_set": _jump,
    "clock_drifted": _drift,
    "dlq_flood": _flood_with_retries,
    "config_flood": _flood_with_settings,
}
