"""The parts of docs/protocol.md that are made from the code: `python -m tests.protocol_page docs/protocol.md`.

Operations, messages with the places of their fields, errors and socket options stand in the code alone; here
they become tables. A test compares the page with them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import zmq
from msgspec import inspect as types

from broker.core.access import EVERYBODY, READ, SUBMIT
from broker.core.feed import KINDS
from broker.core.operations import OPERATIONS
from broker.core.sessions import WINDOW_BYTES
from broker.core.waits import WAITERS_MAX
from broker.sockets import _COMMON, client_router, worker_router
from queuectl import messages, packed, requests
from queuectl.credentials import ROLES
from queuectl.errors import BY_CODE
from queuectl.jobs import COMMAND_BYTES_MAX, ENV_BYTES_MAX, JobSpec

# What a field means where its own line does not say it.
MEANINGS = {
    "session": "number of the session, from WELCOME",
    "lease": "id of the lease",
    "job": "id of the job",
    "attempt": "number of the run, from 1",
    "stream": "1 stdout, 2 stderr",
    "stderr_bytes": "the same of stderr",
}
REASONS = {
    "ROUTER_MANDATORY": "else a message to a peer that is gone, or whose queue is full, vanishes without a word",
    "ROUTER_HANDOVER": "no peer names itself: a second one of that name would be ignored for ever, or steal it",
    "LINGER": "nothing waits when the process ends; a clean stop gives its last replies two seconds",
    "HANDSHAKE_IVL": "milliseconds; who connects and says nothing is thrown out",
    "HEARTBEAT_IVL": "milliseconds; only reaps dead connections: it neither sees a hung peer nor spares a busy one",
    "HEARTBEAT_TIMEOUT": "milliseconds; long, for that reason",
    "TCP_KEEPALIVE": "for firewalls and address translation that forget idle connections",
    "TCP_KEEPALIVE_IDLE": "seconds",
    "TCP_KEEPALIVE_INTVL": "seconds",
    "TCP_KEEPALIVE_CNT": "tries",
    "TCP_MAXRT": "milliseconds for which sent data may stay unacknowledged",
    "BACKLOG": "a thousand workers may come back at once",
}

HAPPENINGS = {
    "enqueued": "it was stored",
    "leased": "a worker was given it",
    "finished": "an attempt has ended; `state` of the job now, `run_at` if it is tried again",
    "requeued": "given back by a worker before it was started: no attempt",
    "lost": "its worker is gone, or away for longer than a lease",
    "adopted": "a worker that came back after a loss was said still has it: the attempt goes on",
    "cancelled": "it is over, by somebody's wish",
    "cancel_asked": "the worker was told to end it",
    "expired": "not started by its time, and so cancelled",
    "dead": "it went to the dead letter queue, and why",
    "held": "it waits until it is released",
    "released": "it may run again",
    "edited": "some of it was changed while it waited",
    "retried": "it runs again, or `copy` does in its place",
    "purged": "it was deleted",
    "replaced": "cancelled in favour of a job with the same unique key",
    "worker_joined": "a worker has said hello",
    "worker_left": "it said goodbye, or is away",
    "setting_changed": "to `value`; `before` and `value` are null where it is not set",
    "key_added": "somebody may come in, or has a second key",
    "key_revoked": "somebody may not any more",
    "broker_started": "`epoch` counts starts",
    "broker_stopped": "an orderly stop",
}


def sections() -> dict[str, str]:
    """The generated parts of the page by name."""
    return {
        "operations": operations(),
        "job": _table(("Field", "Type", "Meaning"), _fields(JobSpec)),
        "events": happenings(),
        "errors": errors(),
        "to broker": _messages(messages.ToBroker),
        "to worker": _messages(messages.ToWorker),
        "options": options(),
        "limits": limits(),
    }


def refreshed(page: str) -> str:
    """The page with its generated parts made anew."""
    for name, text in sections().items():
        pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        assert len(pattern.findall(page)) == 1, f"the page has no place for: {name}"
        page = pattern.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


# --- the parts -------------------------------------------------------------------------------------------------


def operations() -> str:
    """Each operation with its arguments."""
    parts = []
    for name, op in OPERATIONS.items():
        doc, _, more = (op.args.__doc__ or "").partition("\n\n")
        text, _, reply = doc.partition(" → ")
        parts += [f"#### `{name}`" + (" (changes)" if op.changes else ""), f"{_plain(text)} {_plain(more)}".strip()]
        rows = _fields(op.args)
        parts.append(_table(("Argument", "Type", "Meaning"), rows) if rows else "No arguments.")
        parts.append(f"Reply: {reply.rstrip('.')}.\n\nRoles: {_roles(op.roles)}.")
    return "\n\n".join(parts)


def _roles(roles: frozenset[str]) -> str:
    """Those who may do it, in the order in which roles are told everywhere."""
    if roles == EVERYBODY:
        return "all"
    return ", ".join(
        f"{role} (its own jobs)" if role == SUBMIT and READ in roles else role for role in ROLES if role in roles
    )


def happenings() -> str:
    """Every type of event, with the fields that not all events have."""
    common = {"job_id", "attempt", "worker", "by"}
    kinds = {kind.name: kind.fields for kind in reversed(KINDS.values())}  # of two forms of one the plain one
    rows = []
    for name, fields in reversed(kinds.items()):
        adds = ", ".join(f"`{field}`" for field in fields if field not in common)
        rows.append((f"`{name}`", adds, HAPPENINGS[name]))
    return _table(("Type", "Adds", "What has happened"), rows)


def errors() -> str:
    """Every code."""
    rows = [
        (f"`{code}`", str(cls.exit_code), "yes" if cls.retryable else "no", _plain(cls.__doc__ or ""))
        for code, cls in sorted(BY_CODE.items())
        if cls.__module__ == "queuectl.errors"
    ]
    return _table(("Code", "Exit code", "Retryable", "Default text"), rows)


def options() -> str:
    """The options of the broker's sockets."""
    rows = [(f"`{_option(option)}`", str(value), REASONS[_option(option)]) for option, value in _COMMON.items()]
    with zmq.Context() as context:
        routers = worker_router(context), client_router(context)
        for name, reason in (
            ("RCVHWM", "messages that wait for the broker, for each peer; beyond that it is not read"),
            (
                "SNDHWM",
                "messages that wait for a peer to read; beyond that its session is one-way, its reply is dropped",
            ),
            ("MAXMSGSIZE", "bytes of one frame; a larger one ends the connection"),
        ):
            for_workers, for_clients = (router.socket.getsockopt(getattr(zmq, name)) for router in routers)
            rows.append((f"`{name}`", f"workers {for_workers!s}, clients {for_clients!s}", reason))
        for router in routers:
            router.close(0)
    return _table(("Option", "Value", "Reason"), rows)


