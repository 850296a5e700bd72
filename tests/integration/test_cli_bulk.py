"""`queuectl enqueue --file` and `-`: bad lines named, good ones stored, and no doubles however often it is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import bulk
from queuectl.client import Client
from queuectl.errors import BrokerUnreachable, DiskFull, JobExists, QueuectlError, QueueFull, TooManyRequests
from tests.harness_client import Answer, ScriptedBroker, run_cli, scripted_broker


class Memory:
    """Stores jobs as a broker would: a request id that was seen gets the reply it got before."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.jobs: list[dict[str, Any]] = []
        self.replies: dict[str, dict[str, Any]] = {}
        self.interrupt_at: int | None = None
        broker.on("enqueue", self.enqueue)

    def enqueue(self, args: dict[str, Any]) -> Any:
        request_id = self.broker.asked[-1].id
        if request_id in self.replies:
            return Answer(self.replies[request_id], repeated=True)
        if self.interrupt_at == len(self.replies):
            self.interrupt_at = None
            return DiskFull()
        start = len(self.jobs)
        self.jobs += args["jobs"]
        reply = {"ids": [f"j{start + n}" for n in range(len(args["jobs"]))], "errors": []}
        self.replies[request_id] = reply
        return reply


@pytest.fixture
def broker(home: Path) -> Iterator[ScriptedBroker]:
    with scripted_broker(home) as broker:
        yield broker


@pytest.fixture
def memory(broker: ScriptedBroker) -> Memory:
    return Memory(broker)


def lines(count: int) -> str:
    return "".join(json.dumps({"command": f"echo {number}"}) + "\n" for number in range(1, count + 1))


def commands(memory: Memory) -> list[str]:
    return [job["command"] for job in memory.jobs]


def test_lines_go_out_in_chunks(memory: Memory) -> None:
    ran = run_cli("enqueue", "-", stdin=lines(2500))

    assert (ran.code, ran.out, ran.err) == (0, "Enqueued 2500 jobs.\n", "")
    assert [len(asked.args["jobs"]) for asked in memory.broker.asked] == [1000, 1000, 500]


def test_chunks_stay_below_a_mebibyte(memory: Memory) -> None:
    run_cli("enqueue", "-", stdin="".join(json.dumps({"command": "x" * 100_000}) + "\n" for _ in range(25)))

    assert [len(asked.args["jobs"]) for asked in memory.broker.asked] == [10, 10, 5]


def test_options_count_in_the_size_of_a_chunk(memory: Memory) -> None:
    run_cli("enqueue", "--env", f"LARGE={'x' * 100_000}", "-", stdin=lines(25))

    assert [len(asked.args["jobs"]) for asked in memory.broker.asked] == [10, 10, 5]


def test_input_for_all_lines_goes_into_each(memory: Memory, tmp_path: Path) -> None:
    given = tmp_path / "input"
    given.write_bytes(b"\xff in")

    assert run_cli("enqueue", "--stdin", str(given), "-", stdin=lines(2)).code == 0
    assert [job["stdin"] for job in memory.jobs] == [b"\xff in"] * 2


def test_bad_lines_are_named_and_good_ones_go_on(memory: Memory) -> None:
    text = '{"command":"a"}\n\nnonsense\n{"command":"b","x":1}\n{"command":"c","delay":NaN}\n{"command":"d"}'

    ran = run_cli("enqueue", "-", stdin=text)

    assert ran.code == 2
    assert ran.out == "Enqueued 2 jobs; 3 lines refused.\n"
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["line 3", "line 4", "line 5"]
    assert "unknown field 'x'" in ran.err
    assert commands(memory) == ["a", "d"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"command":"\xff"}', "not valid UTF-8"),
        (b'{"command":"x","cwd":"/\\ud800"}', "cwd: is not valid UTF-8"),
        (b'{"command":"x","queue":"\\ud800"}', "is not a queue name"),
        (b'{"command":"x","command":"y"}', "twice"),
        (b"[1]", "a job is a JSON object"),
        (b'{"command":"' + b"x" * (3 * 2**20) + b'"}', "longer than 2097152 bytes"),
    ],
    ids=["utf-8", "surrogate", "queue", "twice", "array", "long"],
)
def test_line_that_cannot_be_a_job_harms_no_other(memory: Memory, line: bytes, message: str) -> None:
    ran = run_cli("enqueue", "-", stdin=b'{"command":"a"}\n' + line + b'\n{"command":"b"}\n')

    assert ran.code == 2
    assert f"line 2: {message}" in ran.err or message in ran.err
    assert commands(memory) == ["a", "b"]


