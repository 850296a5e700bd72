"""Workers that die, and workers that cannot start a command: who learns of it, who is ended, who is left alone.

That no process of a job is left, whoever dies and however it hides, is shown by the zoo.
"""

from __future__ import annotations

import os
import resource
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness_cli import PROGRAM, CommandLine, Running, is_alive, strike, three_of, until

pytestmark = pytest.mark.acceptance

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser may break the machine like this")


def kill(worker: Running, *names: str) -> None:
    """SIGKILL for these of its processes, so that none can act on the death of another."""
    three = three_of(worker.pid)
    strike([three[name] for name in names])
    until(lambda: not is_alive(three["worker"]) and not is_alive(three["guardian"]), "the end of the worker")


WHOLE = ("last guard", "worker", "guardian")


def hanging(q: CommandLine) -> str:
    """A job whose first attempt hangs, and has begun to."""
    journal = q.journal()
    before = len(journal.lines)
    job = q.enqueue(f"{journal.note('$QUEUECTL_JOB_ID $$')}; [ $QUEUECTL_JOB_ATTEMPT -gt 1 ] || exec sleep 600")
    until(lambda: len(journal.lines) > before, "the job running")
    return job


def leader_of(q: CommandLine, job: str) -> int:
    """The process of its first attempt."""
    return next(int(line.split()[1]) for line in q.journal().lines if line.split()[0] == job)


# --- who learns of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("worker",), ("guardian",), ("worker", "guardian")], ids="+".join)
def test_loss_is_told_at_once_by_those_that_live(q: CommandLine, names: Sequence[str]) -> None:
    q.ok("config", "set", "lease", "3600")
    worker = q.worker()
    job = hanging(q)

    kill(worker, *names)

    q.await_state("pending", job)
    shown = q.show(job)
    assert (shown["losses"], shown["attempts"], shown["reason"]) == (1, 0, "no_worker")
    assert [attempt["outcome"] for attempt in shown["history"]] == ["lost"]
    assert not is_alive(leader_of(q, job))


def test_loss_is_told_at_once_by_the_next_worker_where_none_lives(q: CommandLine) -> None:
    q.ok("config", "set", "lease", "3600")
    worker = q.worker()
    job = hanging(q)
    leader = leader_of(q, job)

    kill(worker, *WHOLE)
    assert is_alive(leader)
    heir = q.worker()

    assert not is_alive(leader), "the next worker was welcomed beside what the dead one had left"
    assert [record["child_pid"] for record in heir.logged("orphan_swept")] == [leader]
    q.await_state("completed", job)
    assert [attempt["outcome"] for attempt in q.show(job)["history"]] == ["lost", "completed"]


def test_processes_are_ended_though_no_broker_hears_of_it(q: CommandLine) -> None:
    worker = q.worker()
    job = hanging(q)
    q.kill_broker()

    kill(worker, "worker", "guardian")

    until(lambda: not is_alive(leader_of(q, job)), "the end of the job")
    q.ok("broker", "start", "--detach")
    q.worker()
    q.await_state("completed", job)
    assert [attempt["outcome"] for attempt in q.show(job)["history"]] == ["lost", "completed"]


# --- who is left alone -------------------------------------------------------------------------------------


@contextmanager
def stranger(**environment: str) -> Iterator[int]:
    """A process that is nobody's job, with this environment."""
    process = subprocess.Popen(["sleep", "600"], env=environment)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_sweep_spares_the_living_and_the_strange(q: CommandLine) -> None:
    doomed = q.worker()
    lost = hanging(q)
    living = q.worker()
    kept = hanging(q)
    home, other = str(q.home.path), secrets.token_hex(16)
    with (
        stranger(QUEUECTL_HOME="/other", QUEUECTL_JOB_ID=lost, QUEUECTL_JOB_WORKER=other) as of_another_home,
        stranger(QUEUECTL_HOME=home, QUEUECTL_JOB_ID=lost, QUEUECTL_JOB_LEASE="0" * 16) as shell_of_the_user,
    ):
        kill(doomed, *WHOLE)
        heir = q.worker()
        q.await_state("completed", lost)

        swept = [record["child_pid"] for record in heir.logged("orphan_swept")]
        assert swept == [leader_of(q, lost)]
        assert all(map(is_alive, (of_another_home, shell_of_the_user, leader_of(q, kept), living.pid)))
    job = q.show(kept)
    assert (job["state"], job["attempt"], job["losses"]) == ("processing", 1, 0)


# --- jobs that kill their worker ---------------------------------------------------------------------------

