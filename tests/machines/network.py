"""Machines for tests: each has its own network, host name, processes and home, and a cable to a switch.

They are namespaces of Linux, made by root, or by anybody where the kernel lets users make some. Nothing is left of
them: a machine lives as long as its first process, that as long as this process holds a pipe to it, and the kernel
takes away with it all that ran there, its network card and its cable. The network of whoever runs the tests is not
touched, and none of this needs to be undone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from queuectl.client import Client
from queuectl.home import Home
from tests.harness_cli import Ran, children_of, until
from tests.harness_process import ROOT

END_LIMIT_S = 20.0
COMMAND_LIMIT_S = 90.0
# The first process of a machine ends with our pipe. Ignoring SIGCHLD, it leaves no zombie of those it inherits.
_FIRST = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
_HOLD = f"exec {shlex.quote(sys.executable)} -I -S -c {shlex.quote(_FIRST)}"
_OWN = ("--net", "--uts", "--pid", "--mount")


class NotHere(Exception):
    """What the tests need, and this machine does not have or does not allow."""


class Network:
    """Switches, and machines with a cable to one of them or to more. All of it ends with `close`."""

    def __init__(self, place: Path) -> None:
        """`place` is for the homes of the machines. Raises NotHere, with the reason."""
        self.place = place
        self.machines: list[Machine] = []
        self._hosts = place / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._switches = 0
        self._is_root = os.geteuid() == 0
        _write_programs(place)
        self._first = _hold(["unshare", *([] if self._is_root else ["--map-root-user"]), "--net", "sh", "-c", _HOLD])

    def machine(self, *names: str) -> Machine:
        """One more machine, with a cable for each of its names: the first to the first switch, and so on."""
        while self._switches < len(names):
            self.switch(f"ip link add lan{self._switches} type bridge; ip link set lan{self._switches} up")
            self._switches += 1
        machine = Machine(self, len(self.machines) + 1, names)
        self.machines.append(machine)
        with self._hosts.open("a") as hosts:  # the file that all of them have mounted
            hosts.writelines(f"{machine.address(lan)} {name}\n" for lan, name in enumerate(names))
        return machine

    def __getitem__(self, name: str) -> Machine:
        """The machine of this name."""
        return next(machine for machine in self.machines if machine.name == name)

    def switch(self, script: str) -> None:
        """Run shell text where the switches are, as root of it. Raises NotHere."""
        _done([*self._enter(self._first.pid), "--net", "--", "sh", "-ec", script])

    def begin(self, script: str) -> subprocess.Popen[str]:
        """The first process of a machine, once this shell text has been run in it. Raises NotHere."""
        line = ["unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        return _hold([*self._enter(self._first.pid), "--net", "--", *line, "sh", "-ec", f"{script}; {_HOLD}"])

    def enter(self, pid: int) -> list[str]:
        """The beginning of a command line that is carried out on the machine of this first process."""
        return [*self._enter(pid), *_OWN, "--"]

    def _enter(self, pid: int) -> list[str]:
        return ["nsenter", "-t", str(pid), *([] if self._is_root else ["--user", "--preserve-credentials"])]

    def mount_hosts(self) -> str:
        """The shell text that has a machine know the names of all."""
        return f"mount --bind {self._hosts} /etc/hosts"

    def tell_logs(self) -> None:
        """Print the ends of all logs: pytest shows them where a test has failed."""
        for machine in self.machines:
            for log in sorted(machine.home.glob(".queuectl/logs/*.log")):
                sys.stdout.write(f"\n{log} ends with:\n{log.read_text(errors='replace')[-2000:]}\n")

    def close(self) -> None:
        """End all machines and what runs on them, at once."""
        for machine in self.machines:
            machine.close()
        _let_go(self._first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Machine:
    """A machine of the network."""

    def __init__(self, network: Network, number: int, names: Sequence[str]) -> None:
        self.name = names[0]
        self.home = network.place / self.name
        self.home.mkdir(mode=0o700)
        self._network = network
        self._number = number
        self._client: Client | None = None
        set_up = f"hostname {self.name}; {network.mount_hosts()}; ip link set lo up"
        self._unshare = network.begin(set_up)
        [self._first] = until(lambda: children_of(self._unshare.pid), f"{self.name} to come up")
        for lan in range(len(names)):
            self._plug_in(lan)

    def _plug_in(self, lan: int) -> None:
        port, card = self._port(lan), f"eth{lan}"
        self._network.switch(
            f"ip link add {port} type veth peer name {card} netns {self._first}; ip link set {port} master lan{lan} up"
        )
        script = f"ip addr add {self.address(lan)}/24 dev {card}; ip link set {card} up"
        _done([*self._network.enter(self._first), "sh", "-ec", script])

    def address(self, lan: int = 0) -> str:
        """Its address on a switch."""
        return f"10.77.{lan}.{self._number}"

    def _port(self, lan: int) -> str:
        return f"port{self._number}.{lan}"

    # --- its cables ---

    def link_down(self, lan: int = 0) -> None:
        """Pull the cable out, at the switch: nothing comes through any more, either way, and no end is told."""
        self._network.switch(f"ip link set {self._port(lan)} down")

    def link_up(self, lan: int = 0) -> None:
        """Put it in again."""
        self._network.switch(f"ip link set {self._port(lan)} up")

    def disturb(self, how: str, lan: int = 0) -> None:
        """Delay and lose what comes through the cable: `delay 50ms 20ms loss 5%`. Raises NotHere without netem."""
        self._network.switch(f"tc qdisc replace dev {self._port(lan)} root netem {how}")
        script = f"tc qdisc replace dev eth{lan} root netem {how}"
        _done([*self._network.enter(self._first), "sh", "-ec", script])

    # --- its shell ---

    def run(self, line: str, *, stdin: str = "", limit_s: float = COMMAND_LIMIT_S) -> Ran:
        """Run a line of shell in the home of its user, to the end."""
        with self.start(line, stdin=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(stdin, limit_s)
            except BaseException:
                process.kill()
                raise
        return Ran(out, err, process.returncode)

    def ok(self, line: str, *, stdin: str = "") -> str:
        """The stdout of a line that must succeed."""
        ran = self.run(line, stdin=stdin)
        assert ran.code == 0, (self.name, line, ran)
        return ran.stdout

    def start(self, line: str, *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start a line of shell in the home of its user, with its words in pipes."""
        shell = ["sh", "-c", f"cd && {line}"]
        pipes: dict[str, Any] = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*self._network.enter(self._first), *shell]
        return subprocess.Popen(command, **pipes, text=True, env=self._environment(), start_new_session=True)

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECTL_")}
        path = f"{self._network.place / 'bin'}:{own['PATH']}"
        return own | {"HOME": str(self.home), "PATH": path, "PYTHONPATH": str(ROOT)}

    @property
    def client(self) -> Client:
        """Looks at the broker of this machine by its local socket, which is a file and so none of the network's."""
        if self._client is None:
            self._client = Client("local", home=Home(self.home / ".queuectl"))
        return self._client

    def close(self) -> None:
        """Its end, as by the power switch."""
        if self._client is not None:
            self._client.close()
        _let_go(self._unshare)


