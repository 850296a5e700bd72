"""A cable that is pulled out under load, and put in again: what became of each job, and what it did.

One machine has the broker, two have workers with keys of their own, and on a fourth somebody enqueues all the while.
Each job appends a line to one file when it starts and when it ends, so that its runs can be counted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from queuectl.settings import DEFAULTS
from tests.harness_cli import Journal, until
from tests.machines.network import Machine, Network

QUEUE, DESK = "queue.example", "desk.example"
BUILDERS = ("build-1.example", "build-2.example")
SLOTS = 4
LOAD_MAX, LOAD_MORE = 100_000, 2  # jobs that are sent beside the backlog, and that a stage of the outage waits for
LONG_EVERY = 8
LONG = (0.4, 0.8, 1.2)  # long jobs run for so much of an outage, in turn
JOB = """echo "$QUEUECTL_JOB_ID start $(hostname) $1" >>{journal}
sleep $1
echo "$QUEUECTL_JOB_ID end" >>{journal}
"""
# A job is sent again under the same id until it is there; then its id exists (4).
LOAD = """export QUEUECTL_CREDENTIALS=desk.toml
while [ -e go ]; do
    read -r n s
    until queuectl enqueue --quiet --id load-$n -- "{job} $s" >/dev/null 2>>refused || [ $? = 4 ]; do sleep 0.2; done
    echo load-$n >>accepted
    sleep 0.1
done"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done. Seconds; settings of the queue that are None stay as they are by default."""

    down_s: float
    cut: tuple[str, ...]  # the machines whose cables are pulled out, all of them at once
    lease_s: float | None = None
    heartbeat_s: float | None = None
    backlog: int = 100
    short_s: float = 0.1
    flaps: int = 1  # how often the outage comes, with a pause as long as itself
    cables: int = 1  # of each machine, to as many switches; only the first one is pulled out
    limit_s: float = 400.0  # for all jobs to end, afterwards

    @property
    def may_repeat(self) -> bool:
        """Whether a job may run again: the broker hears nothing of a worker for longer than a lease."""
        lease_s = self.lease_s or float(str(DEFAULTS["lease"]))
        return self.cables == 1 and self.down_s > lease_s

    def names(self, host: str) -> list[str]:
        """The names of a machine, one on each switch."""
        return [host, *(f"way-{number}.{host}" for number in range(2, self.cables + 1))]

    def seconds(self, number: int) -> float:
        """How long the job of this number runs: some end before an outage does, some after it."""
        turn, is_short = divmod(number, LONG_EVERY)
        return self.short_s if is_short else self.down_s * LONG[turn % len(LONG)]


@dataclass(slots=True)
class Report:
    """What came of it. `faults` is empty if all promises were kept."""

    jobs: int = 0
    runs: int = 0
    second_runs: int = 0
    explained: int = 0
    lost: int = 0
    recorded_twice: int = 0
    stale: int = 0
    adopted: int = 0
    back_s: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        rows: list[tuple[str, object]] = [
            ("jobs acknowledged", self.jobs),
            ("runs", self.runs),
            ("runs beside the first of a job", self.second_runs),
            ("of these explained by a loss", self.explained),
            ("late results refused (stale)", self.stale),
            ("running jobs taken up again", self.adopted),
            ("lost", self.lost),
            ("recorded twice", self.recorded_twice),
            *((f"seconds until {name} was back", f"{seconds:.2f}") for name, seconds in self.back_s.items()),
        ]
        return "\n".join([*(f"{what:46}{count:>10}" for what, count in rows), *self.faults])


def join(network: Network, plan: Plan) -> None:
    """The broker, the workers and whoever enqueues: from nothing, as the README has it."""
    queue, desk = (network.machine(*plan.names(host)) for host in (QUEUE, DESK))
    names = ",".join(plan.names(QUEUE))
    queue.ok(f"queuectl broker start --detach --listen tcp://0.0.0.0:7710 --advertise {names}")
    for key, value in (("heartbeat", plan.heartbeat_s), ("lease", plan.lease_s)):
        if value is not None:
            queue.ok(f"queuectl config set {key} {value:g}")
    queue.ok("queuectl auth add desk --role submit --out desk.toml")
    desk.ok(f"scp {QUEUE}:desk.toml .")
    for name in BUILDERS:
        builder, key = network.machine(*plan.names(name)), name.partition(".")[0]
        queue.ok(f"queuectl auth add {key} --role worker --out {key}.toml")
        builder.ok(f"scp {QUEUE}:{key}.toml .")
        builder.ok(f"queuectl worker start --detach --count {SLOTS} --credentials {key}.toml")


