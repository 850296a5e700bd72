"""`list`, `show`, `logs`, `dlq` and `status` against a scripted broker."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.dlq import CAUSE_FIELDS
from cli.escape import width
from cli.jobs import JOB_FIELDS
from cli.render import local
from queuectl.errors import UnknownJob, WrongState
from tests.harness import BrokerHarness
from tests.harness_client import (
    ScriptedBroker,
    attempt_view,
    job_view,
    run_cli,
    scripted_broker,
    status_view,
    worker_view,
)

EVIL = "printf '\x1b[2J'\n\u202erm"
BUT_ESCAPED = "printf '\\x1b[2J'\\n\\u202erm"


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


def answer_list(broker: ScriptedBroker, count: int) -> None:
    def handler(args: dict[str, Any]) -> dict[str, Any]:
        top = args.get("cursor", count)
        ids = range(top, max(0, top - args["limit"]), -1)
        return {"jobs": [job_view(id=f"j{number}") for number in ids], "next": ids[-1] - 1 if ids[-1] > 1 else None}

    broker.on("list", handler if count else {"jobs": [], "next": None})


# --- list ------------------------------------------------------------------------------------------


def test_list_shows_a_table_of_fifty_and_says_that_there_are_more(broker: ScriptedBroker) -> None:
    answer_list(broker, 120)

    ran = run_cli("list")

    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()[:3]] == ["ID", "j120", "j119"]
    assert len(ran.out.splitlines()) == 51
    assert ran.err.startswith("The newest 50 are shown")


def test_list_says_nothing_where_all_are_shown(broker: ScriptedBroker) -> None:
    answer_list(broker, 50)

    assert run_cli("list").err == ""


def test_list_passes_its_filters_on(broker: ScriptedBroker) -> None:
    answer_list(broker, 0)

    ran = run_cli("list", "--state", "failed", "--queue", "mail", "--limit", "7")

    assert broker.only("list").args == {"state": "failed", "queue": "mail", "limit": 7}
    assert (ran.out, ran.err) == ("", "No jobs.\n")


def test_list_takes_the_selection_of_every_verb(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [], "next": None})

    run_cli(
        "list", "--tag", "customer=42", "--tag", "night", "--where", "exit_code=75", "--since", "2026-11-22T03:00:00Z"
    )
    run_cli("dlq", "list", "--where", "command~tar", "--limit", "7")

    assert broker.asked[0].args == {
        "select": {"tags": ["customer=42", "night"], "where": ["exit_code=75"], "since": 1_795_316_400_000},
        "limit": 50,
    }
    assert broker.asked[1].args == {"select": {"state": "dead", "where": ["command~tar"]}, "limit": 7}


def test_condition_that_is_none_is_told_before_a_broker_is_asked(broker: ScriptedBroker) -> None:
    ran = run_cli("list", "--where", "colour=red")

    assert ran.code == 2
    assert "colour" in ran.err
    assert broker.asked == []


def test_list_json_is_a_bare_array_of_all(broker: ScriptedBroker) -> None:
    answer_list(broker, 1200)

    assert [job["id"] for job in run_cli("list", "--json").json] == [f"j{number}" for number in range(1200, 0, -1)]
    assert len(run_cli("list", "--json", "--limit", "600").json) == 600


def test_list_json_of_nothing_is_an_empty_array(broker: ScriptedBroker) -> None:
    answer_list(broker, 0)

    assert run_cli("list", "--json").out == "[]\n"


def test_list_json_has_the_promised_keys(broker: ScriptedBroker) -> None:
    answer_list(broker, 1)
    promised = "id command state reason queue priority attempts losses max_retries backoff_base exit_code run_at"

    [job] = run_cli("list", "--json").json

    assert job.keys() >= {*promised.split(), "created_at", "updated_at", "worker"}


def test_list_json_that_fails_half_way_prints_the_error_alone(broker: ScriptedBroker) -> None:
    pages = iter([{"jobs": [job_view()], "next": 1}, UnknownJob("gone")])
    broker.on("list", lambda _: next(pages))

    ran = run_cli("list", "--json")

    assert ran.code == 3
    assert ran.json == {"error": {"code": "unknown_job", "message": "gone", "retryable": False}}


def test_list_quiet_prints_all_ids(broker: ScriptedBroker) -> None:
    answer_list(broker, 70)

    assert run_cli("list", "-q").out.splitlines() == [f"j{number}" for number in range(70, 0, -1)]


def test_unknown_state_is_a_usage_error(broker: ScriptedBroker) -> None:
    ran = run_cli("list", "--state", "dying")

    assert ran.code == 2
    assert "'processing'" in ran.err


def test_list_escapes_commands_and_fits_a_terminal(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    jobs = [job_view(command=EVIL), job_view(id="c" * 20, command="漢字" * 90, state="processing", queue="q" * 20)]
    broker.on("list", {"jobs": jobs, "next": None})

    ran = run_cli("list", tty=True, columns=80)

    assert BUT_ESCAPED in ran.out
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    assert max(width(line) for line in ran.out.splitlines()) <= 80


def test_list_off_a_terminal_keeps_commands_whole(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view(command="x" * 500)], "next": None})

    assert "x" * 500 in run_cli("list").out


# --- forms -----------------------------------------------------------------------------------------


def test_every_field_of_a_job_can_be_asked_for() -> None:
    broker = BrokerHarness()
    [job_id] = broker.enqueue("echo hello")

    [job] = [job for job in broker.ask("list")["jobs"] if job["id"] == job_id]
    broker.close()

    assert sorted(job) == sorted(JOB_FIELDS)


def test_format_json_is_what_json_is(broker: ScriptedBroker) -> None:
    answer_list(broker, 3)

    assert run_cli("list", "--format", "json").out == run_cli("list", "--json").out
    assert run_cli("list", "--json", "--format=json").out == run_cli("list", "--json").out


def test_jsonl_is_an_object_a_line_of_all(broker: ScriptedBroker) -> None:
    answer_list(broker, 1200)

    lines = run_cli("list", "--format", "jsonl").out.splitlines()

    assert [json.loads(line)["id"] for line in lines] == [f"j{number}" for number in range(1200, 0, -1)]


def test_jsonl_is_printed_as_it_comes(broker: ScriptedBroker) -> None:
    pages = iter([{"jobs": [job_view(id="j1")], "next": 1}, UnknownJob("gone")])
    broker.on("list", lambda _: next(pages))

    ran = run_cli("list", "--format", "jsonl", "--fields", "id")

    assert (ran.code, ran.out) == (3, '{"id": "j1"}\n')
    assert ran.err.startswith("error: gone")


def test_fields_are_printed_in_their_order(broker: ScriptedBroker) -> None:
    broker.on("list", {"jobs": [job_view(tags={"kind": "x"})], "next": None})

    assert run_cli("list", "--json", "--fields", "state,id").out == '[\n{"state": "pending", "id": "a1"}\n]\n'
    assert run_cli("list", "--format", "csv", "--fields", "id, max-retries,ID").out == "id,max_retries\na1,3\n"
    assert run_cli("list", "--fields", "tags,created_at,worker").out.splitlines() == [
        "TAGS           CREATED_AT                WORKER",
        '{"kind": "x"}  2026-11-22T10:00:00.000Z  -',
    ]


def test_csv_has_all_fields_under_their_names(broker: ScriptedBroker) -> None:
    answer_list(broker, 700)

    rows = list(csv.DictReader(io.StringIO(run_cli("list", "--format", "csv").out)))

    assert [row["id"] for row in rows] == [f"j{number}" for number in range(700, 0, -1)]
    assert tuple(rows[0]) == JOB_FIELDS
    assert (rows[0]["keep_children"], rows[0]["worker"], rows[0]["backoff_base"]) == ("false", "", "2.0")


def test_csv_of_nothing_has_its_header(broker: ScriptedBroker) -> None:
    answer_list(broker, 0)

    assert run_cli("list", "--format", "csv", "--fields", "id,state").out == "id,state\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ('say "a, b"', '"say ""a, b"""'),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\uff1d1", "'\uff1d1"),
        (EVIL, BUT_ESCAPED),
        ("a\r\nb", "a\\r\\nb"),
        ("\t=1", "\\t=1"),
        (-3, "-3"),
        (-0.5, "-0.5"),
        (None, ""),
        (True, "true"),
        ([75, 100], '"[75, 100]"'),
        ({"k": "=v"}, '"{""k"": ""=v""}"'),
    ],
)
def test_cell_of_csv_is_text_to_everybody(broker: ScriptedBroker, value: Any, cell: str) -> None:
    broker.on("list", {"jobs": [job_view(last_line=value)], "next": None})

    assert run_cli("list", "--format", "csv", "--fields", "id,last_line").out == f"id,last_line\na1,{cell}\n"


