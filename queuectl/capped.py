"""A log file that a daemon in the background keeps short itself: at most 10 MiB, and one older one beside it.

Whatever the process prints goes there through its descriptors 1 and 2, its libraries' words and a last
traceback included; so nothing is lost when the file is changed, and no tool from outside is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

LOG_BYTES_MAX = 10 * 2**20


class CappedLog(io.TextIOBase):
    """Text that goes to a file at `path`; when it is full it becomes `path.1`, and a new one takes its place.

    It has no fileno of its own, so that nobody writes past the count.
    """

    def __init__(self, path: Path, *, bytes_max: int = LOG_BYTES_MAX, descriptors: tuple[int, ...] = (1, 2)) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._descriptors = descriptors
        self._size = 0
        self._open()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Write at once; there is no buffer that could fail later. Raises OSError."""
        data = text.encode(errors="backslashreplace")
        if self._size and self._size + len(data) > self._bytes_max:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._open()
        while data:
            written = os.write(self._descriptors[0], data)
            self._size += written
            data = data[written:]
        return len(text)

    def _open(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _mark_in_use(file)
        self._size = os.fstat(file).st_size
        for descriptor in self._descriptors:
            os.dup2(file, descriptor)
        os.close(file)


def keep_short(path: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Send what this process prints from now on to a capped log at `path`."""
    sys.stdout = sys.stderr = CappedLog(path, bytes_max=bytes_max)


def _mark_in_use(file: int) -> None:
    """Lock the log for as long as the process lives. That another process has it too is no error."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
