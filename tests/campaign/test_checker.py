"""The checker of the campaign can fail: histories in which each promise is broken, and in which faults explain it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from queuectl.jobs import JobState
from tests.campaign.checker import Verdict, judge
from tests.campaign.evidence import Evidence, Owner, Run, Stored, Told
from tests.campaign.faults import SORTS, Fault
from tests.campaign.jobs import Line, What
from tests.campaign.load import Asked, Fate

HERE, THERE = Owner("m0", 100), Owner("m1", 200)
BOOTS = {"here": HERE, "there": THERE}
LEASE_S = 1.0


@dataclass
class History:
    """One job called `x` that was acknowledged as `a1`, and what happened to it."""

    runs: list[Run] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=lambda: [Asked("request-1", ["x"], Fate.ACKNOWLEDGED, ["a1"])])
    job: Stored = field(default_factory=lambda: Stored("a1", "x", "quick", JobState.COMPLETED, None, 0, 0, 0, 3))
    more_jobs: list[Stored] = field(default_factory=list)
    is_stored: bool = True
    told: list[Told] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    def start(self, lease: int, at_s: float, *, boot: str = "here") -> None:
        self.lines.append(Line(What.START, "x", len(self.runs) + 1, lease, boot, at_s))

    def say(self, what: What, lease: int, at_s: float, *, boot: str = "here") -> None:
        self.lines.append(Line(what, "x", len(self.runs) + 1, lease, boot, at_s))

    def record(self, lease: int, at_s: float, outcome: str, note: str = "", owner: Owner = HERE) -> None:
        code = {"completed": 0, "exit": 3}.get(outcome)
        self.runs.append(Run(len(self.runs) + 1, lease, owner, at_s, outcome, note, code))
        self.job.attempt = len(self.runs)
        self.job.losses += outcome == "lost"
        self.job.attempts += outcome == "exit"

    def complete(self, lease: int, at_s: float, *, boot: str = "there") -> None:
        """A whole run that went well."""
        self.start(lease, at_s, boot=boot)
        self.say(What.END, lease, at_s + 0.1, boot=boot)
        self.record(lease, at_s + 0.2, "completed", owner=BOOTS[boot])

    def lose(self, lease: int, at_s: float, note: str) -> None:
        """A run that began, said nothing more, and was given up a second later."""
        self.start(lease, at_s)
        self.record(lease, at_s + 1, "lost", note)

    def break_(self, kind: str, began_s: float, ended_s: float, owner: Owner = HERE) -> None:
        self.faults.append(Fault(kind, owner.machine, owner.pid, began_s, ended_s))

    def judge(self) -> Verdict:
        self.job.runs = self.runs
        jobs = [*([self.job] if self.is_stored else []), *self.more_jobs]
        return judge(
            Evidence(
                self.asked,
                self.lines,
                jobs,
                BOOTS,
                self.faults,
                LEASE_S,
                told=self.told,
                orphans=self.orphans,
                damage=self.damage,
            )
        )

    def broken(self) -> set[str]:
        """The promises that this history breaks."""
        return {promise for promise, texts in self.judge().broken.items() if texts}


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def good(history: History) -> History:
    history.complete(1, 10)
    return history


def test_a_job_that_was_sent_ran_and_completed_is_all_right(good: History) -> None:
    verdict = good.judge()

    assert verdict.is_good, verdict.table()
    assert (verdict.counts["acknowledged"], verdict.counts["completed"], verdict.counts["runs"]) == (1, 1, 1)
    assert verdict.counts["duplicate runs"] == 0


# --- what clients were told --------------------------------------------------------------------------------


def test_an_acknowledged_job_that_is_not_there_is_lost(history: History) -> None:
    history.is_stored = False

    assert history.broken() == {"lost"}


def test_an_acknowledged_id_that_names_another_job_is_lost(good: History) -> None:
    good.asked.append(Asked("request-2", ["y"], Fate.ACKNOWLEDGED, ["a1"]))

    assert good.broken() == {"lost"}


def test_an_acknowledged_job_that_does_not_end_is_lost(history: History) -> None:
    history.job.state = JobState.PENDING

    assert history.broken() == {"lost"}


def test_a_completed_job_that_never_ended_is_lost(history: History) -> None:
    history.start(1, 10, boot="there")
    history.record(1, 11, "completed", owner=THERE)

    assert history.broken() == {"lost", "recorded wrongly"}


def test_a_job_that_nobody_sent_is_unexpected(good: History) -> None:
    good.asked[:] = []

    assert good.broken() == {"unexpected"}


def test_a_run_of_what_is_not_stored_is_unexpected(good: History) -> None:
    good.lines.append(Line(What.START, "y", 1, 9, "here", 12.0))

    assert good.broken() == {"unexpected"}


def test_a_request_that_made_two_jobs_is_doubled(good: History) -> None:
    good.more_jobs.append(replace(good.job, id="a2", runs=good.runs))

    assert "doubled" in good.broken()


def test_a_request_that_was_answered_in_two_ways_is_doubled(good: History) -> None:
    good.asked[0].differing = ["a2"]

    assert good.broken() == {"doubled"}


def test_an_unanswered_request_is_carried_out_whole_or_not_at_all(good: History) -> None:
    good.asked[:] = [Asked("request-1", ["x"]), Asked("request-2", ["y", "z"])]
    verdict = good.judge()
    assert verdict.is_good, verdict.table()
    assert verdict.counts["recovered: never answered, carried out"] == 1

    good.asked[:] = [Asked("request-1", ["x", "y"])]
    assert good.broken() == {"doubled"}


def test_what_a_client_was_told_was_not_sent_is_not_there(good: History) -> None:
    good.asked.append(Asked("request-2", ["y"], Fate.NOT_SENT))
    assert good.broken() == set()

    good.asked[0].fate = Fate.NOT_SENT
    assert good.broken() == {"doubled"}


# --- what was recorded -------------------------------------------------------------------------------------


def test_two_recorded_ends_of_a_job_are_wrong(good: History) -> None:
    good.complete(2, 20)

    assert good.broken() == {"recorded wrongly"}


def test_an_outcome_that_the_job_did_not_have_is_wrong(history: History) -> None:
    history.start(1, 10)
    history.say(What.END, 1, 11)
    history.record(1, 12, "exit")
    history.complete(2, 20)

    assert history.broken() == {"recorded wrongly"}


def test_a_failure_that_is_not_counted_is_wrong(history: History) -> None:
    history.start(1, 10)
    history.say(What.FAIL, 1, 11)
    history.record(1, 12, "exit")
    history.complete(2, 20)
    assert history.broken() == set()

    history.job.attempts = 0
    assert history.broken() == {"recorded wrongly"}


def test_what_the_log_tells_was_recorded_is_there_and_told_once(good: History) -> None:
    good.told.append(Told("a1", 1, 1, "completed"))
    assert good.broken() == set()

    good.told.append(Told("a1", 1, 1, "completed"))
    assert good.broken() == {"recorded wrongly"}

    good.told[1:] = [Told("a1", 1, 2, "exit")]
    assert good.broken() == {"recorded wrongly"}


def test_a_job_that_is_dead_for_no_reason_is_wrong(good: History) -> None:
    good.job.state, good.job.reason = JobState.DEAD, "poison"

    assert "recorded wrongly" in good.broken()


# --- what ran ------------------------------------------------------------------------------------------------

KILLED, DIED, SILENT = "its worker was killed", "its worker died", "its worker was not heard of for 1.2 s"
EXPLAINED = {
    "kill_worker": (KILLED, (10.5, 12)),
    "kill_guardian": (KILLED, (10.5, 12)),
    "kill_both": (DIED, (10.5, 12)),
    "kill_beside_frozen_guardian": (SILENT, (9, 15)),
    "pause_worker": (SILENT, (9, 12)),
    "pause_broker": (SILENT, (9, 12)),
    "cut_to_broker": (SILENT, (9, 12)),
    "stall": (SILENT, (9, 12)),
}


@pytest.mark.parametrize("kind", EXPLAINED)
def test_a_run_lost_by_a_fault_may_be_repeated(history: History, kind: str) -> None:
    note, during_s = EXPLAINED[kind]
    history.lose(1, 10, note)
    history.complete(2, 20)
    assert history.broken() == {"repeated without a cause"}

    history.break_(kind, *during_s)
    verdict = history.judge()
    assert verdict.is_good, verdict.table()
    assert (verdict.counts["duplicate runs"], verdict.causes[kind]) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "note", "during_s", "owner"),
    [
        ("kill_worker", KILLED, (10.5, 12), THERE),
        ("kill_worker", KILLED, (10.5, 12), Owner("m0", 101)),
        ("kill_worker", KILLED, (14, 15), HERE),
        ("pause_worker", KILLED, (9, 12), HERE),
        ("pause_worker", SILENT, (9, 12), THERE),
        ("pause_worker", SILENT, (1, 2), HERE),
        ("pause_worker", SILENT, (14, 15), HERE),
        ("kill_broker", SILENT, (9, 12), HERE),
        ("stop_worker", "stopped", (9, 12), HERE),
        ("kill_worker", "some other note", (10.5, 12), HERE),
    ],
    ids=["elsewhere", "another-boot", "later", "pause", "other", "before", "after", "broker", "kind-stop", "note"],
)
def test_a_fault_that_does_not_fit_explains_nothing(
    history: History, kind: str, note: str, during_s: tuple[float, float], owner: Owner
) -> None:
    history.lose(1, 10, note)
    history.complete(2, 20)
    history.break_(kind, *during_s, owner)

    assert history.broken() == {"repeated without a cause"}


def test_a_lease_that_never_arrived_may_be_lost_with_a_worker_that_left_in_peace(history: History) -> None:
    history.record(1, 11, "lost", DIED)
    history.complete(2, 20)
    assert history.broken() == {"repeated without a cause"}

    history.break_("stop_worker", 9, 12)
    assert history.broken() == set()

    history.lines.insert(0, Line(What.START, "x", 1, 1, "here", 10.0))
    assert history.broken() == {"repeated without a cause"}


def test_a_run_that_nobody_recorded_needs_a_fault(history: History) -> None:
    history.start(1, 10)
    history.complete(2, 20)
    assert history.broken() == {"repeated without a cause"}

    history.break_("kill_both", 9, 12)
    assert history.broken() == {"repeated without a cause"}

    history.break_("hold", 9, 12)
    verdict = history.judge()
    assert verdict.is_good, verdict.table()
    assert verdict.counts["runs the broker does not know of"] == 1


def test_one_lease_is_run_once_whatever_the_faults(history: History) -> None:
    history.start(2, 19, boot="there")
    history.complete(2, 20)
    history.break_("kill_worker", 1, 30, THERE)
    history.break_("pause_worker", 1, 30, THERE)

    assert history.broken() == {"repeated without a cause"}


@pytest.mark.parametrize(
    ("kind", "note", "is_allowed"),
    [
        ("pause_machine", SILENT, True),
        ("hold", SILENT, True),
        ("kill_all_three", SILENT, True),
        ("kill_all_three", DIED, False),
        ("kill_both", DIED, False),
        ("kill_worker", SILENT, False),
        ("kill_worker", KILLED, False),
    ],
)
def test_attempts_overlap_only_where_nobody_could_end_the_first(
    history: History, kind: str, note: str, is_allowed: bool
) -> None:
    history.lose(1, 10, note)
    history.break_(kind, 9, 30)
    history.complete(2, 20)
    history.say(What.TICK, 1, 21)

    verdict = history.judge()
    assert verdict.counts["overlapping runs"] == 1
    assert verdict.is_good is is_allowed
    assert history.broken() == (set() if is_allowed else {"overlapping without a cause"})


def test_a_job_that_must_not_be_repeated_is_not_whatever_the_faults(history: History) -> None:
    history.job.kind = "once"
    history.lose(1, 10, DIED)
    history.break_("kill_both", 9, 30)
    history.complete(2, 20)

    assert history.broken() == {"repeated though on_lost is dead"}


def test_what_was_found_beside_the_histories_counts(good: History) -> None:
    good.orphans.append("pid 1")
    assert good.broken() == {"orphans"}

    good.damage.append("the tally")
    assert good.broken() == {"orphans", "damaged"}


def test_the_table_names_what_is_broken(history: History) -> None:
    history.is_stored = False

    table = history.judge().table()
    assert "lost: a1 (x) was acknowledged and is not there" in table
    assert "doubled                                                0" in table


def test_every_kind_of_fault_that_a_nemesis_knows_is_of_some_sort() -> None:
    from tests.campaign.nemesis import BROKER_KINDS, MACHINE_KINDS

    assert {*BROKER_KINDS, *MACHINE_KINDS, "stall"} == SORTS.keys()