def test_table_of_fields_fits_a_terminal_and_keeps_ids_whole(broker: ScriptedBroker) -> None:
    jobs = [job_view(id="i" * 30, command="x" * 500, cwd="/srv/" + "d" * 90, last_line=EVIL)]
    broker.on("list", {"jobs": jobs, "next": None})

    ran = run_cli("list", "--fields", "command,id,cwd,last_line", tty=True, columns=100)

    assert max(width(line) for line in ran.out.splitlines()) <= 100
    assert "i" * 30 in ran.out
    assert "\x1b" not in ran.out
    assert "x" * 500 in run_cli("list", "--fields", "command,id").out


def test_quiet_prints_ids_whatever_the_format(broker: ScriptedBroker) -> None:
    answer_list(broker, 2)

    assert run_cli("list", "-q", "--format", "csv").out == "j2\nj1\n"


def test_known_fields_are_told_without_a_broker(broker: ScriptedBroker) -> None:
    assert run_cli("list", "--fields", "help").out.splitlines() == list(JOB_FIELDS)
    assert run_cli("dlq", "list", "--json", "--fields", "help").json == list(JOB_FIELDS)
    assert run_cli("dlq", "list", "--by-cause", "--fields", "help").out.splitlines() == list(CAUSE_FIELDS)
    assert broker.asked == []


