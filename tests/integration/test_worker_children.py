"""Real commands: how they end, what they leave behind, what may go wrong when they start."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from queuectl.clock import Now, read_clock
from queuectl.messages import STDERR, STDOUT
from tests.harness_worker import LIMIT_S, grant, is_alive, wait_for
from worker.brand import Brands
from worker.children import Children
from worker.environment import JobEnvironment
from worker.proc import all_pids, become_subreaper, children_of

BOOT = secrets.token_hex(16)  # another run of the tests on this machine must not sweep ours
BRANDS = Brands()  # of all the rooms, for a process can only go down with them


@dataclass
class Ended:
    exit_code: int | None
    signal: int | None
    note: str


@dataclass
class Ear:
    """Remembers what the children's room tells."""

    output: dict[tuple[int, int], bytes] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)

    def on_output(self, lease: int, stream: int, data: bytes) -> None:
        self.output[lease, stream] = self.output.get((lease, stream), b"") + data

    def on_exit(self, lease: int, *, exit_code: int | None, signal: int | None, note: str, now: Now) -> None:
        self.ended[lease] = Ended(exit_code, signal, note)

    def on_spawn_error(self, lease: int, note: str, now: Now) -> None:
        self.refused[lease] = note

    def on_worker_fault(self, lease: int, note: str, now: Now) -> None:
        self.faults[lease] = note


