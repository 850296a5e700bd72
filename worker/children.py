"""All running commands of this worker: what they write, their deaths, and a word to the core for each event.

The end of a job is the end of its leader, not of its pipes: what is in the pipes then is read, the core is
told, and what the job left running is ended in the background.
"""

from __future__ import annotations

import select
import signal
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from queuectl.clock import Now
from queuectl.messages import Grant
from worker.brand import Brands
from worker.environment import JobEnvironment
from worker.process import Child, Death, Limit, Spawner, SpawnError, WorkerFault, find_dead
from worker.signals import DeathNotices
from worker.tree import Tree

WATCH_AFTER_MS = 4  # most short commands are over by then, and never need to be watched for output
_SIGNALS = frozenset(signal.valid_signals())
_DEATHS_MAX = 256  # in one turn: a command that starts orphans without end must not hold the worker up


class Listener(Protocol):
    """Who hears what becomes of the commands."""

    def on_output(self, lease: int, stream: int, data: bytes) -> None: ...
    def on_exit(self, lease: int, *, exit_code: int | None, signal: int | None, note: str, now: Now) -> None: ...
    def on_spawn_error(self, lease: int, note: str, now: Now) -> None: ...
    def on_worker_fault(self, lease: int, note: str, now: Now) -> None: ...