@pytest.mark.parametrize("args", [("list",), ("dlq", "list"), ("dlq", "list", "--by-cause")], ids=" ".join)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--json", "--format", "csv"], "--json and --format csv exclude each other"),
        (["--format", "xml"], "'xml' is not one of 'table', 'json', 'jsonl', 'csv'"),
        (["--fields", "comand"], "hint: did you mean 'command'? known: "),
        (["--fields", "command,,id"], "there is no field ''"),
        (["--fields", "\x1b[2J"], "there is no field '\\x1b[2j'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_form_that_is_none_is_refused_before_a_broker_is_asked(
    broker: ScriptedBroker, args: tuple[str, ...], wrong: list[str], message: str
) -> None:
    broker.on("list", {"jobs": [], "next": None})

    ran = run_cli(*args, *wrong)

    assert ran.code == 2
    assert message in ran.err + ran.out
    assert broker.asked == []


@pytest.mark.parametrize("args", [["--format", "json"], ["--format=json"]], ids=" ".join)
def test_error_is_json_where_the_format_is(broker: ScriptedBroker, args: list[str]) -> None:
    broker.on("list", UnknownJob("gone"))

    assert run_cli("list", *args).json["error"]["message"] == "gone"
    assert run_cli("list", "--nonsense", *args).json["error"]["code"] == "usage"


# --- show ------------------------------------------------------------------------------------------

HALF_GONE = {
    "attempt": 1,
    "segments": [[1, 0, b"hello\n"], [2, 4, b"oops\xff\x1b[2J"]],
    "totals": {"1": 6, "2": 20},
    "next": None,
    "finished": True,
}


@pytest.fixture
def failed(broker: ScriptedBroker) -> ScriptedBroker:
    job = job_view(state="failed", reason="backoff", attempts=1, command=EVIL, cwd="/srv", env=["A", "B"], timeout=90.0)
    broker.on("job", {"job": job, "history": [attempt_view(note="killed 1 process that it left running")]})
    broker.on("output", HALF_GONE)
    return broker


def test_show_tells_policy_reason_and_attempts(failed: ScriptedBroker) -> None:
    ran = run_cli("show", "a1")

    assert ran.code == 0
    assert BUT_ESCAPED in ran.out
    for text in ("failed (backoff)", "1 of 3 allowed", "2 ** n s", "1m30s", "A, B", "Next run", "killed 1 process"):
        assert text in ran.out
    assert "Attempt 1   exit 1" in ran.out.replace("Attempt 1  exit", "Attempt 1   exit")
    assert "End of stdout:\n  hello\n" in ran.out
    assert "oops\\xff\\x1b[2J" in ran.out


