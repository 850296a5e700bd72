"""What jobs leave to be told: their results, their output, and what dead boots of this home had not told."""

from __future__ import annotations

from collections.abc import Sequence

from queuectl.clock import Now
from queuectl.jobs import Outcome
from queuectl.messages import Output, Result, Results, Returned, Verdict
from worker.core.effects import Forget, Settle, Spool, SpoolOutput
from worker.core.identity import Adopted
from worker.core.lease import Lease
from worker.core.outbox import Outbox
from worker.core.output import Attempt, OutputBook
from worker.core.results import Unsettled

_NOTE_CHARS_MAX = 512


class Reports:
    """Results and output, from the command's end or first byte until the broker has them on disk."""

    def __init__(self, outbox: Outbox, adopted: Sequence[Adopted]) -> None:
        self._outbox = outbox
        self.results = Unsettled()
        self.output = OutputBook()
        self._attempts: dict[int, Attempt] = {}  # of running leases that have written something
        self._broker = ""
        self._adopted = list(adopted)
        self._gone_beat: int | None = None  # the heartbeat whose echo says that the reports of dead boots have arrived
        for legacy in self._adopted:
            for broker, result in legacy.results:
                self.results.add(result, broker, is_ours=False)

    def restart(self, broker: str, window_bytes: int) -> None:
        """A new session: everything that is for this broker goes again."""
        if broker != self._broker:
            for legacy in self._adopted:
                for _, piece in (pair for pair in legacy.pieces if pair[0] == broker):
                    self.output.adopt(piece)
        self._broker = broker
        self._gone_beat = None
        self.results.restart(broker)
        self.output.restart(window_bytes)
        self._outbox.is_dirty = True
        foreign = sum(1 for legacy in self._adopted for owner, _ in legacy.results if owner != broker)
        if foreign:
            self._outbox.tell("warning", "result_spooled", reason="other_broker", count=foreign)

    def suspend(self) -> None:
        """There is no session: all waits, what finished jobs have written on disk."""
        self.results.suspend()
        self.output.suspend()
        self.spool_output()

    # --- from the commands ---

    def write(self, lease: Lease, stream: int, data: bytes) -> None:
        """A command has written something."""
        grant = lease.grant
        attempt = self._attempts.get(grant.lease)
        if attempt is None:
            self.output.forget(grant.lease)  # of a lease that a broker gave twice, or its credit would leak
            attempt = self._attempts[grant.lease] = Attempt(grant.lease, grant.job, grant.attempt, grant.output_limit)
        self.output.write(attempt, stream, data)
        self._outbox.is_dirty = True

    def forget(self, number: int) -> None:
        """Nobody wants to hear of this lease."""
        self._attempts.pop(number, None)
        self.output.forget(number)

    def finish(
        self, lease: Lease, outcome: Outcome, now: Now, *, exit_code: int | None, signal: int | None, note: str
    ) -> None:
        """An attempt is over."""
        grant = lease.grant
        attempt = self._attempts.pop(grant.lease, None)
        stdout_bytes, stderr_bytes = attempt.totals() if attempt else (0, 0)
        result = Result(
            lease=grant.lease,
            job=grant.job,
            attempt=grant.attempt,
            outcome=outcome.value,
            exit_code=exit_code,
            signal=signal,
            started_at_ms=lease.started.wall_ms,
            duration_ms=now.mono_ms - lease.started.mono_ms,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            last_line=attempt.last_line() if attempt else "",
            note=note[:_NOTE_CHARS_MAX],
        )
        self._outbox.do(Spool(result, self._broker))
        self.results.add(result, self._broker)
        self._outbox.is_dirty = True
        self.output.finish(grant.lease)
        self._tell_finished(lease, result, attempt)

    def _tell_finished(self, lease: Lease, result: Result, attempt: Attempt | None) -> None:
        self._outbox.tell(
            "info" if result.outcome == Outcome.COMPLETED else "warning",
            "job_finished",
            **lease.keys(),
            outcome=result.outcome,
            exit_code=result.exit_code,
            signal=result.signal,
            duration_ms=result.duration_ms,
            stdout_bytes=result.stdout_bytes,
            stderr_bytes=result.stderr_bytes,
        )
        if attempt is not None and attempt.dropped():
            self._outbox.tell("info", "output_dropped", **lease.keys(), bytes=attempt.dropped())

    def spool_output(self) -> None:
        """Put the output of finished jobs on disk that the broker has not taken."""
        for attempt in self.output.finished():
            if not attempt.is_spooled:
                attempt.is_spooled = True
                self._outbox.do(SpoolOutput(attempt.rest(), self._broker))

    def tick(self, now: Now) -> None:
        """Send again what was not answered for, and what waited for its pace."""
        self.results.resend_due(now.mono_ms)
        due_ms = self.output.next_deadline()
        if self.results.unsent or (due_ms is not None and due_ms <= now.mono_ms):
            self._outbox.is_dirty = True

    def next_deadline(self) -> int | None:
        due = (self.results.next_deadline(), self.output.next_deadline())
        return min((at_ms for at_ms in due if at_ms is not None), default=None)

    # --- to the broker, and back ---

    def flush(self, session: int, now: Now) -> None:
        """Say what there is to say: output first, so that it is there when the result is."""
        while pieces := self.output.collect(now.mono_ms):
            self._outbox.say(Output(session, pieces))
        while results := self.results.take_batch(now.mono_ms):
            self._outbox.say(Results(session, results))

    def on_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        settled = []
        for verdict in verdicts:
            pending = self.results.settle(verdict.lease)
            if pending is None:  # settled before, or never reported: a running job keeps its output
                continue
            if pending.is_ours:
                settled.append(verdict.lease)
            if verdict.verdict == "stale":
                self.output.forget(verdict.lease)
        if settled:
            self._outbox.do(Settle(settled))

    def on_taken(self, lease: int, stream: int, upto: int) -> None:
        self.output.acknowledge(lease, stream, upto)
        self._outbox.is_dirty = self._outbox.is_dirty or self.output.is_waiting

    @property
    def is_owing(self) -> bool:
        """Whether this broker has still to be told something, or to answer for it; before the first, any broker."""
        if not self._broker:
            return bool(self._adopted)
        return self.results.is_owing or bool(self.output.finished()) or bool(self._adopted_of_this_broker())

    # --- dead boots ---

    def settle_boots(self, next_beat: int) -> tuple[list[Returned], list[str]]:
        """Dead boots to report now, just before this heartbeat: their results are settled.

        What they had given back goes out before the GONE that names them: after it, it would be lost.
        """
        if self._gone_beat is not None or self.results.has_adopted or any(a.is_adopted for a in self.output.finished()):
            return [], []
        boots = self._adopted_of_this_broker()
        returned = [each for legacy in boots for _, each in legacy.returned]
        gone = [legacy.boot for legacy in boots if legacy.is_gone]
        if returned or gone:
            self._gone_beat = next_beat
        else:
            self._forget_boots()
        return returned, gone

    def on_echo(self, beat: int) -> None:
        """If the echo proves that these reports have arrived, nothing is left to do for those boots."""
        if self._gone_beat is not None and beat >= self._gone_beat:
            self._gone_beat = None
            self._forget_boots()

    def _forget_boots(self) -> None:
        done = self._adopted_of_this_broker()
        if done:
            self._adopted = [legacy for legacy in self._adopted if legacy not in done]
            self._outbox.do(Forget([legacy.boot for legacy in done]))

    def _adopted_of_this_broker(self) -> list[Adopted]:
        return [
            legacy
            for legacy in self._adopted
            if all(broker == self._broker for broker, _ in (*legacy.results, *legacy.pieces, *legacy.returned))
        ]
