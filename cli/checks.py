"""What `doctor` looks at: each check is a function of a Case that says what it has found, and how to mend it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cli.render import bytes_text, counted
from queuectl import __version__
from queuectl.errors import QueuectlError
from queuectl.times import parse_rfc3339

if TYPE_CHECKING:
    from cli.session import Session
    from queuectl.client import Client

OK, WARN, FAIL, SKIPPED = "ok", "warn", "fail", "skipped"
ANSWER_S = 2.0  # for each try
SLOW_S = 0.5
SKEW_WARN_S, SKEW_FAIL_S = 2.0, 60.0
DISK_WARN_BYTES, DISK_WARN_SHARE = 2**30, 0.05
JOBS_READ = 200
STUCK_S = 60.0
DEAD_SHARE = 0.9  # of what is kept


class Finding(NamedTuple):
    """How it stands, in words, and what to do about it."""

    status: str
    message: str
    mend: str | None = None


@dataclass
class Case:
    """What is looked at. All that the broker tells is asked for once."""

    session: Session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "client" in self.__dict__:
            self.client.close()

    @cached_property
    def client(self) -> Client:
        from queuectl.client import Client

        return Client.of(self.session.config, self.session.home, timeout=ANSWER_S)

    @cached_property
    def ping(self) -> tuple[dict[str, Any], float, float]:
        """What it says, how many seconds that took, and the middle of them, since the epoch."""
        self.client.connect()  # is not part of the time that is taken
        begun = time.time()
        told = self.client.ping()
        took = time.time() - begun
        return told, took, begun + took / 2

    @cached_property
    def status(self) -> dict[str, Any]:
        return self.client.status()

    @property
    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.status["workers"]
        return workers

    def jobs(self, state: str) -> list[dict[str, Any]]:
        """The newest in this state."""
        return list(self.client.list(state=state, limit=JOBS_READ))


# --- this machine ----------------------------------------------------------------------------------------


def _home(case: Case) -> Finding:
    path = case.session.home.path
    try:
        info = path.stat()
    except FileNotFoundError:
        return Finding(OK, f"{path} is not there yet; the first command makes it")
    if info.st_uid != os.geteuid():
        return Finding(
            FAIL, f"{path} belongs to another user (uid {info.st_uid})", "take another: --home, QUEUECTL_HOME"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(FAIL, f"{path} cannot be written", f"chmod u+rwx {path}")
    if open_to := stat.S_IMODE(info.st_mode) & 0o077:
        return Finding(WARN, f"others can look into {path} (mode {open_to:03o} too much)", f"chmod 700 {path}")
    return Finding(OK, str(path))


def _configuration(case: Case) -> Finding:
    config = case.session.config
    changed = [f"{key} from {origin}" for key, origin in config.origins.items() if origin != "default"]
    return Finding(OK, "; ".join(changed) or "all defaults on this machine")


# --- the broker ------------------------------------------------------------------------------------------


def _reach(case: Case) -> Finding:
    _, took, _ = case.ping
    said = f"{case.client.endpoint} answers after {took * 1000:.1f} ms"
    if took > SLOW_S:
        return Finding(WARN, said, "is its machine or its disk overloaded? see: queuectl status")
    return Finding(OK, said)


def _who(case: Case) -> Finding:
    told = case.client.request("whoami")
    return Finding(OK, f"{told['name']}, role {told['role']}")


def _versions(case: Case) -> Finding:
    broker = case.ping[0]["version"]
    others = sorted({str(worker["version"]) for worker in case.workers} - {broker})
    if broker != __version__:
        said = f"the broker has {broker}, this command {__version__}"
        return Finding(WARN, said, "bring both to one version, the broker first")
    if others:
        said = f"the broker has {broker}, some workers {', '.join(others)}"
        return Finding(WARN, said, "start those workers anew with the broker's version: queuectl worker list")
    return Finding(OK, broker)


def _clock(case: Case) -> Finding:
    told, took, middle = case.ping
    if "time" not in told:
        return Finding(SKIPPED, "the broker is too old to tell its time")
    skew = parse_rfc3339(told["time"]) / 1000 - middle
    unsure = took / 2 + 0.001
    said = f"the broker's is {abs(skew):.3f} s {'ahead' if skew > 0 else 'behind'} (± {unsure:.3f} s)"
    if abs(skew) - unsure <= SKEW_WARN_S:
        return Finding(OK, said)
    mend = "have both machines keep the time (chrony, systemd-timesyncd): --at and shown times depend on it"
    return Finding(FAIL if abs(skew) - unsure > SKEW_FAIL_S else WARN, said, mend)


def _disk(case: Case) -> Finding:
    broker = case.status["broker"]
    if broker.get("accepting") is False:
        mend = "free some room on its disk, of which min_free is to be left, or purge jobs that are over"
        return Finding(FAIL, "the broker takes no new jobs", mend)
    place = broker.get("data_dir")
    if place is None or not case.session.config.is_local:
        return Finding(OK, "the broker takes new jobs")
    disk = os.statvfs(place)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    said = f"{bytes_text(free)} free at {place}"
    if free < DISK_WARN_BYTES or free < size * DISK_WARN_SHARE:
        return Finding(WARN, said, "free some room: without it the broker takes no new jobs")
    return Finding(OK, said)


# --- workers and jobs ------------------------------------------------------------------------------------


def _workers(case: Case) -> Finding:
    if not case.workers:
        waiting = any(not job.get("held") for state in ("pending", "failed") for job in case.jobs(state))
        said = "none is connected, and jobs wait" if waiting else "none is connected"
        return Finding(FAIL if waiting else WARN, said, "queuectl worker start")
    away = [worker for worker in case.workers if worker["state"] in ("away", "silent")]
    if away:
        names = ", ".join(str(worker["id"]) for worker in away)
        return Finding(WARN, f"not heard of: {names}", "look at those machines; their jobs go to others by themselves")
    busy, slots = sum(each["busy"] for each in case.workers), sum(each["slots"] for each in case.workers)
    return Finding(OK, f"{counted(len(case.workers), 'worker')}, {busy} of {counted(slots, 'slot')} busy")


def _queues(case: Case) -> Finding:
    """Of each queue that has waiting jobs the oldest of them is asked why it waits."""
    oldest = {job["queue"]: job for job in case.jobs("pending") if not job.get("held")}
    lonely, idle = [], []
    for queue, job in oldest.items():
        codes = {reason["code"] for reason in case.client.why(job["id"])["reasons"]}
        if "no_worker" in codes:
            lonely.append(queue)
        elif codes == {"next"} and _age_s(job["run_at"] or job["created_at"]) > STUCK_S:
            idle.append(queue)
    if lonely and case.workers:
        names = ", ".join(lonely)
        return Finding(
            FAIL, f"jobs wait that no worker takes, in: {names}", f"queuectl worker start --queue {lonely[0]}"
        )
    if idle:
        said = f"jobs wait though there is room, in: {', '.join(idle)}"
        return Finding(WARN, said, "look at the logs of broker and workers; this should not be")
    return Finding(OK, f"{counted(len(oldest), 'queue')} with jobs that wait")


def _stuck(case: Case) -> Finding:
    stuck = [
        job["id"] for job in case.jobs("processing") if job.get("cancelling") and _age_s(job["updated_at"]) > STUCK_S
    ]
    if stuck:
        said = f"told to end and still there: {', '.join(stuck[:3])}"
        return Finding(WARN, said, f"queuectl cancel --grace 0s {stuck[0]}")
    return Finding(OK, f"{counted(case.status['jobs']['processing'], 'job')} in progress")


def _dead(case: Case) -> Finding:
    dead = case.status["jobs"]["dead"]
    kept = case.client.config()["settings"].get("keep_dead_max")
    said = counted(dead, "dead job")
    if kept and dead > kept * DEAD_SHARE:
        return Finding(WARN, f"{said}; beyond {kept} those go that died first", "queuectl dlq list --by-cause")
    return Finding(OK, said)


def _age_s(instant: str) -> float:
    return time.time() - parse_rfc3339(instant) / 1000


class Check(NamedTuple):
    """A check by its name; `before_others`: why those after it have nothing to look at if it fails."""

    name: str
    look: Callable[[Case], Finding]
    before_others: str | None = None


CHECKS = (
    Check("home", _home),
    Check("configuration", _configuration, before_others="where the broker is cannot be told"),
    Check("broker", _reach, before_others="no broker answers"),
    Check("you", _who),
    Check("versions", _versions),
    Check("clock", _clock),
    Check("disk", _disk),
    Check("workers", _workers),
    Check("queues", _queues),
    Check("stuck jobs", _stuck),
    Check("dead jobs", _dead),
)


def examine(case: Case, check: Check) -> Finding:
    """What this check finds. What keeps it from looking is a finding, too."""
    from queuectl.errors import NotAllowed

    try:
        return check.look(case)
    except NotAllowed as error:
        return Finding(FAIL if check.before_others else SKIPPED, error.message, error.hint)
    except QueuectlError as error:
        return Finding(FAIL, error.message, error.hint)
    except OSError as error:
        return Finding(WARN, f"cannot look: {error}")
