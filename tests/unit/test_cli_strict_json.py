"""JSON is read strictly: nothing doubtful is guessed."""

from __future__ import annotations

import random

import pytest

from cli.strict_json import parse_object, parse_plain_objects
from queuectl.errors import BadJob


def test_object_is_read() -> None:
    assert parse_object('{"command": "echo", "env": {"A": "1"}}') == {"command": "echo", "env": {"A": "1"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"command": "a", "command": "b"}', "the key 'command' stands there twice"),
        ('{"command": "a", "env": {"A": "1", "A": "2"}}', "the key 'A' stands there twice"),
        ('{"command": "a", "delay": NaN}', "NaN is not JSON"),
        ('{"command": "a", "delay": -Infinity}', "-Infinity is not JSON"),
        ("{command: a}", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"command":\n "a",}', "not valid JSON"),
        ('["a"]', "a job is a JSON object"),
        (b'{"command": "\xff"}', "not valid UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"priority": ' + "9" * 5000 + "}", "thousands of digits"),
    ],
    ids=["key", "inner-key", "nan", "infinity", "no-json", "comma", "array", "utf-8", "deep", "digits"],
)
def test_doubtful_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(BadJob) as caught:
        parse_object(text)

    assert message in caught.value.message


PLAIN = (
    b'{"command": "echo"}\n',
    b' {"command":"a","priority":-0,"timeout":1.5E1,"keep_children":true,"cwd":null}\r\n',
    b'{"command": "say \\"hi\\"", "env": {"A": "1", "B": "\\"\\u0022"}}',
    b'{"command": "\\u00e9\\ud83d\\ude00 \xc3\xa9", "delay": 99999999999999999999}',
    b"{}",
)
ODD = (
    b'\xef\xbb\xbf{"command": "a"}',
    b'{"command": "a\\\\"}',
    b'{"command": "a", "command": "b"}',
    b'{"command": "a", "command": "b\\\\", "id": "c\\\\"}',
    b'{"command": "a", "env": {"A": "1", "A": "2"}}',
    b'{"command": "a", "id": ["b", {"c": "d", "c": "d"}]}',
    b'{"command": "a", "delay": NaN}',
    b'{"command": "a", "delay": 1e400}',
    b'{"command": "\\ud800"}',
    b'{"command": "\xff"}',
    b'["command"]',
    b'{"command": "a"} {"command": "b"}',
    b'{"command":',
    b"[" * 100_000,
    b'{"priority": ' + b"9" * 5000 + b"}",
)


def test_plain_lines_are_read_at_once() -> None:
    found = parse_plain_objects(PLAIN)

    assert repr(found) == repr([parse_object(line) for line in PLAIN])


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_line_that_is_not_plain_is_left_to_the_closer_look(line: bytes) -> None:
    assert parse_plain_objects([PLAIN[0], line, PLAIN[0]]) is None


KEYS = ('"a"', '"b"', '"\\u0061"', '"\\""', '"\\\\"', '"a\\\\\\""')
VALUES = (*KEYS, "1", "1.0", "null", '{"a":"b"}', '{"a":"b","a":"c"}', '["a"]', '[{"a":"b","a":"c"}]', '""', "{}")


def test_what_is_read_at_once_is_what_the_closer_look_reads() -> None:
    chance = random.Random(4)
    read_at_once = 0
    for _ in range(20_000):
        pairs = [f"{chance.choice(KEYS)}:{chance.choice(VALUES)}" for _ in range(chance.randrange(4))]
        line = f"{{{','.join(pairs)}}}".encode()
        found = parse_plain_objects([line])
        if found is not None:
            read_at_once += 1
            assert repr(found) == repr([parse_object(line)])

    assert read_at_once > 5000