_GUARDIAN = "$(cut -d' ' -f4 /proc/$PPID/stat)"


@pytest.mark.parametrize(
    "victims", ["$PPID", _GUARDIAN, f"$PPID {_GUARDIAN}"], ids=["worker", "guardian", "worker+guardian"]
)
def test_poison_is_buried_and_those_beside_it_complete(q: CommandLine, victims: str) -> None:
    gate, end = q.gate(), f"kill -KILL {victims}"
    beside = q.enqueue_all([{"command": gate.wait}] * 2)
    poison = q.enqueue(f"{end}; sleep 600")

    for number in (1, 2, 3):
        worker = q.start("worker", "start", "--count", "3")
        if number == 3:  # two losses make a suspect, which has no other beside it
            gate.open()
        assert worker.wait() != 0
        until(lambda number=number: q.client.get(poison)["losses"] == number)  # type: ignore[misc]
    q.worker(3)
    q.await_state("completed", *beside)

    job = q.show(poison)
    assert (job["state"], job["reason"], job["losses"], job["attempts"]) == ("dead", "poison", 3, 0)
    assert [attempt["outcome"] for attempt in job["history"]] == ["lost"] * 3
    for bystander in map(q.show, beside):
        assert bystander["losses"] <= 2
        assert bystander["attempts"] == 0


# --- machines that cannot start a command ------------------------------------------------------------------

Broken = tuple[Running, Callable[[], object]]  # a worker, and what mends it


def without_descriptors(q: CommandLine) -> Broken:
    """A worker that may not open another file."""
    worker = q.worker()
    inner = three_of(worker.pid)["worker"]
    _, hard = resource.prlimit(inner, resource.RLIMIT_NOFILE)
    open_now = len(list(Path(f"/proc/{inner}/fd").iterdir()))
    before = resource.prlimit(inner, resource.RLIMIT_NOFILE, (open_now, hard))
    return worker, lambda: resource.prlimit(inner, resource.RLIMIT_NOFILE, before)


def without_processes(q: CommandLine) -> Broken:
    """A worker that may not fork."""
    worker = q.worker()
    inner = three_of(worker.pid)["worker"]
    group = Path("/sys/fs/cgroup/pids")
    group = group if group.exists() else group.parent
    own = group / f"queuectl-test-{inner}"
    try:
        own.mkdir()
    except OSError:
        pytest.skip("no group of processes can be made here")
    if not (own / "pids.max").exists():
        own.rmdir()
        pytest.skip("no group of processes can be limited here")
    (own / "cgroup.procs").write_text(str(inner))
    (own / "pids.max").write_text((own / "pids.current").read_text())

    def mend() -> None:
        (group / "cgroup.procs").write_text(str(inner))
        until(lambda: not (own / "cgroup.procs").read_text(), "an empty group")
        own.rmdir()

    return worker, mend


def without_shell(q: CommandLine) -> Broken:
    """A worker on whose machine /bin/sh is nothing that can be run."""
    if not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        pytest.skip("no file systems of a process's own here")
    shell = str(Path("/bin/sh").resolve())
    hide = f'mount --bind /dev/null {shell} && exec "$0" "$@"'
    line = [*PROGRAM, "worker", "start"]
    worker = q.start("worker", "start", before=f"exec unshare -m sh -c {shlex.quote(hide)} {shlex.join(line)}")
    worker.await_log("worker_connected")
    enter = ["nsenter", "--mount", "--target", str(three_of(worker.pid)["worker"])]
    return worker, lambda: subprocess.run([*enter, "umount", shell], check=True)


@needs_root
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (without_descriptors, "Too many open files"),
        (without_processes, "Resource temporarily unavailable"),
        (without_shell, "Permission denied"),
    ],
)
def test_worker_that_cannot_start_a_command_says_so_and_it_costs_the_job_nothing(
    q: CommandLine, broken: Callable[[CommandLine], Broken], said: str
) -> None:
    q.ok("broker", "start", "--detach")
    worker, mend = broken(q)
    try:
        job = q.enqueue("true")
        second = worker.await_log("spawn_failed", 2)
    finally:
        mend()
    q.await_state("completed", job)

    first = worker.logged("spawn_failed")[0]
    assert (first["level"], first["job_id"], first["detail"]) == ("error", job, f"cannot start /bin/sh: {said}")
    assert second["retry_ms"] > first["retry_ms"], "it does not back off"
    shown = q.show(job)
    assert (shown["attempt"], shown["attempts"], shown["losses"]) == (1, 0, 0)
    assert [attempt["outcome"] for attempt in shown["history"]] == ["completed"]
