"""What a command reads: bytes as a file in memory, which is there whole before the command starts.

A pipe would have to be filled while the command runs, might fill up, and would break when nobody reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

_NO_EXEC = 8  # MFD_NOEXEC_SEAL: without it some systems warn, and strict ones (vm.memfd_noexec=2) refuse
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def open_stdin(data: bytes) -> int:
    """A descriptor from which these bytes are read, from the first on, and that nobody can change. Raises OSError."""
    file = _open_in_memory()
    try:
        rest, offset = memoryview(data), 0
        while rest:
            written = os.pwrite(file, rest, offset)  # the place to read from stays at the start
            rest, offset = rest[written:], offset + written
        with contextlib.suppress(OSError):  # a kernel without seals: only the command itself could change it
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


def _open_in_memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("stdin", flags | _NO_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("stdin", flags)  # Linux before 6.3
