"""One campaign: a broker, machines, clients and nemeses; then everything is healed, drained and judged."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from queuectl.client import Client
from tests.campaign.checker import Verdict, judge
from tests.campaign.daemons import Broker, Machine, python
from tests.campaign.evidence import Evidence, read_asked, read_database, read_told
from tests.campaign.faults import SORTS, FaultLog, Sort
from tests.campaign.followers import Follower
from tests.campaign.jobs import Jobs, read_journal
from tests.campaign.nemesis import BrokerNemesis, MachineNemesis, Nemesis, Pace
from tests.campaign.orphans import Orphans, StallWatch
from tests.harness_cli import PROGRAM, processes_with
from tests.harness_process import ROOT, TcpProxy, free_port

PROGRESS_LIMIT_S = 120.0  # a drain in which nothing ends for so long has failed
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does. `backlog`: jobs that may wait. `bulk`: largest request of each client."""

    seed: str
    seconds: float
    pace: Pace
    machines: int = 4
    slots: int = 12
    backlog: int = 1500
    bulk: Sequence[int] = (1, 1, 60)
    followers: int = 3
    broker: Sequence[str] = PROGRAM  # the command line; another one plants a fault


class Campaign:
    """The processes and files of one campaign, in a directory of its own."""

    def __init__(self, plan: Plan, place: Path):
        self._plan = plan
        self._place = place
        self._log = FaultLog(place / "faults.jsonl")
        self._jobs = Jobs(place / "jobs")
        self._orphans = Orphans(place)
        self._stalls = StallWatch(place, self._log, max(0.2, plan.pace.lease_s / 4))
        self._followers: list[Follower] = []
        self._left: dict[int, str] = {}  # processes that outlived all of it
        self.seconds: dict[str, float] = {}

    def run(self) -> Verdict:
        """All of it. Raises where the campaign itself could not go on."""
        self._jobs.prepare()
        with ExitStack() as stack:
            stack.callback(self._await_end)  # where it is broken off, guards of dead workers are busy to the last
            broker, machines = self._start(stack)
            began_s = time.monotonic()
            with (
                self._clients(broker) as clients,
                self._following(broker),
                self._nemeses(broker, machines) as nemeses,
            ):
                self._watch_over(clients, nemeses)
            self.seconds["under attack"] = time.monotonic() - began_s
            began_s = time.monotonic()
            self._drain(broker)
            self.seconds["to drain"] = time.monotonic() - began_s
            self._end(broker, machines)
        began_s = time.monotonic()
        verdict = self._judge()
        self.seconds["to judge"] = time.monotonic() - began_s
        return verdict

    def _start(self, stack: ExitStack) -> tuple[Broker, list[Machine]]:
        port = free_port()
        broker = Broker(self._place / "broker", port, program=self._plan.broker)
        stack.callback(broker.close)
        broker.start()
        with Client(broker.home.client_endpoint) as client:
            client.config_set("heartbeat", self._plan.pace.heartbeat_s)
            client.config_set("lease", self._plan.pace.lease_s)
        machines = []
        for number in range(self._plan.machines):
            proxy = stack.enter_context(TcpProxy(port)) if number % 2 else None
            machine = Machine(self._place / f"m{number}", self._plan.slots, broker=broker.home, proxy=proxy)
            stack.callback(machine.close)
            machine.start()
            machines.append(machine)
        return broker, machines

    def _watch_over(self, clients: Sequence[subprocess.Popen[bytes]], nemeses: Sequence[Nemesis]) -> None:
        """Let it all run for its time, or until the campaign itself has failed."""
        end_s = time.monotonic() + self._plan.seconds
        while time.monotonic() < end_s and not any(nemesis.error for nemesis in nemeses):
            assert all(client.poll() is None for client in clients), "a client has ended"
            threading.Event().wait(LOOK_S)

    @contextmanager
    def _clients(self, broker: Broker) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Clients under load; they have ended when the block has."""
        clients: list[subprocess.Popen[bytes]] = []
        try:
            for number, bulk in enumerate(self._plan.bulk):
                options = {
                    "journal": str(self._place / f"client{number}.jsonl"),
                    "endpoint": broker.home.client_endpoint,
                    "name": f"c{number}",
                    "seed": f"{self._plan.seed} client {number}",
                    "jobs": str(self._jobs.place),
                    "bulk": bulk,
                    "backlog": self._plan.backlog,
                }
                command = [*python("tests.campaign.load"), json.dumps(options)]
                clients.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True))
            yield clients
            for client in clients:
                assert client.stdin is not None
                client.stdin.close()
            codes = [client.wait(PROGRESS_LIMIT_S) for client in clients]
            assert not any(codes), f"the clients ended with {codes}"
        finally:
            for client in clients:
                client.kill()
                client.wait()

    @contextmanager
    def _following(self, broker: Broker) -> Iterator[None]:
        """Followers at work; what they follow has ended when the block has."""
        for number in range(self._plan.followers):
            name = f"f{number}"
            follower = Follower(
                broker.home.client_endpoint,
                name=name,
                seed=f"{self._plan.seed} follower {number}",
                jobs=self._jobs.place,
                journal=self._place / f"client-{name}.jsonl",
            )
            follower.start()
            self._followers.append(follower)
        try:
            yield
        finally:
            for follower in self._followers:
                follower.tell_end()
        for follower in self._followers:
            follower.join(PROGRESS_LIMIT_S)
            assert not follower.is_alive(), f"{follower.name} follows without an end"
            if follower.error is not None:
                raise follower.error

    @contextmanager
    def _nemeses(self, broker: Broker, machines: Sequence[Machine]) -> Iterator[list[Nemesis]]:
        """Everything is broken while the block runs, and healed when it has ended."""
        pace, seed = self._plan.pace, self._plan.seed
        nemeses: list[Nemesis] = [BrokerNemesis(broker, seed, pace, self._log)]
        nemeses += [MachineNemesis(machine, seed, pace, self._log, self._orphans) for machine in machines]
        self._stalls.start()
        self._orphans.start()
        try:
            for nemesis in nemeses:
                nemesis.start()
            yield nemeses
        except KeyboardInterrupt:
            for nemesis in nemeses:
                nemesis.hurry()
            self._stalls.stop()
            raise
        finally:
            for nemesis in nemeses:
                nemesis.tell_end()
            for nemesis in nemeses:
                nemesis.join()
        for nemesis in nemeses:
            if nemesis.error is not None:
                raise nemesis.error

    def _drain(self, broker: Broker) -> None:
        """Wait until every job has ended, for as long as some still do."""
        with Client(broker.home.client_endpoint) as client:
            left, since_s = -1, time.monotonic()
            while True:
                counts = client.status()["jobs"]
                waiting = counts["pending"] + counts["processing"] + counts["failed"]
                if not waiting:
                    return
                if waiting != left:
                    left, since_s = waiting, time.monotonic()
                assert time.monotonic() - since_s < PROGRESS_LIMIT_S, f"{waiting} jobs do not end: {counts}"
                threading.Event().wait(LOOK_S)

    def _end(self, broker: Broker, machines: Sequence[Machine]) -> None:
        self._stalls.stop()
        self._orphans.stop()
        codes = [machine.stop() for machine in machines]
        assert not any(codes), f"the workers ended with {codes}"
        code = broker.stop()
        assert code == 0, f"the broker ended with {code}"
        self._left = self._await_end()

    def _await_end(self) -> dict[int, str]:
        """The processes that are left after a generous time, in which guards of dead workers end their errands."""
        mark, end_s = f"QUEUECTL_HOME={self._place}/", time.monotonic() + self._orphans.limit_s
        while (left := processes_with(mark)) and time.monotonic() < end_s:
            threading.Event().wait(LOOK_S)
        return left

    def _judge(self) -> Verdict:
        jobs, owners, damage = read_database(self._place / "broker" / "queue.db")
        left = [f"pid {each.pid} of {each.home}: {each.line}" for each in self._orphans.left]
        left += [f"pid {pid}, at the very end: {line}" for pid, line in self._left.items()]
        evidence = Evidence(
            asked=list(read_asked(sorted(self._place.glob("client*.jsonl")))),
            lines=list(read_journal(self._jobs.journal)),
            jobs=jobs,
            owners=owners,
            faults=self._log.faults,
            lease_s=self._plan.pace.lease_s,
            booted_s=time.time() - self._orphans.now_s(),
            told=list(read_told(self._place / "broker.log")),
            orphans=left,
            damage=damage,
        )
        verdict = judge(evidence)
        verdict.done = self._done()
        verdict.broken["followed wrongly"] = [wrong for follower in self._followers for wrong in follower.wrong]
        for follower in self._followers:
            verdict.done += follower.counts
        return verdict

    def _done(self) -> Counter[str]:
        """What was done to the processes, for the table."""
        kinds = Counter(fault.kind for fault in self._log.faults)
        done = Counter({kind: kinds[kind] for kind in SORTS})
        sorts = Counter(fault.sort for fault in self._log.faults)
        done["all kills of brokers"] = done["kill_broker"] + done["kill_starting_broker"]
        done["all kills of workers"] = sorts[Sort.KILL] + sorts[Sort.KILL_WHOLE]
        done["deaths after which processes were looked for"] = self._orphans.checked
        done["longest until none was left, in ms"] = round(self._orphans.longest_s * 1000)
        return done