# --- processes ---------------------------------------------------------------------------------------------------


def _hold(line: Sequence[str]) -> subprocess.Popen[str]:
    """Start what ends when its stdin does, and wait for the line that says that it stands."""
    try:
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise NotHere(f"{error.filename} is not here") from None
    assert process.stdout is not None
    if process.stdout.readline() != "\n":
        raise NotHere(f"{shlex.join(line[:8])}: {_let_go(process) or 'it ended'}")
    return process


def _let_go(process: subprocess.Popen[str]) -> str:
    """End a process by its pipe, and wait until it is gone; its words on stderr."""
    try:
        return process.communicate(timeout=END_LIMIT_S)[1].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def _done(line: Sequence[str]) -> None:
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotHere(f"{line[-1]}: {ran.stderr.strip() or f'exit code {ran.returncode}'}")


def _write_programs(place: Path) -> None:
    """What the users of the machines find on their PATH besides what is there: this queuectl, and a scp."""
    copy = f'from=${{1#*@}}; exec cp --preserve=mode "{place}/${{from%%:*}}/${{from#*:}}" "$2"'
    programs: Iterable[tuple[str, str]] = (
        ("queuectl", f'exec {shlex.quote(sys.executable)} -P -m cli "$@"'),
        ("scp", f'[ $# = 2 ] || {{ echo "here: scp HOST:FILE PLACE" >&2; exit 2; }}; {copy}'),
    )
    directory = place / "bin"
    directory.mkdir()
    for name, script in programs:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
