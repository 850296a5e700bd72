"""A number that every process of a job carries, whatever it does to hide: its limit of real-time CPU time.

RLIMIT_RTTIME is inherited over fork, exec and setsid and stands in no environment, /proc shows it, and hardly
any program asks for it. The numbers are limits of 30 000 years and more, so nothing is limited by them. A
limit that somebody has set before is left alone; then there are no brands, and the environment has to do.
"""

from __future__ import annotations

import contextlib
import resource
import secrets
from pathlib import Path

COMMANDS_MAX = 1 << 32  # brands of one worker: a thousand commands a second for fifty days; the last stays for more
_HIGHEST = 1 << 62  # in microseconds, as all of these; far from where the kernel's arithmetic might overflow
_LOWEST = 1 << 60  # below it, it is a limit that was meant
_SPREAD = 1 << 58  # two workers do not come near each other, and there is room for workers below workers
_LINE = b"Max realtime timeout"


class Brands:
    """The brands of one worker. They go down, for only the superuser may raise a limit; so a worker that is
    itself a job of another begins below the brand that it carries."""

    def __init__(self) -> None:
        self._soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        ceiling = _HIGHEST if hard == resource.RLIM_INFINITY else hard
        above = ceiling - COMMANDS_MAX - secrets.randbelow(_SPREAD)
        self.first: int | None = above if above > _LOWEST else None
        self._next = above

    def put_on(self) -> int | None:
        """Brand this process, and so the command that it starts next. None where that cannot be done."""
        if self.first is None:
            return None
        is_meant = self._soft != resource.RLIM_INFINITY and self._soft < self._next
        soft = self._soft if is_meant else self._next
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (soft, self._next))
        except (ValueError, OSError):
            self.first = None
            return None
        brand = self._next
        self._next = max(brand - 1, self.first - COMMANDS_MAX + 1)
        return brand


def find_brand(pid: int) -> int | None:
    """The brand of a process, or None if it has none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        limits = Path(f"/proc/{pid}/limits").read_bytes()
        hard = int(limits[limits.index(_LINE) + len(_LINE) :].split(maxsplit=2)[1])
        return hard if hard > _LOWEST - COMMANDS_MAX else None
    return None


def is_of(brand: int | None, first: int | None) -> bool:
    """Whether it is a brand of the worker whose brands begin with `first`."""
    return brand is not None and first is not None and first - COMMANDS_MAX < brand <= first