def hold(network: Network, plan: Plan) -> Report:
    """Have the outage under load, wait for the end of all jobs, and judge. Raises AssertionError if they do not end."""
    join(network, plan)
    journal, job = Journal(network.place / "journal"), network.place / "job"
    job.write_text(JOB.format(journal=journal.path))
    queue, desk = network[QUEUE], network[DESK]
    backlog = [{"id": f"first-{n}", "command": f"sh {job} {plan.seconds(n):g}"} for n in range(plan.backlog)]
    lines = "".join(json.dumps(each) + "\n" for each in backlog)
    desk.ok("touch go; queuectl enqueue --quiet --credentials desk.toml -", stdin=lines)
    (desk.home / "numbers").write_text("".join(f"{n} {plan.seconds(n):g}\n" for n in range(LOAD_MAX)))
    with desk.start(f"{LOAD.format(job=f'sh {job}')} <numbers") as loading:
        until(lambda: _runs_long_jobs(journal, plan), "long jobs on both machines")
        _await_load(desk)
        report = Report(back_s=_outages(network, plan))
        _await_load(desk)
        desk.ok("rm go")
        assert loading.wait(plan.limit_s) == 0
    accepted = {each["id"] for each in backlog} | set((desk.home / "accepted").read_text().split())
    until(lambda: not _unfinished(queue), "the end of all jobs", plan.limit_s)

    _judge(report, queue, journal, sorted(accepted))
    if report.second_runs and not plan.may_repeat:
        report.faults.append(f"{report.second_runs} jobs ran again, and no lease had run out")
    return report


def _outages(network: Network, plan: Plan) -> dict[str, float]:
    """Pull the cables and put them in again; how long until each worker was heard after the last time.

    Where there is another cable, that is after they were pulled out: the workers go on by that.
    """
    for number in range(plan.flaps):
        if number:
            time.sleep(plan.down_s)
        for name in plan.cut:
            network[name].link_down()
        since = time.monotonic()
        back_s = _all_back_s(network, since) if plan.cables > 1 else {}
        time.sleep(max(0.0, since + plan.down_s - time.monotonic()))  # an outage has no other end than time
        for name in plan.cut:
            network[name].link_up()
    return back_s or _all_back_s(network, time.monotonic())


def _all_back_s(network: Network, since: float) -> dict[str, float]:
    return {name: _back_s(network[QUEUE], name, since) for name in BUILDERS}


def _back_s(queue: Machine, name: str, since: float) -> float:
    """How long after this moment the broker heard the worker of this machine."""

    def heard() -> float | None:
        for worker in queue.client.status()["workers"]:
            heard_at = time.monotonic() - float(worker["last_seen_s"])
            if worker["host"] == name and heard_at > since:
                return heard_at - since
        return None

    return until(heard, f"{name} to be heard again") or 0.0


def _await_load(desk: Machine) -> None:
    """Wait until some more jobs were sent and taken."""
    accepted = desk.home / "accepted"
    before = accepted.read_text().count("\n") if accepted.exists() else 0
    until(lambda: accepted.exists() and accepted.read_text().count("\n") > before + LOAD_MORE, "more jobs to be taken")


def _runs_long_jobs(journal: Journal, plan: Plan) -> bool:
    """Whether a long job is on its way on each of the machines."""
    lines = [line.split() for line in journal.lines]
    ended = {words[0] for words in lines if words[1] == "end"}
    at_work = [words for words in lines if words[1] == "start" and words[0] not in ended]
    return {words[2] for words in at_work if float(words[3]) > plan.short_s} == set(BUILDERS)


def _unfinished(queue: Machine) -> int:
    counts = queue.client.status()["jobs"]
    return int(counts["total"]) - int(counts["completed"]) - int(counts["dead"])


# --- the verdict -------------------------------------------------------------------------------------------------


def _judge(report: Report, queue: Machine, journal: Journal, accepted: Sequence[str]) -> None:
    starts = Counter(line.split()[0] for line in journal.lines if " start " in line)
    report.jobs, report.runs = len(accepted), starts.total()
    records = _records(queue)
    report.stale = sum(record["event"] == "result_stale" for record in records)
    report.adopted = sum(record["event"] == "lease_adopted" for record in records)
    finished = Counter(record["job_id"] for record in records if record["event"] == "job_finished")
    known = {job["id"] for job in queue.client.list()}
    report.faults += [f"{job}: nobody sent it" for job in sorted(known - set(accepted))]
    for job in accepted:
        history = queue.client.history(job) if job in known else []
        outcomes = [attempt["outcome"] for attempt in history]
        second = max(0, starts[job] - 1)
        explained = min(second, outcomes.count("lost"))
        report.second_runs += second
        report.explained += explained
        report.lost += outcomes.count("completed") == 0
        report.recorded_twice += outcomes.count("completed") > 1 or finished[job] > 1
        if second > explained or outcomes.count("completed") != 1 or finished[job] != 1 or not starts[job]:
            report.faults.append(f"{job}: ran {starts[job]} times, told of {finished[job]} times, {_words(history)}")


def _records(queue: Machine) -> list[dict[str, Any]]:
    text = (queue.home / ".queuectl/logs/broker.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _words(history: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{attempt['attempt']}: {attempt['outcome']}" for attempt in history) or "no history"
