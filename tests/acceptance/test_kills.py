"""SIGKILL for the broker, the worker, the process that guards it, and for all of them while jobs run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.harness_cli import CommandLine, Gate, Running, children_of, is_alive, last_guard_of, processes_with, until

pytestmark = pytest.mark.acceptance


def worker_process(worker: Running) -> int:
    """The process that runs the jobs; its parent is the one that the user started."""
    [pid] = children_of(worker.pid)
    return pid


def test_killed_broker_costs_no_job_anything(q: CommandLine) -> None:
    gate, journal = q.gate(), q.journal()
    command = f"{journal.note('start $QUEUECTL_JOB_ID')}; {gate.wait}; {journal.note('end $QUEUECTL_JOB_ID')}"
    jobs = q.enqueue_all([{"command": command}] * 20)
    worker = q.worker(20)
    until(lambda: len(journal.lines) == 20, "all jobs running")

    q.kill_broker()
    threading.Event().wait(1)
    q.ok("broker", "start", "--detach")
    worker.await_log("worker_connected", 2)
    gate.open()
    q.await_state("completed", *jobs)

    assert Counter(journal.lines) == Counter(f"{what} {job}" for job in jobs for what in ("start", "end"))
    listed = q.jobs()
    assert {(job["state"], job["attempt"], job["attempts"], job["losses"]) for job in listed} == {
        ("completed", 1, 0, 0)
    }


def test_broker_killed_again_and_again_loses_and_doubles_nothing(q: CommandLine) -> None:
    journal = q.journal()
    jobs = q.enqueue_all([{"command": f"sleep 0.0{n % 5}; {journal.note('$QUEUECTL_JOB_ID')}"} for n in range(120)])
    q.worker(4)

    for _ in range(4):
        q.kill_broker()
        q.ok("broker", "start", "--detach")
        done = len(journal.lines)
        until(lambda done=done: len(journal.lines) > done or len(journal.lines) == 120)  # type: ignore[misc]
    q.await_count("completed", 120)

    assert Counter(journal.lines) == Counter(jobs)
    assert {(job["attempt"], job["losses"]) for job in q.jobs()} == {(1, 0)}


# --- workers -----------------------------------------------------------------------------------------------


class Clinging:
    """Ten jobs whose first attempt hangs, each with processes that try to outlive it; the second one ends."""

    WAYS = (
        "sleep {mark}",
        "setsid sleep {mark} & wait",
        "(setsid sh -c 'sleep {mark} & sleep {mark}' &) ; {gate}",
        "env -i setsid sleep {mark} & {gate}",
        "trap '' TERM INT HUP; sleep {mark}",
    )

    def __init__(self, q: CommandLine):
        self.q, self.gate, self.journal = q, q.gate(), q.journal()
        self.mark = f"600.{random.randrange(10**8, 10**9)}"  # of processes that hide everything else
        self.jobs = q.enqueue_all([{"command": self._command(way)} for way in self.WAYS * 2])

    def _command(self, way: str) -> str:
        hang = way.format(mark=self.mark, gate=self.gate.wait)
        return f"{self.journal.note('$QUEUECTL_JOB_ATTEMPT')}; [ $QUEUECTL_JOB_ATTEMPT -gt 1 ] && exit; {hang}"

    def left(self) -> dict[int, str]:
        """Processes that cling."""
        return processes_with(self.mark, in_file="cmdline")

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def await_start(self) -> None:
        until(lambda: self.journal.lines.count("1") == 10 and self._sleeping() >= 12, "all jobs running")

    def _sleeping(self) -> int:
        return sum(line.startswith("sleep") for line in self.left().values())

    def check_moved(self) -> None:
        """All jobs have completed on the second attempt, at the cost of one loss."""
        self.q.await_state("completed", *self.jobs)
        assert self.left() == {}
        assert {(job["attempt"], job["attempts"], job["losses"]) for job in self.q.jobs()} == {(2, 0, 1)}
        assert sorted(self.journal.lines) == ["1"] * 10 + ["2"] * 10
        for job in self.jobs[:2]:
            lost, completed = self.q.show(job)["history"]
            assert (lost["outcome"], completed["outcome"]) == ("lost", "completed")
            assert lost["worker"] != completed["worker"]


@pytest.fixture
def clinging(q: CommandLine) -> Iterator[Clinging]:
    clinging = Clinging(q)
    try:
        yield clinging
    finally:
        clinging.end()


@pytest.mark.parametrize("victim", ["worker", "guardian"])
def test_jobs_of_a_killed_worker_end_and_run_elsewhere(q: CommandLine, clinging: Clinging, victim: str) -> None:
    doomed = q.worker(10)
    inner = worker_process(doomed)
    clinging.await_start()
    q.worker(10)

    os.kill(inner if victim == "worker" else doomed.pid, signal.SIGKILL)

    clinging.check_moved()
    assert doomed.wait() == (1 if victim == "worker" else -signal.SIGKILL)
    assert not is_alive(inner)


def test_next_worker_cleans_up_after_one_that_was_killed_whole(q: CommandLine, clinging: Clinging) -> None:
    doomed = q.worker(10)
    inner = worker_process(doomed)
    clinging.await_start()

    kill_whole(doomed, inner)
    before = clinging.left()
    assert before, "this test shows nothing"
    q.worker(10)

    assert clinging.left() == {}, "the new worker runs jobs beside what the dead one has left"
    q.await_state("completed", *clinging.jobs)
    assert {(job["attempt"], job["losses"]) for job in q.jobs()} == {(2, 1)}


def test_broker_and_worker_killed_while_results_wait(q: CommandLine) -> None:
    gate, never, journal = q.gate(), q.gate(), q.journal()
    ends = q.enqueue_all([{"command": f"{gate.wait}; echo result of $QUEUECTL_JOB_ID"}] * 3)
    hangs = q.enqueue(
        f"{journal.note('$QUEUECTL_JOB_ATTEMPT $$')}; [ $QUEUECTL_JOB_ATTEMPT -gt 1 ] && exit; {never.wait}"
    )
    doomed = q.worker(4)
    inner = worker_process(doomed)
    q.await_count("processing", 4)
    until(lambda: journal.lines)
    q.kill_broker()
    doomed.await_log("worker_disconnected")  # until then it takes what it sends for delivered
    open_and_await(gate, doomed, 3)
    kill_whole(doomed, inner)

    q.ok("broker", "start", "--detach")
    assert q.counts() == {"processing": 4}
    q.worker(1)
    q.await_state("completed", *ends, hangs)

    for job_id in ends:
        job = q.show(job_id)
        assert (job["attempt"], job["losses"], len(job["history"])) == (1, 0, 1)
        assert job["history"][0]["stdout"] == f"result of {job_id}\n"
    again = q.show(hangs)
    assert (again["attempt"], again["losses"], again["attempts"]) == (2, 1, 0)
    first, _ = journal.lines
    assert not is_alive(int(first.split()[1]))
    assert [entry.name for entry in q.home.spool.iterdir()] == [q.json("worker", "list")[0]["boot"]]


def kill_whole(worker: Running, inner: int) -> None:
    """Kill all three processes of a worker so that none of them can act any more."""
    three = (last_guard_of(worker.pid), worker.pid, inner)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in three:
            os.kill(pid, number)
    worker.wait()
    until(lambda: not any(map(is_alive, three)), "the end of the worker")


def open_and_await(gate: Gate, worker: Running, count: int) -> None:
    gate.open()
    worker.await_log("job_finished", count)


def test_worker_lost_without_a_trace_costs_a_lease(q: CommandLine) -> None:
    """A worker that is stopped says nothing more: its jobs go on elsewhere when the lease is over, and it is told."""
    q.ok("config", "set", "heartbeat", "0.1")
    q.ok("config", "set", "lease", "1")
    gate, journal = q.gate(), q.journal()
    job = q.enqueue(f"{journal.note('$QUEUECTL_JOB_ATTEMPT')}; [ $QUEUECTL_JOB_ATTEMPT -gt 1 ] || {gate.wait}")
    frozen = q.worker()
    inner = worker_process(frozen)
    until(lambda: journal.lines == ["1"])
    q.worker()

    os.kill(inner, signal.SIGSTOP)
    try:
        q.await_state("completed", job)
    finally:
        os.kill(inner, signal.SIGCONT)
    frozen.await_log("worker_connected", 2)

    shown = q.show(job)
    assert (shown["attempt"], shown["losses"], shown["state"]) == (2, 1, "completed")
    assert [attempt["outcome"] for attempt in shown["history"]] == ["lost", "completed"]
    assert journal.lines == ["1", "2"]
    frozen.await_log("job_killed")
