"""All targets of the fuzzer, and how much of a campaign each gets."""

from __future__ import annotations

from tests.fuzz import decoder, dispatch, files, screen, worker
from tests.fuzz.target import Target

TARGETS = (
    Target("decoder", decoder.feed, weight=10),
    Target("worker", worker.feed, worker.INPUTS, weight=5),
    Target("dispatch", dispatch.feed, dispatch.INPUTS, weight=3),
    Target("screen", screen.feed, weight=1),
    Target("files", files.feed, weight=1),
)