@pytest.fixture
def east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock here is two hours and a half before UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-02:30")
        time.tzset()
        yield
    time.tzset()


def test_moments_are_told_by_the_clock_here(broker: ScriptedBroker, east: None) -> None:
    at, here = "2026-11-22T22:00:00.500Z", "2026-11-23T00:30:00+02:30 ("
    broker.on("job", {"job": job_view(state="dead", finished_at=at), "history": []})
    reason = {"code": "delayed", "text": f"it starts at {at}", "until": at}
    broker.on("why", {"id": "a1", "state": "pending", "reasons": [reason], "position": None, "estimate_s": None})

    shown, explained = run_cli("show", "a1").out, run_cli("why", "a1").out

    assert f"Finished  {here}" in shown
    assert f"it starts at {here}" in explained
    assert at not in shown + explained


def test_show_of_a_held_job_says_what_it_waits_for(broker: ScriptedBroker) -> None:
    broker.on("job", {"job": job_view(reason="held"), "history": []})

    assert "Next run  when it is released: queuectl release a1\n" in run_cli("show", "a1").out

    broker.on("job", {"job": job_view(reason="held", run_at="2099-11-22T10:00:00.000Z"), "history": []})
    assert "Not before  2099-11-22T" in run_cli("show", "a1").out


def test_show_json_has_history_with_output(failed: ScriptedBroker) -> None:
    job = run_cli("show", "a1", "--json").json

    assert job["state"] == "failed"
    [attempt] = job["history"]
    promised = "attempt worker started_at finished_at outcome exit_code signal stdout stderr"
    assert attempt.keys() >= set(promised.split())
    assert attempt["stdout"] == "hello\n"
    assert attempt["stderr"] == (
        "[queuectl: 4 bytes before this are not shown]\noops\\xff\x1b[2J\n[queuectl: 7 bytes were not kept]\n"
    )


def test_show_names_who_did_what(broker: ScriptedBroker) -> None:
    deed = {"at": "2026-11-22T10:00:09.000Z", "by": "boss", "action": "retried"}
    broker.on("job", {"job": job_view(enqueued_by="uid:1000"), "history": [], "events": [deed]})

    shown = [line.split() for line in run_cli("show", "a1").out.splitlines()]

    assert [line[-2:] for line in shown if line[0] == "Enqueued"] == [["by", "uid:1000"]]
    assert [(line[1], line[-1]) for line in shown if line[0] == "Retried"] == [(local(deed["at"]), "boss")]
    assert run_cli("show", "a1", "--json").json["events"] == [deed]


def test_values_of_variables_are_shown_to_who_asks(broker: ScriptedBroker) -> None:
    told = {"job": job_view(env=["A", "B"]), "history": [], "events": []}
    broker.on("job", lambda args: told | ({"env_values": {"A": "1\x1b[2J", "B": "2"}} if args.get("env") else {}))

    names, values = run_cli("show", "a1").out, run_cli("show", "a1", "--env").out

    assert "Variables  A, B\n" in names
    assert "Variables  A=1\\x1b[2J\n           B=2\n" in values
    assert "env_values" not in run_cli("show", "a1", "--json").json
    assert run_cli("show", "a1", "--env", "--json").json["env_values"] == {"A": "1\x1b[2J", "B": "2"}


def test_show_of_a_job_that_never_ran(broker: ScriptedBroker) -> None:
    broker.on("job", {"job": job_view(reason="no_worker"), "history": []})

    assert "pending (no_worker)" in run_cli("show", "a1").out
    assert run_cli("show", "a1", "--json").json["history"] == []
    assert broker.ops() == ["job", "job"]


def test_show_of_a_running_job(broker: ScriptedBroker) -> None:
    running = attempt_view(
        outcome=None, finished_at=None, duration_s=None, exit_code=None, stdout_bytes=None, stderr_bytes=None
    )
    broker.on("job", {"job": job_view(state="processing", worker="host-1"), "history": [running]})
    broker.on("output", {"attempt": 1, "segments": [], "totals": None, "next": None, "finished": False})

    assert "running" in run_cli("show", "a1").out


