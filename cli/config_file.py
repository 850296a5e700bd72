"""Change one key of config.toml and leave the rest of the file, comments included, as it is."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from queuectl.config import read_file
from queuectl.errors import BadConfig, WrongState
from queuectl.home import Home


def write(home: Home, key: str, value: str | bool) -> None:
    """Set a key; makes the file, 0600, if there is none. Raises BadConfig, WrongState."""
    _refuse_second_place(home.config_file, key)
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _change(home.config_file, key, f"{key} = {json.dumps(value, ensure_ascii=False)}", {key: value})


def remove(path: Path, key: str) -> None:
    """Take a key out, if it is there. Raises BadConfig."""
    if path.exists():
        _change(path, key, None, {})


def _refuse_second_place(path: Path, key: str) -> None:
    """A context says where the broker is, and so do the others: both at once would mean nothing."""
    rivals = {"context": ("credentials", "endpoint"), "credentials": ("context",), "endpoint": ("context",)}
    there = read_file(path).keys()
    for rival in rivals.get(key, ()):
        if rival in there:
            raise WrongState(
                f"{path} says where the broker is by '{rival}' already",
                hint=f"take that out first: queuectl config unset {rival}",
            )


def _change(path: Path, key: str, line: str | None, entry: dict[str, Any]) -> None:
    before = {name: value for name, value in read_file(path).items() if name != key}
    text = _edited(path.read_text() if path.exists() else "", key, line)
    try:
        after = {name.replace("-", "_"): value for name, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError:
        after = {}
    if after != before | entry:  # a value over several lines, or another oddity
        raise BadConfig(f"{path} is written in a way that cannot be changed safely", hint=f"edit it: {line or key}")
    _replace(path, text)


def _edited(text: str, key: str, line: str | None) -> str:
    """The text with the line of this key replaced, added before the first table, or taken out."""
    pattern = re.compile(rf"""\s*["']?{key.replace("_", "[-_]")}["']?\s*=""", re.IGNORECASE)
    lines = text.splitlines()
    tables = [number for number, each in enumerate(lines) if each.lstrip().startswith("[")]
    end = tables[0] if tables else len(lines)
    found = [number for number, each in enumerate(lines[:end]) if pattern.match(each)]
    if found and line is not None:
        lines[found[0]] = line
    elif found:
        del lines[found[0]]
    elif line is not None:
        lines.insert(end, line)
    return "\n".join(lines) + "\n" if lines else ""


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
