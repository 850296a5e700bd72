"""A feed from a script, for tests of those who read it: each event is a row of its own."""

from __future__ import annotations

from typing import Any

from queuectl.errors import QueuectlError


def event_view(kind: str, **changed: Any) -> dict[str, Any]:
    """An event as the broker shows it."""
    event: dict[str, Any] = {
        "at": "2026-11-22T10:00:00.000Z",
        "type": kind,
        "job_id": None,
        "attempt": None,
        "worker": None,
        "by": None,
        "cursor": None,
    }
    return event | changed


class ScriptedFeed:
    """Answers `events`: the history of a job without a cursor, else the rows from the cursor on."""

    def __init__(self, *events: dict[str, Any], history: tuple[dict[str, Any], ...] = (), oldest: int = 1) -> None:
        self.events = [event | {"cursor": [row, 1]} for row, event in enumerate(events, 1)]
        self.history = list(history)
        self.oldest = oldest
        self.asked: list[dict[str, Any]] = []
        self.trouble: list[QueuectlError] = []  # what the next requests that are held are answered with
        self.trouble_after: QueuectlError | None = None  # what they are answered with when nothing happens any more
        self.later: list[list[dict[str, Any]]] = []  # what has happened by the time that each held reply goes

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(args)
        if "wait_ms" in args:
            if self.trouble:
                raise self.trouble.pop(0)
            if not self.later and self.trouble_after is not None:
                raise self.trouble_after
            for event in self.later.pop(0) if self.later else []:
                self.events.append(event | {"cursor": [len(self.events) + 1, 1]})
        end = [len(self.events) + 1, 0]
        if "cursor" not in args:
            return {"events": self.history if "id" in args else [], "cursor": end, "more": False, "missed": False}
        row, place = (*args["cursor"], 0)[:2]
        first = max(row + place, self.oldest)
        found = self.events[first - 1 :][: args["limit"]]
        cursor = [first + len(found), 0]
        wanted = [event for event in found if not args.get("types") or event["type"] in args["types"]]
        return {"events": wanted, "cursor": cursor, "more": cursor < end, "missed": 0 < row < self.oldest}
