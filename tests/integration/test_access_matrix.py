"""Who may do what, tried for real: each operation and message, by each role, with each kind of key or none.

What is expected stands here in words of its own, so that a slip in the broker's table is found. Each cell is a
connection of its own to a real broker that listens with CURVE.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from broker.core.operations import OPERATIONS
from queuectl.credentials import Credentials, new_key_pair
from queuectl.ids import new_request_id
from queuectl.messages import (
    TO_BROKER,
    TO_WORKER,
    Beat,
    Bye,
    Echo,
    Gone,
    Hello,
    Output,
    Refuse,
    Release,
    Results,
    Stop,
    ToBroker,
    Welcome,
)
from queuectl.wire import REPLY_BYTES_MAX, decode, encode
from tests.harness_keys import Domain, Line, credentials, keyed_broker

ROLES = ("worker", "submit", "read", "admin")

# What each operation is, in words; what each role is for, in the same words.
KIND_OF = {
    "ping": "says nothing of anybody",
    "whoami": "says nothing of anybody",
    "enqueue": "enqueues",
    "job": "sees jobs",
    "output": "sees jobs",
    "list": "sees jobs",
    "events": "sees jobs",
    "wait": "sees jobs",
    "why": "sees jobs",
    "cancel": "cancels",
    "status": "sees the rest",
    "config_show": "sees the rest",
    "key_list": "sees the rest",
    "hold": "changes",
    "release": "changes",
    "edit": "changes",
    "retry": "changes",
    "purge": "changes",
    "export": "changes",  # nothing, but what it tells nobody else may see
    "dlq_retry": "changes",
    "dlq_purge": "changes",
    "config_set": "changes",
    "config_unset": "changes",
    "worker_stop": "changes",
    "key_add": "changes",
    "key_rotate": "changes",
    "key_revoke": "changes",
    "reload": "changes",
    "shutdown": "changes",
}
KINDS_FOR = {
    "worker": {"says nothing of anybody", "leases and reports"},
    "submit": {"says nothing of anybody", "enqueues", "sees jobs", "cancels"},
    "read": {"says nothing of anybody", "sees jobs", "sees the rest"},
    "admin": {
        "says nothing of anybody",
        "leases and reports",
        "enqueues",
        "sees jobs",
        "cancels",
        "sees the rest",
        "changes",
    },
}
MESSAGES = tuple(f"say {name}" for name in ("hello", "beat", "results", "output", "release", "gone", "bye"))
EVERYTHING = (*KIND_OF, *MESSAGES)

FATES_WITH = {
    "no key": {"keys_required", "broker_unreachable"},  # where the broker hangs up before its greeting has been read
    "unknown key": {"key_not_accepted"},
    "revoked key": {"key_not_accepted"},
    "wrong server key": {"server_key_mismatch"},
    "right key": {"open"},
}
Cell = tuple[str, str, str]  # what, role, key
BATCH = 60  # connections at once


def is_allowed(what: str, role: str) -> bool:
    return KIND_OF.get(what, "leases and reports") in KINDS_FOR[role]


def test_everything_that_the_broker_takes_is_in_here() -> None:
    assert set(KIND_OF) == set(OPERATIONS), "what a new operation is, and for whom, is to be said here"
    assert set(MESSAGES) == {f"say {name}" for name in TO_BROKER}


@dataclass
class Seen:
    """What became of each cell."""

    fates: dict[Cell, str] = field(default_factory=dict)
    answers: dict[Cell, str] = field(default_factory=dict)  # ok, a code, or the kind of a message
    turned_away: int = 0
    is_changed: dict[str, bool] = field(default_factory=dict)  # the store: by those not let in, by those not allowed
    exit_code: int | None = None


class Trial:
    """Carries out all cells against one broker."""

    def __init__(self, domain: Domain):
        self.domain = domain
        self.right = {role: domain.add(f"right-{role}", role) for role in ROLES}
        self.revoked = {role: domain.add(f"revoked-{role}", role) for role in ROLES}
        for role in ROLES:
            domain.local.ok("key_revoke", name=f"revoked-{role}")
        domain.add("victim", "read")
        with zmq.Context() as context, Line(context, domain.client_way(self.right["submit"])) as line:
            line.send(b"", request("enqueue", jobs=[{"command": "true", "queue": "nobody-serves"}]))
            [self.job] = msgpack.unpackb(line.receive())["ok"]["ids"]
        self.seen = Seen()

    def run(self) -> Seen:
        before, turned_away = self.stored(), self.domain.counter("turned_away")
        outside = list(product(EVERYTHING, ROLES, [key for key in FATES_WITH if key != "right key"]))
        self.try_all(outside)
        self.seen.turned_away = self.domain.counter("turned_away") - turned_away
        self.seen.is_changed["from outside"] = self.stored() != before
        inside = [(what, role, "right key") for what, role in product(EVERYTHING, ROLES)]
        self.try_all([cell for cell in inside if not is_allowed(cell[0], cell[1])])
        self.seen.is_changed["by those who may not"] = self.stored() != before
        allowed = [cell for cell in inside if is_allowed(cell[0], cell[1])]
        self.try_all([cell for cell in allowed if cell[0] != "shutdown"])
        self.try_all([cell for cell in allowed if cell[0] == "shutdown"])
        self.seen.exit_code = self.domain.broker.wait()
        return self.seen

    def stored(self) -> list[str]:
        """All that stands in the database."""
        with tempfile.TemporaryDirectory() as place:
            for suffix in ("", "-wal"):
                shutil.copyfile(self.domain.broker.data_dir / f"queue.db{suffix}", Path(place, f"copy.db{suffix}"))
            with closing(sqlite3.connect(Path(place, "copy.db"))) as copy:
                return list(copy.iterdump())

    def try_all(self, cells: list[Cell]) -> None:
        with zmq.Context() as context:
            for start in range(0, len(cells), BATCH):
                self.try_at_once(context, cells[start : start + BATCH])

    def try_at_once(self, context: zmq.Context[zmq.Socket[bytes]], cells: list[Cell]) -> None:
        with ExitStack() as stack:
            lines = {cell: stack.enter_context(Line(context, self.way(*cell))) for cell in cells}
            for (what, role, _), line in lines.items():
                line.send(*self.said(what, role))
            for cell, line in lines.items():
                self.seen.fates[cell] = line.fate()
                if self.seen.fates[cell] == "open" and cell[2] == "right key":
                    self.seen.answers[cell] = self.answer(line, *cell)
                elif line.has_message():
                    self.seen.answers[cell] = repr(line.receive())

    def way(self, what: str, role: str, key: str) -> Any:
        way = self.domain.worker_way if what in MESSAGES else self.domain.client_way
        if key == "no key":
            return way(None)
        if key == "wrong server key":
            return way(self.right[role], new_key_pair()[0])
        who: dict[str, Credentials] = {
            "unknown key": credentials("nobody", role, [self.domain.server_key]),
            "revoked key": self.revoked[role],
            "right key": self.right[role],
        }
        return way(who[key])

    def said(self, what: str, role: str) -> list[bytes]:
        """What is sent at once: a request; or a message, by those who may say it not before WELCOME."""
        if what not in MESSAGES:
            return [b"", request(what, **self.arguments(what, role))]
        if is_allowed(what, role):
            return [encode(hello())]
        return [encode(message(what, session=1))]

    def arguments(self, what: str, role: str) -> dict[str, Any]:
        """Good arguments: whoever may do it can."""
        name = f"victim-of-{role}"
        known: dict[str, dict[str, Any]] = {
            "enqueue": {"jobs": [{"command": "true", "queue": "nobody-serves"}]},
            "job": {"id": self.job},
            "output": {"id": self.job, "attempt": 1},
            "events": {"id": self.job},
            "wait": {"jobs": [self.job], "timeout_ms": 0},
            "why": {"id": self.job},
            "cancel": {"select": {"ids": [self.job]}, "dry": True},
            "edit": {"select": {"ids": [self.job]}, "changes": {"priority": 1}},
            **{op: {"select": {"ids": [self.job]}} for op in ("hold", "release", "retry", "purge", "export")},
            "dlq_retry": {"all": True},
            "dlq_purge": {"all": True},
            "config_set": {"key": "max_retries", "value": 7},
            "config_unset": {"key": "max_losses"},
            "worker_stop": {"workers": []},
            "key_add": {"name": name, "role": "admin", "public_key": new_key_pair()[0]},
            "key_rotate": {"name": "victim", "public_key": new_key_pair()[0]},
            "key_revoke": {"name": "victim", "old": True},
        }
        return known.get(what, {})

    def answer(self, line: Line, what: str, role: str, _: str) -> str:
        if what not in MESSAGES:
            reply = msgpack.unpackb(line.receive())
            return "ok" if "ok" in reply else str(reply["error"]["code"])
        first = decode(line.receive(), TO_WORKER, bytes_max=REPLY_BYTES_MAX)
        if not isinstance(first, Welcome):
            return first.code if isinstance(first, Refuse) else type(first).__name__
        if what != "say hello":
            line.send(encode(message(what, first.session)))
        line.send(encode(Beat(first.session, 1, 0, [], [], draining=False)))
        heard = decode(line.receive(), TO_WORKER, bytes_max=REPLY_BYTES_MAX)
        while isinstance(heard, Stop) or (isinstance(heard, Echo) and not heard.n):
            heard = decode(line.receive(), TO_WORKER, bytes_max=REPLY_BYTES_MAX)  # that was said to all workers
        return type(heard).__name__


def request(op: str, **args: Any) -> bytes:
    body: bytes = msgpack.packb({"v": 1, "id": new_request_id(), "op": op, "args": args})
    return body


def hello() -> Hello:
    boot = new_request_id().encode().hex()[:32].ljust(32, "0")
    return Hello(1, 1, boot, "/h", "host", 1, 0, [], "0", draining=False, held=[], broker="", n=1)


def message(what: str, session: int) -> ToBroker:
    """A message without consequences."""
    known: dict[str, ToBroker] = {
        "say hello": hello(),
        "say beat": Beat(session, 1, 0, [], [], draining=False),
        "say results": Results(session, []),
        "say output": Output(session, []),
        "say release": Release(session, []),
        "say gone": Gone(session, []),
        "say bye": Bye(session),
    }
    return known[what]


# What a worker hears next, when it has said this and then a heartbeat.
HEARD_AFTER = dict.fromkeys(MESSAGES, "Echo") | {"say bye": "ByeOk"}


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    home = Path(tempfile.mkdtemp(prefix="q-"))
    with keyed_broker(home) as domain:
        yield Trial(domain).run()
    shutil.rmtree(home)


@pytest.mark.parametrize("key", FATES_WITH)
@pytest.mark.parametrize("role", ROLES)
def test_connection_comes_up_with_the_right_key_only(seen: Seen, role: str, key: str) -> None:
    fates = {what: seen.fates[what, role, key] for what in EVERYTHING}

    assert {what: fate for what, fate in fates.items() if fate not in FATES_WITH[key]} == {}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_it_is_for_and_nothing_else(seen: Seen, role: str) -> None:
    answers = {what: seen.answers[what, role, "right key"] for what in EVERYTHING}

    allowed = dict.fromkeys(KIND_OF, "ok") | HEARD_AFTER
    assert answers == {what: allowed[what] if is_allowed(what, role) else "not_allowed" for what in EVERYTHING}


def test_nobody_outside_is_ever_answered(seen: Seen) -> None:
    assert {cell for cell in seen.answers if cell[2] != "right key"} == set()


def test_those_who_are_turned_away_are_counted(seen: Seen) -> None:
    assert seen.turned_away == len([fate for fate in seen.fates.values() if fate != "open"])


def test_nothing_has_changed_by_those_who_may_not(seen: Seen) -> None:
    assert seen.is_changed == {"from outside": False, "by those who may not": False}


def test_broker_has_stopped_for_the_admin_who_told_it_to(seen: Seen) -> None:
    assert seen.exit_code == 0
