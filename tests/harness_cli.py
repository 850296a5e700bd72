"""queuectl as people run it: the installed command line in processes of its own, in one home.

`CommandLine.run` runs a command to its end, `start` leaves one running, `client` looks on while something is
awaited. At the end everything is stopped by its pid, and it is an error if any process of the home is left.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from queuectl.client import Client
from queuectl.errors import QueuectlError
from queuectl.home import Home
from queuectl.pidfiles import local_workers

LIMIT_S = 60.0  # a wait that lasts longer has failed; on a busy machine everything else is only slow
END_LIMIT_S = 20.0
PROGRAM = (sys.executable, "-P", "-m", "cli")
T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "the condition", limit_s: float = LIMIT_S) -> T:
    """Wait until this returns something true, and return that."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {limit_s:g} s")
        time.sleep(0.02)
    return found


# --- processes -------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processes_with(mark: str, *, in_file: str = "environ") -> dict[int, str]:
    """The living processes of whose environment or command line this is a part, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.fsencode(mark) in (entry / in_file).read_bytes() and is_alive(int(entry.name)):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = line.decode(errors="replace")
    return found


def last_guard_of(worker: int) -> int:
    """The process that acts when this worker and its child are both dead."""
    [pid] = until(lambda: last_guards_of(worker), f"a last guard of {worker}")
    return pid


def last_guards_of(worker: int) -> list[int]:
    """The same, as it is now: none before it has its name, and none when it has gone."""
    return list(processes_with(f"last-guard of worker {worker}\0", in_file="cmdline"))


def three_of(worker: int) -> dict[str, int]:
    """All processes of the worker that was started under this number."""
    [inner] = until(lambda: children_of(worker), f"a child of {worker}")
    return {"worker": inner, "guardian": worker, "last guard": last_guard_of(worker)}


def strike(pids: Collection[int]) -> None:
    """SIGKILL for all of them at one moment: none can act on the death of another. One may be gone already."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


# --- commands ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int

    @property
    def json(self) -> Any:
        """The one JSON value on stdout; more or less than one is an error."""
        return json.loads(self.stdout)


