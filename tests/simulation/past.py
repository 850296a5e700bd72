"""Seeds that find something where a rule is taken away again that was missing once. Each is run by every test."""

from __future__ import annotations

PAST: dict[int, str] = {
    727: "a release that was on its way when the broker died was forgotten, and its lease given back as if never begun",
    74378: "a HELLO that came later than what had ended a lease had it adopted again, and its run forgotten",
    74466: "a copy was taken for one of the job that got the name of its original in the same turn",
}
