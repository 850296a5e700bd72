"""How broker and worker log: one flat JSON object a line for programs, one calm line for people.

A log call decides nothing and costs little, but above all it never raises and never stops a daemon:
what cannot be encoded is spelled out or named, what is too long is cut, what cannot be written (full
disk, closed pipe) is counted, and `log_dropped` tells the count once writing works again.

`Log` is what the rooms type against. structlog is imported by `open_log` alone, so that anything may
import this module for nothing. Which events there are, and their keys, stands in `queuectl/events.py`.
"""

from __future__ import annotations

import itertools
import os
import platform
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TextIO

import msgspec

import queuectl
from queuectl.config import LOG_LEVELS, Config

LOG_SCHEMA = 1  # changes only when a key goes away or changes its type; new keys are free
RECORD_BYTES_MAX = 8 * 1024  # with its newline: container runtimes split lines at 16 KiB, and half a line is no JSON
STACK_CHARS_MAX = 4 * 1024

# Every record has these, and no caller can set them. docs/logs.md says what they mean.
HEAD = ("log_schema", "timestamp", "level", "event", "service", "instance", "seq", "host", "pid", "version")
# Never logged, whoever asks: more people read a log than may use the queue.
DENIED_KEYS = frozenset({"env", "environ", "stdin", "token", "secret", "secret_key", "private_key"})
DENIED_KEYS |= {"password", "passphrase", "credential", "credentials", "payload", "body"}
_CLOSED_KEYS = DENIED_KEYS | (frozenset(HEAD) - {"event"})

Record = dict[str, Any]


class Log(Protocol):
    """What a room sees of the log. Event names are literals: snake case, past tense, in the registry.

    `error=` with an exception, or `exc_info=True`, adds error_type, error_message and error_stack.
    """

    def debug(self, event: str, /, **keys: Any) -> object: ...
    def info(self, event: str, /, **keys: Any) -> object: ...
    def warning(self, event: str, /, **keys: Any) -> object: ...
    def error(self, event: str, /, **keys: Any) -> object: ...

    def many(self, records: Iterable[tuple[str, str, Record]], /) -> object:
        """Log records of one moment, each a level, an event and its keys: cheaper than one by one."""

    def bind(self, **keys: Any) -> Log:
        """A log that adds these keys to every record."""


class Unregistered(AssertionError):
    """An event or a key that the registry does not know. Only a strict log raises it."""


def open_log(
    *, service: str, config: Config, instance: str, stream: TextIO | None = None, strict: bool = False, **bound: Any
) -> Log:
    """The log of this process, on stderr unless a stream is given. Holds no global state; call it once.

    `instance` is an id of this start of the process; `bound` goes into every record. A strict log, for
    tests, raises Unregistered for an event or a key that is not in the registry.
    """
    outlet = _Outlet(sys.stderr if stream is None else stream)
    as_json = config.log_format == "json" or (config.log_format == "auto" and not outlet.is_terminal())
    render = _render_json if as_json else _Console(colours=outlet.is_terminal() and _colours_are_welcome())
    stamp = _Stamp(service, instance)

    def notice(lost: int) -> bytes:
        return render(None, "warning", stamp(None, "warning", {"event": "log_dropped", "dropped_count": lost}))

    outlet.notice = notice
    check = _registry_check(service) if strict else None
    log: Log = _log_class(config.log_level, check)(outlet, [_unfold_exception, stamp, render], dict(bound))
    return log


_Check = Callable[[str, str, Mapping[str, Any]], None]


def _log_class(level_min: str, check: _Check | None) -> Any:
    """structlog's bound logger with methods that cannot raise; those below the level do nothing."""
    import structlog

    class BoundLog(structlog.BoundLoggerBase):
        def emit(self, level: str, event: str, keys: Record) -> None:
            self._logger.write(self.line(level, event, keys))

        def many(self, records: Iterable[tuple[str, str, Record]], /) -> None:
            self._logger.write_many(self.line(*record) for record in records if record[0] in kept)

        def line(self, level: str, event: str, keys: Record) -> bytes:
            """One record as it is written; empty if there is no way to."""
            if check is not None:
                check(level, event, {**self._context, **keys})
            record: Any = {**self._context, **keys}
            if event is not None:
                record["event"] = event
            try:
                for process in self._processors:  # what structlog's own loop does for records of any kind
                    record = process(self._logger, level, record)
            except Exception as error:  # noqa: BLE001 - a log call never raises
                return self.confess(level, event, error)
            return bytes(record)

        def confess(self, level: str, event: object, error: Exception) -> bytes:
            """The last resort: at least say that this event could not be told."""
            keys = {"event": "log_failed", "failed_event": _safe(event), "error_type": type(error).__name__}
            chain: Any = self._processors
            _, stamp, render = chain
            try:
                return bytes(render(None, level, stamp(None, level, keys)))
            except Exception:  # noqa: BLE001
                return b""

    kept = LOG_LEVELS[LOG_LEVELS.index(level_min) :]
    for level in LOG_LEVELS:
        setattr(BoundLog, level, _log_method(level) if level in kept else _log_nothing)
    return BoundLog


