"""Files that people edit and that crashes tear, and what is typed: read in full, in part, or refused in words.

Of a torn spool exactly what is whole is taken, and nothing is taken that was never written.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import io
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from cli import bulk
from cli.strict_json import parse_object
from queuectl.config import KEYS, load_config, parse_machine_setting
from queuectl.errors import BadConfig, BadRequest
from queuectl.home import Home
from queuectl.jobs import SECONDS_MAX, JobSpec, parse_job
from queuectl.messages import Piece, Result, Returned
from queuectl.pidfiles import local_broker, local_workers
from queuectl.settings import SETTINGS, parse_setting
from queuectl.times import human_duration, parse_duration, parse_rfc3339, parse_size, rfc3339
from queuectl.wire import convert, encode
from tests.fuzz import mutate, samples
from worker.spool import _FRAME as FRAME
from worker.spool import LOCK_NAME, LOG_NAME, Legacy, holder_of, read_spool

BROKER = "broker-1"


@cache
def _place() -> Path:
    """A directory for the files of all cases; it goes away with the process."""
    place = Path(tempfile.mkdtemp(prefix="q-fuzz-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def feed(chance: Random) -> None:
    """One file, or one thing typed."""
    chance.choice(_FILES)(chance)


# --- the spool -----------------------------------------------------------------------------------------


def _record(chance: Random) -> list[Any]:
    lease = {"lease": [1, 2, 3, 4]}
    kind = chance.choice(("result", "result", "output", "returned", "settled", "ended"))
    if kind == "result":
        return [kind, BROKER, samples.fields_of(chance, Result, lease)]
    if kind == "output":
        return [kind, BROKER, samples.fields_of(chance, Piece, lease)]
    if kind == "returned":
        return [kind, BROKER, [samples.fields_of(chance, Returned, lease)]]
    return [kind, [chance.randint(1, 4)]] if kind == "settled" else [kind]


def _framed(body: bytes) -> bytes:
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def _expected(records: list[list[Any]]) -> Legacy:
    """What these records mean, told without the spool's own reader."""
    legacy = Legacy()
    for kind, *rest in records:
        if kind == "result":
            result = convert(rest[1], Result)
            legacy.results[result.lease] = (BROKER, result)
        elif kind == "output":
            legacy.pieces.append((BROKER, convert(rest[1], Piece)))
        elif kind == "returned":
            legacy.returned.append((BROKER, convert(rest[1][0], Returned)))
        elif kind == "settled":
            legacy.results.pop(rest[0][0], None)
        else:
            legacy.has_ended = True
    return legacy


def _torn_spool(chance: Random) -> None:
    """What stands before the damage is taken, all of it and nothing else."""
    records = [_record(chance) for _ in range(chance.randrange(1, 6))]
    frames = [_framed(encode(record)) for record in records]
    whole = b"".join(frames)
    place = chance.randrange(len(whole) + 1)
    damaged = chance.choice(_DAMAGES)(chance, whole, place)
    ends = list(accumulate(map(len, frames)))
    kept = [end for end in ends if damaged.startswith(whole[:end])]
    expected = _expected(records[: len(kept)])
    expected.torn_bytes = len(damaged) - max(kept, default=0)
    assert read_spool(_spool(damaged)) == expected


_DAMAGES: tuple[Callable[[Random, bytes, int], bytes], ...] = (
    lambda chance, whole, place: whole,
    lambda chance, whole, place: whole[:place],
    lambda chance, whole, place: whole[:place] + bytes(chance.choice((1, 7, 8, 100, 4096))),
    lambda chance, whole, place: whole[:place] + chance.randbytes(chance.randrange(40)),
    lambda chance, whole, place: whole[:place] + bytes([whole[place - 1] ^ 1 << chance.randrange(8)]) + whole[place:],
    lambda chance, whole, place: whole + FRAME.pack(2**32 - 1, 0) + bytes(20),
)


def _odd_spool(chance: Random) -> None:
    """Records that are whole and make no sense are passed over, and hide none before them."""
    first = _record(chance)
    odd = mutate.packed(mutate.data_of(chance, _record(chance)))
    if chance.random() < 0.5:
        odd = mutate.bytes_of(chance, odd, encode(_record(chance)))
    legacy = read_spool(_spool(_framed(encode(first)) + _framed(odd)))
    before = _expected([first])
    assert legacy.pieces[: len(before.pieces)] == before.pieces
    assert legacy.returned[: len(before.returned)] == before.returned
    assert legacy.has_ended or not before.has_ended


def some_spool(chance: Random) -> bytes:
    """What a worker may have left."""
    return b"".join(_framed(encode(_record(chance))) for _ in range(chance.randrange(4)))


def check_spool(content: bytes) -> None:
    """Read what may be anything: it does not fail, and takes nothing that is not in there, word for word."""
    legacy = read_spool(_spool(content))
    for broker, result in legacy.results.values():
        assert broker.encode() in content
        assert result.job.encode() in content
    for _, piece in legacy.pieces:
        assert piece.data in content


def _spool(content: bytes) -> Path:
    folder = _place() / "spool"
    folder.mkdir(exist_ok=True)
    (folder / LOG_NAME).write_bytes(content)
    return folder


