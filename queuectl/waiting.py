"""Waiting until jobs are over; a broker that is away meanwhile comes back.

    for job in client.wait(["a17", "a18"], timeout=60)["jobs"]:
        print(job["id"], job["state"])

The broker holds its reply until it is so, or for some seconds, after which it is asked again: nothing is polled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from queuectl.errors import BadRequest, QueuectlError, WaitTimedOut
from queuectl.patience import Away, may_be_asked_again, patiently

if TYPE_CHECKING:
    from queuectl.client import Client

JOBS_PER_WAIT = 1000
SLICE_S = 10.0  # the broker holds a reply so long
LATE_S = 1.0  # after the end of a wait, for the broker's answer that it was in vain


class Waits:
    """What a Client waits for."""

    def wait(
        self,
        jobs: Sequence[str] | None = None,
        *,
        empty: bool = False,
        workers: Sequence[str] | None = None,
        any_job: bool = False,
        timeout: float | None = None,
        progress: Callable[[int], object] | None = None,
        on_away: Away | None = None,
    ) -> dict[str, Any]:
        """Wait until all these jobs have ended, or no job is left to run, or none of these workers is connected.

        Give exactly one of the three. With `any_job` one of at most 1000 jobs is enough. `timeout` in seconds; None
        waits for ever. `progress` hears how many jobs are left whenever that changes. The reply has `jobs`: `id`,
        `state`, `exit_code`, `signal` and `reason` of each. It goes on over restarts of the broker, but for workers;
        `on_away` hears of the error when the broker is away. Raises WaitTimedOut, UnknownJob.
        """
        if empty + (jobs is not None) + (workers is not None) != 1:
            raise BadRequest("wait for jobs, for an empty queue, or for workers: for one of the three")
        if isinstance(jobs, str) or isinstance(workers, str):
            raise BadRequest("jobs and workers are lists of ids")
        one = _Wait(cast("Client", self), timeout, progress, on_away)
        if workers is not None:
            return one.until({"workers": list(workers)})  # a broker that has begun anew knows none of them
        if jobs is None:
            return one.patiently_until({"empty": True})
        if not any_job:
            return one.all_of(jobs)
        if len(jobs) > JOBS_PER_WAIT:
            raise BadRequest(f"at most {JOBS_PER_WAIT} jobs can be waited for at once")
        return one.patiently_until({"jobs": list(jobs), "any": True})


class _Wait:
    """One of them: until when, and who hears of it meanwhile."""

    def __init__(
        self,
        client: Client,
        timeout: float | None,
        progress: Callable[[int], object] | None,
        on_away: Away | None,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._progress = progress
        self._told: int | None = None
        self._on_away = on_away

    def all_of(self, jobs: Sequence[str]) -> dict[str, Any]:
        """As many at a time as one request takes: it is over when the last of them are."""
        ended: list[dict[str, Any]] = []
        reply: dict[str, Any] = {}
        for start in range(0, max(len(jobs), 1), JOBS_PER_WAIT):
            some = list(jobs[start : start + JOBS_PER_WAIT])
            reply = self.patiently_until({"jobs": some}, behind=len(jobs) - start - len(some))
            ended += reply.get("jobs", [])  # brokers before 0.5 do not say
        return {**reply, "jobs": ended} if "jobs" in reply else reply

    def patiently_until(self, what: dict[str, Any], behind: int = 0) -> dict[str, Any]:
        """Over restarts of the broker. Raises WaitTimedOut, too, where it is away when the time is up."""
        try:
            return patiently(lambda: self.until(what, behind), self._on_away, deadline=self._deadline)
        except QueuectlError as error:
            if not may_be_asked_again(error):
                raise
            raise self._timed_out() from error

    def until(self, what: dict[str, Any], behind: int = 0) -> dict[str, Any]:
        """Until the broker says so; `behind` jobs are left besides."""
        seen: dict[str, int] = {}
        if self._progress is not None and "jobs" in what:  # how many are left at first is news, too
            seen = {"seen": min(len(what["jobs"]) + 1, JOBS_PER_WAIT)}
        while True:
            left_s = min(SLICE_S, max(0.0, self._deadline - time.monotonic()))
            asked = {**what, **seen, "timeout_ms": int(left_s * 1000)}
            begun = self._client.begin("wait", asked)
            reply = self._client.finish(
                begun, timeout=left_s + self._client.timeout, until=self._deadline + LATE_S
            ).value
            if self._progress is not None:
                seen = {"seen": reply["jobs_left"]}
                self._tell(reply["jobs_left"] + behind)
            if reply["done"]:
                return reply
            if time.monotonic() >= self._deadline:
                raise self._timed_out()

    def _tell(self, left: int) -> None:
        if self._progress is not None and left != self._told:
            self._told = left
            self._progress(left)

    def _timed_out(self) -> WaitTimedOut:
        return WaitTimedOut(f"the wait timed out after {self._timeout:g} s", details={"waited_s": self._timeout})
