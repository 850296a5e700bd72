"""What shells are offered: from the broker, at once or not at all, and never a word beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import completing
from queuectl.errors import NotAllowed
from tests.harness_client import ScriptedBroker, Silence, job_view, run_cli, scripted_broker

JOBS = [
    job_view(id="job:c", state="pending", queue="mail", tags={"kind": "backup", "night": ""}, held=True),
    job_view(id="b", state="completed", command="echo \x1b[31mred", tags={"kind": "report"}),
    job_view(id="a", state="failed", queue="mail"),
    job_view(id="r", state="processing"),
]


@pytest.fixture
def broker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    monkeypatch.setattr(completing, "ASKED_S", 20.0)  # how soon it is, is not what is tested
    with scripted_broker(home) as broker:
        broker.on("list", {"jobs": JOBS, "next": None})
        yield broker


def offered(line: str, shell: str = "bash") -> list[str]:
    """What is offered at the end of this line; nothing is said, whatever happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_QUEUECTL_COMPLETE", f"{shell}_complete")
        patch.setenv("COMP_LINE", line)
        patch.setenv("COMP_WORDS", line)
        patch.setenv("COMP_CWORD", "" if shell == "fish" else str(len(line.split(" ")) - 1))
        ran = run_cli()
    assert (ran.code, ran.err) == (0, "")
    return ran.out.splitlines()


def words(line: str) -> list[str]:
    return [each.removeprefix("plain,") for each in offered(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("queuectl canc", ["cancel"]),
        ("queuectl list --stat", ["--state"]),
        ("queuectl list --state p", ["pending", "processing"]),
        ("queuectl show ", ["job:c", "b", "a", "r", "last"]),
        ("queuectl show job:", ["job:c"]),
        ("queuectl logs -f ", ["job:c", "b", "a", "r", "last"]),
        ("queuectl cancel ", ["job:c", "a", "r", "last"]),
        ("queuectl cancel a ", ["job:c", "r", "last"]),
        ("queuectl hold ", ["a", "last"]),
        ("queuectl release ", ["job:c", "last"]),
        ("queuectl edit ", ["job:c", "a", "last"]),
        ("queuectl retry ", ["b", "a", "last"]),
        ("queuectl purge ", ["b", "last"]),
        ("queuectl list --queue ", ["mail", "default"]),
        ("queuectl enqueue --queue m", ["mail"]),
        ("queuectl cancel --tag ", ["kind", "night"]),
        ("queuectl cancel --tag kind=", ["kind=backup", "kind=report"]),
        ("queuectl list --where exit", ["exit_code"]),
        ("queuectl config set max-r", ["max-retries", "max-requests-per-second"]),
        ("queuectl completion ", ["bash", "zsh", "fish"]),
        ("queuectl run -- ls /tm", ["file,/tm"]),
        ('queuectl list "not closed', []),
        ("queuectl list --limit x ", []),
    ],
)
def test_offers(broker: ScriptedBroker, line: str, expected: list[str]) -> None:
    assert words(line) == expected


def test_dead_jobs_for_the_dead_letter_queue(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view(id="d", state="dead")], "next": None})

    assert words("queuectl dlq retry ") == ["d", "last"]
    assert broker.only("list").args == {"state": "dead", "limit": completing.JOBS_READ}


def test_workers_and_keys(broker: ScriptedBroker) -> None:
    worker = {"id": "host-1", "state": "active", "busy": 1, "slots": 2}
    broker.on("status", {"broker": {}, "workers": [worker], "jobs": {}})
    broker.on("key_list", {"keys": [{"name": "builder", "role": "worker"}]})

    assert words("queuectl worker stop h") == ["host-1"]
    assert words("queuectl auth revoke ") == ["builder"]


def test_contexts(broker: ScriptedBroker, home: Path) -> None:
    (home / "contexts").mkdir()
    (home / "contexts" / "office.toml").write_text("")

    assert words("queuectl context use ") == ["office", "local"]
    assert words("queuectl list --context o") == ["office"]


def test_at_most_fifty_are_offered(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view(id=f"j{number}") for number in range(200)], "next": 7})

    assert len(words("queuectl show ")) == 50
    assert len(broker.asked) == 1


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_jobs_are_shown_with_their_commands(broker: ScriptedBroker, shell: str) -> None:
    shown = "\n".join(offered("queuectl retry ", shell))

    assert "completed: echo \\x1b[31mred" in shown
    assert "\x1b" not in shown


def test_options_on_the_line_say_which_broker(broker: ScriptedBroker, home: Path, tmp_path: Path) -> None:
    assert words("queuectl show --home /nowhere ") == []
    assert words(f"queuectl show --endpoint tcp://127.0.0.1:1 --home {home} ") == []
    assert words(f"queuectl show --home {home} b") == ["b"]


@pytest.mark.parametrize("answer", [NotAllowed("no"), {"jobs": 7, "next": None}, {"what": "ever"}])
def test_broker_that_refuses_or_makes_no_sense_offers_nothing(broker: ScriptedBroker, answer: Any) -> None:
    broker.on("list", answer)

    assert words("queuectl show ") == []


def test_no_broker_offers_nothing_and_none_is_started(home: Path) -> None:
    assert words("queuectl show ") == []
    assert words("queuectl sho") == ["show"]
    assert not (home / "run").exists()


def test_slow_broker_is_given_up(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "ASKED_S", 0.05)

    def say_nothing(_: object) -> dict[str, Any]:
        raise Silence

    broker.on("list", say_nothing)
    watchdog = threading.Timer(60, lambda: broker.on("list", {"jobs": [], "next": None}))
    watchdog.start()

    assert words("queuectl show ") == []
    assert watchdog.is_alive(), "it waited for the broker"
    watchdog.cancel()


@pytest.mark.parametrize(
    ("shell", "part"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef queuectl"), ("fish", "complete --no-files")],
)
def test_script_of_each_shell(home: Path, monkeypatch: pytest.MonkeyPatch, shell: str, part: str) -> None:
    ran = run_cli("completion", shell)
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")

    assert part in ran.out
    assert run_cli("completion").out == ran.out
    assert run_cli("completion", "--json").json == {"shell": shell, "script": ran.out}


def test_unknown_shell_is_a_usage_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")

    own, named = run_cli("completion"), run_cli("completion", "csh")

    assert (own.code, own.err) == (2, "error: which shell?\nhint: name one of: bash, zsh, fish\n")
    assert (named.code, "'csh' is not one of" in named.err) == (2, True)


# --- a real shell ----------------------------------------------------------------------------------------

ASK = """
queuectl() {{ {python} -m cli "$@"; }}
eval "$(queuectl completion bash)"
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
_queuectl_completion 2>&1
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("queuectl canc", ["cancel"]),
        ("queuectl release ", ["job:c", "last"]),
        ("queuectl release job:", ["c"]),  # bash takes what comes after the colon for a word
        ("queuectl list --tag kind=b", ["backup"]),
    ],
)
def test_bash_itself(broker: ScriptedBroker, line: str, expected: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completing, "ASKED_S", 0.2)
        script = ASK.format(python=sys.executable, line=line)
        ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    told = [line for line in ran.stdout.splitlines() if "compopt: not currently executing" not in line]
    assert (told, ran.stderr) == (expected, "")