# --- files of the home -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: Path, content: bytes) -> Iterator[int]:
    """The file, held as a living process would hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _pid_files(chance: Random) -> None:
    home = Home(_place())
    told = {"boot": "b" * 32, "pid": 4711, "slots": 1, "started_at_ms": 5}
    content = _json_with_wounds(chance, told)
    with _locked(home.run / "workers" / "b.json", content), _locked(home.run / "workers" / "c.json", content):
        for worker in local_workers(home):
            assert worker.pid > 0
            assert isinstance(worker.started_at_ms, int)
    with _locked(home.run / "broker.lock", content):
        pid = local_broker(home)
        assert pid is None or pid > 0
    with _locked(_place() / LOCK_NAME, content) as lock:
        assert isinstance(holder_of(lock).host, str)


def _json_with_wounds(chance: Random, value: Any) -> bytes:
    kind = chance.random()
    if kind < 0.4:
        value = mutate.data_of(chance, value)
    try:
        body = json.dumps(value).encode()
    except TypeError:  # bytes have no JSON
        body = b"{}"
    if kind > 0.3:
        body = mutate.bytes_of(chance, body, chance.choice(_JSON_ODDITIES))
    return body


_JSON_ODDITIES = (
    *(b"[" * 4000, b'{"a":' * 1500, b"1" * 5000, b"NaN", b"Infinity", b"-1e999", b'"\\ud800"', b"\xef\xbb\xbf{}"),
    *(b'{"a": 1, "a": 2}', b"\x00", b"\xff\xfe", b'"\\u0000"', b"null", b"[]", b"1e5", b'{"": {}}'),
)


def _config_file(chance: Random) -> None:
    home = Home(_place())
    lines = []
    for _ in range(chance.randrange(4)):
        key = chance.choice((*KEYS, *SETTINGS, "no_such", samples.text(chance)))
        odd = json.dumps(chance.choice((samples.hostile(chance), "~nobody-of-that-name/x", "tcp://h:7710", 5, True)))
        lines.append(f"{key} = {chance.choice((odd, '9' * 5000, '[' * 3000, '1979-05-27', '{a = 1}', 'nan', '0x_'))}")
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    home.config_file.write_bytes(
        content if chance.random() < 0.5 else mutate.bytes_of(chance, content, b'log_level = "info"')
    )
    try:
        config = load_config(home, {}, {})
        assert all(endpoint.isascii() for endpoint in config.endpoints(home))
        assert config.data_dir.is_absolute()
    except BadConfig as error:
        _check_words(error)


# --- what is typed ---------------------------------------------------------------------------------------


def _lines(chance: Random) -> None:
    """Bulk input: every line is read once, and is a job or an error in words."""
    lines = []
    for _ in range(chance.randrange(5)):
        job = samples.fields_of(chance, JobSpec)
        lines.append(_json_with_wounds(chance, job).replace(b"\n", b" ") + b"\n")
    content = b"".join(lines)
    if chance.random() < 0.3:
        content = mutate.bytes_of(chance, content, b'{"command": "true"}\n')
    found = list(bulk._lines(io.BytesIO(content)))
    assert b"".join(found) == content
    for line in found:
        try:
            job = bulk._job(line, {"queue": "default"})
            msgspec.json.encode(job)
        except BadRequest as error:
            _check_words(error)
        except UnicodeEncodeError:
            raise AssertionError("half a surrogate pair passes for text") from None


def _one_job(chance: Random) -> None:
    text = chance.choice((samples.hostile(chance), _json_with_wounds(chance, {"command": "x"}).decode("latin-1")))
    try:
        parse_job(parse_object(text))
    except BadRequest as error:
        _check_words(error)


def _check_words(error: BadRequest) -> None:
    assert 0 < len(error.message) < 20_000, "an error says what is wrong"


def _numbers(chance: Random) -> None:
    parts = ("1", "0", "9" * 400, ".", "1.5", "s", "ms", "h", "KiB", "TiB", " ", "-", "e9", "inf", "nan", "\u0663", "_")
    text = (
        "".join(chance.choices(parts, k=chance.randrange(1, 6))) if chance.random() < 0.8 else samples.hostile(chance)
    )
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
    for key in (chance.choice(list(SETTINGS)), text[:80]):
        try:
            _, value = parse_setting(key, chance.choice((text, samples.anything(chance, 0))))
            assert not isinstance(value, float) or math.isfinite(value)
        except BadConfig as error:
            _check_words(error)
    try:
        parse_machine_setting(chance.choice(KEYS), text)
    except BadConfig as error:
        _check_words(error)


def _instants(chance: Random) -> None:
    texts = ("2026-11-22T03:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "2026-W01-1T00Z")
    text = chance.choice(texts)
    if chance.random() < 0.8:
        text = mutate.bytes_of(chance, text.encode(), b"+05:30:15.123456").decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        assert parse_rfc3339(rfc3339(parse_rfc3339(text))) == parse_rfc3339(text)
    assert human_duration(chance.choice((0.0, 0.001, 59.999, 3599.5, 86399.6, SECONDS_MAX, 2.0**63)))


_FILES: tuple[Callable[[Random], None], ...] = (
    *(_torn_spool, _torn_spool, _odd_spool, _pid_files, _config_file, _lines, _one_job, _numbers, _instants),
)
