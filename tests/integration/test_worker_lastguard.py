"""The last guard: it acts when both that hold its socket are dead, and not before, and goes when it is told to."""

from __future__ import annotations

import json
import os
import platform
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from queuectl.config import load_config
from queuectl.home import Home
from queuectl.ways import ways_of
from tests.harness_cli import last_guard_of, last_guards_of
from tests.harness_worker import LIMIT_S, children, is_alive, wait_for
from worker.lastguard import NAME
from worker.service import Order, _after_both
from worker.spool import LOCK_NAME

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


def status(pid: int, name: str) -> str:
    """What a line of /proc/PID/status says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)[name].strip()


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
    last = last_guard_of(process.pid)
    wait_for(lambda: status(last, "Name") == NAME and status(last, "State").startswith("S"))
    yield Family(process, worker, last)
    for pid in (*last_guards_of(process.pid), worker, process.pid):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("order", [("worker", "guardian"), ("guardian", "worker")], ids="-then-".join)
def test_it_acts_when_both_are_dead_and_not_before(family: Family, order: tuple[str, str]) -> None:
    pids = {"worker": family.worker, "guardian": family.guardian.pid}
    sleeps = status(family.last, "voluntary_ctxt_switches")

    os.kill(pids[order[0]], signal.SIGKILL)
    wait_for(lambda: not is_alive(pids[order[0]]))
    # What a process held is closed before it is a zombie, so whom that wakes is awake now, if not further.
    assert status(family.last, "State").startswith("S")
    assert status(family.last, "voluntary_ctxt_switches") == sleeps
    os.kill(pids[order[1]], signal.SIGKILL)

    assert family.has_said() == b"acted"


def test_it_goes_without_a_word_when_it_is_dismissed(family: Family) -> None:
    os.kill(family.worker, signal.SIGKILL)

    family.guardian.communicate(b".", LIMIT_S)

    assert not is_alive(family.last)


def test_nobody_who_kills_by_name_group_or_gently_hits_it(family: Family) -> None:
    gentle = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    blocked = int(status(family.last, "SigBlk"), 16)

    assert all(1 << (number - 1) & blocked for number in gentle)
    assert status(family.last, "Name") == NAME
    assert len({os.getsid(pid) for pid in (family.last, family.guardian.pid)}) == 2
    assert family.last not in children(family.guardian.pid)


def test_it_holds_nothing_that_others_wait_for(family: Family) -> None:
    assert sorted(int(fd.name) for fd in Path(f"/proc/{family.last}/fd").iterdir()) == [0, 1, 2, 3]


def test_processes_are_ended_before_anything_is_loaded_that_speaks(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "worker.link", None)  # an import of it fails from here on
    own, boot = Home(home), secrets.token_hex(16)
    own.prepare()
    (own.spool / boot).mkdir()
    (own.spool / boot / LOCK_NAME).write_text(json.dumps({"host": platform.node(), "pid": 1, "brand": None}))
    left = subprocess.Popen(["sleep", "600"], env={"QUEUECTL_JOB_WORKER": boot})
    try:
        config = load_config(own)
        _after_both(Order(own, config, 1, [], os.getpid(), ways_of(config, own, for_workers=True)))

        assert left.wait(LIMIT_S) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()
    assert "worker.link" in capfd.readouterr().err
    assert (own.spool / boot).exists(), "the next worker is to tell of it"