def _log_method(level: str) -> Callable[..., None]:
    def log(self: Any, event: str, /, **keys: Any) -> None:
        self.emit(level, event, keys)

    return log


def _log_nothing(self: Any, event: str, /, **keys: Any) -> None:
    pass


def _registry_check(service: str) -> _Check:
    from queuectl.events import faults

    def check(level: str, event: str, keys: Mapping[str, Any]) -> None:
        found = faults(service, level, event, keys)
        if found:
            raise Unregistered("; ".join(found))

    return check


# --- the chain: structlog calls each with (logger, level, record) ------------------------------------


def _unfold_exception(_logger: object, _level: str, keys: Record) -> Record:
    """Put an exception into three flat strings. Never its locals: they hold env, keys and payloads."""
    if "error" not in keys and "exc_info" not in keys:
        return keys
    wanted = keys.pop("exc_info", None)
    error = keys.pop("error") if isinstance(keys.get("error"), BaseException) else wanted
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        stack = "".join(traceback.format_exception(error))
        keys["error_type"] = type(error).__name__
        keys["error_message"] = _shorten("error_message", _safe_text(error), STACK_CHARS_MAX)
        keys["error_stack"] = stack if len(stack) <= STACK_CHARS_MAX else f"…{stack[-STACK_CHARS_MAX:]}"
    return keys


