"""Every command explains itself, and starting one costs nothing that it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS
from cli.reference import commands, reference
from tests.harness_client import run_cli

ROOT = Path(__file__).resolve().parents[2]
PATHS = [context.command_path.split()[1:] for context, _ in commands()]
GROUPS = [["dlq"], ["worker"], ["broker"], ["auth"], ["context"], ["config"]]
SLOW = ("asyncio", "prometheus_client", "rich", "sqlite3", "structlog", "logging")


def test_every_command_of_the_contract_is_there() -> None:
    names = {" ".join(path) for path in PATHS}

    assert names == {
        *("enqueue", "status", "list", "show", "logs", "events", "top", "doctor", "completion", "dev"),
        *("cancel", "hold", "release", "edit", "retry", "purge", "why", "run", "wait"),
        *("dlq list", "dlq show", "dlq retry", "dlq purge", "dlq export", "dlq import"),
        *("config show", "config get", "config set", "config unset"),
        *("broker start", "broker stop", "broker status"),
        *("worker start", "worker stop", "worker list"),
        *("auth add", "auth list", "auth show", "auth revoke", "auth rotate", "auth refresh", "auth whoami"),
        *("context add", "context use", "context list", "context rm"),
    }


@pytest.mark.parametrize("path", [*PATHS, *GROUPS], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_an_example_and_fits(path: list[str], flag: str) -> None:
    ran = run_cli(*path, flag)

    assert ran.code == 0
    assert "Example" in ran.out
    assert f"  queuectl {' '.join(path)}" in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_takes_the_shared_options(path: list[str]) -> None:
    help_text = run_cli(*path, "--help").out

    for option in ("--json", "-q, --quiet", "--endpoint", "--credentials", "--context"):
        assert option in help_text
    for option in ("--home", "--no-autostart", "--debug"):
        assert option in help_text


def test_bare_call_shows_the_help() -> None:
    ran = run_cli()

    assert ran.code == 0
    assert all(f"\n  {name} " in ran.out for name in COMMANDS)


def test_bare_group_shows_its_help_and_fails() -> None:
    ran = run_cli("dlq")

    assert (ran.code, ran.out) == (2, "")
    assert "retry" in ran.err


def test_version() -> None:
    assert run_cli("--version").out == "queuectl 0.6.0\n"


def test_reference_is_current() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

    assert page == reference(), "run: python -m cli.reference > docs/commands.md"


def test_the_list_of_commands_loads_none_of_them() -> None:
    program = "import sys; from cli.main import main; main(['--help'])\n"
    program += "print([name for name in sys.modules if name.startswith('cli.')], file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert json.loads(done.stderr.replace("'", '"')) == ["cli.options", "cli.main"]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_no_command_loads_anything_slow_to_start(path: list[str]) -> None:
    module, _, _ = COMMANDS[path[0]][0].partition(":")
    program = f"import json, sys, {module}, queuectl.client, cli.autostart, cli.daemon, cli.stopping\n"
    program += f"print(json.dumps([name for name in {SLOW} if name in sys.modules]))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == []
