"""The last guard: it acts when both that hold its socket are dead, and not before, and goes when it is told to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness_cli import last_guard_of, last_guards_of
from tests.harness_worker import LIMIT_S, children, is_alive, wait_for

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import os, sys
from worker.lastguard import LastGuard
told = int(sys.argv[1])
guard = LastGuard(lambda: os.write(1, b"acted"))
os.set_inheritable(told, False)
if os.fork() == 0:
    sys.stdin.buffer.raw.read(1)
    os._exit(0)
os.write(told, b"ready")
sys.stdin.buffer.raw.read(1)
guard.dismiss()
"""


@dataclass
class Family:
    """A guardian and a worker that do nothing, with a last guard; what this has done is read from `said`."""

    guardian: subprocess.Popen[bytes]
    worker: int
    last: int

    @property
    def said(self) -> int:
        assert self.guardian.stdout is not None
        return self.guardian.stdout.fileno()

    def has_said(self) -> bytes:
        """All that it says until everybody who could is gone."""
        found = b""
        while select.select([self.said], [], [], LIMIT_S)[0] and (data := os.read(self.said, 100)):
            found += data
        return found


@pytest.fixture
def family() -> Iterator[Family]:
    hear, tell = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tell)],
        cwd=ROOT, pass_fds=(tell,), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(tell)
    assert os.read(hear, 5) == b"ready"
    os.close(hear)
    [worker] = children(process.pid)
    yield Family(process, worker, last_guard_of(process.pid))
    for pid in (*last_guards_of(process.pid), worker, process.pid):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("order", [("worker", "guardian"), ("guardian", "worker")], ids="-then-".join)
def test_it_acts_when_both_are_dead_and_not_before(family: Family, order: tuple[str, str]) -> None:
    pids = {"worker": family.worker, "guardian": family.guardian.pid}

    os.kill(pids[order[0]], signal.SIGKILL)
    wait_for(lambda: not is_alive(pids[order[0]]))
    assert select.select([family.said], [], [], 0.1)[0] == []
    os.kill(pids[order[1]], signal.SIGKILL)

    assert family.has_said() == b"acted"


def test_it_goes_without_a_word_when_it_is_dismissed(family: Family) -> None:
    os.kill(family.worker, signal.SIGKILL)

    family.guardian.communicate(b".", LIMIT_S)

    assert not is_alive(family.last)


def test_nobody_who_kills_by_name_group_or_gently_hits_it(family: Family) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(family.last, number)

    assert is_alive(family.last)
    assert Path(f"/proc/{family.last}/comm").read_text() == "last-guard\n"
    assert len({os.getsid(pid) for pid in (family.last, family.guardian.pid)}) == 2
    assert family.last not in children(family.guardian.pid)


def test_it_holds_nothing_that_others_wait_for(family: Family) -> None:
    assert sorted(int(fd.name) for fd in Path(f"/proc/{family.last}/fd").iterdir()) == [0, 1, 2, 3]