class _Stamp:
    """Puts the head on a record: when, how grave, what, who."""

    def __init__(self, service: str, instance: str) -> None:
        self._who = {"service": service, "instance": instance}
        self._host = platform.node()
        self._numbers = itertools.count(1)
        self._second = (0, "")  # formatting a date would cost more than the rest of the head

    def __call__(self, _logger: object, level: str, keys: Record) -> Record:
        if not _CLOSED_KEYS.isdisjoint(keys):
            keys = {key: value for key, value in keys.items() if key == "event" or key not in HEAD}
            keys |= dict.fromkeys(DENIED_KEYS & keys.keys(), "[withheld]")
        return {
            "log_schema": LOG_SCHEMA,
            "timestamp": self._timestamp(time.time_ns() // 1000),
            "level": level,
            "event": keys.pop("event"),
            **self._who,
            "seq": next(self._numbers),
            "host": self._host,
            "pid": os.getpid(),  # asked each time: a forked child is another process
            "version": queuectl.__version__,
            **keys,
        }

    def _timestamp(self, now_us: int) -> str:
        second, rest_us = divmod(now_us, 1_000_000)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{rest_us:06d}Z"


def _render_json(_logger: object, _level: str, record: Record) -> bytes:
    line = _encode(record)
    if len(line) >= RECORD_BYTES_MAX:
        line = _encode_cut(record)
    return line + b"\n"


class _Console:
    """Renders a record for people: local time, level, event, then the keys; the head's rest is left out."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, level: str, record: Record) -> bytes:
        keys = {key: value for key, value in record.items() if key not in HEAD and value is not None}
        stack = keys.pop("error_stack", "")
        words = [
            self._paint("2", time.strftime("%H:%M:%S")),
            self._paint(_LEVEL_COLOURS[level], f"{level:<7}"),
            self._paint("1", f"{_printable(str(record['event'])[:100]):<18}"),
            *(f"{self._paint('2', f'{_printable(key)}=')}{_spell(value)}" for key, value in keys.items()),
        ]
        text = " ".join(words).rstrip()
        text += "".join(f"\n    {_printable(line)}" for line in str(stack).splitlines())
        line = text.encode("utf-8", "backslashreplace")
        if len(line) >= RECORD_BYTES_MAX:
            mark = self._paint("2", " … truncated=true").encode()
            line = line[: RECORD_BYTES_MAX - 1 - len(mark)].decode("utf-8", "ignore").encode() + mark
        return line + b"\n"

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour else text


_LEVEL_COLOURS = {"debug": "2", "info": "", "warning": "33", "error": "31"}


def _colours_are_welcome() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _spell(value: object) -> str:
    """A value on a terminal: bare if it is one plain word, quoted otherwise, control characters escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = _printable(value)
        is_word = text == value and text and not any(mark in text for mark in ' "=')
        return text if is_word else '"' + text.replace('"', '\\"') + '"'
    if isinstance(value, int | float):
        return str(value)
    return _printable(_encode_value(value).decode())


def _printable(text: str) -> str:
    """What a terminal shows as it stands: everything that could move its cursor or turn its text is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# --- encoding that cannot fail ---------------------------------------------------------------------


def _unknown(value: Any) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else repr(value)


_ENCODER = msgspec.json.Encoder(enc_hook=_unknown)


def _encode(record: Record) -> bytes:
    try:
        return _ENCODER.encode(record)
    except Exception:  # noqa: BLE001 - some value cannot be encoded: spell out the guilty ones
        return _ENCODER.encode({_safe_text(key): _safe(value) for key, value in record.items()})


def _encode_value(value: object) -> bytes:
    return _ENCODER.encode(_safe(value))


def _safe(value: object) -> object:
    """The value if it can be encoded, else a text that can."""
    try:
        _ENCODER.encode(value)
    except Exception:  # noqa: BLE001
        return _safe_text(value)
    return value


def _safe_text(value: object) -> str:
    try:
        text = str(value) if isinstance(value, str | BaseException) else repr(value)
    except Exception:  # noqa: BLE001
        text = f"<{type(value).__name__} that cannot be shown>"
    return text.encode("utf-8", "backslashreplace").decode()


def _encode_cut(record: Record) -> bytes:
    """Encode within RECORD_BYTES_MAX: the longest values are cut first; as a last resort only the head stays."""
    for limit in (4096, 2048, 1024, 512, 256, 128, 64, 32):
        cut = {key: _shorten(key, value, limit) for key, value in record.items()}
        line = _encode(cut | {"truncated": True})
        if len(line) < RECORD_BYTES_MAX:
            return line
    head = {key: _shorten(key, record[key], 256) for key in HEAD}
    return _encode(head | {"truncated": True})


def _shorten(key: str, value: object, limit: int) -> Any:
    """The value if its JSON fits into `limit` bytes, else as much of its text as fits; of a stack the end."""
    encoded = _encode_value(value)
    if len(encoded) <= limit or isinstance(value, bool | int | float | None):
        return value
    text = value if isinstance(value, str) else encoded.decode()
    length = limit * len(text) // len(encoded)  # a control character takes six bytes
    return f"…{text[-length:]}" if key == "error_stack" else f"{text[:length]}…"


# --- the way out -----------------------------------------------------------------------------------


class _Outlet:
    """Writes whole lines to a stream and counts those that it cannot write."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None where stderr was closed before we started
        self._descriptor = _descriptor_of(stream)
        self._is_torn = False
        self._lost = 0
        self.notice: Callable[[int], bytes] | None = None  # renders `log_dropped`

    def is_terminal(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def write_many(self, lines: Iterable[bytes]) -> None:
        """Write lines, as many at a time as a pipe takes whole, for others may write to it, too."""
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if batch and size + len(line) > select.PIPE_BUF:
                self.write(b"".join(batch), len(batch))
                batch, size = [], 0
            if line:
                batch.append(line)
                size += len(line)
            else:
                self._lost += 1
        if batch:
            self.write(b"".join(batch), len(batch))

    def write(self, text: bytes, lines: int = 1) -> None:
        """Write so many lines; if some were lost before, say how many. If a part of them is lost, all are counted."""
        if not text or not self._put(text):
            self._lost += lines
        elif self._lost and self.notice:
            lost, self._lost = self._lost, 0
            if not self._put(self.notice(lost)):
                self._lost = lost + 1

    def _put(self, text: bytes) -> bool:
        """Whether the whole of it went out. Unbuffered: what a buffer keeps of a failed write fails again at exit."""
        if (
            self._stream is None or self._stream.closed
        ):  # the descriptor of a closed stream may be another file's by now
            return False
        try:
            if self._descriptor is None:
                self._stream.write(text.decode())
                self._stream.flush()
                return True
            rest = b"\n" + text if self._is_torn else text
            while rest:
                written = os.write(self._descriptor, rest)
                rest = rest[written:]
                self._is_torn = bool(rest)  # a half-written line must not swallow the next one
        except (OSError, ValueError):
            return False
        return True


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
