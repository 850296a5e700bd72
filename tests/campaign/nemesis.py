"""What breaks the processes of a campaign: one thread for the broker and one for each machine, each with its own seed.

The broker has bad times and calm ones by turns: after each restart workers have some seconds more to come back,
so that while it is killed again and again no lease ever runs out.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign.daemons import Broker, Machine, send
from tests.campaign.faults import SORTS, FaultLog, Sort
from tests.campaign.orphans import Orphans
from tests.harness_cli import is_alive, strike, until


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things happen, in seconds; ranges that chance chooses from. `lease_s` is the lease of the queue."""

    lease_s: float
    heartbeat_s: float
    broker_bad_s: tuple[float, float] = (6, 12)  # kill after kill
    broker_calm_s: tuple[float, float] = (2, 6)
    broker_alive_s: tuple[float, float] = (0, 0.8)  # in bad times
    worker_alive_s: tuple[float, float] = (0.2, 3.5)
    worker_away_s: tuple[float, float] = (0, 0.5)
    outlasting: float = 0.5  # share of pauses and cuts that outlast a lease


class Nemesis(ABC):
    """Breaks one process again and again until it is told to end, and heals it."""

    def __init__(self, name: str, seed: str, pace: Pace, log: FaultLog):
        self._chance = random.Random(f"{seed} {name}")
        self._pace = pace
        self._log = log
        self._end = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def tell_end(self) -> None:
        """No new fault from now on."""
        self._end.set()

    def hurry(self) -> None:
        """Nobody is to judge this campaign: no fault has to last."""
        self._hurry.set()

    def join(self) -> None:
        """Wait until the last fault is healed; `error` says what went wrong."""
        self._thread.join()

    def _guarded(self) -> None:
        try:
            while not self._end.is_set():
                self.strike()
        except BaseException as error:  # noqa: BLE001  told by the thread that can do something about it
            self.error = error

    @abstractmethod
    def strike(self) -> None:
        """Wait for a while, then break it once, and heal it."""

    def _range(self, limits_s: tuple[float, float]) -> float:
        return self._chance.uniform(*limits_s)

    def _while(self, seconds: float) -> None:
        """Wait, also where the campaign is to end: a fault lasts as long as it was to."""
        self._hurry.wait(seconds)

    def _outage_s(self) -> float:
        """How long something is out of reach: longer than a lease, or shorter."""
        if self._chance.random() < self._pace.outlasting:
            return self._pace.lease_s * self._chance.uniform(1.2, 1.8) + 2 * self._pace.heartbeat_s
        return min(self._pace.lease_s, 3.0) * self._chance.uniform(0.1, 0.8)


BROKER_KINDS = {"kill_broker": 0.85, "kill_starting_broker": 0.08, "restart_broker": 0.04, "pause_broker": 0.03}