class Running:
    """A command that runs in the background, in a session of its own as under a terminal."""

    def __init__(self, line: Sequence[str], folder: Path, number: int, *, cwd: Path, env: Mapping[str, str]):
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=cwd, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process that the user started."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The records of one event in its log. Half a line at the end is not there yet."""
        lines = [line for line in self.stderr.splitlines(keepends=True) if line.endswith("\n") and line[:1] == "{"]
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def await_log(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the n-th record of an event."""
        return until(lambda: self.logged(event)[count - 1 :], f"{event} in the log {count} times")[0]

    def feed(self, data: str) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(data.encode())
        self.process.stdin.flush()

    def press_ctrl_c(self) -> None:
        """SIGINT to the group in the foreground, as a terminal sends it."""
        os.killpg(self.pid, signal.SIGINT)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; the exit code."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        return self.process.wait(limit_s)

    def is_running(self) -> bool:
        return self.process.poll() is None


class CommandLine:
    """The command line with one home, and all that was started with it."""

    def __init__(self, home: Path, folder: Path):
        self.home = Home(home)
        self.cwd = folder / "here"
        self.cwd.mkdir()
        self._folder = folder
        self._running: list[Running] = []
        self._client: Client | None = None
        self._gates: list[int] = []

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The environment of commands; None takes a variable out."""
        merged: dict[str, str | None] = {**os.environ, "QUEUECTL_HOME": str(self.home.path), **changes}
        return {name: value for name, value in merged.items() if value is not None}

    # --- to their end ---

    def run(
        self,
        *args: str,
        stdin: str | bytes = b"",
        env: Mapping[str, str | None] | None = None,
        limit_s: float = LIMIT_S,
    ) -> Ran:
        """Run one command to its end."""
        done = subprocess.run(
            [*PROGRAM, *args],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=limit_s,
            check=False,
            cwd=self.cwd,
            env=self.environment(**(env or {})),
        )
        return Ran(done.stdout.decode(), done.stderr.decode(), done.returncode)

    def ok(self, *args: str, stdin: str | bytes = b"", env: Mapping[str, str | None] | None = None) -> str:
        """The stdout of a command that must succeed."""
        ran = self.run(*args, stdin=stdin, env=env)
        assert ran.code == 0, ran
        return ran.stdout

    def json(self, *args: str, stdin: str | bytes = b"") -> Any:
        """The JSON value that a command prints; it must succeed."""
        return json.loads(self.ok(*args, "--json", stdin=stdin))

    def enqueue(self, command: str, **fields: Any) -> str:
        """Store one job; its id."""
        return self.ok("enqueue", "-q", json.dumps({"command": command, **fields})).strip()

    def enqueue_all(self, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
        """Store many jobs; their ids."""
        return self.ok("enqueue", "-q", "-", stdin="".join(json.dumps(job) + "\n" for job in jobs)).split()

    def show(self, job_id: str) -> dict[str, Any]:
        """`show --json`."""
        shown: dict[str, Any] = self.json("show", job_id)
        return shown

    def jobs(self, *options: str) -> list[dict[str, Any]]:
        """`list --json`."""
        jobs: list[dict[str, Any]] = self.json("list", *options)
        return jobs

    def counts(self) -> dict[str, int]:
        """The jobs in each state that has any, of `status --json`."""
        return {state: count for state, count in self.json("status")["jobs"].items() if count and state != "total"}

    # --- in the background ---

    def start(self, *args: str, env: Mapping[str, str | None] | None = None, before: str = "") -> Running:
        """Start a command and let it run. `before`: shell text that is run first in the same process."""
        line = [*PROGRAM, *args]
        if before:
            line = ["sh", "-c", f"{before}; exec {shlex.join(line)}"]
        running = Running(line, self._folder, len(self._running), cwd=self.cwd, env=self.environment(**(env or {})))
        self._running.append(running)
        return running

    def worker(self, count: int = 1, *args: str, **how: Any) -> Running:
        """`worker start` in the foreground, and wait until the broker has welcomed it."""
        worker = self.start("worker", "start", "--count", str(count), *args, **how)
        worker.await_log("worker_connected")
        return worker

    def broker(self, *args: str) -> Running:
        """`broker start` in the foreground, and wait until it is ready."""
        broker = self.start("broker", "start", *args)
        broker.await_log("broker_ready")
        return broker

    def broker_pid(self) -> int:
        """The broker that runs."""
        pid: int = self.client.ping()["pid"]
        return pid

    def kill_broker(self) -> None:
        """SIGKILL to the broker that runs, in the background or not, and wait until it is gone."""
        pid = self.broker_pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), "the end of the broker")

    # --- looking on ---

    @property
    def client(self) -> Client:
        """Looks at the queue more cheaply than a command, to wait for something."""
        if self._client is None:
            self._client = Client("local", home=self.home)
        return self._client

    def await_state(self, state: str, *job_ids: str) -> None:
        """Wait until these jobs are all in this state."""
        until(lambda: {self.client.get(job_id)["state"] for job_id in job_ids} == {state}, f"{job_ids} {state}")

    def await_count(self, state: str, count: int) -> None:
        """Wait until this many jobs are in this state."""
        until(lambda: self.client.status()["jobs"][state] == count, f"{count} jobs {state}")

    def gate(self) -> Gate:
        """Something that jobs wait for at no cost: the command `: < gate`."""
        gate = Gate(self._folder / f"gate-{len(self._gates)}", self._gates)
        self._gates.append(-1)
        return gate

    def journal(self) -> Journal:
        return Journal(self._folder / "journal")

    # --- the end ---

    def close(self) -> None:
        """Stop all that runs here. Raises AssertionError if something did not go."""
        self._stop_workers()
        self._stop_broker()
        for running in reversed(self._running):
            _end(running)
        if self._client is not None:
            self._client.close()
        for descriptor in self._gates:
            if descriptor >= 0:
                os.close(descriptor)
        left: dict[int, str] = {}
        with suppress(AssertionError):
            until(lambda: not self._left(left), limit_s=END_LIMIT_S)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left: {left}"

    def _left(self, left: dict[int, str]) -> bool:
        left.clear()
        left |= processes_with(str(self.home.path))
        return bool(left)

    def _stop_workers(self) -> None:
        for worker in local_workers(self.home):
            for number in (signal.SIGTERM, signal.SIGINT):  # the second one kills the jobs
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def _stop_broker(self) -> None:
        with suppress(QueuectlError):
            os.kill(self.broker_pid(), signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:  # pytest shows it where a test has failed
            sys.stdout.write(f"\n{running.process.args!r} said:\n{running.stderr[-3000:]}\n")
        self.close()


def _end(running: Running) -> None:
    """End it, gently if it lets us."""
    if running.is_running():
        running.signal(signal.SIGCONT)
        running.signal(signal.SIGTERM)
    try:
        running.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        raise


class Gate:
    """A FIFO: whoever opens it for reading waits until the gate is open."""

    def __init__(self, path: Path, opened: list[int]):
        self.path = path
        self._opened = opened
        os.mkfifo(path)

    @property
    def wait(self) -> str:
        """The shell command that waits."""
        return f": < {self.path}"

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._opened.append(os.open(self.path, os.O_RDWR))


class Journal:
    """A file to which jobs append lines, each in one write."""

    def __init__(self, path: Path):
        self.path = path

    def note(self, text: str) -> str:
        """The shell command that appends a line; the shell expands the text."""
        return f'echo "{text}" >> {self.path}'

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []
