"""Seeds that found something once. Each is run by every test: what they met must never come back unseen."""

from __future__ import annotations

PAST: dict[int, str] = {
    339: "a new session on the same line gave back a lease whose push was still on its way, and it ran twice",
    370: "the late result of a lease ahead that had been given up was said to be recorded, and was not",
}
