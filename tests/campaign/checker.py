"""The verdict on a campaign: what was promised against what clients were told, what ran and what was stored.

The terms are those of Jepsen's total queue, and some more: a run may be repeated only where a fault that was
done to its worker explains it, and may overlap with its successor only where nobody could end it in time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from queuectl.jobs import TERMINAL, JobState, Outcome
from tests.campaign.evidence import Evidence, Run, Stored
from tests.campaign.explain import Explainer
from tests.campaign.faults import Fault
from tests.campaign.jobs import FAILED_CODE, Line, What
from tests.campaign.load import Asked, Fate

SHOWN_MAX = 10  # violations of one promise that are spelled out
COUNTED = (
    "attempted",
    "acknowledged",
    *JobState,
    "requests answered late",
    "recovered: answered late, carried out before",
    "requests never answered",
    "recovered: never answered, carried out",
    "requests not sent",
    "outcomes told by the log",
    "runs",
    "runs given up",
    "runs the broker does not know of",
    "duplicate runs",
    "overlapping runs",
)
_REPORTED = {Outcome.COMPLETED: (What.END, 0), Outcome.EXIT: (What.FAIL, FAILED_CODE)}
_GIVEN_UP = frozenset({Outcome.LOST, Outcome.RELEASED})


@dataclass
class Verdict:
    """What was counted, and what was broken, by promise."""

    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTED, 0)))
    done: Counter[str] = field(default_factory=Counter)  # to the processes, by the campaign
    causes: Counter[str] = field(default_factory=Counter)  # faults that explain runs given up
    broken: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.broken.values())

    def table(self) -> str:
        """All of it, for people."""
        parts = {
            "what happened": self.counts,
            "what was done": self.done,
            "runs given up, by the fault that explains it": dict(self.causes.most_common()),
            "broken promises": {promise: len(texts) for promise, texts in self.broken.items()},
        }
        lines = []
        for title, rows in parts.items():
            lines += [f"--- {title}", *(f"{name:46}{count:>10}" for name, count in rows.items())]
        lines += [f"{promise}: {text}" for promise, texts in self.broken.items() for text in texts[:SHOWN_MAX]]
        return "\n".join(lines)


def judge(evidence: Evidence) -> Verdict:
    """Hold what was found against what was promised."""
    case = _Case(evidence)
    for promise, check in _PROMISES.items():
        case.verdict.broken[promise] = list(check(case))
    return case.verdict


class _Case:
    """The evidence in the order in which it is asked for."""

    def __init__(self, evidence: Evidence):
        self.evidence = evidence
        self.verdict = Verdict()
        self.explainer = Explainer(evidence.faults, evidence.lease_s)
        self.by_id = {job.id: job for job in evidence.jobs}
        self.by_name: dict[str, list[Stored]] = defaultdict(list)
        for job in evidence.jobs:
            self.by_name[job.name].append(job)
        self.lines: dict[str, list[tuple[int, Line]]] = defaultdict(list)  # with their places in the journal
        for place, line in enumerate(evidence.lines):
            self.lines[line.name].append((place, line))
        self.sent = {name for asked in evidence.asked for name in asked.names}
        self._said = {(line.what, line.name, line.lease) for line in evidence.lines}

    def has_line(self, what: What, job: Stored, run: Run) -> bool:
        return (what, job.name, run.lease) in self._said

    def starts(self, name: str) -> list[Line]:
        return [line for _, line in self.lines.get(name, ()) if line.what is What.START]

    def may_outlive(self, name: str, lease: int) -> bool:
        """Whether the run of this lease may go on beside its successor."""
        for run in (run for job in self.by_name.get(name, ()) for run in job.runs):
            if run.lease == lease:
                return run.outcome in _GIVEN_UP and self.explainer.may_outlive(run)
        return any(self.of_start(line) for line in self.starts(name) if line.lease == lease)

    def of_start(self, line: Line) -> list[Fault]:
        """What explains that the broker does not know of this run."""
        return self.explainer.of_start(self.evidence.owners[line.boot], self.evidence.booted_s + line.at_s)


# --- what clients were told --------------------------------------------------------------------------------------


def _lost(case: _Case) -> Iterator[str]:
    counts = case.verdict.counts
    for asked in case.evidence.asked:
        counts["attempted"] += len(asked.names)
        if asked.fate is Fate.ACKNOWLEDGED:
            counts["acknowledged"] += len(asked.names)
            yield from _lost_of(case, asked)
    for job in case.evidence.jobs:
        counts[job.state] += 1
        if job.state is JobState.COMPLETED and not any(
            case.has_line(What.END, job, run) for run in job.runs if run.outcome == Outcome.COMPLETED
        ):
            yield f"{job.id} ({job.name}) is completed and has never ended"


def _lost_of(case: _Case, asked: Asked) -> Iterator[str]:
    for job_id, name in zip(asked.ids, asked.names, strict=True):
        job = case.by_id.get(job_id)
        if job is None or job.name != name:
            yield f"{job_id} ({name}) was acknowledged and is not there"
        elif job.state not in TERMINAL:
            yield f"{job_id} ({name}) was acknowledged and is {job.state}"


def _unexpected(case: _Case) -> Iterator[str]:
    for name in case.by_name.keys() - case.sent:
        yield f"{name} is stored, and nobody has sent it"
    for name in case.lines.keys() - case.by_name.keys():
        yield f"{name} has run, and it is not stored"


def _doubled(case: _Case) -> Iterator[str]:
    for name, jobs in case.by_name.items():
        if len(jobs) > 1:
            yield f"{name} is stored as {[job.id for job in jobs]}"
    counts = case.verdict.counts
    for asked in case.evidence.asked:
        if asked.differing:
            yield f"{asked.request} was answered with {asked.ids} and then with {asked.differing}"
        there = sum(name in case.by_name for name in asked.names)
        if asked.fate is Fate.UNKNOWN:
            counts["requests never answered"] += 1
            counts["recovered: never answered, carried out"] += there > 0
            if there not in (0, len(asked.names)):
                yield f"{asked.request} was carried out in part: {there} of {len(asked.names)}"
        elif asked.fate is Fate.NOT_SENT:
            counts["requests not sent"] += 1
            if there:
                yield f"{asked.request} was carried out, and its client was told that it was not sent"
        elif asked.unanswered:
            counts["requests answered late"] += 1
            counts["recovered: answered late, carried out before"] += asked.repeated


# --- what was recorded ---------------------------------------------------------------------------------------------


def _recorded_wrongly(case: _Case) -> Iterator[str]:
    case.verdict.counts["outcomes told by the log"] = len(case.evidence.told)
    recorded = {(job.id, run.attempt, run.lease, run.outcome) for job in case.evidence.jobs for run in job.runs}
    for told, times in Counter(case.evidence.told).items():
        if told not in recorded:
            yield f"the log tells of {told}, and that is not recorded"
        if times > 1:
            yield f"the log tells {times} times of {told}"
    for job in case.evidence.jobs:
        for text in _wrong_in(case, job):
            yield f"{job.id} ({job.name}): {text}"


def _wrong_in(case: _Case, job: Stored) -> Iterator[str]:
    outcomes = Counter(run.outcome for run in job.runs)
    completed = [run for run in job.runs if run.outcome == Outcome.COMPLETED]
    if len(completed) > 1 or (completed and completed != job.runs[-1:]):
        yield f"completed, and not as its last attempt: {[run.outcome for run in job.runs]}"
    if (job.state is JobState.COMPLETED) != bool(completed):
        yield f"{job.state}, with {dict(outcomes)}"
    if job.runs and job.runs[-1].attempt != job.attempt:
        yield f"{job.attempt} attempts were started, the last one recorded is {job.runs[-1].attempt}"
    if outcomes[Outcome.EXIT] != job.attempts:
        yield f"{job.attempts} failures are counted, there were {outcomes[Outcome.EXIT]}"
    if job.state is JobState.DEAD:
        yield from _wrong_end(job, outcomes)
    for run in job.runs:
        yield from _wrong_run(case, job, run)


def _wrong_end(job: Stored, outcomes: Counter[str]) -> Iterator[str]:
    reasons = {
        "exit": job.attempts >= job.max_retries and job.runs[-1].outcome == Outcome.EXIT,
        "lost": job.kind == "once" and job.runs[-1].outcome == Outcome.LOST,
        "poison": outcomes[Outcome.LOST] == job.losses > 1,
    }
    if not reasons.get(job.reason or "", False):
        yield f"dead for no reason: {job.reason}, {dict(outcomes)}, {job.losses} losses"


def _wrong_run(case: _Case, job: Stored, run: Run) -> Iterator[str]:
    if run.outcome in _GIVEN_UP:
        return
    what, code = _REPORTED.get(Outcome(run.outcome), (None, None))
    if what is None or run.exit_code != code:
        yield f"attempt {run.attempt} ended with {run.outcome} {run.exit_code}"
    elif not case.has_line(what, job, run):
        yield f"attempt {run.attempt} is recorded as {run.outcome}, and it did not do that"


# --- what ran ------------------------------------------------------------------------------------------------------


def _unexplained(case: _Case) -> Iterator[str]:
    """Every run that was given up, or that the broker does not know of, needs a fault; no lease is run twice."""
    counts, causes = case.verdict.counts, case.verdict.causes
    for job in case.evidence.jobs:
        starts = case.starts(job.name)
        counts["runs"] += len(starts)
        reported = {run.lease for run in job.runs if run.outcome not in _GIVEN_UP}
        given_up = [run for run in job.runs if run.outcome in _GIVEN_UP]
        recorded = {run.lease for run in job.runs}
        counts["runs given up"] += len(given_up)
        counts["duplicate runs"] += max(0, sum(line.lease not in reported for line in starts) + bool(reported) - 1)
        yield from _run_twice(job, starts)
        for run in given_up:
            if faults := case.explainer.of_run(run, has_started=case.has_line(What.START, job, run)):
                causes[faults[-1].kind] += 1
            else:
                yield f"{job.id} ({job.name}), attempt {run.attempt} of {run.owner}: {run.outcome}, {run.note}"
        for line in starts:
            if line.lease not in recorded:
                counts["runs the broker does not know of"] += 1
                if not case.of_start(line):
                    yield f"{job.id} ({job.name}) ran as attempt {line.attempt}, {line.lease:x}, and nobody knows"


def _run_twice(job: Stored, starts: list[Line]) -> Iterator[str]:
    for (attempt, lease), times in Counter((line.attempt, line.lease) for line in starts).items():
        if times > 1:
            yield f"{job.id} ({job.name}), attempt {attempt}, lease {lease:x}: started {times} times"


def _overlapping(case: _Case) -> Iterator[str]:
    """An attempt that wrote a line after a later one had started was alive beside it."""
    for name, lines in case.lines.items():
        spans: dict[int, tuple[int, int]] = {}
        for place, line in lines:
            spans[line.lease] = (spans.get(line.lease, (place, 0))[0], place)
        leases = sorted(spans, key=lambda lease: spans[lease])
        for first, second in pairwise(leases):
            if spans[first][1] > spans[second][0]:
                case.verdict.counts["overlapping runs"] += 1
                if not (case.may_outlive(name, first) or case.may_outlive(name, second)):
                    yield f"{name}: leases {first:x} and {second:x}"


def _repeated_though_forbidden(case: _Case) -> Iterator[str]:
    for job in case.evidence.jobs:
        if job.kind == "once" and len(starts := case.starts(job.name)) > 1:
            yield f"{job.id} ({job.name}) started as attempts {[line.attempt for line in starts]}"


_PROMISES: dict[str, Callable[[_Case], Iterator[str]]] = {
    "lost": _lost,
    "unexpected": _unexpected,
    "doubled": _doubled,
    "recorded wrongly": _recorded_wrongly,
    "repeated without a cause": _unexplained,
    "overlapping without a cause": _overlapping,
    "repeated though on_lost is dead": _repeated_though_forbidden,
    "orphans": lambda case: iter(case.evidence.orphans),
    "damaged": lambda case: iter(case.evidence.damage),
}