def test_line_refused_by_the_broker_is_named_by_its_number(broker: ScriptedBroker) -> None:
    refused = {"index": 1, **JobExists("a job with id 'x' exists already").to_wire()}
    broker.on("enqueue", {"ids": ["a1", None], "errors": [refused]})

    ran = run_cli("enqueue", "-", stdin='{"command":"a"}\n\n{"command":"b","id":"x"}\n')

    assert (ran.code, ran.out) == (4, "Enqueued 1 job; 1 line refused.\n")
    assert ran.err.startswith("line 3: a job with id 'x' exists already")


def test_quiet_prints_ids_only(memory: Memory) -> None:
    assert run_cli("enqueue", "-q", "-", stdin=lines(3)).out == "j0\nj1\nj2\n"


def test_json_has_ids_and_errors(memory: Memory) -> None:
    ran = run_cli("enqueue", "--json", "-", stdin='{"command":"a"}\nbad\n')

    assert ran.code == 2
    assert ran.json["ids"] == ["j0"]
    assert (ran.json["accepted"], ran.json["repeated"]) == (1, 0)
    assert [(error["line"], error["code"]) for error in ran.json["errors"]] == [(2, "bad_job")]
    assert ran.json["error"]["code"] == "bad_job"


def test_options_hold_for_lines_that_say_nothing_else(memory: Memory) -> None:
    run_cli(
        "enqueue", "--queue", "mail", "--priority", "3", "-", stdin='{"command":"a"}\n{"command":"b","priority":1}\n'
    )

    assert memory.jobs == [
        {"queue": "mail", "priority": 3, "command": "a"},
        {"queue": "mail", "priority": 1, "command": "b"},
    ]


def test_empty_input_stores_nothing(memory: Memory) -> None:
    ran = run_cli("enqueue", "-", stdin="\n\n")

    assert (ran.code, ran.out, memory.broker.asked) == (0, "Enqueued 0 jobs.\n", [])


