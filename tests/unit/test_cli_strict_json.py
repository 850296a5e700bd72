"""JSON is read strictly: nothing doubtful is guessed."""

from __future__ import annotations

import pytest

from cli.strict_json import parse_object
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
        ('{"priority": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
    ids=["key", "inner-key", "nan", "infinity", "no-json", "comma", "array", "utf-8", "deep", "digits"],
)
def test_doubtful_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(BadJob) as caught:
        parse_object(text)

    assert message in caught.value.message