class Room:
    """The children's room, stepped by the test."""

    def __init__(self, brands: Brands | None = None) -> None:
        self.ear = Ear()
        self._epoll = select.epoll()
        self.children = Children(JobEnvironment(os.environb, BOOT, Path("/home/q")), self._epoll, brands=brands)

    def start(self, command: str, lease: int = 1, **changes: object) -> None:
        self.children.start(grant(command, lease, **changes), lease, self.ear, read_clock())

    def kill(self, lease: int = 1, *, hard: bool = False, grace_ms: int = 10_000, number: int | None = 15) -> None:
        now = read_clock()
        self.children.kill(lease, hard=hard, kill_at_ms=now.mono_ms + grace_ms, now=now, number=number)

    def until(self, condition: Callable[[], object]) -> None:
        """Let the room work until the condition holds."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain: {self.ear}"
            ready = dict(self._epoll.poll(0.02))
            now = read_clock()
            self.children.turn(ready, self.ear, now)
            self.children.tree.look(now.mono_ms)
            self.children.tick(now)

    def close(self) -> None:
        self.children.close()
        self._epoll.close()

    def end_of(self, lease: int = 1) -> Ended:
        self.until(lambda: lease in self.ear.ended)
        return self.ear.ended[lease]

    def quiet(self) -> None:
        self.until(lambda: self.children.tree.is_quiet)


@contextmanager
def _open_room(brands: Brands | None) -> Iterator[Room]:
    become_subreaper()
    room = Room(brands)
    yield room
    for running in list(room.children._by_lease):
        room.kill(running, hard=True)
    room.children.tree.end_all(read_clock().mono_ms, hard=True)
    for orphan in room.children.tree._orphans.values():
        orphan.is_kept = False
        os.kill(orphan.pid, signal.SIGKILL)
    room.until(lambda: not room.children._by_lease and not room.children.tree._orphans)
    room.close()


@pytest.fixture
def room() -> Iterator[Room]:
    with _open_room(BRANDS) as room:
        yield room


@pytest.fixture
def plain_room() -> Iterator[Room]:
    """Where commands cannot be branded."""
    with _open_room(None) as room:
        yield room


def pid_in(path: Path) -> int:
    """The process id that a command has written into a file."""
    return int(wait_for(lambda: path.read_text().strip() if path.exists() else ""))


@pytest.mark.parametrize(
    ("command", "exit_code", "number"),
    [
        ("true", 0, None),
        ("exit 7", 7, None),
        ("kill -9 $$", None, 9),
        ("kill -TERM $$", None, 15),
        ("nosuch", 127, None),
    ],
)
def test_command_ends_as_it_says(room: Room, command: str, exit_code: int | None, number: int | None) -> None:
    room.start(command)

    assert room.end_of() == Ended(exit_code, number, "")


def test_output_arrives_byte_for_byte_and_apart(room: Room) -> None:
    room.start(r"printf 'a\000\377b'; printf 'c\200' >&2")

    room.end_of()

    assert room.ear.output == {(1, STDOUT): b"a\0\xffb", (1, STDERR): b"c\x80"}


def test_output_larger_than_a_pipe_arrives_whole(room: Room) -> None:
    room.start("head -c 3000000 /dev/zero")

    room.end_of()

    assert len(room.ear.output[1, STDOUT]) == 3_000_000


def test_command_that_closes_its_pipes_early_runs_on(room: Room) -> None:
    room.start("exec >&- 2>&-; sleep 0.2; exit 4")

    assert room.end_of().exit_code == 4


def test_stdin_is_empty(room: Room) -> None:
    room.start("wc -c")

    room.end_of()

    assert room.ear.output[1, STDOUT].strip() == b"0"


EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize(
    "stdin", [b"", b"one\ntwo", EVERY_BYTE, EVERY_BYTE * 4096], ids=["empty", "text", "bytes", "a megabyte"]
)
def test_stdin_is_read_byte_for_byte(room: Room, stdin: bytes) -> None:
    room.start("cat", stdin=stdin)

    assert room.end_of() == Ended(0, None, "")
    assert room.ear.output.get((1, STDOUT), b"") == stdin


def test_stdin_ends_when_it_has_been_read(room: Room) -> None:
    room.start("cat; echo; cat; wc -c", stdin=b"once")

    room.end_of()

    assert room.ear.output[1, STDOUT].split() == [b"once", b"0"]


@pytest.mark.parametrize("command", ["true", "exec <&-", "head -c 1 > /dev/null", "exec < /dev/null; cat"])
def test_stdin_need_not_be_read(room: Room, command: str) -> None:
    room.start(command, stdin=EVERY_BYTE * 4096)

    assert room.end_of() == Ended(0, None, "")
    assert room.ear.output == {}


def test_stdin_of_jobs_that_run_at_once_is_their_own(room: Room) -> None:
    for lease in (1, 2, 3):
        room.start("sleep 0.1; cat", lease, stdin=b"of %d" % lease)

    for lease in (1, 2, 3):
        room.end_of(lease)
        assert room.ear.output[lease, STDOUT] == b"of %d" % lease


def test_stdin_cannot_be_written_to(room: Room) -> None:
    room.start("echo more >&0 || cat", stdin=b"given")

    room.end_of()

    assert room.ear.output[1, STDOUT] == b"given"


def test_stdin_stays_with_its_command(room: Room) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    room.start("ls -l /proc/$$/fd; sleep 1000", 1, stdin=b"given")
    room.start("ls -l /proc/$$/fd", 2)

    room.end_of(2)
    room.until(lambda: (1, STDOUT) in room.ear.output)
    room.kill(1)
    room.end_of(1)

    assert [room.ear.output[lease, STDOUT].count(b"memfd") for lease in (1, 2)] == [1, 0]
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
def test_stdin_that_cannot_be_made_is_the_workers_fault(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", fail)
    room.start(f": > {tmp_path}/done", 1, stdin=b"secret")
    room.start("cat", 2)

    assert room.ear.faults == {1: f"cannot make the standard input of the command: {os.strerror(number)}"}
    assert room.end_of(2) == Ended(0, None, ""), "who has no input needs no such file"
    assert not (tmp_path / "done").exists()


def test_signals_start_out_as_the_system_has_them(room: Room) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        room.start("grep -E 'Sig(Ign|Blk)' /proc/self/status")
        room.end_of()
    finally:
        signal.signal(signal.SIGINT, before)

    of_the_c_library = 3 << 31  # signals 32 and 33, which nobody else can set
    masks = [int(line.split()[1], 16) & ~of_the_c_library for line in room.ear.output[1, STDOUT].splitlines()]
    assert masks == [0, 0]


def test_descriptors_of_the_worker_stay_with_it(room: Room) -> None:
    room.start("ls /proc/$$/fd")

    room.end_of()

    seen = {int(fd) for fd in room.ear.output[1, STDOUT].split()}
    of_the_shell = {10}
    assert all(fd < 3 or os.get_inheritable(fd) for fd in seen - of_the_shell)


def test_command_runs_in_its_directory_and_the_worker_stays_in_its_own(room: Room, tmp_path: Path) -> None:
    before = Path.cwd()

    room.start("pwd", cwd=str(tmp_path))
    room.end_of()

    assert room.ear.output[1, STDOUT].decode().strip() == str(tmp_path)
    assert Path.cwd() == before


@pytest.mark.parametrize("cwd", ["/nonexistent/directory", "/etc/passwd"])
def test_directory_that_cannot_be_entered_is_the_jobs_fault(room: Room, cwd: str) -> None:
    room.start("true", cwd=cwd)

    assert cwd in room.ear.refused[1]


def test_command_too_long_for_the_system_is_the_jobs_fault(room: Room) -> None:
    room.start("true " + "x" * (128 * 1024))

    assert "too long" in room.ear.refused[1]


@pytest.mark.parametrize("changes", [{"command": "echo \0"}, {"env": {"A": "\0"}}, {"env": {"A=B": "c"}}])
def test_what_no_shell_can_be_given_is_the_jobs_fault(room: Room, changes: dict[str, Any]) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    room.start(**({"command": "true"} | changes))

    assert "cannot start" in room.ear.refused[1]
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_shell_that_is_missing_is_the_workers_fault(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.process.SHELL", "/nonexistent/sh")
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    room.start("true")

    assert "/nonexistent/sh" in room.ear.faults[1]
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """This process may open so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    end = 1 + max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (end, before[1]))
        with suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (end + count, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fillers:
            os.close(fd)


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize(("stdin", "needed"), [(None, 4), (b"given", 5)], ids=["no input", "input"])
def test_no_descriptor_left_is_the_workers_fault_and_the_command_has_not_run(
    room: Room, tmp_path: Path, count: int, stdin: bytes | None, needed: int
) -> None:
    done = tmp_path / "done"
    with free_descriptors(count):
        room.start(f": > {done}", stdin=stdin)

    if count < needed:
        assert "Too many open files" in room.ear.faults[1]
        assert not done.exists()
    else:
        assert room.end_of() == Ended(0, None, "")
        assert done.exists()


def test_worker_with_no_way_back_into_its_directory_does_not_start_in_another(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path.cwd()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchdir", refuse_to_enter)
        room.start(": > done", cwd=str(tmp_path))

    assert "Permission denied" in room.ear.faults[1]
    assert not (tmp_path / "done").exists()
    assert Path.cwd() == own


def test_worker_that_finds_itself_in_another_directory_does_not_go_on(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path.cwd())
    ways = iter([os.fchdir, refuse_to_enter])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchdir", lambda fd: next(ways)(fd))
        with pytest.raises(RuntimeError, match="Permission denied"):
            room.start("true", cwd=str(tmp_path))

    assert room.ear.faults == {}


def refuse_to_enter(fd: int) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_term_ends_the_whole_tree(room: Room, tmp_path: Path) -> None:
    room.start(f"setsid sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000")
    stray = pid_in(tmp_path / "pid")

    room.kill()

    assert room.end_of().signal == signal.SIGTERM
    room.quiet()
    assert not is_alive(stray)


def test_tree_that_ignores_term_is_killed_after_the_grace(room: Room, tmp_path: Path) -> None:
    room.start(f"trap '' TERM; (sh -c 'echo $$ > {tmp_path}/pid; while :; do sleep 1; done') & wait; wait; sleep 1000")
    stray = pid_in(tmp_path / "pid")

    room.kill(grace_ms=200)

    assert room.end_of().signal == signal.SIGKILL
    room.quiet()
    assert not is_alive(stray)


def test_what_outlives_the_leader_in_the_grace_is_killed_at_its_end(room: Room, tmp_path: Path) -> None:
    room.start(f"(trap '' TERM; sh -c 'echo $$ > {tmp_path}/pid; while :; do sleep 1; done') & sleep 1000")
    stray = pid_in(tmp_path / "pid")

    room.kill(grace_ms=300)

    assert room.end_of().signal == signal.SIGTERM
    assert is_alive(stray)
    room.quiet()
    assert not is_alive(stray)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGRTMAX"])
def test_any_signal_may_be_the_first(room: Room, name: str) -> None:
    number = signal.Signals[name]
    room.start("ulimit -c 0; echo; exec sleep 1000")
    room.until(lambda: room.ear.output)

    room.kill(number=number)

    assert room.end_of().signal == number


@pytest.mark.parametrize("number", [0, -1, 32, 65, 2**31 - 1])
def test_signal_that_the_system_does_not_know_is_term(room: Room, number: int) -> None:
    room.start("exec sleep 1000")

    room.kill(number=number)

    assert room.end_of().signal == signal.SIGTERM


# Notes the first signal that it gets. A shell might be hit between the fork and the start of what it runs.
HEARS = """
import pathlib, signal, sys
numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
pathlib.Path(sys.argv[1] + ".up").touch()
pathlib.Path(sys.argv[1]).write_text(signal.sigwait(numbers).name)
"""


def hears(file: Path) -> str:
    """The command of a process that notes its first signal in this file."""
    program = file.with_name("hears.py")
    program.write_text(HEARS)
    return f"{sys.executable} -SE {program} {file}"


def until_up(*files: Path) -> str:
    return f"until {' && '.join(f'[ -e {file}.up ]' for file in files)}; do sleep 0.01; done"


def test_first_signal_reaches_the_whole_tree_and_no_other_does(room: Room, tmp_path: Path) -> None:
    child, stray, orphan = files = [tmp_path / name for name in ("child", "stray", "orphan")]
    room.start(
        f"{hears(child)} & setsid {hears(stray)} & (setsid {hears(orphan)} &); trap 'wait; exit 3' USR1; "
        f"{until_up(*files)}; echo; wait"
    )
    room.until(lambda: room.ear.output)

    room.kill(number=signal.SIGUSR1)

    assert room.end_of().exit_code == 3
    room.quiet()
    assert [file.read_text() for file in files] == ["SIGUSR1"] * 3


def test_first_signal_reaches_orphans_that_were_never_seen_before(room: Room, tmp_path: Path) -> None:
    orphan = tmp_path / "orphan"
    room.start(f"trap '' USR1; (trap - USR1; setsid {hears(orphan)} &); exec sleep 1000")
    wait_for(orphan.with_name("orphan.up").exists)

    room.kill(number=signal.SIGUSR1)

    assert wait_for(lambda: orphan.exists() and orphan.read_text()) == "SIGUSR1"
    assert room.ear.ended == {}


def test_what_comes_up_after_the_first_signal_hears_the_same_when_its_leader_has_ended(
    room: Room, tmp_path: Path
) -> None:
    late = tmp_path / "late"
    room.start(f"trap 'setsid {hears(late)} & {until_up(late)}; exit 3' USR1; sleep 1000 & echo; wait")
    room.until(lambda: room.ear.output)

    room.kill(number=signal.SIGUSR1)

    assert room.end_of().exit_code == 3
    room.quiet()
    assert late.read_text() == "SIGUSR1"


def test_job_that_ignores_the_first_signal_is_killed_after_the_grace(room: Room) -> None:
    room.start("trap '' INT; echo; while :; do sleep 1; done")
    room.until(lambda: room.ear.output)

    room.kill(number=signal.SIGINT, grace_ms=200)

    assert room.end_of().signal == signal.SIGKILL
    room.quiet()


def test_end_may_come_sooner_without_another_signal_but_never_later(room: Room) -> None:
    room.start("trap 'echo asked' INT TERM; sleep 1000 & echo; while :; do wait; done")
    room.until(lambda: room.ear.output)

    room.kill(number=signal.SIGINT, grace_ms=3_600_000)
    room.until(lambda: b"asked" in room.ear.output[1, STDOUT])
    room.kill(number=None, grace_ms=300)
    room.kill(number=None, grace_ms=3_600_000)

    assert room.end_of().signal == signal.SIGKILL
    assert room.ear.output[1, STDOUT] == b"\nasked\n"


def test_stopped_job_still_hears_term(room: Room) -> None:
    room.start("trap 'exit 9' TERM; kill -STOP $$; sleep 1000 & wait")
    pid = room.children.pid_of(1)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "T")

    room.kill()

    assert room.end_of().exit_code == 9


def test_job_ends_with_its_leader_though_the_pipe_stays_open(room: Room, tmp_path: Path) -> None:
    room.start(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done")

    ended = room.end_of()

    assert ended == Ended(0, None, "left 1 process running; it was ended")
    assert room.ear.output[1, STDOUT] == b"done\n"
    room.quiet()
    assert not is_alive(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize(
    "left",
    [
        "setsid sh -c '(echo $$ > {file}; exec sleep 1000) &'",
        "(setsid sh -c 'echo $$ > {file}; exec sleep 1000' &)",
        "env -i setsid sh -c 'echo $$ > {file}; trap \"\" TERM; while :; do sleep 1; done' & sleep 0.1",
        "(env -i setsid sh -c '(env -i setsid sh -c \"echo \\$\\$ > {file}; exec sleep 1000\" &)' &); sleep 0.1",
    ],
    ids=["daemon", "orphan", "no-environment", "no-environment-twice"],
)
def test_whatever_a_job_leaves_behind_is_ended(room: Room, tmp_path: Path, left: str) -> None:
    room.start(left.format(file=tmp_path / "pid"))
    stray = pid_in(tmp_path / "pid")

    assert "ended" in room.end_of().note

    room.quiet()
    assert not is_alive(stray)
    assert children_of(os.getpid()) == []


def test_what_is_to_be_kept_is_kept_and_may_go_on_writing(room: Room, tmp_path: Path) -> None:
    room.start(
        f"(setsid sh -c 'echo $$ > {tmp_path}/pid; sleep 0.2; head -c 200000 /dev/zero; echo $? > {tmp_path}/wrote; "
        "exec sleep 1000' &)",
        keep_children=True,
    )
    stray = pid_in(tmp_path / "pid")

    assert "running, as asked" in room.end_of().note

    room.quiet()
    room.until(lambda: (tmp_path / "wrote").exists())
    assert is_alive(stray)


def test_killed_job_keeps_nothing(room: Room, tmp_path: Path) -> None:
    room.start(f"setsid sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000", keep_children=True)
    stray = pid_in(tmp_path / "pid")

    room.kill(hard=True)

    room.end_of()
    room.quiet()
    assert not is_alive(stray)


def test_job_beside_is_left_alone(room: Room, tmp_path: Path) -> None:
    room.start(f"setsid sleep 1000 & echo $! > {tmp_path}/other; sleep 1000", lease=2)
    other = pid_in(tmp_path / "other")

    room.start("(setsid sleep 1000 &)", lease=1)
    room.end_of(1)
    room.until(lambda: not room.children.tree._orphans)

    assert is_alive(other)
    assert 2 not in room.ear.ended


HIDDEN = "(env -i setsid sh -c 'echo $$ > {file}; exec sleep 1000' &); sleep 0.1"


def test_orphan_without_session_and_environment_ends_with_its_job(room: Room, tmp_path: Path) -> None:
    room.start("sleep 1000", lease=2)
    room.start(HIDDEN.format(file=tmp_path / "pid"), lease=1)
    room.start("sleep 1000", lease=3)
    stray = pid_in(tmp_path / "pid")

    assert room.end_of(1).note == "left 1 process running; it was ended"

    room.until(lambda: not is_alive(stray))
    assert not room.ear.ended.keys() & {2, 3}


@pytest.mark.parametrize("is_killed", [False, True], ids=["ended", "killed"])
def test_what_hops_from_process_to_process_is_caught(room: Room, tmp_path: Path, is_killed: bool) -> None:
    hop = tmp_path / "hop"
    hop.write_text("trap '' TERM; : > $0.began; [ $1 -gt 0 ] && env -i setsid sh $0 $(($1 - 1)) &")
    room.start(f"sh {hop} 100000 & until [ -e {hop}.began ]; do :; done; {'sleep 1000' if is_killed else ''}")
    wait_for(Path(f"{hop}.began").exists)

    if is_killed:
        room.kill(hard=True)
    room.end_of()

    room.quiet()
    assert [line for line in map(_command_line, all_pids()) if os.fsencode(hop) in line] == []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_orphan_of_nobody_ends_with_the_last_job_that_it_may_belong_to(plain_room: Room, tmp_path: Path) -> None:
    room = plain_room
    room.start("read x < /dev/zero || sleep 1000", lease=2)
    room.start(HIDDEN.format(file=tmp_path / "pid"), lease=1)
    stray = pid_in(tmp_path / "pid")

    assert room.end_of(1).note == ""
    assert is_alive(stray)
    room.kill(2)
    room.end_of(2)

    room.quiet()
    assert not is_alive(stray)


def test_job_that_started_after_an_orphan_is_not_taken_for_its_parent(plain_room: Room, tmp_path: Path) -> None:
    room = plain_room
    room.start(f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' &); sleep 0.3", lease=1)
    stray = pid_in(tmp_path / "pid")
    time.sleep(0.05)  # the kernel counts the starts of processes in hundredths of a second
    room.start("sleep 1000", lease=2)

    room.end_of(1)

    room.until(lambda: not is_alive(stray))


def test_dead_orphans_are_reaped(room: Room) -> None:
    room.start("for i in 1 2 3; do (setsid sh -c 'exit 0' &); done; sleep 0.2; exec sleep 1000")

    room.until(lambda: children_of(os.getpid()) == [room.children.pid_of(1)])


def test_environment_tells_the_job_who_it_is(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.start("env | grep QUEUECTL_JOB | sort", lease=255, env={"A": "b"})

    room.end_of(255)

    assert room.ear.output[255, STDOUT].decode().splitlines() == [
        "QUEUECTL_JOB_ATTEMPT=1",
        "QUEUECTL_JOB_ID=job-255",
        "QUEUECTL_JOB_LEASE=00000000000000ff",
        "QUEUECTL_JOB_MAX_RETRIES=3",
        "QUEUECTL_JOB_QUEUE=default",
        "QUEUECTL_JOB_SLOT=255",
        f"QUEUECTL_JOB_WORKER={BOOT}",
    ]