def limits() -> str:
    """What is refused for its size."""
    rows = [
        ("body of a request", f"{packed.CLIENT_MESSAGE_BYTES_MAX} bytes"),
        ("body of a reply", f"{packed.REPLY_BYTES_MAX} bytes"),
        ("message of a worker", f"{packed.WORKER_MESSAGE_BYTES_MAX} bytes"),
        ("frames of a message", "2 of a worker, 4 of a client, with the route that ZeroMQ adds"),
        ("elements of one array, entries of one map", f"{packed._ARRAY_MAX}, {packed._MAP_MAX}"),
        ("jobs of one request", str(requests.JOBS_PER_REQUEST_MAX)),
        ("rows of one `list` reply", str(requests.ROWS_PER_REPLY_MAX)),
        ("replies held for `wait`", str(WAITERS_MAX)),
        ("command", f"{COMMAND_BYTES_MAX} bytes"),
        ("environment of a job", f"{ENV_BYTES_MAX} bytes"),
        ("piece of output", f"{messages.CHUNK_BYTES_MAX} bytes"),
        ("output of a session that is on its way", f"{WINDOW_BYTES} bytes (`window_bytes`)"),
    ]
    return _table(("What", "Limit"), rows)


def _messages(union: Any) -> str:
    """Each message of a direction, and the structs within it."""
    parts = []
    told: set[type] = set()
    for kind in get_args(union):
        parts.append(f"#### `{kind.__struct_config__.tag}`")
        parts += _message(kind, first=1)
        for inner in _inner(kind):
            if inner not in told:
                told.add(inner)
                parts += [f"Each **{inner.__name__}** is an array, too. {_plain(inner.__doc__ or '')}"]
                parts += _message(inner, first=0)[1:]
    return "\n\n".join(parts)