class Poller(Protocol):
    """What waits for descriptors, as an epoll does."""

    def register(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...


class Running:
    """A command and the lease it runs for."""

    __slots__ = ("asked_by", "child", "is_ended", "is_watched", "keep_children", "kill_at_ms", "lease")

    def __init__(self, lease: int, child: Child, *, keep_children: bool) -> None:
        self.lease = lease
        self.child = child
        self.keep_children = keep_children
        self.kill_at_ms: int | None = None
        self.asked_by: int = signal.SIGTERM  # the signal that asks its processes to end
        self.is_ended = False
        self.is_watched = False  # its pipes are


class Children:
    """The running commands."""

    def __init__(
        self,
        environment: JobEnvironment,
        poller: Poller,
        *,
        file_limit: Limit | None = None,
        brands: Brands | None = None,
    ) -> None:
        """`poller`: where it says what `turn` wants to hear of."""
        self._environment = environment
        self._spawner = Spawner(file_limit, brands)
        self._poller = poller
        self._deaths = DeathNotices()
        self._poller.register(self._deaths.fileno(), select.EPOLLIN)
        self._by_fd: dict[int, tuple[Running, int]] = {}
        self._by_lease: dict[int, Running] = {}
        self._by_pid: dict[int, Running] = {}
        self._killed: dict[int, Running] = {}  # by lease: those that were asked to end
        self._fresh: deque[tuple[int, Running]] = deque()  # when to watch their pipes
        self.tree = Tree(None if brands is None else brands.first)

    def fileno(self) -> int:
        """Readable when a command has ended."""
        return self._deaths.fileno()

    def close(self) -> None:
        self._spawner.close()
        self._deaths.close()
        self.tree.close()

    # --- start ---

    def start(self, grant: Grant, slot: int, listener: Listener, now: Now) -> None:
        """Run a grant's command; what is wrong is told to the listener."""
        try:
            child = self._spawner.start(grant.command, self._environment.of(grant, slot), grant.cwd, grant.stdin)
        except SpawnError as error:
            listener.on_spawn_error(grant.lease, error.message, now)
            return
        except WorkerFault as error:
            listener.on_worker_fault(grant.lease, error.message, now)
            return
        running = Running(grant.lease, child, keep_children=grant.keep_children)
        self._by_lease[grant.lease] = self._by_pid[child.pid] = running
        self.tree.add_leader(child.pid, grant.lease, child.brand)
        self._fresh.append((now.mono_ms + WATCH_AFTER_MS, running))

    def _watch(self, running: Running) -> None:
        running.is_watched = True
        for stream, fd in running.child.pipes.items():
            self._by_fd[fd] = (running, stream)
            self._poller.register(fd, select.EPOLLIN)

    def pid_of(self, lease: int) -> int:
        return self._by_lease[lease].child.pid

    # --- turn ---

    def turn(self, ready: Mapping[int, int], listener: Listener, now: Now) -> None:
        """Read what the commands wrote, tell of those that have ended, watch those that have not ended soon."""
        if self._by_fd:
            for fd in ready.keys() & self._by_fd.keys():
                self._read(*self._by_fd[fd], ready[fd], listener)
        if self._deaths.fileno() in ready:
            self._deaths.clear()
            self._take_the_dead(listener, now)
        while self._fresh and (self._fresh[0][1].is_ended or self._fresh[0][0] <= now.mono_ms):
            _, running = self._fresh.popleft()
            if not running.is_ended:
                self._watch(running)

    def _read(self, running: Running, stream: int, events: int, listener: Listener) -> None:
        data = running.child.read(stream) if events & select.EPOLLIN else b""
        if data:
            if not running.is_ended:
                listener.on_output(running.lease, stream, data)
        elif data is not None:
            self._close_pipe(running, stream)

    def _close_pipe(self, running: Running, stream: int) -> None:
        if running.is_watched:
            fd = running.child.pipes[stream]
            self._poller.unregister(fd)  # else a child about to exec, with copies of all descriptors, keeps it there
            del self._by_fd[fd]
        running.child.close_pipe(stream)

    def _take_the_dead(self, listener: Listener, now: Now) -> None:
        for _ in range(_DEATHS_MAX):
            death = find_dead()
            if death is None:
                return
            running = self._by_pid.get(death.pid)
            if running is None:
                self.tree.look(now.mono_ms)  # an orphan, which it reaps
            else:
                self._end(running, death, listener, now)
        self._deaths.renew()

    def _end(self, running: Running, death: Death, listener: Listener, now: Now) -> None:
        child = running.child
        if child.pipes:
            for stream, data in child.read_rest():
                listener.on_output(running.lease, stream, data)
        left = self.tree.leader_ended(
            child.pid,
            now.mono_ms,
            keep=running.keep_children,
            kill_at_ms=running.kill_at_ms,
            number=running.asked_by,
        )
        child.reap()
        del self._by_lease[running.lease], self._by_pid[child.pid]
        self._killed.pop(running.lease, None)
        is_kept = running.keep_children and running.kill_at_ms is None
        if not is_kept or not left:
            for stream in tuple(child.pipes):
                self._close_pipe(running, stream)
        elif not running.is_watched:
            self._watch(running)
        running.is_ended = True  # what is kept may write on: it is read, for a full pipe would stop it, and thrown away
        note = _note(left, is_kept) if left else ""
        listener.on_exit(running.lease, exit_code=death.exit_code, signal=death.signal, note=note, now=now)

    # --- force ---

    def kill(self, lease: int, *, hard: bool, kill_at_ms: int, now: Now, number: int | None = signal.SIGTERM) -> None:
        """Ask a command's tree to end, with SIGKILL to follow at `kill_at_ms` if not before; or kill it at once.

        `number`: of the signal that asks; one that the system does not know is SIGTERM. None: it was asked before.
        """
        running = self._by_lease.get(lease)
        if running is None:
            return
        if hard:
            kill_at_ms = now.mono_ms
        if running.kill_at_ms is None or kill_at_ms < running.kill_at_ms:
            running.kill_at_ms = kill_at_ms
        self._killed[lease] = running
        if hard:
            self._kill(running, now.mono_ms)
        elif number is not None:
            self.tree.look(now.mono_ms)  # for those whose parents have died, and of whom nobody has heard yet
            running.asked_by = number if number in _SIGNALS else signal.SIGTERM
            self.tree.signal_tree(running.child.pid, running.asked_by)
            self.tree.signal_tree(running.child.pid, signal.SIGCONT)

    def _kill(self, running: Running, now_ms: int) -> None:
        running.kill_at_ms = now_ms + _AGAIN_MS
        self.tree.look(now_ms)
        self.tree.signal_tree(running.child.pid, signal.SIGKILL)

    def tick(self, now: Now) -> None:
        """Kill what was asked to end and did not."""
        for running in self._killed.values():
            if running.kill_at_ms is not None and running.kill_at_ms <= now.mono_ms:
                self._kill(running, now.mono_ms)
        self.tree.tick(now.mono_ms)

    def next_deadline(self) -> int | None:
        """When `tick` has something to do."""
        due = [running.kill_at_ms for running in self._killed.values() if running.kill_at_ms is not None]
        if (of_tree := self.tree.next_deadline()) is not None:
            due.append(of_tree)
        return min(due, default=None)

    def next_watch(self) -> int | None:
        """When `turn` has something to do though nothing is ready."""
        return self._fresh[0][0] if self._fresh else None


_AGAIN_MS = 100


def _note(left: int, is_kept: bool) -> str:
    processes = "1 process" if left == 1 else f"{left} processes"
    if is_kept:
        return f"left {processes} running, as asked"
    return f"left {processes} running; {'it was' if left == 1 else 'they were'} ended"
