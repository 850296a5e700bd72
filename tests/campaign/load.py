"""A client of a campaign, in a process of its own: it enqueues without a pause and writes down what it was told.

One JSON object a line: the names of a request's jobs before it is sent, its fate afterwards. It ends when its
stdin does, after it knows the fate of what it had begun.
"""

from __future__ import annotations

import json
import random
import select
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from queuectl.client import Client
from queuectl.errors import BrokerUnreachable, OutcomeUnknown, ShuttingDown
from tests.campaign.jobs import Jobs

NAMED = 0.2  # share of jobs with an id of their own
LEFT = 0.05  # share of requests whose client goes away without waiting for the reply
ABANDONED = 0.2  # share of unanswered requests, and of those not sent, that are never sent again
ASKED_TWICE = 0.05  # share of answered requests that are sent again all the same
REPLY_LIMITS_S = (0.02, 1.0)
STATUS_EVERY = 50  # requests between two looks at how much is waiting
LOOK_S = 0.1
REFUSED = "refused"  # stands where the id of a job would stand; no such job is ever there


class Fate(StrEnum):
    """What a client knows of a request in the end."""

    ACKNOWLEDGED = "acknowledged"
    UNKNOWN = "unknown"  # sent, not answered, never sent again
    NOT_SENT = "not sent"  # says the client of the queue; never tried again


@dataclass
class Asked:
    """One enqueue request and what became of it as far as its client knows."""

    request: str
    names: list[str]
    fate: Fate = Fate.UNKNOWN
    ids: list[str] = field(default_factory=list)
    unanswered: bool = False  # a try at least got no answer
    repeated: bool = False  # the first answer was one from the stored replies
    differing: list[str] = field(default_factory=list)  # what a later answer said instead


class Load:
    """One client. `bulk`: jobs of a request, at most; `backlog`: jobs that may wait before it waits too."""

    def __init__(self, journal: TextIO, *, endpoint: str, name: str, seed: str, jobs: str, bulk: int, backlog: int):
        self._journal = journal
        self._client = Client(endpoint)
        self._name = name
        self._chance = random.Random(seed)
        self._jobs = Jobs(Path(jobs))
        self._bulk = bulk
        self._backlog = backlog
        self._pause = threading.Event()

    def run(self) -> None:
        """Request after request, until stdin ends."""
        for number in _until_told():
            if number % STATUS_EVERY == 0:
                self._await_room()
            size = self._chance.randint(1, self._bulk)
            asked = Asked(f"{self._name}-{number:08}", [f"{self._name}-{number}-{place}" for place in range(size)])
            self._note({"request": asked.request, "names": asked.names})
            self._enqueue(asked)
            self._note(asdict(asked))
        self._client.close()

    def _note(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), file=self._journal, flush=True)

    def _await_room(self) -> None:
        while not _told_to_end():
            try:
                jobs = self._client.status()["jobs"]
            except (BrokerUnreachable, OutcomeUnknown, ShuttingDown):
                self._pause.wait(LOOK_S)
                continue
            if jobs["pending"] + jobs["failed"] < self._backlog:
                return
            self._pause.wait(LOOK_S)

    def _enqueue(self, asked: Asked) -> None:
        named = {name: f"own:{name}" for name in asked.names if self._chance.random() < NAMED}
        jobs = [{**self._jobs.make(name, self._chance), "id": named.get(name)} for name in asked.names]
        if self._chance.random() < LEFT:
            self._send_and_leave(asked, jobs)
            return
        may_be_there = False
        while asked.fate is Fate.UNKNOWN or self._chance.random() < ASKED_TWICE:
            limit_s = self._chance.uniform(*REPLY_LIMITS_S)
            try:
                reply = self._client.exchange("enqueue", {"jobs": jobs}, request_id=asked.request, timeout=limit_s)
            except (BrokerUnreachable, ShuttingDown):  # not carried out by this try
                if not may_be_there and self._chance.random() < ABANDONED:
                    asked.fate = Fate.NOT_SENT
                    return
                self._pause.wait(LOOK_S)
                continue
            except OutcomeUnknown:
                may_be_there = True
                if asked.fate is Fate.UNKNOWN:
                    asked.unanswered = True
                    if self._chance.random() < ABANDONED:
                        return
                continue
            ids = [job_id or REFUSED for job_id in reply.value["ids"]]
            may_be_there = True
            if asked.fate is Fate.UNKNOWN:
                asked.fate, asked.ids, asked.repeated = Fate.ACKNOWLEDGED, ids, reply.repeated
                asked.unanswered |= reply.tries > 1
            elif asked.ids != ids:
                asked.differing = ids

    def _send_and_leave(self, asked: Asked, jobs: list[dict[str, Any]]) -> None:
        """As a client that dies: what it has sent may arrive, or not."""
        try:
            self._client.begin("enqueue", {"jobs": jobs}, request_id=asked.request)
        except BrokerUnreachable:
            asked.fate = Fate.NOT_SENT
        self._pause.wait(self._chance.uniform(0, 0.01))
        self._client.close()


def _told_to_end() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _until_told() -> Iterator[int]:
    number = 0
    while not _told_to_end():
        yield number
        number += 1


def main() -> None:
    """Be a client, as the options say."""
    options = json.loads(sys.argv[1])
    with Path(options.pop("journal")).open("w") as journal:
        Load(journal, **options).run()


if __name__ == "__main__":
    main()
