"""Do the benchmarks still run? What they say is of no interest here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.crew import ROOT
from tests.bench.figures import FIGURES


@pytest.mark.slow
@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_every_figure_is_measured(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )

    results = json.loads((tmp_path / "build" / "bench-quick.json").read_text())

    assert list(results) == [figure.name for figure in FIGURES]
    rows = [row for entry in results.values() for row in entry["rows"]]
    assert all(row["ours"]["median"] >= 0 for row in rows)  # a share of a core may be too small for a quick look
    assert all(row["ours"]["median"] > 0 for row in rows if row["unit"].endswith(("/s", "ms")))
