"""The home directory: where everything of one user lives, and the paths of its sockets.

`~/.queuectl` (or `QUEUECTL_HOME`) holds `config.toml`, `queue.db`, `keys/`, `run/`, `spool/`, `logs/`.
The sockets are closed to other users by the 0700 directory that they stand in; where the home's path is
too long for a socket (107 bytes on Linux), that directory is a short one under /tmp, checked to be ours.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from queuectl.errors import NotAllowed, QueuectlError

SOCKET_PATH_BYTES_MAX = 107  # sun_path less its end mark, unix(7)
_LONGEST_NAME = "worker.sock"


class HomeUnusable(QueuectlError):
    """The home directory cannot be used."""

    code = "home_unusable"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home. Nothing is created until `prepare`."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    def context_file(self, name: str) -> Path:
        """The credentials that `queuectl context` keeps under a name."""
        return self.path / "contexts" / f"{name}.toml"

    @property
    def run(self) -> Path:
        """State of what runs now: locks, pid files, and the sockets if their paths fit."""
        return self.path / "run"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def sockets(self) -> Path:
        """The directory of the sockets: `run`, or a short one elsewhere that is a function of the home's path."""
        if len(os.fsencode(self.run / _LONGEST_NAME)) <= SOCKET_PATH_BYTES_MAX:
            return self.run
        import hashlib

        digest = hashlib.blake2b(os.fsencode(self.path), digest_size=8).hexdigest()
        return Path("/tmp") / f"queuectl-{os.geteuid()}-{digest}"  # not gettempdir: every process must find the same

    @property
    def worker_endpoint(self) -> str:
        return f"ipc://{self.sockets / 'worker.sock'}"

    @property
    def client_endpoint(self) -> str:
        return f"ipc://{self.sockets / 'client.sock'}"

    def prepare(self) -> None:
        """Make the directories, closed to others. Raises HomeUnusable or NotAllowed."""
        try:
            for directory in (self.path, self.keys, self.run, self.spool, self.logs):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.sockets != self.run:
                self.sockets.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(f"cannot use {self.path} as home: {error.strerror}: {error.filename}") from None
        self.run.chmod(0o700)
        refuse_foreign_directory(self.sockets)

    def is_ours(self) -> bool:
        """Whether the home belongs to this user, or does not exist yet."""
        try:
            return self.path.stat().st_uid == os.geteuid()
        except FileNotFoundError:
            return True


def refuse_foreign_directory(directory: Path | str) -> None:
    """Raise NotAllowed unless this directory is a real one, ours, and closed to others."""
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise NotAllowed(
            f"{directory} is not a directory that only you can use",
            hint=f"it must be yours and have mode 0700; look who made it: ls -ld {directory}",
        )


def find_home(explicit: str | None = None) -> Home:
    """The home named on the command line or by QUEUECTL_HOME, else `~/.queuectl`."""
    named = explicit or os.environ.get("QUEUECTL_HOME")
    path = Path(named) if named else Path.home() / ".queuectl"
    return Home(path.expanduser().absolute())


def temporary_home() -> Home:
    """A fresh home in the system's temporary directory; the caller removes it."""
    import tempfile

    return Home(Path(tempfile.mkdtemp(prefix="queuectl-")))
