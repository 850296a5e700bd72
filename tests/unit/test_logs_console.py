"""The log as people read it on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from queuectl.config import Config
from queuectl.logs import RECORD_BYTES_MAX, Log, open_log


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def log_to(stream: Any, *, format: str) -> Log:
    return open_log(service="queuectl-worker", config=Config(log_format=format), instance="i1", stream=stream)


@pytest.mark.parametrize(
    ("format", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_format_follows_the_terminal_unless_it_is_set(format: str, stream: Any, is_json: bool) -> None:
    out = stream()
    log_to(out, format=format).info("job_finished")

    assert out.getvalue().startswith("{") is is_json


def test_console_line_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    log = log_to(stream, format="console")
    monkeypatch.setattr("time.strftime", lambda *_: "16:02:11")
    log.info("job_finished", job_id="a1", outcome="exit", exit_code=1, signal=None, will_retry=True, slots=[1, 2])
    log.warning("worker_lost", detail="it's gone", reason="", state='"x"')

    assert stream.getvalue().splitlines() == [
        "16:02:11 info    job_finished       job_id=a1 outcome=exit exit_code=1 will_retry=true slots=[1,2]",
        '16:02:11 warning worker_lost        detail="it\'s gone" reason="" state="\\"x\\""',
    ]


def test_console_escapes_what_a_terminal_would_obey() -> None:
    stream = io.StringIO()
    log = log_to(stream, format="console")
    log.info("job_started", command="a\x1b]0;x\x07\r\n\x9b\u202e\u2028\ud800", **{"k\n": {"x": "\x1b"}})
    log.error("storage_failed", error=ValueError("a\x1b[2J\nb"))

    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert 'command="a\\x1b]0;x\\x07\\r\\n\\x9b\\u202e\\u2028\\ud800"' in lines[0]
    assert lines[-3:] == ["    ValueError: a\\x1b[2J", "    b", ""]


def test_console_line_has_the_same_limit() -> None:
    stream = Terminal()
    log_to(stream, format="console").info("job_started", command="ü" * 10_000)

    assert len(stream.getvalue().encode()) <= RECORD_BYTES_MAX
    assert "truncated=true" in stream.getvalue()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_stand_on_terminals_that_want_them(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        log_to(stream, format="console").warning("worker_lost")

    assert ("\x1b[33mwarning\x1b[0m" in terminal.getvalue()) is coloured
    assert "\x1b" not in file.getvalue()
