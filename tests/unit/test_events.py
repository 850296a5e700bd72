"""The registry against itself, against the documentation, and against every log call of broker and worker."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from queuectl.config import LOG_LEVELS, Config
from queuectl.events import (
    BROKER,
    EVENTS,
    KEYS,
    OPTIONAL_ALWAYS,
    SCALAR,
    WORKER,
    Event,
    faults,
    refreshed,
    sample,
)
from queuectl.logs import DENIED_KEYS, HEAD, RECORD_BYTES_MAX, open_log

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"broker": BROKER, "worker": WORKER}
SOURCES = sorted(path for room in SERVICES for path in (ROOT / room).rglob("*.py"))
BY_THE_LOG_ITSELF = ("log_dropped", "log_failed")
SPREAD = "**"  # stands for keys that the source does not spell out


HANDED_OVER = ("log", "tell", "Tell")  # what a core calls, with level and event, for its loop to log later
Names = dict[str, tuple[str, ...]]  # the texts that a local name can stand for


@dataclass(frozen=True)
class LogCall:
    """One place that logs: its levels, its events, its keys as far as they are spelled out. None: they are not."""

    line: int
    levels: tuple[str, ...] | None
    events: tuple[str, ...] | None
    keys: frozenset[str]


def words(node: ast.AST, names: Names) -> tuple[str, ...] | None:
    """The texts that an expression can be: a literal, a choice between two, or a name for either."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.IfExp):
        sides = words(node.body, names), words(node.orelse, names)
        return None if None in sides else tuple(word for side in sides if side for word in side)
    return None


def names_in(function: ast.AST) -> Names:
    found: Names = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = words(node.value, {}) or ()
    return {name: texts for name, texts in found.items() if texts}


def levels_of(function: ast.expr) -> tuple[str, ...] | None:
    """The levels of `log.info`, or of `(log.warning if … else log.info)`; None if it is no such method."""
    if isinstance(function, ast.Attribute) and function.attr in LOG_LEVELS:
        return (function.attr,) if ast.unparse(function.value).endswith("log") else None
    if isinstance(function, ast.IfExp):
        sides = levels_of(function.body), levels_of(function.orelse)
        return None if None in sides else tuple(level for side in sides if side for level in side)
    return None


def keys_of(call: ast.Call, arguments: list[ast.expr]) -> frozenset[str]:
    found = [keyword.arg or SPREAD for keyword in call.keywords]
    for argument in arguments:
        nodes = argument.keys if isinstance(argument, ast.Dict) else [None]
        found += [str(node.value) if isinstance(node, ast.Constant) else SPREAD for node in nodes]
    return frozenset(found)