def test_unknown_job_is_not_found(broker: ScriptedBroker) -> None:
    broker.on("job", UnknownJob("there is no job 'x'", hint="see: queuectl list"))

    ran = run_cli("show", "x")

    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "error: there is no job 'x'\nhint: see: queuectl list\n"


# --- logs ------------------------------------------------------------------------------------------


def test_logs_prints_bytes_as_they_are_with_marked_gaps(failed: ScriptedBroker, capfdbinary: Any) -> None:
    import os
    import sys

    from cli.main import main

    assert main(["logs", "a1"]) == 0
    sys.stdout.flush()

    assert capfdbinary.readouterr().out == (
        b"hello\n[queuectl: 4 bytes were not kept]\noops\xff\x1b[2J\n[queuectl: 7 bytes were not kept]\n"
    )
    assert os.environ["QUEUECTL_HOME"]


def test_logs_are_escaped_on_a_terminal(failed: ScriptedBroker) -> None:
    ran = run_cli("logs", "a1", tty=True)

    assert "hello\n" in ran.out
    assert "oops\\xff\\x1b[2J" in ran.out


@pytest.mark.parametrize(("flag", "number"), [("--stdout", 1), ("--stderr", 2)])
def test_logs_of_one_stream_and_attempt(failed: ScriptedBroker, flag: str, number: int) -> None:
    run_cli("logs", "a1", flag, "--attempt", "2")

    assert failed.only("output").args == {"id": "a1", "attempt": 2, "stream": number}


def test_logs_json_is_one_object_a_line(failed: ScriptedBroker) -> None:
    lines = [json.loads(line) for line in run_cli("logs", "a1", "--json").out.splitlines()]

    assert lines[0] == {"stream": "stdout", "offset": 0, "attempt": 1, "text": "hello\n"}
    assert lines[1] == {"stream": "stderr", "offset": 0, "attempt": 1, "gap_bytes": 4}


def test_logs_of_nothing_say_so(broker: ScriptedBroker) -> None:
    broker.on("output", {"attempt": 0, "segments": [], "totals": None, "next": None, "finished": True})

    broker.on("job", {"job": job_view(id="a1", attempt=1), "history": []})
    ran, beyond = run_cli("logs", "a1"), run_cli("logs", "a1", "--attempt", "2")
    broker.on("job", {"job": job_view(id="a1", attempt=0), "history": []})
    waiting = run_cli("logs", "a1")

    assert (ran.code, ran.out, ran.err) == (0, "", "No output is kept.\n")
    assert (beyond.code, beyond.err) == (2, "error: job 'a1' has had 1 attempt\nhint: see them: queuectl show a1\n")
    assert (waiting.code, waiting.err) == (0, "a1 has not run; see: queuectl why a1\n")


def test_both_streams_alone_are_a_usage_error(broker: ScriptedBroker) -> None:
    assert run_cli("logs", "a1", "--stdout", "--stderr").code == 2


# --- dlq -------------------------------------------------------------------------------------------


def answer_dlq(broker: ScriptedBroker, op: str) -> None:
    def handler(args: dict[str, Any]) -> Any:
        if args.get("all"):
            return {"ids": ["x2"], "next": None} if "cursor" in args else {"ids": ["x1"], "next": 9}
        [job_id] = args["ids"]
        if job_id == "gone":
            return UnknownJob("there is no job 'gone'")
        if job_id == "alive":
            return WrongState("job 'alive' is pending, not dead")
        return {"ids": [job_id], "next": None}

    broker.on(op, handler)


