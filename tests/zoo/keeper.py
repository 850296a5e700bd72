"""Keeps the animals: puts them into one worker at a time, ends them in one of the ways, and says what went wrong.

A real broker, real workers. A process belongs to a visit if the visit's number stands in its command line, its
environment or its directory: so it is found whatever else it has hidden.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.harness_cli import CommandLine, Running, children_of, is_alive, strike, three_of, until
from tests.harness_worker import below
from tests.zoo.animals import Animal, Way

LIMIT_S = 60.0  # generous: it is the machine that is slow; what is wrong stays wrong
TIMEOUT_S = 2.0
GRACE_MS = 2000
FLOOD_BYTES_KEPT = 1 << 20  # the default output_limit
FLOOD_GROWTH_BYTES_MAX = 8 << 20
# Of the jobs too: it makes room for 128 KiB of arguments and environment, which is soon too little.
_SMALL_STACK = "ulimit -Ss 512"
_VICTIMS = {
    Way.KILL_WORKER: ("worker",),
    Way.KILL_GUARDIAN: ("guardian",),
    Way.KILL_BOTH: ("worker", "guardian"),
    Way.KILL_ALL: ("last guard", "worker", "guardian"),
}


@dataclass(slots=True)
class Guest:
    """An animal on a visit. `token` is found in all its processes, `place` is where it runs."""

    animal: Animal
    token: str
    place: Path
    job: str = ""
    faults: list[str] = field(default_factory=list)

    def command(self, way: Way) -> str:
        """What is enqueued: after a loss it only ends."""
        nap = f"sleep 600.{self.token}"
        text = self.animal.command.replace("END", "exit 0" if way is Way.FINISH else f"exec {nap}")
        text = text.replace("READY", ": > ready").replace("NAP", nap).replace("{token}", self.token)
        return f"[ $QUEUECTL_JOB_ATTEMPT -gt 1 ] && exit 0; {text}"

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note a fault if these differ."""
        if found != wanted:
            self.faults.append(f"{what} is {found!r}, not {wanted!r}")


