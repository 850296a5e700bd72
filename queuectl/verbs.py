"""What a client can do to jobs that are there: by id, or to all that have something in common.

    client.cancel(["a17"], reason="wrong file")
    client.hold(queue="mail")
    client.retry(state="dead", where=["exit_code=75"])

Each takes either ids (or unique beginnings of them) or a selection: `state`, `queue`, `tags` ("key" or "key=value"),
`where` (conditions such as "attempts>=2", see `queuectl/where.py`) and `since` (seconds since the epoch); a selection
of nothing is all jobs, and an empty list of ids is none. A change of many jobs goes in slices, each of which is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from queuectl.errors import BadRequest, QueuectlError, from_wire

IDS_PER_REQUEST = 200  # a turn of the broker stays below 10 ms, where it may be asked for more


class Asks(Protocol):
    """Whoever can make a request: a Client."""

    def request(self, op: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """A job that was named and that this could not be done to, and why."""

    id: str
    error: QueuectlError


@dataclass(slots=True)
class Changed:
    """What became of the jobs that were meant."""

    ids: list[str] = field(default_factory=list)  # done
    stopping: list[str] = field(default_factory=list)  # cancel: told to end, which `wait` sees
    copies: dict[str, str] = field(default_factory=dict)  # retry: old id → id of the new job
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, reply: Mapping[str, Any]) -> None:
        """Take in one slice."""
        self.ids += reply["ids"]
        self.stopping += reply.get("stopping", [])
        self.copies |= reply.get("copies", {})
        self.skipped += [Skipped(each["id"], from_wire(each)) for each in reply["skipped"]]


def slices(client: Asks, op: str, select: Mapping[str, Any], args: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Do it slice by slice; each reply. Ids go in slices, too."""
    ids = list(select.get("ids", ()))
    for start in range(0, len(ids) - IDS_PER_REQUEST, IDS_PER_REQUEST):
        yield client.request(op, {**args, "select": {"ids": ids[start : start + IDS_PER_REQUEST]}})
    last = (len(ids) - 1) // IDS_PER_REQUEST * IDS_PER_REQUEST
    rest = {**select, "ids": ids[last:]} if ids else dict(select)
    cursor: dict[str, Any] = {}
    while True:
        reply = client.request(op, {**args, **cursor, "select": rest})
        yield reply
        if reply["next"] is None:
            return
        cursor = {"cursor": reply["next"]}


def selection(
    ids: Sequence[str] | None = None,
    *,
    state: str | None = None,
    queue: str | None = None,
    tags: Sequence[str] = (),
    where: Sequence[str] = (),
    since: float | None = None,
) -> dict[str, Any]:
    """A selection as it goes over the wire. `since` in seconds since the epoch. Raises BadRequest.

    An empty list of ids is in it: it means no job, and not all of them.
    """
    if "" in (state, queue) or any(isinstance(texts, str) for texts in (ids, tags, where)):
        raise BadRequest("a selection takes lists of ids, tags and conditions, and no empty name")
    given: dict[str, Any] = {"state": state, "queue": queue, "tags": list(tags), "where": list(where)}
    given["since"] = None if since is None else round(since * 1000)
    named = {} if ids is None else {"ids": list(ids)}
    return named | {name: value for name, value in given.items() if value not in (None, [])}


class Verbs:
    """The part of a Client that changes jobs."""

    def request(self, op: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a request."""
        raise NotImplementedError

    def cancel(
        self,
        jobs: Sequence[str] | None = None,
        *,
        reason: str = "",
        signal: int = 15,
        grace: float = 10.0,
        **select: Any,
    ) -> Changed:
        """End jobs: those that wait at once (`ids`), those that run by a signal, and after `grace` seconds by force.

        Those (`stopping`) are over when `wait` says so.
        """
        args = {"reason": reason, "signal": signal, "grace_ms": round(grace * 1000)}
        return self._apply("cancel", selection(jobs, **select), args)

    def hold(self, jobs: Sequence[str] | None = None, *, reason: str = "", **select: Any) -> Changed:
        """Let waiting jobs wait until they are released."""
        return self._apply("hold", selection(jobs, **select), {"reason": reason})

    def release(self, jobs: Sequence[str] | None = None, **select: Any) -> Changed:
        """Let held jobs run again."""
        return self._apply("release", selection(jobs, **select), {})

    def edit(self, jobs: Sequence[str] | None = None, *, changes: Mapping[str, Any], **select: Any) -> Changed:
        """Change waiting jobs: `command`, `queue`, `priority`, `delay`, `run_at`, `max_retries`, `timeout`."""
        return self._apply("edit", selection(jobs, **select), {"changes": dict(changes)})

    def retry(self, jobs: Sequence[str] | None = None, *, delay: float = 0.0, **select: Any) -> Changed:
        """Run jobs again, after `delay` seconds: failed and dead ones themselves, those that are over as `copies`."""
        return self._apply("retry", selection(jobs, **select), {"delay": delay})

    def purge(self, jobs: Sequence[str] | None = None, **select: Any) -> Changed:
        """Delete jobs that are over, with their history and output."""
        return self._apply("purge", selection(jobs, **select), {})

    def why(self, job: str) -> dict[str, Any]:
        """Why a job is not running: `reasons` (code and text), its `position` in line, `estimate_s`."""
        return self.request("why", {"id": job})

    def _apply(self, op: str, select: Mapping[str, Any], args: Mapping[str, Any]) -> Changed:
        changed = Changed()
        if select.get("ids") == []:
            return changed
        for reply in slices(self, op, select, args):
            changed.add(reply)
        return changed