def test_dlq_list_shows_how_jobs_ended(broker: ScriptedBroker) -> None:
    dead = [
        job_view(id="job-2", state="dead", reason="exit", exit_code=127, attempts=3, last_line="not \x1bfound"),
        job_view(id="job-3", state="dead", reason="poison"),
    ]
    broker.on("list", {"jobs": dead, "next": None})

    ran = run_cli("dlq", "list")

    assert broker.only("list").args["state"] == "dead"
    assert "exit 127" in ran.out
    assert "echo hello: not \\x1bfound" in ran.out
    assert "poison" in ran.out


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"state": "pending", "reason": "held", "held": True}, "pending (held)"),
        ({"state": "failed", "reason": "backoff", "held": True}, "failed (held)"),
        ({"state": "pending", "reason": "delayed"}, "pending (delayed)"),
        ({"state": "pending", "reason": "no_worker"}, "pending (no_worker)"),
        ({"state": "failed", "reason": "backoff"}, "failed"),
    ],
    ids=str,
)
def test_list_says_of_what_a_job_waits_for(broker: ScriptedBroker, fields: dict[str, Any], shown: str) -> None:
    broker.on("list", {"jobs": [job_view(**fields)], "next": None})

    assert f" {shown} " in run_cli("list").out


def test_quoted_words_tell_commands_apart_and_what_they_said_not(broker: ScriptedBroker) -> None:
    said = [("sh -c 'tar 1'", "no 'a.txt'"), ("sh -c 'tar 2'", "no 'b.txt'"), ("sh -c 'dump'", "no 'a.txt'")]
    jobs = [
        job_view(id=f"j{place}", command=command, last_line=line, state="dead", reason="exit", exit_code=1)
        for place, (command, line) in enumerate(said)
    ]
    broker.on("list", {"jobs": jobs, "next": None})

    groups = run_cli("dlq", "list", "--by-cause", "--json").json

    assert [(group["jobs"], group["command"], group["last_line"]) for group in groups] == [
        (2, "sh -c 'tar #'", "no #"),
        (1, "sh -c 'dump'", "no #"),
    ]


def test_dlq_list_of_nothing(broker: ScriptedBroker) -> None:
    answer_list(broker, 0)

    assert run_cli("dlq", "list").err == "The dead letter queue is empty.\n"
    assert run_cli("dlq", "list", "--json").json == []


def test_dlq_show_asks_for_a_dead_job(broker: ScriptedBroker) -> None:
    broker.on("job", WrongState("job 'a1' is pending, not dead"))

    assert run_cli("dlq", "show", "a1").code == 4
    assert broker.only("job").args == {"id": "a1", "state": "dead"}


