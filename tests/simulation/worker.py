"""The workers' machines: the real core, loop, link and spool, with simulated commands, killed and started again."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from tests.simulation.clock import MachineClock, Timeline
from tests.simulation.link import Poller, SimulatedLink
from tests.simulation.network import Network, Path
from tests.simulation.processes import CHILDREN_FD, Processes, SimulatedChildren
from tests.simulation.tape import Tape, TapedLog
from worker.adopt import Adoption
from worker.core import Identity, WorkerCore
from worker.loop import Rooms, Turns, WorkerLoop
from worker.service import ERRAND_MS, PATIENCE_MS
from worker.signals import STOP
from worker.spool import Spool

SIGNALS_FD, GUARDIAN_FD = 1002, 1003


class Signals:
    """Signals that wait for the loop."""

    def __init__(self) -> None:
        self.waiting = b""

    def fileno(self) -> int:
        return SIGNALS_FD

    def take(self) -> bytes:
        taken, self.waiting = self.waiting, b""
        return taken

    def close(self) -> None: ...


class SimulatedSpool(Spool):
    """The real spool, on a disk that may be full."""

    is_full: Callable[[], bool]

    def _write(self, frame: bytes) -> None:
        if self.is_full():
            raise OSError(28, "simulated")
        super()._write(frame)


class Worker:
    """One start of a worker: a boot."""

    def __init__(self, machine: WorkerMachine, boot: str, *, slots: int, is_errand: bool) -> None:
        self.machine, self.boot, self.slots, self.is_errand = machine, boot, slots, is_errand
        self.name = f"{machine.name}/{boot[:4]}"
        self.is_alive = True
        self.paused_until_ms = 0
        self.signals = Signals()
        self._is_guardian_lost = False
        self._timeline = machine.timeline
        self._wake_at_ms = 2**62
        self._wakes = 0
        poller = Poller()
        chance = random.Random(f"{machine.seed}/{boot}")
        endpoint = machine.endpoint
        self.link = SimulatedLink(
            self.name, machine.network, machine.path, poller, self.wake, endpoint=endpoint, chance=chance.random
        )
        self.children = SimulatedChildren(machine.processes, boot, self.wake)
        self.spool = SimulatedSpool(machine.folder, boot, host=machine.name)
        self.spool.is_full = lambda: machine.is_full
        self.adoption = Adoption(machine.folder, host=machine.name, own_boot=boot)
        adopted = self.adoption.take(lambda pid: None)
        identity = Identity(boot, f"/home/{machine.name}", machine.name, 1, slots, machine.queues, "0.0.0")
        patience_ms = ERRAND_MS if is_errand else PATIENCE_MS
        self.core = WorkerCore(identity, chance=chance.random, adopted=adopted, patience_ms=patience_ms)
        if is_errand:
            self.core.stop(machine.clock())
        rooms = Rooms(
            link=self.link,
            children=self.children,
            spool=self.spool,
            adoption=self.adoption,
            signals=_typed(self.signals),
            poller=_typed(poller),
            log=TapedLog(machine.tape, self.name),
            guardian=None if is_errand else GUARDIAN_FD,
        )
        self.loop = WorkerLoop(self.core, rooms, lambda worker, broker: None, clock=machine.clock)
        self._steps: Turns[int] = self.loop.turns()
        machine.tape.note(self.name, "booted", (slots, len(adopted)))
        self._wait(next(self._steps))

    # --- turns ---

    def wake(self) -> None:
        """There is news."""
        self._wake_in(0)

    def _wait(self, timeout_ms: int) -> None:
        self._wakes += 1
        self._wake_at_ms = 2**62
        self._wake_in(0 if self._ready() else self.machine.clock.true_ms(timeout_ms))

    def _wake_in(self, ms: int) -> None:
        at_ms = max(self._timeline.now_ms + ms, self.paused_until_ms)
        if at_ms < self._wake_at_ms:
            self._wake_at_ms = at_ms
            self._wakes += 1
            self._timeline.after(at_ms - self._timeline.now_ms, self._turn, self._wakes)

    def _ready(self) -> dict[int, int]:
        ready = self.link.ready()
        if self.children.ended:
            ready[CHILDREN_FD] = 1
        if self.signals.waiting:
            ready[SIGNALS_FD] = 1
        if self._is_guardian_lost:
            ready[GUARDIAN_FD] = 1
        return ready

    def _turn(self, number: int) -> None:
        if number != self._wakes or not self.is_alive:
            return
        if self._timeline.now_ms < self.paused_until_ms:
            self._wait(0)
            return
        try:
            timeout_ms = self._steps.send(self._ready())
        except StopIteration:
            self._end()
            return
        self._is_guardian_lost = False
        self._wait(timeout_ms)

    # --- life ---

    def _end(self) -> None:
        self.is_alive = False
        self.loop.close()
        self.machine.tape.note(self.name, "left")
        self.machine.on_left(self)

    def kill(self, *, is_silent: bool = False) -> None:
        """SIGKILL, or the end of its machine: memory is gone, the spool stays, the locks on it are let go."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._steps.close()
        self.link.vanish(is_silent=is_silent)
        self.children.close()
        self.adoption.close()
        os.close(self.spool._log)
        assert self.spool._lock is not None
        os.close(self.spool._lock)
        self.machine.tape.note(self.name, "killed")

    def pause(self, ms: int) -> None:
        """SIGSTOP of the worker's process; its commands run on."""
        self.paused_until_ms = max(self.paused_until_ms, self._timeline.now_ms + ms)
        self._timeline.after(ms, self.wake)

    def resume(self) -> None:
        """SIGCONT."""
        self.paused_until_ms = 0
        self._wake_at_ms = 2**62
        self.wake()

    def lose_guardian(self) -> None:
        """The process that watches over it is killed."""
        self._is_guardian_lost = True
        self.wake()

    def stop(self, *, hard: bool = False) -> None:
        """A signal of the guardian's: end kindly, or at once."""
        self.signals.waiting += bytes([signal.SIGQUIT if hard else STOP])
        self.wake()


