"""What people see: whatever others wrote into jobs, names and errors, no terminal obeys it and no eye is misled.

Commands run with a client that answers with hostile jobs; with --json they print JSON all the same.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, ClassVar
from unittest.mock import patch

from cli import logs as cli_logs
from cli.escape import shortened, visible, visible_lines, width
from cli.main import main
from cli.render import facts, table
from cli.session import Session
from queuectl.client import Client
from queuectl.config import Config
from queuectl.errors import BY_CODE, from_wire
from queuectl.following import Chunk
from queuectl.jobs import JobState, Outcome
from queuectl.link import Begun, Reply
from queuectl.logs import open_log
from tests.fuzz import samples

ARGUMENTS = (
    *(["list"], ["list", "--state", "dead"], ["list", "--queue", "q", "--limit", "3"], ["show", "a1"]),
    *(["dlq", "list"], ["dlq", "show", "a1"], ["dlq", "retry", "a1"], ["dlq", "retry", "a1", "b2"]),
    *(["dlq", "purge", "--all", "--yes"], ["status"], ["worker", "list"], ["logs", "a1"]),
    *(["events"], ["events", "a1"], ["why", "a1"], ["wait", "a1"], ["wait", "a1", "b2"], ["run", "--", "true"]),
    *(["dlq", "list", "--by-cause"], ["list", "--fields", "id,tags,state,command"], ["logs", "-f", "a1"]),
    *([verb, "a1", "b2"] for verb in ("cancel", "hold", "release", "retry", "purge")),
    *([verb, "--queue", "q", "-n"] for verb in ("cancel", "retry")),
)
FORMS: tuple[list[str], ...] = ([], [], ["--json"], ["-q"])
# One value a line instead of one value.
STREAMS = frozenset({"logs", "events"})
# They exit as the job did.
FAITHFUL = frozenset({"run", "wait"})
ERRORS = 0.2  # share of the commands that are answered with an error
_COLOURS = re.compile(r"\x1b\[\d{1,3}m")
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u200b\u2060-\u206f\u202a-\u202e\ufeff\ud800-\udfff]"
)


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what it was sent."""

    def __init__(self) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def sent(self) -> str:
        """All that was written."""
        return self.kept.getvalue().decode("utf-8")


def check_harmless(shown: str, *, coloured: bool = False, tabs: bool = True) -> None:
    """Nothing in it but what can be read, lines, and colours where they are wanted."""
    plain = _COLOURS.sub("", shown) if coloured else shown
    found = _OBEYED.search(plain)
    assert found is None, f"{found[0]!r} in …{plain[max(0, found.start() - 40) : found.end() + 40]!r}…"
    assert tabs or "\t" not in plain


# --- a client with answers ---------------------------------------------------------------------------


