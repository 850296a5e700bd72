"""What a job finds in its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from queuectl.messages import Grant
from worker.environment import JobEnvironment

BOOT = "a" * 32
HOME = Path("/home/q")


def grant(**changes: Any) -> Grant:
    fields: dict[str, Any] = {"lease": 255, "job": "job-1", "attempt": 2, "max_retries": 3, "queue": "mail"}
    fields |= {"command": "true", "env": None, "cwd": None, "timeout_ms": None, "output_limit": 0}
    return Grant(**(fields | {"keep_children": False} | changes))


def test_job_is_told_who_it_is() -> None:
    assert JobEnvironment({}, BOOT, HOME).of(grant(), 4) == {
        b"QUEUECTL_HOME": b"/home/q",
        b"QUEUECTL_JOB_ID": b"job-1",
        b"QUEUECTL_JOB_ATTEMPT": b"2",
        b"QUEUECTL_JOB_MAX_RETRIES": b"3",
        b"QUEUECTL_JOB_QUEUE": b"mail",
        b"QUEUECTL_JOB_WORKER": BOOT.encode(),
        b"QUEUECTL_JOB_SLOT": b"4",
        b"QUEUECTL_JOB_LEASE": b"00000000000000ff",
    }


def test_environment_of_the_worker_is_passed_on_but_for_what_is_not_the_jobs() -> None:
    own = {
        b"PATH": b"/bin",
        b"ODD": b"\xff",
        b"QUEUECTL_HOME": b"/home/of/whoever/started/it/with/--home",
        b"QUEUECTL_ENDPOINT": b"tcp://x:1",
        b"QUEUECTL_CREDENTIALS": b"secret",
        b"QUEUECTL_JOB_ID": b"of the job that started this worker",
        b"NOTIFY_SOCKET": b"/run/notify",
        b"WATCHDOG_USEC": b"1",
        b"LISTEN_FDS": b"1",
        b"INVOCATION_ID": b"1",
    }

    found = JobEnvironment(own, BOOT, HOME).of(grant(), 1)

    passed_on = {name: value for name, value in found.items() if not name.startswith(b"QUEUECTL_JOB_")}
    assert passed_on == {b"PATH": b"/bin", b"ODD": b"\xff", b"QUEUECTL_HOME": b"/home/q"}
    assert found[b"QUEUECTL_JOB_ID"] == b"job-1"


def test_environment_of_the_job_comes_before_the_workers() -> None:
    made = JobEnvironment({b"LANG": b"C", b"TZ": b"UTC"}, BOOT, HOME)

    assert made.of(grant(env={"LANG": "de_DE", "NAME": "Grün"}), 1)[b"LANG"] == b"de_DE"
    assert made.of(grant(env={"NAME": "Grün"}), 1)[b"NAME"] == "Grün".encode()
    assert made.of(grant(), 1)[b"LANG"] == b"C"
