"""Seeds that find something where a rule is taken away again that was missing once. Each is run by every test."""

from __future__ import annotations

PAST: dict[int, str] = {
    724: "a release that was on its way when the broker died was forgotten, and its lease given back as if never begun",
    4744: "the last turn of a broker that stops blamed its own stall on the workers",
}
