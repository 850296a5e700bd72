"""Dead letters by the dozen: by cause, by selection, at a pace, changed before they run, out of one queue and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.harness_cli import CommandLine

DEAD = {"max_retries": 1}


@pytest.fixture
def dead(q: CommandLine) -> CommandLine:
    q.broker()
    q.worker(2)
    return q


def bury(q: CommandLine, *commands: str, **fields: object) -> list[str]:
    """Jobs that are dead."""
    ids = q.enqueue_all([{"command": command, **DEAD, **fields} for command in commands])
    q.await_state("dead", *ids)
    return ids


def editor(folder: Path, text: str) -> dict[str, str | None]:
    """The environment of somebody whose editor leaves this text."""
    script = folder / "editor.py"
    script.write_text(f"import os, sys; path = sys.argv[1]; open(path, 'w').write({text!r}); os.utime(path, (1, 1))")
    return {"EDITOR": f"{sys.executable} {script}"}


def test_what_has_died_of_the_same_is_one_group(dead: CommandLine) -> None:
    full = bury(dead, *[f"echo 'cannot write block {number}: disk full' >&2; exit 28" for number in (1, 2, 30)])
    missing = bury(dead, "nosuchcommand --file a", "false")

    groups = dead.json("dlq", "list", "--by-cause")

    assert {(group["jobs"], group["ending"]) for group in groups} == {(3, "exit 28"), (1, "exit 1"), (1, "exit 127")}
    assert groups[0]["last_line"] == "cannot write block #: disk full"
    assert groups[0]["sample"] == full[::-1]
    assert "disk full" in dead.ok("dlq", "list", "--by-cause").splitlines()[1]

    group = groups[0]["group"]
    assert dead.ok("dlq", "retry", "--group", group, "-n").split() == full[::-1]
    assert dead.run("dlq", "retry", "--group", group).code == 2
    assert dead.ok("dlq", "retry", "--group", group, "--yes") == "3 jobs moved back to the queue.\n"
    dead.await_count("dead", 5)
    assert dead.ok("dlq", "purge", "--group", group, "--yes", "-q").split() == full[::-1]
    assert [job["id"] for job in dead.json("dlq", "list")] == missing[::-1]
    assert dead.run("dlq", "retry", "--group", "12345678").code == 3


def test_selection_goes_back_at_a_pace(dead: CommandLine) -> None:
    mail = bury(dead, "false", "false", "false", queue="mail", tags={"run": "7"})
    bury(dead, "false")

    ran = dead.run("dlq", "retry", "--tag", "run=7", "--rate", "1/h", "--delay", "1m", "--yes")

    assert (ran.code, ran.stdout) == (0, "3 jobs moved back to the queue.\n")
    assert "The last of them starts in 7260 s." in ran.stderr
    due = sorted((dead.show(job)["run_at"], job) for job in mail)
    assert [job for _, job in due] == mail[::-1]
    assert {dead.show(job)["reason"] for job in mail} == {"delayed"}


def test_dead_job_is_changed_in_the_editor_before_it_runs(dead: CommandLine, tmp_path: Path) -> None:
    [job] = bury(dead, "false")
    changed = {"command": "echo mended", "queue": "default", "priority": 4, "max_retries": 1, "timeout": 60}

    ran = dead.run("dlq", "retry", job, "--edit", env=editor(tmp_path, json.dumps(changed)))

    assert ran.code == 0, ran
    assert ran.stdout == f"Job {job} moved back to queue as 'pending', with another command, priority, timeout.\n"
    dead.await_state("completed", job)
    shown = dead.show(job)
    assert [entry["outcome"] for entry in shown["history"]] == ["exit", "completed"]
    assert (shown["command"], shown["priority"], shown["timeout"]) == ("echo mended", 4, 60)
    assert {event["action"] for event in shown["events"]} == {"retried", "edited", "released"}


def test_edit_that_makes_no_sense_leaves_the_job_dead(dead: CommandLine, tmp_path: Path) -> None:
    [job] = bury(dead, "false")

    for text, message in (
        ("{", "JSON"),
        ('{"state": "x"}', "no 'state'"),
        ('{"timeout": -1}', "timeout"),
        ('{"queue": null}', "queue cannot be null"),
        ('{"priority": 1.5}', "priority"),
    ):
        ran = dead.run("dlq", "retry", job, "--edit", env=editor(tmp_path, text))
        assert (ran.code, ran.stdout) == (2, ""), ran
        assert message in ran.stderr
    assert dead.run("dlq", "retry", job, "--edit", env={"EDITOR": "true"}).code == 1
    for args in (["--all"], [job, "-n"], [job, "--delay", "1h"], [job, "--rate", "1/s"]):
        assert dead.run("dlq", "retry", *args, "--edit", env=editor(tmp_path, '{"priority": 1}')).code == 2
    assert dead.show(job)["state"] == "dead"


def test_job_that_cannot_be_changed_as_wished_is_held_and_says_so(dead: CommandLine, tmp_path: Path) -> None:
    [job] = bury(dead, "false")
    dead.ok("config", "set", "max-queue-backlog", "1")
    dead.ok("enqueue", "--queue", "full", "--hold", "--", "true")

    ran = dead.run("dlq", "retry", job, "--edit", env=editor(tmp_path, '{"queue": "full"}'))

    assert (ran.code, ran.stdout) == (75, ""), ran
    assert f"Job {job} is held, and goes on with: queuectl release {job}\n" in ran.stderr
    assert dead.show(job)["reason"] == "held"


def test_what_is_not_dead_is_not_retried_from_the_dead_letter_queue(dead: CommandLine) -> None:
    [job] = bury(dead, "false")
    done = dead.ok("enqueue", "-q", "--", "true").strip()
    dead.await_state("completed", done)

    for how in (["-n"], ["--delay", "1h"]):
        ran = dead.run("dlq", "retry", done, job, "nobody", *how)
        assert ran.code == 4, ran
        assert f"job '{done}' is completed, not dead" in ran.stderr
        assert "there is no job 'nobody'" in ran.stderr
    assert dead.show(job)["reason"] == "delayed"
    ran = dead.run("dlq", "retry", done, "-n")
    assert (ran.code, ran.stdout) == (4, "")
    assert dead.run("cancel", done, "-n").code == 4
    assert "retry_of" not in dead.ok("list", "--json").replace('"retry_of": null', "")


def test_where_there_is_no_room_for_all_each_that_stays_dead_is_told(dead: CommandLine) -> None:
    first, second, third = bury(dead, "false", "false", "false", queue="mail")
    dead.ok("enqueue", "--hold", "--", "true")
    dead.ok("config", "set", "max_backlog", "2")

    assert json.loads(dead.run("dlq", "retry", first, second, "-n", "--json").stdout)["ids"] == [first]
    ran = dead.run("dlq", "retry", "--delay", "1h", first, second, "-n")
    assert (ran.code, ran.stdout) == (75, f"{first}\n")
    assert "max_backlog" in ran.stderr

    dead.ok("dlq", "retry", "--delay", "1h", first)
    ran = dead.run("dlq", "retry", second, third, "--json")
    told = json.loads(ran.stdout)
    assert (ran.code, told["ids"], [each["id"] for each in told["errors"]]) == (75, [], [second, third])

    dead.ok("config", "set", "max_queue_backlog", "2")
    dead.ok("config", "set", "max_backlog", "9")
    ran = dead.run("dlq", "retry", "--all")
    assert (ran.code, ran.stdout) == (75, f"Job {third} moved back to queue as 'pending'.\n")
    words = f"there is no room for job '{second}': at most 2 jobs may wait or run in queue 'mail' (max_queue_backlog)"
    assert ran.stderr == f"error: {words}\n"


def test_dead_jobs_go_out_and_come_in_elsewhere(dead: CommandLine, tmp_path: Path) -> None:
    ids = bury(dead, "cat; false", env={"SECRET": "s3"}, tags={"a": "b"}, stdin="hello", queue="mail")
    bury(dead, "false")
    out = tmp_path / "dead.jsonl"

    ran = dead.run("dlq", "export", str(out), "--queue", "mail")

    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "1 dead job exported.\n")
    assert out.stat().st_mode & 0o777 == 0o600
    [line] = out.read_text().splitlines()
    exported = json.loads(line)
    assert (exported["env"], exported["stdin"], exported["retry_of"]) == ({"SECRET": "s3"}, "hello", ids[0])
    assert len(dead.ok("dlq", "export").splitlines()) == 2
    ran = dead.run("dlq", "export", str(out))
    assert (ran.code, ran.stderr.splitlines()[0]) == (2, f"error: {out} is there already")

    [new] = dead.ok("dlq", "import", str(out), "--hold", "-q").split()
    assert (dead.show(new)["retry_of"], dead.show(new)["held"]) == (ids[0], True)
    dead.ok("edit", new, "--command", "echo mended")
    dead.ok("release", new)
    dead.await_state("completed", new)
    again = dead.run("dlq", "import", str(out), "--hold", "-q")
    assert again.stdout.split() == [new], again


@pytest.mark.parametrize(
    "args",
    [
        ["retry"],
        ["retry", "a1", "--all"],
        ["retry", "--group", "x", "--queue", "mail"],
        ["retry", "--all", "--rate", "fast"],
        ["retry", "--all", "--rate", "0/s"],
        ["purge", "--queue", "mail"],
    ],
    ids=" ".join,
)
def test_nonsense_is_refused(dead: CommandLine, args: list[str]) -> None:
    ran = dead.run("dlq", *args)

    assert (ran.code, ran.stdout) == (2, ""), ran