def test_dlq_retry_word_for_word(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_retry")

    ran = run_cli("dlq", "retry", "fail-job")

    assert (ran.code, ran.out, ran.err) == (0, "Job fail-job moved back to queue as 'pending'.\n", "")


def test_dlq_retry_of_all_goes_over_all_slices(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_retry")

    assert run_cli("dlq", "retry", "--all", "-q").out == "x1\nx2\n"


@pytest.mark.parametrize("verb", ["show", "why", "logs", "wait", "events", "cancel", "hold", "dlq show", "dlq retry"])
@pytest.mark.parametrize(("job_id", "words"), [("", "an id is empty"), (" ", "empty"), ("x" * 129, "128 characters")])
def test_what_can_be_no_id_is_refused_before_anybody_is_asked(
    broker: ScriptedBroker, verb: str, job_id: str, words: str
) -> None:
    ran = run_cli(*verb.split(), job_id)

    assert (ran.code, broker.asked) == (2, [])
    assert words in ran.err


def test_dlq_retry_of_nothing(broker: ScriptedBroker) -> None:
    broker.on("dlq_retry", {"ids": [], "next": None})

    ran = run_cli("dlq", "retry", "--all")

    assert (ran.code, ran.out, ran.err) == (0, "", "The dead letter queue is empty.\n")


@pytest.mark.parametrize(("answer", "code", "retried"), [("y\n", 0, True), ("n\n", 1, False), ("", 1, False)])
def test_dlq_retry_of_all_asks_on_a_terminal(broker: ScriptedBroker, answer: str, code: int, retried: bool) -> None:
    answer_dlq(broker, "dlq_retry")
    broker.on("retry", {"ids": ["x1", "x2"], "skipped": [], "next": None})

    ran = run_cli("dlq", "retry", "--all", stdin=answer, tty=True)

    assert ran.code == code
    assert "2 jobs are to be moved back to the queue: x1, x2. Go on?" in ran.err
    assert ("dlq_retry" in broker.ops()) is retried


@pytest.mark.parametrize(("job_id", "code"), [("gone", 3), ("alive", 4)])
def test_dlq_retry_of_a_job_that_is_not_dead(broker: ScriptedBroker, job_id: str, code: int) -> None:
    answer_dlq(broker, "dlq_retry")

    assert run_cli("dlq", "retry", job_id).code == code
    assert "error" in run_cli("dlq", "retry", job_id, "--json").json


def test_first_failure_of_several_decides_and_the_others_are_done(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_retry")

    ran = run_cli("dlq", "retry", "d1", "alive", "gone", "d2", "d1")

    assert ran.code == 4
    assert [line.split()[1] for line in ran.out.splitlines()] == ["d1", "d2"]
    assert ran.err.splitlines() == ["error: job 'alive' is pending, not dead", "error: there is no job 'gone'"]


def test_several_in_json(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_retry")

    ran = run_cli("dlq", "retry", "d1", "gone", "--json")

    assert ran.code == 3
    assert ran.json["ids"] == ["d1"]
    assert ran.json["errors"][0]["id"] == "gone"
    assert ran.json["error"]["code"] == "unknown_job"


@pytest.mark.parametrize("args", [[], ["a1", "--all"]], ids=["none", "both"])
@pytest.mark.parametrize("verb", ["retry", "purge"])
def test_dlq_needs_ids_or_all(broker: ScriptedBroker, verb: str, args: list[str]) -> None:
    assert run_cli("dlq", verb, *args).code == 2


def test_dlq_purge(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_purge")

    assert run_cli("dlq", "purge", "d1").out == "Job d1 purged.\n"


def test_dlq_purge_of_all_needs_yes_where_nobody_can_be_asked(broker: ScriptedBroker) -> None:
    answer_dlq(broker, "dlq_purge")

    refused = run_cli("dlq", "purge", "--all")

    assert (refused.code, broker.asked) == (2, [])
    assert "--yes" in refused.err
    assert run_cli("dlq", "purge", "--all", "--yes").out == "Job x1 purged.\nJob x2 purged.\n"


@pytest.mark.parametrize(("answer", "code", "purged"), [("y\n", 0, True), ("n\n", 1, False), ("", 1, False)])
def test_dlq_purge_of_all_asks_on_a_terminal(broker: ScriptedBroker, answer: str, code: int, purged: bool) -> None:
    answer_dlq(broker, "dlq_purge")
    broker.on("purge", {"ids": ["x1", "x2"], "skipped": [], "next": None})

    ran = run_cli("dlq", "purge", "--all", stdin=answer, tty=True)

    assert ran.code == code
    assert ("dlq_purge" in broker.ops()) is purged


# --- status ----------------------------------------------------------------------------------------


def test_status_tells_broker_workers_and_jobs(broker: ScriptedBroker) -> None:
    broker.on("status", status_view())

    ran = run_cli("status")

    assert ran.code == 0
    for text in ("running for 1m15s", "/data/queue.db", "1 of 4 slots busy", "completed", "total"):
        assert text in ran.out


def test_status_json_has_the_promised_shape(broker: ScriptedBroker) -> None:
    broker.on("status", status_view())

    told = run_cli("status", "--json").json

    assert told["broker"].keys() >= {"pid", "version", "uptime_s", "endpoints", "database"}
    assert told["workers"][0].keys() >= {"id", "host", "pid", "slots", "busy", "state", "last_seen_s"}
    states = {"pending", "processing", "completed", "failed", "dead", "cancelled", "total"}
    assert told["jobs"].keys() == states


def test_status_on_a_terminal_hints_at_what_is_missing(broker: ScriptedBroker) -> None:
    broker.on("status", status_view(workers=[]))

    assert "queuectl worker start" in run_cli("status", tty=True).err


def test_status_says_when_no_jobs_are_taken(broker: ScriptedBroker) -> None:
    view = status_view(workers=[worker_view(), worker_view(id="other", slots=1, busy=1)])
    view["broker"]["accepting"] = False
    broker.on("status", view)

    out = run_cli("status").out

    assert "takes no new jobs" in out
    assert "2 processes, 2 of 5 slots busy" in out