class BrokerNemesis(Nemesis):
    """Kills the broker, also while it starts; stops it for a while; restarts it."""

    def __init__(self, broker: Broker, seed: str, pace: Pace, log: FaultLog):
        super().__init__("broker", seed, pace, log)
        self._broker = broker
        self._bad_until_s = 0.0
        self._do: dict[str, Callable[[], None]] = {
            "kill_broker": self._kill,
            "kill_starting_broker": self._kill_starting,
            "restart_broker": self._restart,
            "pause_broker": self._pause,
        }

    def strike(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._bad_until_s:
            calm_s = self._range(self._pace.broker_calm_s)
            self._bad_until_s = now_s + calm_s + self._range(self._pace.broker_bad_s)
            self._end.wait(calm_s)
        if self._end.wait(self._range(self._pace.broker_alive_s)):
            return
        [kind] = self._chance.choices(list(BROKER_KINDS), list(BROKER_KINDS.values()))
        self._do[kind]()

    def _kill(self) -> None:
        with self._log.during("kill_broker", "broker", self._broker.pid):
            self._broker.kill()
            self._broker.start()

    def _kill_starting(self) -> None:
        with self._log.during("kill_broker", "broker", self._broker.pid):
            self._broker.kill()
            self._broker.spawn()
            self._while(self._chance.uniform(0, 0.4))
            with self._log.during("kill_starting_broker", "broker", self._broker.pid):
                self._broker.kill()
                self._broker.start()

    def _restart(self) -> None:
        with self._log.during("restart_broker", "broker", self._broker.pid):
            code = self._broker.stop()
            assert code == 0, f"the broker ended with {code}"
            self._broker.start()

    def _pause(self) -> None:
        with self._log.during("pause_broker", "broker", self._broker.pid):
            send(self._broker.pid, signal.SIGSTOP)
            self._while(self._outage_s())
            send(self._broker.pid, signal.SIGCONT)


CUTS = {
    "cut_to_broker": "to_server",
    "cut_to_worker": "to_client",
    "cut_both": "both",
    "hold": "hold",
    "reset": "reset",
}
_WITHOUT_WIRE = {
    "kill_worker": 0.25,
    "kill_guardian": 0.25,
    "kill_both": 0.15,
    "kill_all_three": 0.07,
    "kill_last_guard": 0.02,
    "kill_beside_frozen_guardian": 0.03,
    "pause_worker": 0.07,
    "pause_machine": 0.05,
    "stop_worker": 0.06,
    "stop_worker_by_force": 0.05,
}
MACHINE_KINDS = {**_WITHOUT_WIRE, **dict.fromkeys(CUTS, 0.06)}


class MachineNemesis(Nemesis):
    """Kills a worker, its guardian or both, stops them for a while, cuts the wire, stops the worker as people do."""

    def __init__(self, machine: Machine, seed: str, pace: Pace, log: FaultLog, orphans: Orphans):
        super().__init__(machine.name, seed, pace, log)
        self._machine = machine
        self._orphans = orphans
        self._kinds = MACHINE_KINDS if machine.proxy is not None else _WITHOUT_WIRE
        self._do: dict[str, Callable[[str], None]] = {
            "kill_worker": self._kill_worker,
            "kill_guardian": self._kill_guardian,
            "kill_both": self._kill_both,
            "kill_all_three": self._kill_all_three,
            "kill_last_guard": self._kill_last_guard,
            "kill_beside_frozen_guardian": self._kill_beside_frozen_guardian,
            "pause_worker": self._pause,
            "pause_machine": self._pause,
            "stop_worker": self._stop,
            "stop_worker_by_force": self._stop,
            **dict.fromkeys(CUTS, self._cut),
        }

    def strike(self) -> None:
        if self._end.wait(self._range(self._pace.worker_alive_s)):
            return
        [kind] = self._chance.choices(list(self._kinds), list(self._kinds.values()))
        with self._log.during(kind, self._machine.name, self._machine.pid):
            self._do[kind](kind)

    # --- kills ---

    def _kill_worker(self, _: str) -> None:
        self._orphans.expect_end(self._machine.home)
        send(self._machine.inner, signal.SIGKILL)
        self._machine.await_end()
        self._come_back()

    def _kill_guardian(self, _: str) -> None:
        inner = self._machine.inner
        self._orphans.expect_end(self._machine.home)
        self._machine.kill()
        if self._chance.random() < 0.5:  # else the next worker may come while the last one still cleans up
            until(lambda: inner is None or not is_alive(inner), f"the end of {inner}", self._orphans.limit_s)
        self._come_back()

    def _kill_both(self, _: str) -> None:
        self._orphans.expect_end(self._machine.home)
        self._machine.signal(signal.SIGKILL)
        self._machine.await_end()
        self._come_back()

    def _kill_last_guard(self, _: str) -> None:
        send(self._machine.last_guard, signal.SIGKILL)
        self._stop("stop_worker")  # it ends in peace without it, and the next one has another

    def _kill_all_three(self, _: str) -> None:
        three = (self._machine.last_guard, self._machine.pid, self._machine.inner)
        strike([pid for pid in three if pid is not None])
        self._machine.await_end()
        at_s = self._orphans.now_s()
        if self._chance.random() < 0.4:
            self._while(self._outage_s())
        self._come_back()
        self._orphans.expect_end(self._machine.home, at_s)  # the sweep comes before its first word to the broker

    def _kill_beside_frozen_guardian(self, _: str) -> None:
        send(self._machine.pid, signal.SIGSTOP)
        inner = self._machine.inner
        send(inner, signal.SIGKILL)
        until(lambda: inner is None or not is_alive(inner), f"the end of {inner}", self._orphans.limit_s)
        self._while(self._outage_s())
        self._orphans.expect_end(self._machine.home)
        send(self._machine.pid, signal.SIGCONT)
        self._machine.await_end()
        self._come_back()

    def _come_back(self) -> None:
        self._while(self._range(self._pace.worker_away_s))
        self._machine.start()

    # --- pauses ---

    def _pause(self, kind: str) -> None:
        self._machine.signal(signal.SIGSTOP)
        jobs = self._machine.descendants() if kind == "pause_machine" else []
        for pid in jobs:
            send(pid, signal.SIGSTOP)
        self._while(self._outage_s())
        for pid in jobs:
            send(pid, signal.SIGCONT)
        self._machine.signal(signal.SIGCONT)

    # --- the wire ---

    def _cut(self, kind: str) -> None:
        proxy = self._machine.proxy
        assert proxy is not None
        proxy.set_mode(CUTS[kind])
        self._while(self._outage_s())
        proxy.set_mode("pass")

    # --- as people do ---

    def _stop(self, kind: str) -> None:
        send(self._machine.pid, signal.SIGTERM)
        if SORTS[kind] is Sort.FORCED_STOP:
            self._while(self._chance.uniform(0, 0.3))
            send(self._machine.pid, signal.SIGTERM)
        self._machine.await_end()
        self._come_back()
