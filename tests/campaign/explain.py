"""Which fault explains that a run was lost? None, and it was lost for nothing: then the queue is at fault."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.campaign.evidence import Owner, Run
from tests.campaign.faults import KILLS, STOPS, Fault, Sort

SLACK_S = 1.0  # between an act, its log, and the broker's clock
RECONNECT_S = 6.0  # the longest pause of a worker between two tries to connect, and some
_SILENT_S = re.compile(r"not heard of for ([0-9.]+) s")
_KILLED = ("its worker was killed", "its worker died")
_STOPPED = "stopped"
_DEAF = frozenset({Sort.SILENCE, Sort.BROKER_FROZEN, Sort.STALL})

# Where a run may go on beside its successor when its lease has run out: nobody who lives could end it in time.
_OUTLIVING = _DEAF | {Sort.KILL_WHOLE}


class Explainer:
    """Finds the faults that explain a loss."""

    def __init__(self, faults: Sequence[Fault], lease_s: float):
        self._lease_s = lease_s
        self._of_machine: dict[str, list[Fault]] = defaultdict(list)
        self._of_all = [fault for fault in faults if fault.sort in (Sort.BROKER_FROZEN, Sort.STALL)]
        for fault in faults:
            self._of_machine[fault.target].append(fault)

    def of_run(self, run: Run, *, has_started: bool) -> list[Fault]:
        """The faults that explain why this run was given up, by what the broker wrote about it.

        A worker that has left in peace, when no broker was there, knows nothing of a lease that never arrived: one
        that had not started is lost then, too.
        """
        if run.note.startswith(_KILLED):
            sorts = KILLS if has_started else KILLS | STOPS
            return list(self._to_process(run.owner, run.finished_s, sorts))
        if _STOPPED in run.note:
            return list(self._to_process(run.owner, run.finished_s, frozenset({Sort.FORCED_STOP})))
        if (silent := _SILENT_S.search(run.note)) is not None:
            since_s = run.finished_s - float(silent[1])
            killed = self._to_process(run.owner, run.finished_s, KILLS)
            return [*killed, *self._within(run.owner, since_s, run.finished_s)]
        return []

    def may_outlive(self, run: Run) -> bool:
        """Whether this run may go on beside its successor: not if the broker was told that it was over."""
        return _SILENT_S.search(run.note) is not None and any(
            fault.sort in _OUTLIVING for fault in self.of_run(run, has_started=True)
        )

    def of_start(self, owner: Owner, at_s: float) -> list[Fault]:
        """The faults that explain why the broker does not know of a run that began then: it was granted long before.

        A death is none of them: the broker writes down which leases it costs.
        """
        return list(self._within(owner, at_s - self._lease_s, at_s))

    def _to_process(self, owner: Owner, until_s: float, sorts: frozenset[Sort]) -> Iterator[Fault]:
        for fault in self._of_machine[owner.machine]:
            if fault.pid == owner.pid and fault.sort in sorts and fault.began_s <= until_s + SLACK_S:
                yield fault

    def _within(self, owner: Owner, since_s: float, until_s: float) -> Iterator[Fault]:
        for fault in (*self._of_machine[owner.machine], *self._of_all):
            begins_before = fault.began_s <= until_s + SLACK_S
            if fault.sort in _DEAF and begins_before and fault.ended_s + RECONNECT_S >= since_s - SLACK_S:
                yield fault
