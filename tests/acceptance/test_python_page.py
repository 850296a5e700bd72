"""The examples of docs/python.md: one program, run against a real broker and worker, that prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness_cli import CommandLine

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
MARK = "--- end of example ---"


def test_page_is_a_program_that_prints_what_it_says(q: CommandLine) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    parts = re.findall(r"^```(python|text)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    examples: list[list[str]] = []
    for language, text in parts:
        if language == "python":
            examples.append([text, ""])
        else:
            examples[-1][1] = text
    assert len(examples) > 10
    assert max(len(line) for code, _ in examples for line in code.splitlines()) <= 120
    q.ok("broker", "start", "--detach")
    q.ok("worker", "start", "--detach", "--count", "2")

    program = "\n".join(f"{code}\nprint({MARK!r})" for code, _ in examples)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=q.environment(PYTHONPATH=str(ROOT)),
        cwd=q.cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    printed = ran.stdout.split(f"{MARK}\n")
    assert printed == [*(text for _, text in examples), ""]
