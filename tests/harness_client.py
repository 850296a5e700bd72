"""A broker from a script, for tests of the client and the command line: a real ROUTER, replies from handlers.

Also the way to run the command line inside the test process, with what it printed.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq

from queuectl import wire
from queuectl.errors import QueuectlError
from queuectl.home import Home

Handler = Callable[[dict[str, Any]], Any]


class Silence(Exception):
    """Raised by a handler: no reply goes out."""


@dataclass(frozen=True)
class Answer:
    """A reply with more in its envelope than the result."""

    ok: dict[str, Any]
    repeated: bool = False
    id: str | None = None


@dataclass
class Asked:
    """One request as it arrived."""

    op: str
    args: dict[str, Any]
    id: str


@dataclass
class ScriptedBroker:
    """Answers each operation from `handlers`; keeps what it was asked in `asked`."""

    endpoint: str
    handlers: dict[str, Handler] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, op: str, answer: Any) -> None:
        """Answer an operation with a result, an error, an Answer, or what a handler returns for the arguments."""
        self.handlers[op] = answer if callable(answer) else lambda _: answer

    def ops(self) -> list[str]:
        return [each.op for each in self.asked]

    def only(self, op: str) -> Asked:
        found = [each for each in self.asked if each.op == op]
        assert len(found) == 1, self.ops()
        return found[0]

    def start(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 1000
        self._router.bind(self.endpoint)
        self._stop_in = self._context.socket(zmq.PAIR)
        self._stop_in.bind("inproc://stop")
        self._stop_out = self._context.socket(zmq.PAIR)
        self._stop_out.connect("inproc://stop")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._stop_out.send(b"")
        self._thread.join()
        for socket in (self._router, self._stop_in, self._stop_out):
            socket.close()
        self._context.term()
        if self.endpoint.startswith("ipc://"):
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def hang_up(self) -> None:
        """Close every connection and listen no more; for handlers."""
        self._router.unbind(self.endpoint)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._stop_in, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._router in ready:
                *envelope, body = self._router.recv_multipart()
                for reply in self._answers(body):
                    self._router.send_multipart([*envelope, reply])
            if self._stop_in in ready:
                return

    def _answers(self, body: bytes) -> Iterator[bytes]:
        request = wire.unpack(body, bytes_max=wire.CLIENT_MESSAGE_BYTES_MAX)
        self.asked.append(Asked(request["op"], request["args"], request["id"]))
        head: dict[str, Any] = {"v": 1, "id": request["id"]}
        try:
            answer = self.handlers[request["op"]](request["args"])
        except Silence:
            return
        except QueuectlError as error:
            answer = error
        if isinstance(answer, QueuectlError):
            yield wire.encode({**head, "error": answer.to_wire()})
        elif isinstance(answer, Answer):
            extra = {"repeated": True} if answer.repeated else {}
            yield wire.encode({**head, "id": answer.id or request["id"], "ok": answer.ok, **extra})
        else:
            yield wire.encode({**head, "ok": answer})


@contextmanager
def scripted_broker(home: Path, endpoint: str | None = None) -> Iterator[ScriptedBroker]:
    """A scripted broker that listens at the local endpoint of a home (or elsewhere) while the block runs."""
    place = Home(home)
    place.prepare()
    broker = ScriptedBroker(endpoint or place.client_endpoint)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


# --- running the command line ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What a run of the command line printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        import json

        return json.loads(self.out)


class Terminal(io.TextIOWrapper):
    """A stream in memory that says whether it is a terminal."""

    def __init__(self, data: bytes = b"", *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", newline="\n")
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def taken(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8", "backslashreplace")


def run_cli(*args: str, stdin: str | bytes = b"", tty: bool = False, columns: int | None = None) -> Ran:
    """Run the command line in this process; with `tty`, all three streams are a terminal."""
    from cli.main import main

    data = stdin.encode() if isinstance(stdin, str) else stdin
    source, out, err = Terminal(data, is_terminal=tty), Terminal(is_terminal=tty), Terminal(is_terminal=tty)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", source)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.delenv("COLUMNS", raising=False)
        if columns is not None:
            patch.setenv("COLUMNS", str(columns))
        code = main(list(args))
        return Ran(code, out.taken(), err.taken())


# --- what a broker would say -----------------------------------------------------------------------


def job_view(**changed: Any) -> dict[str, Any]:
    """A job as the broker shows it."""
    job: dict[str, Any] = {
        "id": "a1",
        "command": "echo hello",
        "state": "pending",
        "reason": None,
        "queue": "default",
        "priority": 0,
        "attempt": 0,
        "attempts": 0,
        "losses": 0,
        "max_retries": 3,
        "backoff_base": 2.0,
        "backoff_max": 3600.0,
        "backoff_jitter": "none",
        "timeout": None,
        "exit_code": None,
        "signal": None,
        "run_at": "2026-11-22T10:00:00.000Z",
        "created_at": "2026-11-22T10:00:00.000Z",
        "updated_at": "2026-11-22T10:00:00.000Z",
        "finished_at": None,
        "worker": None,
        "cwd": None,
        "env": [],
        "on_lost": "retry",
        "keep_children": False,
        "output_limit": 1048576,
        "last_line": None,
    }
    return job | changed


def attempt_view(**changed: Any) -> dict[str, Any]:
    """An attempt as the broker shows it."""
    attempt: dict[str, Any] = {
        "attempt": 1,
        "worker": "host-1",
        "started_at": "2026-11-22T10:00:01.000Z",
        "finished_at": "2026-11-22T10:00:02.500Z",
        "duration_s": 1.5,
        "outcome": "exit",
        "exit_code": 1,
        "signal": None,
        "stdout_bytes": 6,
        "stderr_bytes": 5,
        "last_line": "oops",
        "note": None,
        "lease": "00000000000000ff",
    }
    return attempt | changed


def status_view(**changed: Any) -> dict[str, Any]:
    """The answer to `status`."""
    counts = {"pending": 2, "processing": 1, "completed": 5, "failed": 0, "dead": 1, "cancelled": 0, "total": 9}
    status: dict[str, Any] = {
        "broker": {
            "id": "b1",
            "pid": os.getpid(),
            "version": "0.6.0",
            "uptime_s": 75.0,
            "endpoints": ["ipc:///run/client.sock"],
            "database": "/data/queue.db",
            "data_dir": "/data",
            "accepting": True,
            "started": "auto",
        },
        "workers": [worker_view()],
        "jobs": counts,
    }
    return status | changed


def worker_view(**changed: Any) -> dict[str, Any]:
    """A worker as the broker shows it."""
    worker: dict[str, Any] = {
        "id": "host-0123abcd",
        "host": "host",
        "pid": 4242,
        "slots": 4,
        "busy": 1,
        "state": "active",
        "last_seen_s": 0.4,
        "queues": [],
    }
    return worker | changed