def log_calls(tree: ast.AST) -> Iterator[LogCall]:
    """Every `log.info(event, …)`, and every call that hands over a level and an event."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name not in HANDED_OVER]
    for function in [tree, *functions]:
        names = names_in(function)
        for node in own_nodes(function):
            if not isinstance(node, ast.Call):
                continue
            levels, arguments = levels_of(node.func), node.args
            if not levels and ast.unparse(node.func).split(".")[-1] in HANDED_OVER and len(arguments) > 1:
                if isinstance(arguments[0], ast.Constant) and arguments[0].value not in LOG_LEVELS:
                    continue
                levels, arguments = words(arguments[0], names), arguments[1:]
            elif not levels:
                continue
            yield LogCall(node.lineno, levels, words(arguments[0], names), keys_of(node, arguments[1:]))


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes below a function, or a module, that are not in a function of their own."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from own_nodes(child)


def faults_of(service: str, call: LogCall) -> Iterator[str]:
    if call.events is None:
        yield f"line {call.line}: the event is not spelled out"
    for name in call.events or ():
        event = EVENTS.get((service, name))
        found = [f"{service} has no such event"] if event is None else misfits(event, call)
        yield from (f"line {call.line}: {name}: {fault}" for fault in found)


def misfits(event: Event, call: LogCall) -> list[str]:
    allowed = {*event.keys, *OPTIONAL_ALWAYS, SPREAD, "error", "exc_info"}
    found = [f"level {level} is not registered" for level in call.levels or () if level not in event.levels]
    found += [f"key {key} is not registered" for key in call.keys if key not in allowed]
    if SPREAD not in call.keys:
        found += [f"key {key} is missing" for key in event.keys if key not in call.keys and key not in event.optional]
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def name_of(event: Event) -> str:
    return f"{event.service}:{event.name}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_log_call_is_registered(path: Path) -> None:
    service = SERVICES[path.relative_to(ROOT).parts[0]]
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert [fault for call in log_calls(tree) for fault in faults_of(service, call)] == []


@pytest.mark.parametrize("room", SERVICES)
def test_every_registered_event_is_emitted(room: str) -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / room).rglob("*.py")]
    emitted = {event for tree in trees for call in log_calls(tree) for event in call.events or ()}

    assert {name for service, name in EVENTS if service == SERVICES[room]} - {*emitted, *BY_THE_LOG_ITSELF} == set()


@pytest.mark.parametrize(
    ("source", "levels", "events", "keys"),
    [
        ("log.info('job_dead', job_id=1)", ("info",), ("job_dead",), {"job_id"}),
        ("self._log.error('job_dead', error=error, **keys)", ("error",), ("job_dead",), {"error", SPREAD}),
        ("(log.info if fine else log.warning)('job_dead')", ("info", "warning"), ("job_dead",), set()),
        ("turn.log('info' if fine else 'warning', 'job_dead', queue=q)", ("info", "warning"), ("job_dead",), {"queue"}),
        ("self.tell(level, 'job_dead')", None, ("job_dead",), set()),
        ("Tell('info', 'job_dead', {'queue': q, **more})", ("info",), ("job_dead",), {"queue", SPREAD}),
        ("Tell('info', 'job_dead', keys())", ("info",), ("job_dead",), {SPREAD}),
        ("def f():\n event = 'a' if b else 'c'\n log.info(event)", ("info",), ("a", "c"), set()),
        ("log.info(event)", ("info",), None, set()),
    ],
)
def test_log_call_is_found(
    source: str, levels: tuple[str, ...] | None, events: tuple[str, ...] | None, keys: set[str]
) -> None:
    (found,) = log_calls(ast.parse(source))

    assert (found.levels, found.events, set(found.keys)) == (levels, events, keys)


@pytest.mark.parametrize("source", ["click.info('x')", "log.level('x')", "choose('debug', 'x')", "math.log(2, 10)"])
def test_other_calls_are_let_be(source: str) -> None:
    assert list(log_calls(ast.parse(source))) == []


@pytest.mark.parametrize("event", EVENTS.values(), ids=name_of)
def test_event_keeps_the_rules(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*ed|[a-z]+(_[a-z]+)+", event.name)
    assert set(event.levels) <= set(LOG_LEVELS)
    assert event.levels
    assert set(event.keys) <= set(KEYS) - set(HEAD)
    assert len(set(event.keys)) == len(event.keys)
    assert event.doc.endswith(".")
    assert "command" not in event.keys or event.levels == ("debug",)


@pytest.mark.parametrize("key", KEYS)
def test_key_keeps_the_rules(key: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", key)
    assert key not in DENIED_KEYS
    assert KEYS[key].kind in (str, int, bool, list, SCALAR)
    assert isinstance(KEYS[key].sample, KEYS[key].kind)


def test_every_key_is_used() -> None:
    assert set(KEYS) == {*HEAD, *OPTIONAL_ALWAYS, *(key for event in EVENTS.values() for key in event.keys)}


@pytest.mark.parametrize("event", EVENTS.values(), ids=name_of)
def test_sample_is_what_the_log_writes(event: Event) -> None:
    shown = sample(event)
    stream = io.StringIO()
    log = open_log(
        service=event.service,
        config=Config(log_format="json", log_level="debug"),
        instance=shown["instance"],
        stream=stream,
        strict=True,
    )
    own = {key: value for key, value in shown.items() if key not in HEAD}

    getattr(log, shown["level"])(event.name, **own)

    written = json.loads(stream.getvalue())
    assert list(written) == list(shown)
    assert {key: written[key] for key in own} == own
    assert len(stream.getvalue()) < RECORD_BYTES_MAX


@pytest.mark.parametrize(
    ("level", "event", "keys", "fault"),
    [
        ("info", "worker_sang", {}, "no event worker_sang"),
        ("error", "broker_stalled", {"stall_ms": 1}, "level error, not warning"),
        ("warning", "broker_stalled", {}, "key stall_ms is missing"),
        ("warning", "broker_stalled", {"stall_ms": None}, "stall_ms is null"),
        ("warning", "broker_stalled", {"stall_ms": "1"}, "stall_ms is str, not integer"),
        ("warning", "broker_stalled", {"stall_ms": True}, "stall_ms is bool, not integer"),
        ("warning", "broker_stalled", {"stall_ms": 1, "tune": 1}, "key tune is not registered"),
        ("warning", "broker_stalled", {"stall_ms": 1, "error": "text"}, "key error is not registered"),
    ],
)
def test_fault_is_found(level: str, event: str, keys: dict[str, object], fault: str) -> None:
    (found,) = faults(BROKER, level, event, keys)

    assert fault in found


@pytest.mark.parametrize(
    "keys",
    [
        {"stall_ms": 1},
        {"stall_ms": 1, "error": ValueError()},
        {"stall_ms": 1, "exc_info": True},
        {"stall_ms": 1, "error_type": "E", "error_message": "", "error_stack": "", "truncated": True},
        {"stall_ms": 1, "seq": 3, "pid": 4},
    ],
)
def test_what_is_registered_has_no_fault(keys: dict[str, object]) -> None:
    assert faults(BROKER, "warning", "broker_stalled", keys) == []


def test_documentation_is_current() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")

    assert refreshed(text) == text, "run: python -m queuectl.events docs/logs.md"


def test_documentation_names_only_events_there_are() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    alerts = text[text.index("Worth an alert") :].split(".")[0]

    assert set(re.findall(r"`(\w+)`", alerts)) <= {name for _, name in EVENTS}
