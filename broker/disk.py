"""Is there room for more? A nearly full disk is a mode: new jobs are refused, everything else goes on."""

from __future__ import annotations

import os
from pathlib import Path

_AUTO_BYTES = 256 * 2**20
_AUTO_SHARE = 0.05


class Disk:
    """The file system of the database, and whether the file is still there."""

    def __init__(self, database: Path):
        self._database = str(database)
        self._directory = database.parent
        self._identity = _identity(self._database)

    def has_database(self) -> bool:
        """Whether the open database is still the file of that name, and not emptied: into another nothing is stored."""
        return self._identity is not None and _identity(self._database) == self._identity

    def free_bytes(self) -> tuple[int, int]:
        """(free for us, size) in bytes."""
        info = os.statvfs(self._directory)
        return info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize

    def is_low(self, min_free: int | None) -> bool:
        """Whether less is free than wanted; without a wish, than the lesser of 256 MiB and 5 % of the disk."""
        free, size = self.free_bytes()
        wanted = min(_AUTO_BYTES, int(size * _AUTO_SHARE)) if min_free is None else min_free
        return free < wanted


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)  # noqa: PTH116  a Path takes three times as long, and this is asked in every turn
    except OSError:
        return None
    if info.st_size == 0:
        return None
    return info.st_dev, info.st_ino
