"""The worker's loop, over rooms that do nothing: what it saves when something breaks, what it lets go at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from queuectl.clock import Now
from queuectl.messages import Push, Result, ToWorker, Welcome
from tests.unit.test_worker_core import BOOT, grant
from worker.core import Identity, WorkerCore
from worker.loop import Rooms, WorkerLoop

CHILDREN_FD, SIGNALS_FD, LINK_FD = 3, 4, 5
WELCOME = Welcome(1, 1, "broker-1", 1, 2000, 10_000, 1 << 20, "worker-1", [], [])


class Link:
    """Brings what is put into `inbox`."""

    has_news, bad_messages, comes_back, has_tried_all = False, 0, True, False

    def __init__(self) -> None:
        self.inbox: list[ToWorker] = []
        self.is_open = False

    def connect(self, now_ms: int) -> None:
        self.is_open = True

    def hang_up(self) -> None:
        self.is_open = False

    def send(self, message: object) -> bool:
        return self.is_open

    def messages(self, ready: Mapping[int, int]) -> Iterable[ToWorker]:
        while self.inbox:
            yield self.inbox.pop(0)

    def was_lost(self, ready: Mapping[int, int], now_ms: int) -> bool:
        return False

    def causes(self, ready: Mapping[int, int]) -> list[Any]:
        return []

    def has_become_writable(self) -> bool:
        return False

    def next_deadline(self) -> None:
        return None


class Children:
    """Starts commands as long as nothing is broken; those in `ended` have ended by the next turn."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[int] = []
        self.is_broken = False
        self.tree = SimpleNamespace(is_quiet=True, end_all=lambda now_ms, *, hard: None)

    def fileno(self) -> int:
        return CHILDREN_FD

    def start(self, grant: Any, slot: int, listener: Any, now: Now) -> None:
        if self.is_broken:
            raise RuntimeError("cannot come back")
        self.started.append(grant.lease)

    def turn(self, ready: Mapping[int, int], listener: WorkerCore, now: Now) -> None:
        while self.ended:
            listener.on_exit(self.ended.pop(0), exit_code=0, signal=None, note="", now=now)

    def tick(self, now: Now) -> None: ...

    def next_deadline(self) -> None:
        return None

    next_watch = next_deadline


class Spool:
    """Remembers whose results it was given."""

    def __init__(self) -> None:
        self.results: list[int] = []

    def add_result(self, result: Result, broker: str, now_ms: int) -> None:
        self.results.append(result.lease)

    def tick(self, now_ms: int) -> None: ...

    def next_deadline(self) -> None:
        return None


class Signals:
    def __init__(self) -> None:
        self.waiting = b""

    def fileno(self) -> int:
        return SIGNALS_FD

    def take(self) -> bytes:
        taken, self.waiting = self.waiting, b""
        return taken


class Desk:
    """The loop and its rooms. Each wait of the loop takes the next of `script`, and some time."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.waits: list[float] = []
        self.script: list[Any] = []
        self.link, self.children, self.spool, self.signals = Link(), Children(), Spool(), Signals()
        identity = Identity(BOOT, "/home/q", "host", 42, 1, (), "0.1.0")
        self.core = WorkerCore(identity, chance=lambda: 0.5)
        poller: Any = SimpleNamespace(register=lambda fd, mask: None, poll=self.poll)
        log: Any = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error"), lambda event, **keys: None))
        rooms: Any = Rooms(
            link=_typed(self.link),
            children=_typed(self.children),
            spool=_typed(self.spool),
            adoption=_typed(None),
            signals=_typed(self.signals),
            poller=poller,
            log=log,
        )
        self.loop = WorkerLoop(self.core, rooms, lambda worker, broker: None, clock=lambda: Now(0, self.now_ms))

    def poll(self, timeout_s: float, events_max: int) -> list[tuple[int, int]]:
        self.now_ms += 1
        self.waits.append(timeout_s)
        self.script.pop(0)()
        return [(SIGNALS_FD, 1), (LINK_FD, 1)]

    def hear(self, *messages: ToWorker) -> Any:
        return lambda: self.link.inbox.extend(messages)


def _typed(fake: object) -> Any:
    return fake


def test_result_is_on_disk_though_the_next_command_breaks_the_worker() -> None:
    desk = Desk()

    def break_down() -> None:
        desk.children.is_broken = True
        desk.children.ended.append(1)

    desk.script = [desk.hear(WELCOME, Push(1, 1, [grant(1), grant(2)])), lambda: None, break_down, lambda: None]
    with pytest.raises(RuntimeError, match="cannot come back"):
        desk.loop.run()

    assert desk.children.started == [1]
    assert desk.spool.results == [1]


def test_result_is_on_disk_though_a_later_event_of_the_turn_breaks_the_worker() -> None:
    desk = Desk()
    desk.script = [
        desk.hear(WELCOME, Push(1, 1, [grant(1)])),
        lambda: None,
        lambda: desk.children.ended.extend([1, 99]),
    ]

    with pytest.raises(KeyError):  # nobody knows a command 99
        desk.loop.run()

    assert desk.spool.results == [1]


def test_worker_that_has_left_hears_nothing_while_it_waits_for_the_last_processes() -> None:
    desk = Desk()

    def leave() -> None:
        desk.children.tree.is_quiet = False
        desk.core.stop(Now(0, desk.now_ms))

    def settle() -> None:
        assert not desk.link.is_open
        desk.children.tree.is_quiet = True

    desk.script = [lambda: None, leave, *[lambda: None] * 3, settle]
    assert desk.loop.run() == 0
    assert desk.waits[-1] > 4, "it looks again when the processes are to be dead, not all the time"
