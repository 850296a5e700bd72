"""Cancel, hold, release, edit, retry, purge and why, on a real broker with real workers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from queuectl import Client
from tests.harness_cli import LIMIT_S, CommandLine, is_alive, until


def test_cancel_of_a_running_job_ends_its_whole_tree_before_it_returns(q: CommandLine, tmp_path: Path) -> None:
    q.broker()
    q.worker()
    pids = tmp_path / "pids"
    job = q.enqueue(f"echo $$ >> {pids}; (setsid sh -c 'echo $$ >> {pids}; exec sleep 300') & sleep 300")
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    tree = [int(pid) for pid in pids.read_text().split()]

    ran = q.run("cancel", job, "--reason", "wrong file")

    assert (ran.code, ran.stdout) == (0, f"Job {job} cancelled.\n")
    assert [pid for pid in tree if is_alive(pid)] == []
    shown = q.show(job)
    assert (shown["state"], shown["cancelled_by"].split(":")[0], shown["cancel_reason"]) == (
        "cancelled",
        "uid",
        "wrong file",
    )
    assert [entry["outcome"] for entry in shown["history"]] == ["cancelled"]
    assert "wrong file" in q.ok("show", job)


def test_cancel_of_one_that_does_not_listen_kills_it(q: CommandLine, tmp_path: Path) -> None:
    q.broker()
    q.worker()
    ready = tmp_path / "ready"
    job = q.enqueue(f"trap '' TERM INT; touch {ready}; while :; do sleep 0.1; done")
    until(ready.exists)

    assert q.run("cancel", job, "--grace", "0.3s", "-q").stdout == f"{job}\n"
    assert q.show(job)["state"] == "cancelled"


def test_cancel_without_waiting_and_what_cannot_be_cancelled(q: CommandLine) -> None:
    q.broker()
    q.worker()
    gate = q.gate()
    job = q.enqueue(gate.wait)
    q.await_state("processing", job)

    told = q.run("cancel", job, "--no-wait")
    assert (told.code, told.stdout) == (0, f"Job {job} was told to end.\n")
    q.await_state("cancelled", job)
    again = q.run("cancel", job)
    several = q.run("cancel", job, "nosuch", "--json")

    assert (again.code, again.stdout) == (4, "")
    assert f"error: job '{job}' is cancelled: it cannot be cancelled" in again.stderr
    assert several.code == 4
    assert [each["code"] for each in json.loads(several.stdout)["skipped"]] == ["wrong_state", "unknown_job"]
    assert json.loads(several.stdout)["error"]["code"] == "wrong_state"


def test_selection_asks_and_tries_before_it_changes(q: CommandLine) -> None:
    q.broker()
    mail = q.enqueue_all([{"command": "true", "queue": "mail", "tags": {"run": "7"}}] * 3)
    other = q.enqueue("true")

    refused = q.run("cancel", "--queue", "mail")
    tried = q.run("cancel", "--queue", "mail", "-n")
    assert (refused.code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert (tried.stdout.split(), tried.stderr) == (mail[::-1], "3 jobs would be cancelled.\n")
    assert q.json("cancel", "--tag", "run=7", "--dry-run")["ids"] == mail[::-1]
    assert q.counts() == {"pending": 4}

    assert q.ok("cancel", "--tag", "run=7", "--limit", "1", "--yes") == "1 job cancelled.\n"
    assert q.ok("cancel", "--queue", "mail", "--yes", "-q").split() == mail[1::-1]
    assert q.show(other)["state"] == "pending"
    assert q.run("cancel", "--queue", "mail", "--yes").stdout == "0 jobs cancelled.\n"


@pytest.mark.parametrize(
    "args",
    [
        ["cancel"],
        ["cancel", "a1", "--queue", "mail"],
        ["cancel", "--all", "--where", "nonsense"],
        ["cancel", "--all", "--since", "yesterday"],
        ["cancel", "a1", "--signal", "NONSENSE"],
        ["cancel", "a1", "--reason", "x" * 300],
        ["edit", "a1"],
        ["retry", "a1", "--delay", "soon"],
        ["purge", "--state", "gone"],
    ],
    ids=" ".join,
)
def test_nonsense_is_refused_with_a_hint(q: CommandLine, args: list[str]) -> None:
    ran = q.run(*args, "--no-autostart")

    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")


def test_life_of_a_job_that_is_held_edited_released_and_retried(q: CommandLine) -> None:
    q.broker()
    q.worker()
    job = q.enqueue("echo before", hold=True)
    assert f"release it: queuectl release {job}" in q.ok("why", job)
    assert q.ok("edit", "last", "--command", "echo after", "--priority", "3") == f"Job {job} changed.\n"
    for option in ("--queue", "--to-queue"):
        q.ok("edit", job, option, f"night{option}")
        assert q.show(job)["queue"] == f"night{option}"
    assert q.run("edit", job, "--queue", "").code == 2
    q.ok("edit", job, "--queue", "default")
    assert q.ok("release", job) == f"Job {job} released.\n"
    q.await_state("completed", job)
    assert q.ok("logs", job) == "after\n"

    ran = q.ok("retry", job)
    copy = ran.split()[-1].rstrip(".")
    assert ran == f"Job {job} runs again as {copy}.\n"
    q.await_state("completed", copy)
    assert q.show(copy)["retry_of"] == job
    assert q.json("why", copy)["reasons"][0]["code"] == "completed"
    assert q.ok("why", copy, "-q") == "completed\n"

    assert q.ok("purge", job) == f"Job {job} purged.\n"
    assert q.run("show", job).code == 3
    assert [each["action"] for each in q.json("show", copy)["events"]] == []


def test_hold_and_release_by_selection(q: CommandLine) -> None:
    q.broker()
    jobs = q.enqueue_all([{"command": "true"}] * 2)

    assert q.ok("hold", "--all", "--reason", "not now", "--yes") == "2 jobs held.\n"
    q.worker()
    assert [q.show(job)["reason"] for job in jobs] == ["held", "held"]
    assert q.ok("release", "--since", "1h", "--yes") == "2 jobs released.\n"
    q.await_state("completed", *jobs)


def test_last_of_nothing_is_no_job(q: CommandLine) -> None:
    q.broker()

    ran = q.run("cancel", "last")

    assert (ran.code, ran.stderr.splitlines()[0]) == (3, "error: there is no last job: there are none")


def test_cancels_that_race_completions_leave_each_job_one_end_and_no_process(q: CommandLine, tmp_path: Path) -> None:
    q.broker()
    q.worker(20)
    pids = tmp_path / "pids"
    commands = [f"echo $$ >> {pids}; sleep 0.0{number % 7}; (sleep 0.01 &)" for number in range(500)]
    jobs = q.enqueue_all([{"command": command} for command in commands])
    client = q.client
    cancelled, stopped, late = set(), set(), set()

    for job in jobs:
        changed = client.cancel([job], grace=5)
        cancelled |= set(changed.ids)
        stopped |= set(changed.stopping)
        late |= {each.id for each in changed.skipped}

    assert len(cancelled) + len(stopped) + len(late) == len(jobs)
    client.wait(jobs, timeout=LIMIT_S)
    ends = {job["id"]: job["state"] for job in client.list()}
    assert {ends[job] for job in cancelled} <= {"cancelled"}
    assert {ends[job] for job in stopped} <= {"cancelled", "completed"}
    assert {ends[job] for job in late} <= {"completed"}
    assert {len(client.history(job)) for job in cancelled} <= {0}
    assert {len(client.history(job)) for job in stopped | late} <= {1}
    until(lambda: not [pid for pid in pids.read_text().split() if is_alive(int(pid))])


def test_of_racing_clients_one_stores_the_job(q: CommandLine) -> None:
    q.broker()

    def enqueue(_: int) -> str:
        with Client(home=q.home) as client:
            return client.enqueue("true", unique="nightly")

    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(enqueue, range(50)))

    assert len(ids) == 1
    assert q.counts() == {"pending": 1}
