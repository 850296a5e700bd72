"""Dead jobs by what they have died of: the shape of the command, how it ended, and what it said last.

A shape is the text with everything out of it that differs from one run to the next: numbers, times, hashes, UUIDs. In
what was said last, quoted words as well, which name what it was about; in a command they say what it does.
Jobs of one cause have one fingerprint, eight hex digits, which `dlq retry --group` and `dlq purge --group` take.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cli.endings import ending

_DIFFERS = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"  # a UUID
    r"|0x[0-9a-fA-F]+|\b(?=[a-fA-F]*\d)[0-9a-fA-F]{7,}\b"  # a hash
    r"|\d+(?:[.,:]\d+)*"  # numbers, times
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_BLANKS = re.compile(r"\s+")
SHOWN_CHARS = 200


@dataclass(slots=True)
class Cause:
    """Dead jobs that are alike."""

    fingerprint: str
    ending: str
    command: str  # its shape
    last_line: str  # its shape
    ids: list[str] = field(default_factory=list)  # the newest first
    newest_at: str = ""

    def to_wire(self) -> dict[str, Any]:
        """As --json prints it."""
        return {
            "group": self.fingerprint,
            "jobs": len(self.ids),
            "ending": self.ending,
            "command": self.command,
            "last_line": self.last_line,
            "newest_at": self.newest_at,
            "sample": self.ids[:3],
        }


def shape(text: str) -> str:
    """A command without what differs from run to run: `copy 17 files` → `copy # files`."""
    return _BLANKS.sub(" ", _DIFFERS.sub("#", text)).strip()[:SHOWN_CHARS]


def causes(jobs: Iterable[dict[str, Any]]) -> list[Cause]:
    """The causes of these dead jobs, those of most jobs first."""
    found: dict[str, Cause] = {}
    for job in jobs:
        parts = ending(job), shape(job["command"]), shape(_QUOTED.sub("#", job.get("last_line") or ""))
        fingerprint = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:8]
        cause = found.setdefault(fingerprint, Cause(fingerprint, *parts))
        cause.ids.append(str(job["id"]))
        cause.newest_at = max(cause.newest_at, str(job["updated_at"]))
    return sorted(found.values(), key=lambda cause: -len(cause.ids))
