"""How many jobs may wait or run: those that would be more are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from broker.core.state import State
from broker.store.rows import Known
from queuectl.errors import QueuectlError, QueueFull


class Backlog:
    """How many jobs may still be taken in this turn before as many wait, or run, as may."""

    def __init__(self, core: State) -> None:
        self._core = core
        self._in_all = core.tally.unfinished()
        self._in_queue: dict[str, int] = {}  # as far as somebody wanted to know
        self._new: set[str] = set()  # queues that this turn is the first to name

    def take(self, queues: Mapping[str, int], moved: Mapping[str, int] = MappingProxyType({})) -> None:
        """Count so many jobs of each queue in, and those that are there and come from another queue.

        Raises QueueFull if there are too many, then none of them is taken.
        """
        jobs, all_queues = sum(queues.values()), Counter(queues) + Counter(moved) if moved else queues
        _refuse_above(self._core, "max_backlog", self._in_all + jobs, "in all queues")
        new = self._new | {queue for queue in all_queues if queue not in self._core.buckets}
        self._core.refuse_new_queues(new)
        self.move(all_queues)
        self._in_all += jobs
        self._new = new

    def move(self, queues: Mapping[str, int]) -> None:
        """So many jobs more are in each queue, and no more in all. Raises QueueFull, then none of them is."""
        if self._core.settings["max_queue_backlog"] is None:
            return
        for queue, more in queues.items():
            _refuse_above(self._core, "max_queue_backlog", self._waiting(queue) + more, f"in queue '{queue}'")
        for queue, more in queues.items():
            self._in_queue[queue] += more

    def surplus(self, jobs: Iterable[tuple[Known, str]], *, are_new: bool = True) -> dict[int, QueuectlError]:
        """Of jobs that are to wait again, or elsewhere, in that queue, those for which there is no room, and why."""
        refused: dict[int, QueuectlError] = {}
        for job, queue in jobs:
            try:
                (self.take if are_new else self.move)({queue: 1})
            except QueueFull as error:
                words = f"there is no room for job '{job.id}': {error.message}"
                refused[job.seq] = QueueFull(words, hint=error.hint, details={**error.details, "id": job.id})
        return refused

    def _waiting(self, queue: str) -> int:
        if queue not in self._in_queue:
            bucket = self._core.buckets.get(queue)
            self._in_queue[queue] = 0 if bucket is None else self._core.tally.unfinished(bucket)
        return self._in_queue[queue]


def _refuse_above(core: State, limit: str, jobs: int, where: str) -> None:
    most = core.settings[limit]
    assert isinstance(most, int | None)
    if most is not None and jobs > most:
        raise QueueFull(
            f"at most {most} job{'s' * (most != 1)} may wait or run {where} ({limit})",
            hint=f"try again when some are done, or raise it: queuectl config set {limit} N",
            details={"limit": limit, "value": most},
        )