def test_terminal_sees_how_it_goes_and_is_told_when_it_is_read(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(lines(2500))

    ran = run_cli("enqueue", "--file", str(path), tty=True)

    assert (ran.code, ran.out) == (0, "Enqueued 2500 jobs.\n")
    assert "100%" in ran.err
    assert "Ctrl+D" in run_cli("enqueue", "-", stdin=lines(1), tty=True).err
    assert run_cli("enqueue", "--file", "-", stdin=lines(1)).out == "Enqueued 1 job.\n"


# --- once, however often ---------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jobs file.jsonl"
    path.write_text(lines(2500))
    return path


def test_repeated_file_stores_nothing_twice_and_says_so(memory: Memory, file: Path) -> None:
    run_cli("enqueue", "--file", str(file))
    ran = run_cli("enqueue", "--file", str(file))

    assert (ran.code, ran.out, len(memory.jobs)) == (0, "Enqueued 0 jobs; 2500 had been enqueued before.\n", 2500)
    assert ran.err == ("An earlier run of this file had enqueued some of its jobs; --again enqueues them once more.\n")


def test_again_stores_them_once_more(memory: Memory, file: Path) -> None:
    run_cli("enqueue", "--file", str(file))
    ran = run_cli("enqueue", "--again", "--file", str(file))

    assert (ran.err, len(memory.jobs)) == ("", 5000)


def test_changed_file_is_another_file(memory: Memory, file: Path) -> None:
    run_cli("enqueue", "--file", str(file))
    file.write_text(lines(2501))
    run_cli("enqueue", "--file", str(file))

    assert len(memory.jobs) == 5001


def test_other_options_make_another_run(memory: Memory, file: Path) -> None:
    run_cli("enqueue", "--file", str(file))
    run_cli("enqueue", "--file", str(file), "--queue", "mail")

    assert len(memory.jobs) == 5000


def test_same_lines_on_stdin_are_new_jobs(memory: Memory) -> None:
    run_cli("enqueue", "-", stdin=lines(2))
    run_cli("enqueue", "-", stdin=lines(2))

    assert len(memory.jobs) == 4


@pytest.mark.parametrize("extra", [[], ["--again"], ["--queue", "mail"]], ids=["plain", "again", "option"])
def test_cut_run_of_a_file_is_resumed_by_the_printed_command(memory: Memory, file: Path, extra: list[str]) -> None:
    memory.interrupt_at = 1
    ran = run_cli("enqueue", *extra, "--file", str(file))

    assert ran.code == 75
    assert "Stopped: 1000 jobs enqueued, every line before 1001 is dealt with." in ran.err
    resumed = run_cli(*resume_line(ran.err))

    assert (resumed.code, resumed.out) == (0, "Enqueued 1500 jobs.\n")
    assert commands(memory) == [f"echo {number}" for number in range(1, 2501)]


@pytest.mark.parametrize("before", [0, 1000], ids=["first", "between"])
def test_blank_lines_before_a_chunk_do_not_store_it_twice(memory: Memory, tmp_path: Path, before: int) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n".join(lines(1500).splitlines()[:before]) + "\n\n\n" + lines(500))
    run_cli("enqueue", "--file", str(path))
    stored = len(memory.jobs)

    resumed = run_cli("enqueue", "--file", str(path), "--from-line", str(before + 1))

    assert len(memory.jobs) == stored
    assert resumed.out == "Enqueued 0 jobs; 500 had been enqueued before.\n"


def test_cut_run_of_a_file_may_be_repeated_whole(memory: Memory, file: Path) -> None:
    memory.interrupt_at = 1
    run_cli("enqueue", "--file", str(file))

    ran = run_cli("enqueue", "--file", str(file))

    assert commands(memory) == [f"echo {number}" for number in range(1, 2501)]
    assert ran.out == "Enqueued 1500 jobs; 1000 had been enqueued before.\n"


def test_cut_run_of_stdin_is_resumed_with_its_token(memory: Memory) -> None:
    memory.interrupt_at = 2
    ran = run_cli("enqueue", "-", stdin=lines(2500))
    line = resume_line(ran.err)

    assert "--run" in line
    assert run_cli(*line, stdin=lines(2500)).out == "Enqueued 500 jobs.\n"
    assert run_cli(*line, stdin=lines(2500)).out == "Enqueued 0 jobs; 500 had been enqueued before.\n"
    assert len(memory.jobs) == 2500


def test_interrupted_run_says_how_far_it_came(memory: Memory, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Client.finish
    finished: list[Any] = []

    def finish(self: Client, begun: Any, **kwargs: Any) -> Any:
        finished.append(begun)
        if len(finished) == 2:
            raise KeyboardInterrupt
        return original(self, begun, **kwargs)

    monkeypatch.setattr(Client, "finish", finish)
    ran = run_cli("enqueue", "--file", str(file))

    assert ran.code == 130
    assert "Stopped: 1000 jobs enqueued" in ran.err
    assert resume_line(ran.err) == ["enqueue", "--file", str(file), "--from-line", "1001"]


def test_broker_that_goes_away_between_requests_leaves_nothing_uncounted(
    memory: Memory, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Client.send

    def send(self: Client, begun: Any) -> None:
        if memory.jobs:
            raise BrokerUnreachable
        original(self, begun)

    monkeypatch.setattr(Client, "send", send)
    ran = run_cli("enqueue", "--quiet", "--file", str(file))

    assert ran.code == 69
    assert ran.out.split() == [f"j{number}" for number in range(1000)]
    assert "Stopped: 1000 jobs enqueued, every line before 1001 is dealt with" in ran.err


class Refusing(Memory):
    """Refuses requests after the first with an error, so many times."""

    def __init__(self, broker: ScriptedBroker, error: QueuectlError, times: int) -> None:
        super().__init__(broker)
        self.error, self.left = error, times

    def enqueue(self, args: dict[str, Any]) -> Any:
        if self.replies and self.left:
            self.left -= 1
            return self.error
        return super().enqueue(args)


TOO_MANY = TooManyRequests("'desk' asks more than 5 times a second", details={"retry_ms": 1})


def test_broker_that_is_asked_too_often_is_waited_for_and_that_is_said_once(broker: ScriptedBroker, file: Path) -> None:
    memory = Refusing(broker, TOO_MANY, 3)

    ran = run_cli("enqueue", "--file", str(file))

    assert (ran.code, ran.out) == (0, "Enqueued 2500 jobs.\n")
    assert ran.err == "'desk' asks more than 5 times a second; waiting for it\n"
    assert commands(memory) == [f"echo {number}" for number in range(1, 2501)]


def test_patience_with_it_ends(broker: ScriptedBroker, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PATIENCE_S", 0.0)
    memory = Refusing(broker, TOO_MANY, 1)
    ran = run_cli("enqueue", "--file", str(file))

    assert ran.code == 75
    assert run_cli(*resume_line(ran.err)).out == "Enqueued 1500 jobs.\n"
    assert len(memory.jobs) == 2500


def test_full_queue_ends_with_what_was_stored_and_how_to_go_on(broker: ScriptedBroker, file: Path) -> None:
    memory = Refusing(broker, QueueFull("at most 1000 jobs may wait or run", hint="try again"), 1)

    ran = run_cli("enqueue", "--file", str(file))

    assert ran.code == 75
    assert "Stopped: 1000 jobs enqueued, every line before 1001 is dealt with." in ran.err
    assert "error: at most 1000 jobs may wait or run" in ran.err
    assert run_cli(*resume_line(ran.err)).out == "Enqueued 1500 jobs.\n"
    assert len(memory.jobs) == 2500


def resume_line(text: str) -> list[str]:
    match = re.search(r"^Resume, .*?: queuectl (.*)$", text, re.MULTILINE)
    assert match is not None, text
    return shlex.split(match[1])
