from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queuectl import __version__
from queuectl.config import Config
from queuectl.logs import DENIED_KEYS, HEAD, RECORD_BYTES_MAX, STACK_CHARS_MAX, Log, Unregistered, open_log


class Faulty(io.StringIO):
    """A stream that can be made to fail like a full disk or a closed pipe."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.failure is not None:
            raise self.failure
        return super().write(text)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words for this")


class Rude(str):
    """A string that breaks in whoever looks at it."""

    __slots__ = ()

    def encode(self, *args: Any, **keys: Any) -> bytes:
        raise RuntimeError("not this one")


def log_to(stream: Any, *, format: str = "json", level: str = "info", strict: bool = False, **bound: Any) -> Log:
    config = Config(log_format=format, log_level=level)
    return open_log(service="queuectl-worker", config=config, instance="i1", stream=stream, strict=strict, **bound)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def one(**keys: Any) -> dict[str, Any]:
    """The record of one event with these keys."""
    stream = io.StringIO()
    log_to(stream).info("job_finished", **keys)
    (record,) = records(stream)
    return record


def test_record_has_the_whole_head_in_order_and_then_the_keys() -> None:
    record = one(job_id="a1", exit_code=None)

    assert tuple(record) == (*HEAD, "job_id", "exit_code")
    assert record | {"timestamp": "", "host": ""} == {
        "log_schema": 1,
        "timestamp": "",
        "level": "info",
        "event": "job_finished",
        "service": "queuectl-worker",
        "instance": "i1",
        "seq": 1,
        "pid": os.getpid(),
        "host": "",
        "version": __version__,
        "job_id": "a1",
        "exit_code": None,
    }


def test_timestamp_is_utc_with_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    log = log_to(stream)
    for instant_ns in (1_795_364_531_000_007_999, 1_795_364_531_999_999_999, 1_795_364_532_000_000_000):
        monkeypatch.setattr("time.time_ns", lambda instant_ns=instant_ns: instant_ns)
        log.info("job_finished")

    assert [record["timestamp"] for record in records(stream)] == [
        "2026-11-22T16:22:11.000007Z",
        "2026-11-22T16:22:11.999999Z",
        "2026-11-22T16:22:12.000000Z",
    ]


def test_seq_counts_across_bound_logs() -> None:
    stream = io.StringIO()
    log = log_to(stream)
    log.info("one")
    log.bind(job_id="a1").warning("two")
    log.error("three")

    assert [record["seq"] for record in records(stream)] == [1, 2, 3]


def test_bound_keys_stand_in_every_record_of_that_log_only() -> None:
    stream = io.StringIO()
    log = log_to(stream, worker_id="w1")
    log.bind(job_id="a1").info("one")
    log.info("two")

    assert [(record["worker_id"], record.get("job_id")) for record in records(stream)] == [("w1", "a1"), ("w1", None)]


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_keeps_itself_and_what_is_graver(level: str, kept: list[str]) -> None:
    stream = io.StringIO()
    log = log_to(stream, level=level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("anything")

    assert [record["level"] for record in records(stream)] == kept


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (object, "<class 'object'>"),
        (Path("/srv/a"), "/srv/a"),
        (Path("/srv/\udce4"), "/srv/\\udce4"),
        ("\ud800", "\\ud800"),
        (float("nan"), None),
        (2**70, 2**70),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        (Unprintable(), "<Unprintable that cannot be shown>"),
        ([Unprintable()], "<list that cannot be shown>"),
        (10**5000, "<int that cannot be shown>"),
        ("line\nline\x1b[2J", "line\nline\x1b[2J"),
    ],
    ids=[f"value{n}" for n in range(11)],
)
def test_any_value_can_be_logged(value: object, shown: object) -> None:
    shown = "PosixPath('/srv/\\udce4')" if isinstance(shown, str) and "udce4" in shown else shown

    record = one(value=value, job_id="a1")

    assert record["value"] == shown
    assert record["job_id"] == "a1"


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize(
    "value",
    [circle(), Unprintable(), Rude("x"), "\ud800", b"\xff", 10**5000, {1: {2: {3: "x" * 10**6}}}],
    ids=["circle", "unprintable", "rude", "surrogate", "bytes", "number", "nested"],
)
def test_no_value_makes_a_call_raise_or_lose_its_event(format: str, value: object) -> None:
    stream = io.StringIO()
    log = log_to(stream, format=format)
    log.info("job_finished", value=value)
    log.bind(value=value).info("job_finished", exc_info=value)

    assert stream.getvalue().count("job_finished") == 2


def test_keys_named_like_parameters_are_keys() -> None:
    record = one(self=1, method_name=2, logger=3, stream=4)

    assert [record[key] for key in ("self", "method_name", "logger", "stream")] == [1, 2, 3, 4]


def test_head_cannot_be_overwritten() -> None:
    keys: dict[str, Any] = dict.fromkeys(HEAD, "forged")
    record = one(**keys)

    assert "forged" not in record.values()


@pytest.mark.parametrize("key", sorted(DENIED_KEYS))
def test_secret_is_withheld(key: str) -> None:
    assert one(**{key: {"PASSWORD": "hunter2"}})[key] == "[withheld]"


def test_event_that_is_no_text_is_confessed() -> None:
    stream = io.StringIO()
    log: Any = log_to(stream)
    log.info(None, job_id="a1")

    (record,) = records(stream)
    assert (record["event"], record["failed_event"], record["error_type"]) == ("log_failed", None, "KeyError")


def test_exception_becomes_three_strings_without_locals() -> None:
    stream = io.StringIO()
    secret = "hunter2" + str(len(stream.getvalue()))
    try:
        raise ValueError("bad thing")
    except ValueError as error:
        log_to(stream).error("storage_failed", error=error)
        log_to(stream).error("storage_failed", exc_info=True)

    for record in records(stream):
        assert (record["error_type"], record["error_message"]) == ("ValueError", "bad thing")
        assert record["error_stack"].startswith("Traceback (most recent call last):")
        assert secret not in json.dumps(record)
        assert not {"error", "exc_info"} & set(record)


def test_exception_that_cannot_speak_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    record = one(error=Mute())

    assert (record["error_type"], record["error_message"]) == ("Mute", "<Mute that cannot be shown>")


def test_long_stack_keeps_its_end() -> None:
    record = one(error=ValueError("x" * 5000 + " the end"))

    assert len(record["error_stack"]) <= STACK_CHARS_MAX + 1
    assert record["error_stack"].endswith("the end\n")


def test_error_that_is_a_text_stays_a_key() -> None:
    assert one(error="in words")["error"] == "in words"


@pytest.mark.parametrize(
    "keys",
    [
        {"command": "x" * 100_000},
        {"command": "\x00" * 100_000},
        {"command": "ü" * 100_000, "detail": "y" * 3000},
        {"command": '"\\' * 50_000},
        {"list": list(range(10_000))},
        {f"key{n}": "x" * 1000 for n in range(100)},
        {f"key{n}": n for n in range(5000)},
        {"k" * 20_000: 1},
        {"number": 10**4200, "other": 10**4200},
    ],
    ids=["long", "control", "wide", "quotes", "list", "many", "crowd", "key", "numbers"],
)
def test_record_is_cut_to_its_limit_and_says_so(keys: dict[str, Any]) -> None:
    stream = io.StringIO()
    log_to(stream).info("job_started", **keys)

    assert len(stream.getvalue().encode()) <= RECORD_BYTES_MAX
    (record,) = records(stream)
    assert record["truncated"] is True
    assert set(HEAD) <= set(record)


def test_longest_values_are_cut_first() -> None:
    record = one(job_id="a1", detail="y" * 3000, command="x" * 100_000)

    assert record["detail"] == "y" * 3000
    assert record["command"].endswith("x…")
    assert len(record["command"]) > 3000


def test_what_just_fits_is_not_cut() -> None:
    room = RECORD_BYTES_MAX - 1 - len(json.dumps(one(command=""), separators=(",", ":")))

    assert "truncated" not in one(command="x" * room)
    assert "truncated" in one(command="x" * (room + 1))


def test_lost_records_are_counted_and_told_later() -> None:
    stream = Faulty()
    log = log_to(stream)
    for failure in (OSError(28, "No space left on device"), BrokenPipeError()):
        stream.failure = failure
        log.info("job_finished")
    stream.failure = None
    log.info("job_finished")
    log.info("job_finished")

    assert [(record["event"], record["seq"]) for record in records(stream)] == [
        ("job_finished", 3),
        ("log_dropped", 4),
        ("job_finished", 5),
    ]
    assert records(stream)[1]["dropped_count"] == 2


def test_many_records_are_written_together_as_far_as_a_pipe_takes_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, write = [], os.write

    def measured(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    with (tmp_path / "log").open("w") as stream:
        log = log_to(stream)
        with monkeypatch.context() as patch:
            patch.setattr("os.write", measured)
            log.many(("info", "job_finished", {"job_id": f"a{number}"}) for number in range(100))

    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(record["job_id"], record["seq"]) for record in told] == [(f"a{n}", n + 1) for n in range(100)]
    assert len(sizes) < 20
    assert max(sizes) <= select.PIPE_BUF


def test_of_many_records_those_below_the_level_are_left_out_and_the_lost_are_counted() -> None:
    stream = Faulty()
    log = log_to(stream)
    stream.failure = OSError(28, "No space left on device")
    log.many([("info", "job_finished", {}), ("debug", "job_leased", {}), ("info", "job_finished", {})])
    stream.failure = None
    log.many([])
    log.many([("debug", "job_leased", {}), ("info", "job_finished", {"job_id": "a1"})])

    finished, dropped = records(stream)
    assert finished["job_id"] == "a1"
    assert (dropped["event"], dropped["dropped_count"]) == ("log_dropped", 2)


def test_closed_stream_is_let_be() -> None:
    stream = io.StringIO()
    log = log_to(stream)
    stream.close()

    log.info("job_finished")


def test_closed_pipe_is_let_be() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        log = log_to(stream)
        os.close(read_end)
        log.info("job_finished")
        log.info("job_finished")


def test_half_written_line_does_not_swallow_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:100])

    with path.open("w") as stream:
        log = log_to(stream)
        with monkeypatch.context() as patch:
            patch.setattr("os.write", half)
            log.info("job_finished", detail="x" * 25)
        log.info("job_finished", job_id="a2")

    torn, whole, notice = path.read_text().splitlines()
    assert torn.startswith('{"log_schema":1')
    assert json.loads(whole)["job_id"] == "a2"
    assert json.loads(notice)["dropped_count"] == 1


def test_strict_log_refuses_what_is_not_registered() -> None:
    log = log_to(io.StringIO(), strict=True)

    log.info("worker_started", endpoint="local", slots=2)
    with pytest.raises(Unregistered, match="no event worker_sang"):
        log.info("worker_sang")
    with pytest.raises(Unregistered, match="key tune is not registered"):
        log.info("worker_started", endpoint="local", slots=2, tune="low")


def test_default_stream_is_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    open_log(service="queuectl-worker", config=Config(), instance="i1").info("worker_started")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "worker_started"


def test_import_costs_no_structlog() -> None:
    program = "import sys, queuectl.logs, queuectl.events; sys.exit('structlog' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_on_stderr_leaves_the_process_alone() -> None:
    program = (
        "from queuectl.config import Config\nfrom queuectl.logs import open_log\n"
        "log = open_log(service='queuectl-worker', config=Config(), instance='i1')\n"
        "log.error('storage_failed')\nprint('alive')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stderr=full, stdout=subprocess.PIPE, check=False)

    assert (done.returncode, done.stdout) == (0, b"alive\n")
