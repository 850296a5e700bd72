"""Seeds run to their end, and what they come to: one seed's outcome, the sum of many, and its tables."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from queuectl.jobs import JobState
from tests.simulation.cluster import Cluster

STATES = [state.value for state in JobState]
CELL_MIN = 100
_MEMORY = Path("/dev/shm")
LINES_SHOWN = 60
CELLS_SHOWN = 20


@dataclass
class Outcome:
    """How a seed ended. `numbers`: turns, jobs, attempts …; `trace`: the last events, where somebody asked."""

    seed: int
    digest: str
    violation: str | None
    simulated_ms: int
    numbers: Counter[str]
    faults: Counter[str]
    cells: Counter[tuple[str, str]]
    overlaps: Counter[str]
    told: Counter[str]  # events of the feed about jobs
    trace: list[str] = field(default_factory=list)


def memory() -> str | None:
    """Where files of a simulation go: where they cost no disk, if there is such a place."""
    return str(_MEMORY) if _MEMORY.is_dir() else None


def run_seed(seed: int, *, is_readable: bool = False, place: str | None = None) -> Outcome:
    """Run one seed to its end. Whatever it raises is its violation: no fault may end in an error of ours.

    `place`: where its files go meanwhile; None: in memory.
    """
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=place or memory()))
    cluster = Cluster(seed, folder, is_readable=is_readable)
    violation = None
    try:
        cluster.run()
    except AssertionError as error:
        violation = str(error) or traceback.format_exc()
    except Exception:  # noqa: BLE001  it is the seed's result
        violation = traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        seed=seed,
        digest=cluster.tape.digest(),
        violation=violation,
        simulated_ms=cluster.timeline.now_ms,
        numbers=Counter(
            turns=cluster.broker.turns,
            broker_starts=cluster.broker.starts,
            jobs=len(cluster.checks.rows) + len(cluster.checks.wishes.deleted),
            commands_started=len(cluster.processes.by_lease),
            requests=len(cluster.asked),
            events=cluster.timeline.events,
        ),
        faults=cluster.faults.counts,
        cells=cluster.faults.cells,
        overlaps=cluster.overlaps,
        told=cluster.checks.diary.told,
        trace=list(cluster.tape.lines or ()),
    )


@dataclass
class Sum:
    """What many seeds came to."""

    seeds: int = 0
    simulated_ms: int = 0
    numbers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    cells: Counter[tuple[str, str]] = field(default_factory=Counter)
    overlaps: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    violations: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count a seed in."""
        self.seeds += 1
        self.simulated_ms += outcome.simulated_ms
        for mine, its in (
            (self.numbers, outcome.numbers),
            (self.faults, outcome.faults),
            (self.cells, outcome.cells),
            (self.overlaps, outcome.overlaps),
            (self.told, outcome.told),
        ):
            mine.update(its)  # type: ignore[arg-type]  # keys of each pair are of one kind
        if outcome.violation is not None:
            self.violations.append(outcome)

    def thin_cells(self) -> list[str]:
        """Cells that were met too seldom to mean anything."""
        return [
            f"{kind}/{state}: {self.cells[kind, state]}"
            for kind in sorted(self.faults)
            for state in STATES
            if self.cells[kind, state] < CELL_MIN
        ]

    def thin_lines(self) -> list[str]:
        """What is to be said of them. Where they are many, naming them says nothing."""
        thin = self.thin_cells()
        if not thin:
            return []
        said = f"{len(thin)} of {len(self.faults) * len(STATES)} cells were met fewer than {CELL_MIN} times"
        named = f": {'; '.join(thin)}" if len(thin) <= CELLS_SHOWN else ""
        return ["", f"{said}; that is no fault, but so few seeds prove little about those{named}"]

    def verdict(self) -> str:
        """All of it in a line."""
        broken = len(self.violations)
        return f"{broken} of {self.seeds} seeds broke a promise" if broken else "no promise was broken"

    def lines(self, seconds: float) -> list[str]:
        """The report."""
        head = {
            "seeds": self.seeds,
            "simulated hours": round(self.simulated_ms / 3_600_000, 1),
            "faults injected": sum(self.faults.values()),
            **{name.replace("_", " "): count for name, count in sorted(self.numbers.items())},
            "overlapping attempts": sum(self.overlaps.values()),
            "violations": len(self.violations),
            "seconds": round(seconds, 1),
        }
        overlaps = [
            "",
            f"{'overlaps, explained by':<30} {'count':>9}",
            *(f"{kind:<30} {count:>9,}" for kind, count in self.overlaps.most_common()),
        ]
        return [
            *(f"{name:<22} {count:>12,}" for name, count in head.items()),
            *(overlaps if self.overlaps else ()),
            "",
            f"{'what became of jobs':<30} {'count':>9}",
            *(f"{kind:<30} {count:>9,}" for kind, count in self.told.most_common()),
            "",
            "faults, and how many jobs stood in each state when they came",
            f"{'':<28} {'faults':>9} " + " ".join(f"{state:>10}" for state in STATES),
            *(self._fault_line(kind) for kind in sorted(self.faults)),
        ]

    def _fault_line(self, kind: str) -> str:
        counts = " ".join(f"{self.cells[kind, state]:>10,}" for state in STATES)
        return f"{kind:<28} {self.faults[kind]:>9,} {counts}"