def _typed(fake: object) -> Any:
    return fake


class WorkerMachine:
    """One machine with one home, in which workers are started one after the other."""

    def __init__(
        self,
        name: str,
        seed: int,
        *,
        timeline: Timeline,
        tape: Tape,
        network: Network,
        processes: Processes,
        clock: MachineClock,
        folder: FilePath,
        slots: int,
        queues: tuple[str, ...],
    ) -> None:
        self.name, self.seed = name, seed
        self.timeline, self.tape, self.network, self.processes = timeline, tape, network, processes
        self.clock, self.folder, self.slots, self.queues = clock, folder, slots, queues
        self.path = Path(name)
        self.chance = random.Random(f"{seed}/{name}")
        self.endpoint = random.Random(f"{seed}/{name}/link").choice(("ipc:///broker", "tcp://127.0.0.1:7710"))
        self.is_full = False
        self.is_gone = False  # the machine, for good
        self.is_restarting = False
        self.may_restart = True
        self.boots: dict[str, Worker] = {}

    @property
    def worker(self) -> Worker | None:
        """The worker that runs here, if one does."""
        return next((worker for worker in self.boots.values() if worker.is_alive and not worker.is_errand), None)

    def alive(self) -> list[Worker]:
        """All that run here, those on an errand as well."""
        return [worker for worker in self.boots.values() if worker.is_alive]

    def start(self) -> None:
        """Start a worker, unless one runs."""
        self.is_restarting = False
        if self.worker is None and not self.is_gone:
            self._boot(is_errand=False)

    def start_in(self, ms: int) -> None:
        """Start a worker after a while."""
        if not self.is_restarting:
            self.is_restarting = True
            self.timeline.after(ms, self.start)

    def _boot(self, *, is_errand: bool) -> None:
        if self.is_gone:
            return
        boot = f"{self.chance.getrandbits(128):032x}"
        self.boots[boot] = Worker(self, boot, slots=0 if is_errand else self.slots, is_errand=is_errand)

    def on_left(self, worker: Worker) -> None:
        """A worker has ended by itself; whoever wants one starts the next."""
        self.processes.kill_boots([worker.boot])
        if not worker.is_errand:
            self.start_in(self.chance.randrange(100, 20_000))

    # --- what befalls it ---

    def kill_worker(self) -> None:
        """SIGKILL, of a guardian, too, perhaps: who is left of the three ends the commands and has the broker told."""
        if (worker := self.worker) is not None:
            worker.kill()
            self.timeline.after(self.chance.randrange(30), self._clean_up, worker)
            self.start_in(self.chance.randrange(10, 30_000))

    def _clean_up(self, worker: Worker) -> None:
        self.processes.kill_boots([worker.boot])
        self.timeline.after(self.chance.randrange(1, 300), self._boot_errand)

    def _boot_errand(self) -> None:
        self._boot(is_errand=True)

    def kill_all_three(self) -> None:
        """SIGKILL of worker, guardian and last guard: nobody ends the commands before the next start here."""
        if (worker := self.worker) is not None:
            worker.kill()
            self.start_in(self.chance.randrange(10, 60_000))

    def lose_power(self, back_in_ms: int | None) -> None:
        """Everything here ends without a word; None: for good."""
        for worker in self.alive():
            worker.kill(is_silent=True)
        self.processes.kill_boots(list(self.boots))
        if back_in_ms is None:
            self.is_gone = True
        else:
            self.clock.reboot()
            self.start_in(back_in_ms)
