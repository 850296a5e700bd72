"""The feed, held against the store: read from its beginning, it tells of each job what became of it, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import msgpack

from broker.core import feed
from broker.lifecycle import OVERDUE
from broker.store.rows import CODES
from queuectl.ids import job_id_of
from queuectl.jobs import TERMINAL, JobState

if TYPE_CHECKING:
    from tests.simulation.checks import Row
    from tests.simulation.cluster import Cluster

DEEDS = "SELECT id, action, actor FROM deed JOIN job USING (seq) ORDER BY seq, number"
EVENTS = "SELECT event, body FROM event WHERE event > ? ORDER BY event"
WAITS, RUNS, OVER = "waits", "runs", "is over"
_PHASES = {
    **dict.fromkeys((JobState.PENDING, JobState.FAILED), WAITS),
    JobState.PROCESSING: RUNS,
    **dict.fromkeys(TERMINAL, OVER),
}
_PHASE = {CODES[state]: phase for state, phase in _PHASES.items()}
_OF_AN_ATTEMPT = frozenset({feed.FINISHED, feed.REQUEUED, feed.LOST})
_CONCLUSIONS = {CODES[JobState.CANCELLED]: feed.CANCELLED, CODES[JobState.DEAD]: feed.DEAD}

# What may be told of a job only while it waits, runs or is over, and what it does from then on; None: as before.
_MOVES: dict[int, tuple[str, str | None]] = {
    feed.LEASED: (WAITS, RUNS),
    feed.ADOPTED: (WAITS, RUNS),
    feed.FINISHED: (RUNS, None),
    feed.REQUEUED: (RUNS, None),
    feed.LOST: (RUNS, None),
    feed.CANCEL_ASKED: (RUNS, RUNS),
    feed.CANCELLED: (WAITS, OVER),
    feed.EXPIRED: (WAITS, OVER),
    feed.DEAD: (WAITS, OVER),
    feed.REPLACED: (WAITS, OVER),
    feed.HELD: (WAITS, WAITS),
    feed.RELEASED: (WAITS, WAITS),
    feed.EDITED: (WAITS, WAITS),
    feed.PURGED: (OVER, OVER),
}

# What people did, as the store has it: with it comes who it was, right after the job.
_DEEDS = {
    feed.HELD: "held",
    feed.RELEASED: "released",
    feed.EDITED: "edited",
    feed.RETRIED: "retried",
    feed.CANCELLED: "cancelled",
    feed.CANCEL_ASKED: "cancelled",
    feed.REPLACED: "replaced",
}


@dataclass
class Life:
    """What the feed has told of a job. `expected`: what it has to tell of it next, if that is certain."""

    phase: str = WAITS
    attempt: int = 0
    expected: int | None = None
    finished: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # by attempt: outcome, exit code, signal
    deeds: list[tuple[str, int]] = field(default_factory=list)  # what was done to it, and by whom


class Diary:
    """Reads the feed along, as a client would that misses nothing."""

    def __init__(self, cluster: Cluster, fail: Callable[[str], NoReturn]) -> None:
        self._ask, self._fail = cluster.broker.connection.ask, fail
        self._last = 0
        self._lives: dict[str, Life] = {}
        self.told: Counter[str] = Counter()  # events about jobs, by their kinds

    def read(self, rows: dict[int, Row]) -> None:
        """Read what is new, and compare it with the jobs as they are."""
        for number, body in self._ask(EVENTS, (self._last,)):
            self._last = number
            for event in msgpack.unpackb(body, use_list=False):
                self._on_event(event)
        told = {name: life.phase for name, life in self._lives.items()}
        found = {row.id: _PHASE[row.state] for row in rows.values()}
        if told != found:
            self._fail(
                f"by the feed {dict(told.items() - found.items())}, in truth {dict(found.items() - told.items())}"
            )
        if late := [name for name, life in self._lives.items() if life.expected is not None]:
            self._fail(f"of {late} the feed does not tell how they ended")

    def compare_deeds(self) -> None:
        """All that people did to a job is stored of it, in its order."""
        stored: dict[str, list[tuple[str, int]]] = {name: [] for name in self._lives}
        for name, action, actor in self._ask(DEEDS):
            stored[name].append((action, actor))
        for name, life in self._lives.items():
            if life.deeds != stored[name]:
                self._fail(f"by the feed {life.deeds} was done to {name}, and stored is {stored[name]}")

    def finished(self, job: str, attempt: int) -> tuple[Any, ...] | None:
        """Outcome, exit code and signal, as somebody was told; None if nobody was."""
        return self._lives[job].finished.get(attempt)

    def _on_event(self, event: tuple[Any, ...]) -> None:
        kind = event[0]
        if kind in feed.TYPES["enqueued"]:
            for name in _enqueued(event):
                if name in self._lives:
                    self._fail(f"the feed tells that {name} is new, and knows it: {self._lives[name]}")
                self._lives[name] = Life()
        elif kind == feed.RETRIED:
            self._count(event)
            self._on_retried(*event[1:])
        elif kind in _MOVES:
            self._count(event)
            self._on_move(event)

    def _count(self, event: tuple[Any, ...]) -> None:
        is_overdue = event[0] == feed.DEAD and event[2] == OVERDUE
        self.told["overdue" if is_overdue else feed.KINDS[event[0]].name] += 1

    def _on_move(self, event: tuple[Any, ...]) -> None:
        kind, name, *about = event
        life = self._lives.get(name)
        before, after = _MOVES[kind]
        if life is not None and life.expected is not None:
            if life.expected != kind:
                self._fail(f"the feed owes the end of {name}, and tells {event} of {life}")
            life.expected = None
            return
        if life is None or life.phase != before:
            self._fail(f"the feed tells {event} of {life}")
        if kind in (feed.LEASED, feed.ADOPTED):
            life.attempt = about[0]
        elif kind in _OF_AN_ATTEMPT:
            self._on_attempt_ended(life, event)
        life.phase = after or life.phase
        if kind in _DEEDS:
            life.deeds.append((_DEEDS[kind], about[0]))
        if kind == feed.PURGED:
            del self._lives[name]

    def _on_attempt_ended(self, life: Life, event: tuple[Any, ...]) -> None:
        kind, _, attempt, _, outcome, *rest = event
        if attempt != life.attempt or attempt in life.finished:
            self._fail(f"the feed tells {event} of {life}")
        state = rest[3] if kind == feed.FINISHED else rest[0] if rest else CODES[JobState.PENDING]
        if kind == feed.FINISHED:
            life.finished[attempt] = (outcome, rest[0], rest[1])
        life.phase = _PHASE[state]
        life.expected = _CONCLUSIONS.get(state)

    def _on_retried(self, name: str, by: int, state: int, copy: str | None = None) -> None:
        life = self._lives.get(name)
        if life is None or life.expected is not None or (copy is not None and copy not in self._lives):
            self._fail(f"the feed tells that {name} was retried as {copy}: {life}")
        life.deeds.append((_DEEDS[feed.RETRIED], by))
        if copy is None:
            life.phase = _PHASE[state]


def _enqueued(event: tuple[Any, ...]) -> Iterator[str]:
    if event[0] == feed.ENQUEUED_IN_A_ROW:
        yield from (job_id_of(seq) for seq in range(event[1], event[1] + event[2]))
    else:
        yield event[1]
