"""All running commands of this worker: one epoll over their pipes and handles, and a word to the core for each event.

The end of a job is the end of its leader, not of its pipes: what is in the pipes then is read, the core is
told, and what the job left running is ended in the background.
"""

from __future__ import annotations

import select
import signal
from typing import Protocol

from queuectl.clock import Now
from queuectl.messages import STDERR, STDOUT, Grant
from worker.brand import Brands
from worker.environment import JobEnvironment
from worker.process import Child, Limit, Spawner, SpawnError, WorkerFault
from worker.tree import Tree

_EVENTS_MAX = 256
_LEADER = 0  # stands where a stream's number stands


class Listener(Protocol):
    """Who hears what becomes of the commands."""

    def on_output(self, lease: int, stream: int, data: bytes) -> None: ...
    def on_exit(self, lease: int, *, exit_code: int | None, signal: int | None, note: str, now: Now) -> None: ...
    def on_spawn_error(self, lease: int, note: str, now: Now) -> None: ...
    def on_worker_fault(self, lease: int, note: str, now: Now, *, has_started: bool = False) -> None: ...


class Running:
    """A command and the lease it runs for."""

    __slots__ = ("child", "is_ended", "keep_children", "kill_at_ms", "lease")

    def __init__(self, lease: int, child: Child, *, keep_children: bool) -> None:
        self.lease = lease
        self.child = child
        self.keep_children = keep_children
        self.kill_at_ms: int | None = None
        self.is_ended = False


class Children:
    """The running commands."""

    def __init__(
        self, environment: JobEnvironment, *, file_limit: Limit | None = None, brands: Brands | None = None
    ) -> None:
        self._environment = environment
        self._spawner = Spawner(file_limit, brands)
        self._epoll = select.epoll()
        self._by_fd: dict[int, tuple[Running, int]] = {}
        self._by_lease: dict[int, Running] = {}
        self.tree = Tree(None if brands is None else brands.first)

    def fileno(self) -> int:
        """Readable when `turn` has something to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        self._spawner.close()
        self._epoll.close()
        self.tree.close()

    # --- start ---

    def start(self, grant: Grant, slot: int, listener: Listener, now: Now) -> None:
        """Run a grant's command; what is wrong is told to the listener."""
        try:
            child = self._spawner.start(grant.command, self._environment.of(grant, slot), grant.cwd)
        except SpawnError as error:
            listener.on_spawn_error(grant.lease, error.message, now)
            return
        except WorkerFault as error:
            listener.on_worker_fault(grant.lease, error.message, now, has_started=error.has_started)
            return
        running = Running(grant.lease, child, keep_children=grant.keep_children)
        self._by_lease[grant.lease] = running
        self.tree.add_leader(child.pid, grant.lease, child.brand)
        self._watch(child.handle, running, _LEADER)
        for stream, fd in child.pipes.items():
            self._watch(fd, running, stream)

    def _watch(self, fd: int, running: Running, stream: int) -> None:
        self._by_fd[fd] = (running, stream)
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        """Before the close: a child about to exec has copies of our descriptors, which keep it in the epoll."""
        self._epoll.unregister(fd)
        del self._by_fd[fd]

    def pid_of(self, lease: int) -> int:
        return self._by_lease[lease].child.pid

    # --- turn ---

    def turn(self, listener: Listener, now: Now) -> None:
        """Read what the commands wrote, and tell of those that have ended."""
        ended = []
        for fd, _ in self._epoll.poll(0, _EVENTS_MAX):
            running, stream = self._by_fd[fd]
            if stream == _LEADER:
                ended.append(running)
            else:
                self._read(running, stream, listener)
        for running in ended:
            self._end(running, listener, now)

    def _read(self, running: Running, stream: int, listener: Listener) -> None:
        data = running.child.read(stream)
        if data:
            if not running.is_ended:
                listener.on_output(running.lease, stream, data)
        elif data is not None:
            self._unwatch(running.child.pipes[stream])
            running.child.close_pipe(stream)

    def _end(self, running: Running, listener: Listener, now: Now) -> None:
        child = running.child
        status = child.exit_status()
        if status is None:
            return
        for stream in (STDOUT, STDERR):
            if stream in child.pipes:
                for data in child.read_rest(stream):
                    listener.on_output(running.lease, stream, data)
        left = self.tree.leader_ended(child.pid, now.mono_ms, keep=running.keep_children, kill_at_ms=running.kill_at_ms)
        self._unwatch(child.handle)
        child.reap()
        del self._by_lease[running.lease]
        is_kept = running.keep_children and running.kill_at_ms is None
        if not is_kept or not left:
            self._close_pipes(child)
        running.is_ended = True  # what is kept may write on: it is read, for a full pipe would stop it, and thrown away
        listener.on_exit(running.lease, exit_code=status[0], signal=status[1], note=_note(left, is_kept), now=now)

    def _close_pipes(self, child: Child) -> None:
        for stream, fd in list(child.pipes.items()):
            self._unwatch(fd)
            child.close_pipe(stream)

    # --- force ---

    def kill(self, lease: int, *, hard: bool, kill_at_ms: int, now: Now) -> None:
        """Ask a command's tree to end, with SIGKILL to follow at `kill_at_ms`; or kill it at once."""
        running = self._by_lease.get(lease)
        if running is None:
            return
        if hard:
            kill_at_ms = now.mono_ms
        if running.kill_at_ms is None or kill_at_ms < running.kill_at_ms:
            running.kill_at_ms = kill_at_ms
        if hard:
            self._kill(running, now.mono_ms)
        else:
            self.tree.signal_tree(running.child.pid, signal.SIGTERM)
            self.tree.signal_tree(running.child.pid, signal.SIGCONT)

    def _kill(self, running: Running, now_ms: int) -> None:
        running.kill_at_ms = now_ms + _AGAIN_MS
        self.tree.look(now_ms)
        self.tree.signal_tree(running.child.pid, signal.SIGKILL)

    def tick(self, now: Now) -> None:
        """Kill what was asked to end and did not."""
        for running in self._by_lease.values():
            if running.kill_at_ms is not None and running.kill_at_ms <= now.mono_ms:
                self._kill(running, now.mono_ms)
        self.tree.tick(now.mono_ms)

    def next_deadline(self) -> int | None:
        due = [running.kill_at_ms for running in self._by_lease.values() if running.kill_at_ms is not None]
        of_tree = self.tree.next_deadline()
        return min([*due, *([] if of_tree is None else [of_tree])], default=None)


_AGAIN_MS = 100


def _note(left: int, is_kept: bool) -> str:
    if not left:
        return ""
    processes = "1 process" if left == 1 else f"{left} processes"
    if is_kept:
        return f"left {processes} running, as asked"
    return f"left {processes} running; {'it was' if left == 1 else 'they were'} ended"
