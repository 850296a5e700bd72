"""The peers of a campaign, each a process: clients that enqueue under load, and a worker that finishes jobs.

Each writes down in a journal what the broker has acknowledged, one JSON object a line. They end when their
stdin does, after the broker has answered all that they had begun.
"""

from __future__ import annotations

import json
import random
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from queuectl.messages import Beat, Grant, Push, Recorded, Results, ToWorker, Who
from tests.harness_process import RawClient, ScriptedWorker, result_of

BULK_MAX = 60  # jobs of one request
ABANDONED = 0.1  # share of unanswered requests that are never sent again
ASKED_TWICE = 0.1  # share of answered requests that are sent again all the same
REPLY_LIMITS_S = (0.02, 1.0)
SILENCE_S = 0.3


@dataclass
class Asked:
    """One enqueue request: the commands in it, and what became of it as far as its client knows."""

    request: str
    commands: list[str]
    ids: list[str] | None = None  # None: no answer, and never sent again
    tries: int = 0
    unanswered: int = 0  # tries that got no answer
    repeated: bool = False  # the first answer was one from the stored replies
    differing: list[str] = field(default_factory=list)  # what a later answer said instead


def told_to_end() -> bool:
    """Whether stdin has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def enqueue_for_ever(journal: TextIO, endpoint: str, name: str, seed: int, *, bulk: bool) -> None:
    """Request after request, each until it is answered or given up."""
    chance = random.Random(seed)
    for number in _until_told():
        size = chance.randint(1, BULK_MAX) if bulk else 1
        asked = Asked(f"{name}-{number:08}", [f": {name}-{number}-{place}" for place in range(size)])
        named = {place: f"{name}.{number}.{place}" for place in range(size) if chance.random() < 0.2}
        jobs = [{"command": command, "id": named.get(place)} for place, command in enumerate(asked.commands)]
        _ask(asked, jobs, endpoint, chance)
        print(json.dumps(asdict(asked)), file=journal, flush=True)


def _until_told() -> Iterator[int]:
    number = 0
    while not told_to_end():
        yield number
        number += 1


_links: dict[str, RawClient] = {}


def _ask(asked: Asked, jobs: list[dict[str, Any]], endpoint: str, chance: random.Random) -> None:
    link = _links.get(endpoint) or _links.setdefault(endpoint, RawClient(endpoint))
    while asked.ids is None or chance.random() < ASKED_TWICE:
        asked.tries += 1
        try:
            reply = link.ask("enqueue", request_id=asked.request, limit_s=chance.uniform(*REPLY_LIMITS_S), jobs=jobs)
        except TimeoutError:
            asked.unanswered += asked.ids is None
            if asked.ids is None and chance.random() < ABANDONED:
                return
            continue
        ids = reply["ok"]["ids"]
        if asked.ids not in (None, ids):
            asked.differing = ids
        if asked.ids is None:
            asked.ids, asked.repeated = ids, reply.get("repeated", False)


def finish_for_ever(journal: TextIO, endpoint: str) -> None:
    """Take jobs, say they are completed until the broker has recorded it, and write that down."""
    with ScriptedWorker(endpoint, slots=16) as worker:
        _come_back(worker)
        is_silent = False
        while not told_to_end() or worker.grants:
            try:
                _on_message(journal, worker, worker.next(SILENCE_S))
                is_silent = False
            except TimeoutError:
                if is_silent:
                    _come_back(worker)
                else:
                    _beat(worker)
                is_silent = not is_silent


def _on_message(journal: TextIO, worker: ScriptedWorker, message: ToWorker) -> None:
    if isinstance(message, Push):
        _report(worker, message.grants)
    elif isinstance(message, Who):
        _come_back(worker)
    elif isinstance(message, Recorded):
        for verdict in message.verdicts:
            if (grant := worker.grants.pop(verdict.lease, None)) is not None:
                said = {"job": grant.job, "attempt": grant.attempt, "verdict": verdict.verdict}
                print(json.dumps(said), file=journal, flush=True)


def _beat(worker: ScriptedWorker) -> None:
    worker.beats += 1
    with suppress(TimeoutError):
        worker.say(Beat(worker.session, worker.beats, worker.received, [], list(worker.grants), draining=False))


def _come_back(worker: ScriptedWorker) -> None:
    """A new session, however long it takes, and everything said again."""
    while True:
        try:
            worker.reconnect()
            worker.hello(done=tuple(worker.grants), limit_s=SILENCE_S)
            _report(worker, list(worker.grants.values()))
        except TimeoutError:
            continue
        return


def _report(worker: ScriptedWorker, grants: list[Grant]) -> None:
    if grants:
        worker.say(Results(worker.session, [result_of(grant) for grant in grants]))


def main() -> None:
    """Be one of the peers, as the options say."""
    options = json.loads(sys.argv[1])
    with Path(options.pop("journal")).open("w") as journal:
        role = options.pop("role")
        if role == "worker":
            finish_for_ever(journal, **options)
        else:
            enqueue_for_ever(journal, **options)
    for link in _links.values():
        link.close()


if __name__ == "__main__":
    main()
