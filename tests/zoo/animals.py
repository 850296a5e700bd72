"""The animals: commands that nobody should have to run, and what must become of each of them.

In their commands NAP is a long sleep that carries the animal's token, READY says that all is set up, and END
is the end where the animal is to end by itself, and a nap where it is to be ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Way(StrEnum):
    """How a run is brought to its end."""

    FINISH = "finish"
    TIMEOUT = "timeout"
    CANCEL = "cancel by INT"
    STOP = "stop twice"
    KILL_WORKER = "kill worker"
    KILL_GUARDIAN = "kill guardian"
    KILL_BOTH = "kill both"
    KILL_ALL = "kill all three"


WAYS = tuple(Way)


@dataclass(frozen=True)
class Animal:
    """A command. `outcome` to `stderr`: when it ends by itself; None where that cannot be said beforehand."""

    name: str
    command: str
    outcome: str | None = "completed"  # None: it never ends by itself
    exit_code: int | None = 0
    signal: int | None = None
    stdout: bytes | None = b""
    stderr: bytes | None = b""
    leaves: bool | None = False  # the leader ends before the others do, and the note has to say so
    hangs: bool = True  # it can be held, to be ended in the other ways
    fields: Mapping[str, object] = field(default_factory=dict)  # of the job
    not_by: frozenset[Way] = frozenset()  # ways that do not reach it, as the documentation says

    def goes(self, way: Way) -> bool:
        """Whether this way makes sense for it."""
        ends = self.outcome is not None if way is Way.FINISH else self.hangs
        return ends and way not in self.not_by


def _never(name: str, command: str) -> Animal:
    return Animal(name, command, outcome=None)


def _short(name: str, command: str, outcome: str = "completed", **more: object) -> Animal:
    return Animal(name, command, outcome, hangs=False, **{"exit_code": None, **more})  # type: ignore[arg-type]


_HOP = "trap '' TERM HUP; [ $1 -gt 0 ] || exit; setsid sh hop $(($1 - 1)) {token} &"
_BOMB = "b() { [ $1 -gt 0 ] || exec NAP; b $(($1 - 1)) & b $(($1 - 1)) & wait; }; b 6 & READY; END"
_STUBBORN_DAEMON = (
    "env -i setsid sh -c 'trap \"\" TERM HUP INT; exec <&- >&- 2>&-; : > up; cd /; while :; do NAP; done'"
)
_BIG = 126 * 1024  # with a command as long, more than the 128 KiB that a stack of 512 KiB leaves room for

ANIMALS = (
    # those that will not go
    _never("sleeps", "READY; NAP"),
    _never("ignores TERM", "trap '' TERM INT HUP QUIT; READY; while :; do NAP; done"),
    _never("answers TERM with 0", "trap 'exit 0' TERM; NAP & READY; wait"),
    _never("answers TERM with more", "trap 'setsid NAP & NAP &' TERM; NAP & READY; while :; do wait; done"),
    _never("answers INT with 0", "trap 'exit 0' INT; NAP & READY; wait"),
    _never("stops itself", "READY; kill -STOP $$; NAP"),
    _never("spins", "READY; while :; do :; done # {token}"),
    # those that leave others behind
    Animal("forks", "NAP & NAP & READY; END", leaves=True),
    Animal("forks twice", "(NAP &); READY; END", leaves=True),
    Animal("setsid", "setsid NAP & READY; END", leaves=True),
    Animal("daemon", "(setsid sh -c 'NAP & NAP' &); READY; END", leaves=True),
    Animal("clears its environment", "env -i setsid NAP & READY; END", leaves=True),
    Animal("daemon without environment", "(env -i setsid sh -c '(env -i setsid NAP &)' &); READY; END", leaves=True),
    Animal(
        "stubborn daemon", f"({_STUBBORN_DAEMON} &); until [ -e up ]; do sleep 0.01; done; READY; END", leaves=True,
    ),
    Animal("stopped daemon", "(setsid sh -c 'kill -STOP $$; NAP' &); READY; END", leaves=True),
    Animal("forged marks", "env QUEUECTL_JOB_LEASE=0 QUEUECTL_JOB_WORKER=0 setsid NAP & READY; END", leaves=True),
    # Without session, environment and brand it is nobody's: it goes with the last job that it may belong to, but a
    # sweep cannot tell it from a stranger.
    Animal(
        "sheds its brand", "env -i prlimit --rttime=1000000:1000000 setsid NAP & READY; END",
        not_by=frozenset({Way.KILL_BOTH, Way.KILL_ALL}), leaves=None,
    ),
    Animal("fork bomb", _BOMB, leaves=True),
    Animal("hops from process to process", f"echo '{_HOP}' > hop; sh hop 200000 {{token}} & READY; END", leaves=None),
    Animal("makes zombies", "for i in 1 2 3 4 5; do sh -c 'true & exec NAP' & done; READY; END", leaves=True),
    Animal("mixes groups", "set -m; NAP & NAP & set +m; NAP & READY; END", stderr=None, leaves=True),
    Animal("holds deleted files", "exec 3> gone; rm gone; NAP & READY; END", leaves=True),
    Animal("sits in a deleted directory", "READY; mkdir in; cd in; rmdir ../in; NAP & END", leaves=True),
    # those with strange output
    Animal("holds the pipe", "NAP & echo held; READY; END", stdout=b"held\n", leaves=True),
    Animal("writes on after its end", "(setsid sh -c 'while echo {token}; do sleep 0.01; done' &); READY; END",
           stdout=None, leaves=True),
    Animal("fills a pipe that nobody reads", "yes {token} | NAP & READY; END", leaves=True),
    Animal("does not read stdin", "READY; exec < /dev/zero; END"),
    Animal("closes its streams", "exec >&- 2>&-; READY; END"),
    Animal("stderr only", "echo only >&2; READY; END", stderr=b"only\n"),
    Animal("no newline", "printf tail; READY; END", stdout=b"tail"),
    _short("binary", r"printf '\000\377\200\033[31m'", stdout=b"\0\xff\x80\x1b[31m", exit_code=0),
    _short("a million lines", "yes | head -n 1000000", stdout=None, exit_code=0),
    # those that end badly
    _short("exits 255", "exit 255", "exit", exit_code=255),
    _short("TERM to itself", "kill -TERM $$", "signal", signal=15),
    _short("KILL to itself", "kill -KILL $$", "signal", signal=9),
    _short("SEGV without a core", "ulimit -c 0; kill -SEGV $$", "signal", signal=11),
    _short("kills its group", "NAP & kill -KILL 0", "signal", signal=9),
    _short("missing program", "exec ./nowhere", "exit", exit_code=127, stderr=None),
    _short("not executable", ": > plain; exec ./plain", "exit", exit_code=126, stderr=None),
    _short("syntax error", "if then", "exit", exit_code=2, stderr=None),
    _short("missing directory", "true", "spawn_error", fields={"cwd": "/nowhere/at/all"}),
    _short("directory that is a file", "true", "spawn_error", fields={"cwd": "/etc/passwd"}),
    _short("huge environment", "true #" + "x" * _BIG, "spawn_error", fields={"env": {"BIG": "x" * _BIG}}),
)  # fmt: skip
