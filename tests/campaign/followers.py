"""Followers of a campaign: each enqueues jobs whose output is known, follows them through everything, and compares.

What a follower was told must be what the job has printed, each byte once, gaps of their exact size, attempts in order;
and no byte that the broker keeps may be missing. Followers may have more: of what comes after the first half only the
last half stays. A run that was lost with its worker may have printed less.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from queuectl.client import Client
from queuectl.errors import BrokerUnreachable, OutcomeUnknown, ShuttingDown
from queuectl.following import AttemptEnd, Chunk
from queuectl.jobs import Outcome
from queuectl.patience import patiently
from tests.campaign.jobs import TALKER, Jobs, printed
from tests.campaign.load import Asked, Fate

PAUSE_S = 0.1
LATE_S = 1.0  # the second follower comes so much later, at most
LENGTH_MAX = 60
_WHOLE = frozenset({Outcome.COMPLETED, Outcome.EXIT})  # the command has printed all that it prints


@dataclass
class Told:
    """What one reader was told of a job: for each attempt and stream pieces in their order, and how attempts ended."""

    pieces: dict[tuple[int, str], list[Chunk]] = field(default_factory=dict)
    ends: list[AttemptEnd] = field(default_factory=list)

    @classmethod
    def of(cls, pieces: Iterable[Chunk | AttemptEnd]) -> Told:
        """Read to the end."""
        told = cls()
        for piece in pieces:
            if isinstance(piece, AttemptEnd):
                told.ends.append(piece)
            else:
                told.pieces.setdefault((piece.attempt, piece.stream), []).append(piece)
        return told

    def joined(self) -> dict[tuple[int, str], list[tuple[int, bytes | int]]]:
        """Neighbouring pieces as one: (offset, bytes), or (offset, size of a gap)."""
        return {key: _join(chunks) for key, chunks in self.pieces.items()}


def _join(chunks: Iterable[Chunk]) -> list[tuple[int, bytes | int]]:
    joined: list[tuple[int, bytes | int]] = []
    reached = 0
    for chunk in chunks:
        last = joined[-1][1] if joined else None
        if chunk.gap_bytes:
            joined.append((chunk.offset, chunk.gap_bytes))
        elif isinstance(last, bytes) and chunk.offset == reached:
            joined[-1] = (joined[-1][0], last + chunk.data)
        else:
            joined.append((chunk.offset, chunk.data))
        reached = chunk.offset + len(chunk.data) + chunk.gap_bytes
    return joined


def wrongs(followed: Told, kept: Told, expected: Callable[[int], bytes]) -> list[str]:
    """What is wrong with what a follower was told, against what is kept and what each attempt prints to stdout."""
    found = [*_order(followed)]
    mine, theirs = followed.joined(), kept.joined()
    missed = {key: _places(theirs[key]) - _places(mine.get(key, [])) for key in sorted(theirs)}
    found += [
        f"attempt {attempt}, {stream}: {len(places)} bytes are kept and were not told, from {min(places)}"
        for (attempt, stream), places in missed.items()
        if places
    ]
    whole = {end.attempt for end in followed.ends if end.outcome in _WHOLE}
    for attempt in sorted({attempt for attempt, _ in mine} | whole):
        text = expected(attempt)
        found += _against(text, mine.get((attempt, "stdout"), []), f"attempt {attempt}", is_whole=attempt in whole)
    return found


def _order(followed: Told) -> Iterable[str]:
    """Each attempt ends once, in order; the last one is the last."""
    numbers = [end.attempt for end in followed.ends]
    if numbers != sorted(set(numbers)):
        yield f"attempts ended in the order {numbers}"
    if [end.is_last for end in followed.ends] != [False] * (len(numbers) - 1) + [True]:
        yield f"the last attempt is not told as such: {followed.ends}"


def _against(text: bytes, pieces: list[tuple[int, bytes | int]], name: str, *, is_whole: bool) -> Iterable[str]:
    """Pieces lie one after the other, hold what was printed, and reach its end."""
    reached = 0
    for offset, piece in pieces:
        if offset != reached:
            yield f"{name}: a piece at {offset}, after {reached} bytes"
        size = piece if isinstance(piece, int) else len(piece)
        if isinstance(piece, bytes) and text[offset : offset + size] != piece:
            yield f"{name}: bytes from {offset} are not what was printed"
        reached = offset + size
    if reached > len(text) or (is_whole and reached != len(text)):
        yield f"{name}: {reached} bytes told, {len(text)} printed"


def _places(pieces: list[tuple[int, bytes | int]]) -> set[int]:
    """Where there are bytes."""
    return {offset + n for offset, piece in pieces if isinstance(piece, bytes) for n in range(len(piece))}


class Follower(threading.Thread):
    """One after the other: a job, two who follow it from different moments on, and the comparison."""

    def __init__(self, endpoint: str, *, name: str, seed: str, jobs: Path, journal: Path) -> None:
        super().__init__(name=name)
        self._endpoint = endpoint
        self._chance = random.Random(seed)
        self._jobs = Jobs(jobs)
        self._journal = journal
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None

    def tell_end(self) -> None:
        """Begin no other job."""
        self._over.set()

    def run(self) -> None:
        try:
            number = 0
            while not self._over.is_set():
                self._follow(f"{self.name}-{number}")
                number += 1
        except BaseException as error:  # noqa: BLE001 - the campaign asks for it
            self.error = error

    def _follow(self, name: str) -> None:
        length = self._chance.randint(1, LENGTH_MAX)
        with Client(self._endpoint) as client:
            job_id = self._enqueue(client, name, length)
            late = threading.Thread(target=self._read, args=(job_id, length, self._chance.uniform(0, LATE_S)))
            late.start()
            self._read(job_id, length, 0.0)
            late.join()

    def _enqueue(self, client: Client, name: str, length: int) -> str:
        """Ask until the broker has said yes, and write down that it has."""
        asked = Asked(f"{name:0>8}", [name])
        self._note({"request": asked.request, "names": asked.names})
        while True:
            try:
                reply = client.exchange(
                    "enqueue", {"jobs": [self._jobs.talker(name, length)]}, request_id=asked.request
                )
                break
            except OutcomeUnknown:
                asked.unanswered = True
            except (BrokerUnreachable, ShuttingDown):
                threading.Event().wait(PAUSE_S)
        asked.fate, asked.ids, asked.repeated = Fate.ACKNOWLEDGED, reply.value["ids"], reply.repeated
        asked.unanswered |= reply.tries > 1
        self._note(asdict(asked))
        return str(asked.ids[0])

    def _note(self, what: dict[str, Any]) -> None:
        with self._journal.open("a") as journal:
            print(json.dumps(what), file=journal)

    def _read(self, job_id: str, length: int, after_s: float) -> None:
        """Follow the job to its end, then read what is kept of it."""
        threading.Event().wait(after_s)
        with Client(self._endpoint) as client:
            followed = Told.of(client.logs(job_id, follow=True, attempt="all", on_away=self._on_away))
            kept = patiently(lambda: Told.of(client.logs(job_id, attempt="all")))
        wrong = wrongs(followed, kept, lambda attempt: printed(attempt, length))
        chunks = [chunk for chunks in followed.pieces.values() for chunk in chunks]
        with self._lock:
            self.wrong += [f"{job_id} ({TALKER} of {length}): {each}" for each in wrong]
            self.counts["attempts followed"] += len(followed.ends)
            self.counts["bytes followed"] += sum(len(chunk.data) for chunk in chunks)
            self.counts["gaps followed"] += sum(chunk.gap_bytes > 0 for chunk in chunks)

    def _on_away(self, _: BaseException) -> None:
        with self._lock:
            self.counts["waits of followers for the broker"] += 1