def _message(kind: type, *, first: int) -> list[str]:
    rows = _fields(kind)
    numbered = [(str(place), *row) for place, row in enumerate(rows, first)]
    if first:
        numbered.insert(0, ("0", f'`"{kind.__struct_config__.tag}"`', "text", "which message it is"))  # type: ignore[attr-defined]
    return [_plain(kind.__doc__ or ""), _table(("Place", "Field", "Type", "Meaning"), numbered)]


def _inner(kind: type) -> Iterator[type]:
    for field in types.type_info(kind).fields:  # type: ignore[attr-defined]
        if isinstance(field.type, types.ListType) and isinstance(field.type.item_type, types.StructType):
            yield field.type.item_type.cls


# --- fields ------------------------------------------------------------------------------------------------------


def _fields(kind: type) -> list[tuple[str, str, str]]:
    """(name, type, meaning) of the fields of a struct."""
    comments = _comments(kind)
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    rows = []
    for field in info.fields:
        meaning = comments.get(field.name) or MEANINGS.get(field.name, "")
        rows.append((f"`{field.name}`", _type(field.type) + _default(field), _cell(meaning)))
    return rows


def _default(field: types.Field) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return ", may be left out"
    if field.default is msgspec.NODEFAULT:
        return ""
    return ", may be left out" if field.default is None else f", default {str(field.default).lower()}"


def _comments(kind: type) -> Mapping[str, str]:
    """What stands behind each field in the source, of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        path = getattr(sys.modules.get(each.__module__), "__file__", None)
        if not each.__module__.startswith("queuectl.") or path is None:
            continue
        source = Path(path).read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and node.name == each.__name__:
                for entry in node.body:
                    if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and entry.end_lineno:
                        rest = lines[entry.end_lineno - 1][entry.end_col_offset :]
                        found[entry.target.id] = rest.partition("#")[2].strip()
    return found


def _type(kind: types.Type) -> str:
    """A type in words."""
    match kind:
        case types.UnionType():
            return " or ".join(_type(each) for each in kind.types)
        case types.NoneType():
            return "null"
        case types.BoolType():
            return "true or false"
        case types.FloatType():
            return "number"
        case types.IntType():
            return "integer" + _range(
                kind.ge, kind.le if kind.le is not None else None if kind.lt is None else kind.lt - 1
            )
        case types.StrType():
            pattern = f" `{kind.pattern}`" if kind.pattern else ""
            return "text" + pattern + ("" if pattern else _up_to(kind.max_length, "characters"))
        case types.LiteralType():
            return "one of " + ", ".join(f"`{value}`" for value in kind.values)
        case types.BytesType():
            return "bytes" + _up_to(kind.max_length, "")
        case types.ListType():
            size = "" if kind.max_length is None else f" of at most {kind.max_length}"
            return f"array{size}" + ("" if isinstance(kind.item_type, types.AnyType) else f": {_type(kind.item_type)}")
        case types.DictType():
            return "map"
        case types.StructType():
            return kind.cls.__name__
        case _:
            return "any"


def _range(low: int | None, high: int | None) -> str:
    words = {2**63 - 1: "2⁶³ - 1", 2**62: "2⁶²", 2**31 - 1: "2³¹ - 1", -(2**31): "-2³¹"}
    if low is None or high is None:
        return "" if low is None else f" from {low}"
    return f" {words.get(low, low)} … {words.get(high, high)}"


def _up_to(most: int | None, what: str) -> str:
    return "" if most is None else f", at most {most} {what}".rstrip()


def _option(number: int) -> str:
    return zmq.SocketOption(number).name


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_text(refreshed(place.read_text()))
