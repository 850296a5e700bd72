"""What `queuectl top` asks of the broker, in a thread of its own: a broker that is away never holds up a key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.escape import visible
from cli.top.state import Do, Row, Snapshot

if TYPE_CHECKING:
    from queuectl.client import Client
    from queuectl.verbs import Changed

SHOWN = ("processing", "pending", "failed")  # in this order
CLOSE_S = 0.5
ROWS, ROWS_FILTERED = 100, 500  # of each state; more than stand on a screen, and yet one slice of the broker's


class Look(NamedTuple):
    """A wish for a snapshot. `is_urgent`: something was done, so it is shown even while the refresh is paused."""

    is_filtered: bool
    is_urgent: bool = False


class Answer(NamedTuple):
    """What came of a wish; an error, if it went wrong."""

    wish: Look | Do
    result: Any


class Asker:
    """Does one wish after the other. `wake` is called, in the thread, when an answer is there."""

    def __init__(self, client: Client, wake: Callable[[], None]) -> None:
        self._client = client
        self._wake = wake
        self._wishes: SimpleQueue[Look | Do | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        # A daemon: whoever quits does not wait for a broker that is away.
        self._thread = threading.Thread(target=self._serve, name="top", daemon=True)
        self._thread.start()

    def ask(self, wish: Look | Do) -> None:
        """Have it done."""
        self._wishes.put(wish)

    def answers(self) -> list[Answer]:
        """What has come since the last time."""
        found = []
        try:
            while True:
                found.append(self._answers.get_nowait())
        except Empty:
            return found

    def close(self) -> None:
        """Close the client, unless it still waits for the broker."""
        self._wishes.put(None)
        self._thread.join(CLOSE_S)

    def _serve(self) -> None:
        while (wish := self._wishes.get()) is not None:
            try:
                result = do(self._client, wish) if isinstance(wish, Do) else look(self._client, wish)
            except Exception as error:  # noqa: BLE001  who gets the answer raises it, if it is a bug
                result = error
            self._answers.put(Answer(wish, result))
            self._wake()
        self._client.close()


def look(client: Client, wish: Look) -> Snapshot:
    """Ask how everything stands."""
    status = client.status()
    counts = status["jobs"]
    rows = ROWS_FILTERED if wish.is_filtered else ROWS

    def listed(state: str) -> list[Row]:
        return list(client.list(state=state, limit=rows)) if counts.get(state) else []

    jobs = [job for state in SHOWN for job in listed(state)]
    dead = listed("dead")
    return Snapshot(time.monotonic(), int(time.time() * 1000), status, jobs, dead)


def do(client: Client, wish: Do) -> Any:
    """Have something done to a job; what to say about it, or what the broker says to `why`."""
    if wish.op == "why":
        return client.why(wish.job_id)
    changed: Changed = getattr(client, wish.op)([wish.job_id])
    return _sentence(wish, changed)


def _sentence(wish: Do, changed: Changed) -> str:
    if changed.skipped:
        return visible(changed.skipped[0].error.message)
    job = f"Job {visible(wish.job_id)}"
    if wish.job_id in changed.stopping:
        return f"{job} is told to end."
    if wish.op == "retry":
        copy = changed.copies.get(wish.job_id)
        return f"{job} runs again" + (f" as {visible(copy)}." if copy is not None else ".")
    return f"{job} {_DONE[wish.op]}."


_DONE = {"cancel": "cancelled", "hold": "held", "release": "released"}
