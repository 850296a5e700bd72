"""JSON as people and scripts hand it over, read strictly: what is doubtful is refused rather than guessed."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from queuectl.errors import BadJob

_HINT = 'write {"command": "echo hello"}'


def parse_object(text: str | bytes) -> dict[str, Any]:
    """One JSON object without duplicate keys, NaN or Infinity. Raises BadJob."""
    try:
        value = _DECODER.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise BadJob(f"not valid JSON: {error.msg} at {where}", hint=_HINT) from None
    except UnicodeDecodeError:
        raise BadJob("not valid UTF-8") from None
    except RecursionError:
        raise BadJob("the JSON is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadJob(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadJob("a job is a JSON object", hint=_HINT)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadJob(f"the key '{twice}' stands there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadJob(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