class Answers(Client):
    """A client that asks nobody: everything in its answers that can be text was written by somebody hostile."""

    def __init__(self, chance: Random) -> None:
        self.timeout = 5.0
        self.chance = chance
        self.fails = chance.random() < ERRORS
        self.skips = chance.random() < ERRORS
        self._asked: tuple[str, Mapping[str, Any] | None] = ("status", None)

    def text(self) -> str:
        return samples.hostile(self.chance)

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.chance.random() < 0.7 else None

    def number(self) -> int:
        return self.chance.choice((0, 1, 3, 1000, 2**62))

    def instant(self) -> str:
        return self.chance.choice(("2026-11-22T16:28:00.123Z", "9999-12-31T23:59:59.999Z", self.text()))

    def job(self) -> dict[str, Any]:
        job: dict[str, Any] = {name: self.text() for name in ("id", "command", "queue", "last_line", "backoff_jitter")}
        job |= {name: self.maybe(self.text) for name in ("reason", "worker", "cwd")}
        job |= {name: self.number() for name in ("priority", "attempts", "losses", "max_retries", "backoff_base")}
        job |= {name: self.maybe(self.number) for name in ("timeout", "exit_code", "signal", "backoff_max")}
        job |= {name: self.maybe(self.instant) for name in ("run_at", "created_at", "updated_at", "finished_at")}
        job |= {name: self.maybe(self.text) for name in ("unique", "retry_of", "cancelled_by", "cancel_reason")}
        job |= {"tags": {self.text(): self.text()}, "enqueued_by": self.text(), "held": True, "cancelling": True}
        state = self.chance.choice((*JobState, self.text()))
        return job | {"state": str(state), "env": [self.text() for _ in range(self.chance.randrange(3))]}

    def attempt(self) -> dict[str, Any]:
        attempt: dict[str, Any] = {name: self.maybe(self.text) for name in ("worker", "note", "last_line", "lease")}
        attempt |= {name: self.maybe(self.number) for name in ("duration_s", "exit_code", "signal", "stdout_bytes")}
        outcome = self.maybe(lambda: str(self.chance.choice((*Outcome, self.text()))))
        return attempt | {"attempt": 1, "outcome": outcome, "started_at": self.maybe(self.instant), "stderr_bytes": 7}

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = {name: self.maybe(self.text) for name in ("job_id", "worker", "by", "reason", "state")}
        event |= {"attempt": self.maybe(self.number), "exit_code": self.maybe(self.number), "cursor": [1, 1]}
        return event | {"at": self.instant(), "type": self.text(), "outcome": self.text(), self.text(): self.text()}

    # --- what commands ask ---

    def request(self, op: str, args: Mapping[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        if self.fails:
            wire = {
                "code": self.chance.choice((*BY_CODE, "new")),
                "message": self.text(),
                "hint": self.maybe(self.text),
            }
            raise from_wire(wire | {"details": {"id": self.text()}})
        return self._replies.get(op, Answers._say_changed)(self)

    def begin(self, op: str, args: Mapping[str, Any] | None = None, *, request_id: str | None = None) -> Begun:
        self._asked = op, args
        return Begun(op, request_id or "", b"")

    def finish(self, begun: Begun, *, timeout: float | None = None, until: float = 0.0) -> Reply:
        op, args = self._asked
        return Reply(self.request(op, args), repeated=False, tries=1)

    def _say_job(self) -> dict[str, Any]:
        return {"job": self.job(), "history": [self.attempt() for _ in range(self.chance.randrange(3))]}

    def _say_list(self) -> dict[str, Any]:
        return {"jobs": [self.job() for _ in range(self.chance.randrange(4))], "next": None}

    def _say_events(self) -> dict[str, Any]:
        return {"events": [self.event() for _ in range(3)], "cursor": [1, 0], "more": False, "missed": False}

    def _say_why(self) -> dict[str, Any]:
        reasons = [
            {"code": self.text(), "text": self.text(), "at": self.maybe(self.instant)}
            for _ in range(self.chance.randrange(3))
        ]
        return {"id": self.text(), "state": self.text(), "reasons": reasons, "position": 3, "estimate_s": 5.0}

    def _say_wait(self) -> dict[str, Any]:
        job = {"id": self.text(), "state": self.text(), "reason": self.maybe(self.text)}
        job |= {"exit_code": self.maybe(lambda: 3), "signal": self.maybe(lambda: 9)}
        return {"done": True, "jobs_left": 0, "jobs": [job]}

    def _say_changed(self) -> dict[str, Any]:
        skipped = [{"id": self.text(), "code": "wrong_state", "message": self.text()}] if self.skips else []
        more = {"copies": {}, "skipped": skipped, "stopping": [], "errors": []}
        return {"ids": [self.text()], "next": None, **more}

    def _say_output(self) -> dict[str, Any]:
        segments: list[list[Any]] = []
        offset = 0
        for _ in range(self.chance.randrange(4)):
            data = self.chance.choice((self.text().encode("utf-8", "surrogatepass"), self.chance.randbytes(30)))
            offset += self.chance.choice((0, 0, 100))
            segments.append([self.chance.randint(1, 2), offset, data])
            offset += len(data)
        told = {"segments": segments, "finished": True, "totals": {"1": offset, "2": 0}, "state": self.text()}
        told |= {"outcome": self.text(), "exit_code": self.maybe(self.number), "signal": None}
        return told | {"attempt": 1, "latest": 1, "over": True, "next": None, "cursor": [1, 1]}

    def _say_status(self) -> dict[str, Any]:
        broker = {name: self.text() for name in ("id", "version", "database", "data_dir")}
        worker: dict[str, Any] = {name: self.text() for name in ("id", "host", "state", "version", "boot")}
        worker |= {"busy": 1, "slots": 2, "pid": 5, "last_seen_s": 0.5, "queues": [self.text()]}
        return {
            "broker": broker | {"uptime_s": 5.0, "pid": 1, "endpoints": [self.text()], "accepting": False},
            "workers": [worker],
            "jobs": dict.fromkeys(JobState, 1) | {"total": 6},
        }

    _replies: ClassVar[dict[str, Callable[[Answers], dict[str, Any]]]] = {
        "job": _say_job,
        "list": _say_list,
        "events": _say_events,
        "why": _say_why,
        "wait": _say_wait,
        "output": _say_output,
        "status": _say_status,
    }


# --- targets -------------------------------------------------------------------------------------------


def feed(chance: Random) -> None:
    """One thing that is shown."""
    chance.choice(_SHOWN)(chance)


def _command(chance: Random) -> None:
    words, form = chance.choice(ARGUMENTS), chance.choice(FORMS)
    place = words.index("--") if "--" in words else len(words)
    arguments = [*words[:place], *form, *words[place:]]
    out, err = Terminal(), Terminal()
    coloured = chance.random() < 0.5
    environ = {"TERM": "xterm", "NO_COLOR": "" if coloured else "1", "COLUMNS": str(chance.choice((1, 40, 80, 300)))}
    answers = Answers(chance)
    with (
        patch.object(Session, "client", lambda *_, **__: answers),
        patch("sys.stdout", out),
        patch("sys.stderr", err),
        patch.dict("os.environ", environ),
    ):
        code = main(arguments)
    assert isinstance(code, int)
    assert code == 0 or answers.fails or answers.skips or arguments[0] in FAITHFUL, f"{arguments}: {err.sent()}"
    assert "this is a bug" not in err.sent() + out.sent(), err.sent()
    check_harmless(out.sent(), coloured=coloured)
    check_harmless(err.sent())
    if "--json" in arguments:
        _check_json(out.sent(), in_lines=arguments[0] in STREAMS and code == 0)


def _check_json(shown: str, *, in_lines: bool) -> None:
    for value in shown.splitlines() if in_lines else [shown]:
        json.loads(value, parse_constant=lambda name: AssertionError(f"{name} is not JSON"))


def _escapes(chance: Random) -> None:
    text = samples.hostile(chance)
    check_harmless(visible(text), tabs=False)
    check_harmless(visible_lines(text))
    assert "\n" not in visible(text)
    assert visible(visible(text)) == visible(text)
    columns = chance.randrange(1, 100)
    assert width(shortened(visible(text), columns)) <= columns


def _tables(chance: Random) -> None:
    rows = [[samples.hostile(chance) for _ in range(4)] for _ in range(chance.randrange(4))]
    shown = table(("A", "B", "C", "D"), rows, state_column=1, dispensable=(2, 0))
    check_harmless(shown, tabs=False)
    assert shown.count("\n") == len(rows), "a row is a line"
    check_harmless(facts([("Label", visible(samples.hostile(chance))), ("None", None)]), tabs=False)


def _output(chance: Random) -> None:
    out = Terminal()
    with patch("sys.stdout", out):
        writer = cli_logs._Writer(print, timestamps=chance.random() < 0.5)
        for _ in range(3):
            data = chance.choice((chance.randbytes(20), samples.hostile(chance).encode("utf-8", "surrogatepass")))
            writer.write(Chunk(1, "stdout", 0, data, None, chance.choice((0, 0, 5))))
    check_harmless(out.sent())


def _log_lines(chance: Random) -> None:
    keys = {chance.choice(("job_id", "reason", "detail", "worker_id")): samples.hostile(chance) for _ in range(3)}
    keys["odd"] = samples.anything(chance)
    for log_format in ("console", "json"):
        out = Terminal()
        log = open_log(service="worker", config=Config(log_format=log_format), instance="i", stream=out)
        log.warning("spawn_failed", **keys, error=ValueError(samples.hostile(chance)))
        if log_format == "console":
            check_harmless(out.sent(), coloured=True, tabs=False)
        else:
            assert json.loads(out.sent())["event"] == "spawn_failed"
            assert out.sent().count("\n") == 1


_SHOWN: tuple[Callable[[Random], None], ...] = (
    *(_command, _command, _command),
    *(_escapes, _escapes, _tables, _output, _log_lines),
)