class Zoo:
    """A home with a broker, and one visit after the other."""

    def __init__(self, q: CommandLine, folder: Path, chance: random.Random):
        self.q = q
        self._folder = folder
        self._chance = chance
        q.ok("broker", "start", "--detach")

    def visit(self, animals: Sequence[Animal], way: Way) -> list[Guest]:
        """Let them all in at once and end them; the guests with what was wrong."""
        guests = self._invite([animal for animal in animals if animal.goes(way)])
        if not guests:
            return []
        try:
            _VISITS[way](self, guests, way)
            for guest in guests:
                guest.faults += [f"is left: {line}" for line in left([guest]).values()]
        finally:
            for pid in left(guests):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for guest in guests:
                shutil.rmtree(guest.place, ignore_errors=True)
        return guests

    def _invite(self, animals: Sequence[Animal]) -> list[Guest]:
        animals = self._chance.sample(animals, len(animals))
        number = 10**8 + secrets.randbelow(9 * 10**8)  # never one of another run, whatever the seed
        guests = [Guest(animal, f"{number}{place:03}", self._folder / f"{number}{place:03}")
                  for place, animal in enumerate(animals)]  # fmt: skip
        for guest in guests:
            guest.place.mkdir()
        return guests

    def _enqueue(self, guests: Sequence[Guest], way: Way, **fields: object) -> None:
        jobs = [
            {"command": guest.command(way), "cwd": str(guest.place), "max_retries": 1, **fields, **guest.animal.fields}
            for guest in guests
        ]
        for guest, job in zip(guests, self._ids(jobs), strict=True):
            guest.job = job

    def _ids(self, jobs: Sequence[Mapping[str, object]]) -> list[str]:
        return [job for job in self.q.client.enqueue_many(jobs).ids if job is not None]

    def _worker(self, slots: int) -> Running:
        return self.q.worker(slots, before=_SMALL_STACK)

    # --- the ways ---

    def _finish(self, guests: list[Guest], way: Way) -> None:
        worker = self._worker(len(guests))
        self._enqueue(guests, way)
        self._await(guests, _is_over)
        for guest in guests:
            self._check_finished(guest)
        self._check_empty(worker, guests)

    def _time_out(self, guests: list[Guest], way: Way) -> None:
        worker = self._worker(len(guests))
        self._enqueue(guests, way, timeout=TIMEOUT_S)
        self._await(guests, _is_over)
        for guest in guests:
            job, history = self._look(guest)
            guest.expect("the job", (job["state"], job["reason"], job["losses"]), ("dead", "timeout", 0))
            guest.expect("its history", [entry["outcome"] for entry in history], ["timeout"])
        self._check_empty(worker, guests)

    def _cancel(self, guests: list[Guest], way: Way) -> None:
        worker = self._worker(len(guests))
        self._enqueue(guests, way)
        _await_ready(guests)
        ids = [guest.job for guest in guests]
        self.q.client.request("cancel", {"select": {"ids": ids}, "signal": signal.SIGINT.value, "grace_ms": GRACE_MS})
        self._await(guests, _is_over)
        for guest in guests:
            job, history = self._look(guest)
            guest.expect("the job", (job["state"], job["losses"]), ("cancelled", 0))
            guest.expect("its history", [entry["outcome"] for entry in history], ["cancelled"])
        self._check_empty(worker, guests)

    def _stop(self, guests: list[Guest], way: Way) -> None:
        worker = self._worker(len(guests))
        self._enqueue(guests, way)
        _await_ready(guests)
        worker.signal(signal.SIGTERM)
        worker.await_log("worker_draining")
        worker.signal(signal.SIGTERM)
        code = worker.wait()
        for guest in guests:
            guest.expect("the worker's exit code", code, 0)
        await_gone(guests)
        self._check_moved(guests, "released", losses=0)

    def _kill(self, guests: list[Guest], way: Way) -> None:
        worker = self._worker(len(guests))
        three = three_of(worker.pid)
        self._enqueue(guests, way)
        _await_ready(guests)
        strike([three[name] for name in _VICTIMS[way]])
        heir = self._worker(len(guests)) if way is Way.KILL_ALL else None
        if heir is None:
            await_gone(guests)
        else:  # it looks before it takes its first job, so there is nothing to wait for
            for guest in guests:
                strangers = left([guest])  # first, for what the heir begins meanwhile is its own
                for pid in strangers.keys() - set(below(heir.pid)):
                    if is_alive(pid):
                        guest.faults.append(f"is there when its heir works: {strangers[pid]}")
        until(lambda: not any(map(is_alive, three.values())), "the end of the worker")
        self._check_moved(guests, "lost", losses=1, heir=heir)

    # --- the checks ---

    def _look(self, guest: Guest) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        seen = self.q.client.request("job", {"id": guest.job})
        return seen["job"], seen["history"]

    def _await(self, guests: Sequence[Guest], condition: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait until this holds for all jobs; those for which it does not are at fault."""
        waiting = list(guests)

        def is_true_of_all() -> bool:
            waiting[:] = [guest for guest in waiting if not condition(self._look(guest)[0])]
            return not waiting

        with suppress(AssertionError):  # told of each below
            until(is_true_of_all, limit_s=LIMIT_S)
        for guest in waiting:
            guest.faults.append(f"is still {self._look(guest)[0]['state']}")

    def _check_finished(self, guest: Guest) -> None:
        animal = guest.animal
        job, history = self._look(guest)
        guest.expect("the state", job["state"], "completed" if animal.outcome == "completed" else "dead")
        if len(history) != 1:
            guest.faults.append(f"has {len(history)} attempts")
            return
        [entry] = history
        ended = (entry["outcome"], entry["exit_code"], entry["signal"])
        guest.expect("its end", ended, (animal.outcome, animal.exit_code, animal.signal))
        if animal.leaves is not None and animal.outcome != "spawn_error":
            guest.expect("the note of what it left", entry["note"].startswith("left"), animal.leaves)
        for stream, wanted in (("stdout", animal.stdout), ("stderr", animal.stderr)):
            if wanted is not None:
                kept = b"".join(data for _, _, data in self.q.client.output(guest.job, stream=stream))
                guest.expect(f"{stream}, as kept", kept, wanted)
                guest.expect(f"{stream}, as counted", entry[f"{stream}_bytes"] or 0, len(wanted))

    def _check_empty(self, worker: Running, guests: Sequence[Guest]) -> None:
        """Nothing is left, every slot takes a job again, and the worker goes when it is told to."""
        await_gone(guests)
        inner = children_of(worker.pid)[0]
        gate = self.q.gate()
        jobs = self._ids([{"command": gate.wait}] * len(guests))
        self.q.await_count("processing", len(guests))
        gate.open()
        self.q.await_state("completed", *jobs)
        until(lambda: not children_of(inner), "a worker without children")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    def _check_moved(self, guests: Sequence[Guest], outcome: str, *, losses: int, heir: Running | None = None) -> None:
        """The first attempt ended like this, soon, and the second completes on another worker."""
        if heir is None:
            self._await(guests, lambda job: job["state"] == "pending")
            heir = self._worker(len(guests))
        self._await(guests, lambda job: job["state"] == "completed")
        for guest in guests:
            job, history = self._look(guest)
            guest.expect("its cost", (job["attempt"], job["attempts"], job["losses"]), (2, 0, losses))
            guest.expect("its history", [entry["outcome"] for entry in history], [outcome, "completed"])
        heir.signal(signal.SIGTERM)
        assert heir.wait() == 0

    # --- a flood ---

    def flood(self, size: int) -> list[str]:
        """Have one job print so many bytes; what is wrong with the worker's memory and with what was kept."""
        worker = self.q.worker()
        inner = children_of(worker.pid)[0]
        warm = self.q.client.enqueue(_flood_command(16 << 20))
        self.q.await_state("completed", warm)
        Path(f"/proc/{inner}/clear_refs").write_text("5")  # the peak begins anew here
        before = _memory(inner, "VmRSS")
        job = self.q.client.enqueue(_flood_command(size))
        until(lambda: self.q.client.get(job)["state"] == "completed", "the end of the flood", 20 * LIMIT_S)
        growth = _memory(inner, "VmHWM") - before
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

        [entry] = self.q.client.history(job)
        segments = [(offset, data) for _, offset, data in self.q.client.output(job, stream="stdout")]
        kept = sum(len(data) for _, data in segments)
        checks = {
            f"memory grew by {growth} bytes": growth <= FLOOD_GROWTH_BYTES_MAX,
            f"counted {entry['stdout_bytes']} of {size} bytes": entry["stdout_bytes"] == size,
            f"kept {kept} bytes": kept == FLOOD_BYTES_KEPT,
            "the head is not kept": segments[0][0] == 0 and segments[0][1].startswith(b"head"),
            "the tail is not kept": segments[-1][1].endswith(b"tail"),
            "the last byte has another offset": segments[-1][0] + len(segments[-1][1]) == size,
        }
        return [text for text, is_good in checks.items() if not is_good]


_VISITS: dict[Way, Callable[[Zoo, list[Guest], Way], None]] = {
    Way.FINISH: Zoo._finish,
    Way.TIMEOUT: Zoo._time_out,
    Way.CANCEL: Zoo._cancel,
    Way.STOP: Zoo._stop,
    **dict.fromkeys(_VICTIMS, Zoo._kill),
}


@contextmanager
def open_zoo(home: Path, seed: int) -> Iterator[Zoo]:
    """A zoo in a home that is empty; everything has ended when the block has."""
    folder = Path(mkdtemp(prefix="q-zoo-"))
    try:
        with closing(CommandLine(home, folder)) as q:
            yield Zoo(q, folder, random.Random(seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_over(job: Mapping[str, Any]) -> bool:
    return job["state"] in ("completed", "dead", "cancelled")


def _flood_command(size: int) -> str:
    return f"printf head; head -c {size - 8} /dev/zero; printf tail"


def _memory(pid: int, name: str) -> int:
    """Bytes, of a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def left(guests: Sequence[Guest]) -> dict[int, str]:
    """The living processes of these guests, with their command lines."""
    marks = [os.fsencode(guest.token) for guest in guests]
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                where = os.fsencode((entry / "cwd").readlink())
                if any(mark in line + where for mark in marks) and is_alive(int(entry.name)):
                    found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def await_gone(guests: Sequence[Guest]) -> None:
    """Wait until no process of them is left; what does not go is told at the end of the visit."""
    with suppress(AssertionError):
        until(lambda: not left(guests), limit_s=LIMIT_S)


def _await_ready(guests: Sequence[Guest]) -> None:
    until(lambda: all((guest.place / "ready").exists() for guest in guests), "all animals ready", LIMIT_S)
