"""`queuectl doctor` against a scripted broker: what each check finds, and how it says to mend it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import checks
from queuectl import __version__
from queuectl.errors import NotAllowed
from queuectl.times import rfc3339
from tests.harness_client import ScriptedBroker, job_view, run_cli, scripted_broker

WORKER = {"id": "host-1", "state": "active", "busy": 1, "slots": 2, "version": __version__}
COUNTS = {"pending": 0, "processing": 0, "completed": 0, "failed": 0, "dead": 0, "cancelled": 0, "total": 0}


@pytest.fixture
def broker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    monkeypatch.setattr(checks, "SLOW_S", 3600.0)
    with scripted_broker(home) as broker:
        broker.on("ping", lambda _: {"version": __version__, "time": rfc3339(round(time.time() * 1000))})
        broker.on("whoami", {"name": "ann", "role": "admin"})
        tell(broker)
        broker.on("list", {"jobs": [], "next": None})
        broker.on("config_show", {"settings": {"keep_dead_max": 100}, "changed": []})
        yield broker


def tell(broker: ScriptedBroker, *, workers: tuple[dict[str, Any], ...] = (WORKER,), **counts: int) -> None:
    """What `status` says."""
    about = {"version": __version__, "accepting": True, "data_dir": "/"}
    broker.on("status", {"broker": about, "workers": list(workers), "jobs": {**COUNTS, **counts}})


def examined(*args: str) -> dict[str, dict[str, str | None]]:
    """What each check has found."""
    ran = run_cli("doctor", "--json", *args)
    found = {check["name"]: check for check in ran.json["checks"]}
    assert list(found) == [check.name for check in checks.CHECKS]
    fails = [name for name, check in found.items() if check["status"] == "fail"]
    assert (ran.code, ran.json["ok"]) == (1 if fails else 0, not fails)
    return found


def problems(*args: str) -> dict[str, tuple[str | None, str | None]]:
    """The status and the mend of what is not well."""
    return {name: (each["status"], each["mend"]) for name, each in examined(*args).items() if each["status"] != "ok"}


def test_all_is_well(broker: ScriptedBroker) -> None:
    ran = run_cli("doctor")

    assert (ran.code, ran.err) == (0, "0 failures, 0 warnings.\n")
    assert [line.split()[-1] for line in ran.out.splitlines() if " OK " not in line] == []
    assert len(ran.out.splitlines()) == len(checks.CHECKS)
    assert problems() == {}
    assert run_cli("doctor", "-q").out == ""


def test_no_broker_is_told_and_none_is_started(home: Path) -> None:
    found = examined()

    assert (found["broker"]["status"], found["broker"]["mend"]) == ("fail", "start one: queuectl broker start --detach")
    assert {each["message"] for each in found.values() if each["status"] == "skipped"} == {"no broker answers"}
    assert not (home / "run").exists()


def test_wrong_configuration_is_told_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_ENDPOIT", "local")

    found = examined()

    assert (found["configuration"]["status"], found["configuration"]["mend"]) == ("fail", "did you mean 'endpoint'?")
    assert found["broker"]["status"] == "skipped"


@pytest.mark.parametrize(("mode", "status"), [(0o700, "ok"), (0o750, "warn"), (0o701, "warn")])
def test_home_that_others_can_enter(broker: ScriptedBroker, home: Path, mode: int, status: str) -> None:
    home.chmod(mode)

    found = examined()["home"]

    assert found["status"] == status
    assert found["mend"] == (None if status == "ok" else f"chmod 700 {home}")


def test_home_of_another(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)

    assert problems()["home"] == ("fail", "take another: --home, QUEUECTL_HOME")


def test_slow_answer(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SLOW_S", -1.0)

    assert problems()["broker"][0] == "warn"


@pytest.mark.parametrize(("ahead_s", "status"), [(0, "ok"), (-30, "warn"), (30, "warn"), (900, "fail"), (-900, "fail")])
def test_clocks(broker: ScriptedBroker, ahead_s: int, status: str) -> None:
    broker.on("ping", lambda _: {"version": __version__, "time": rfc3339(round((time.time() + ahead_s) * 1000))})

    found = examined()["clock"]

    assert found["status"] == status
    assert ("ahead" in str(found["message"])) is (ahead_s > 0) or status == "ok"


def test_older_broker_does_not_tell_its_time(broker: ScriptedBroker) -> None:
    broker.on("ping", {"version": "0.3.0"})

    assert problems() == {
        "versions": ("warn", "bring both to one version, the broker first"),
        "clock": ("skipped", None),
    }


def test_worker_of_another_version(broker: ScriptedBroker) -> None:
    tell(broker, workers=(WORKER, {**WORKER, "id": "host-2", "version": "0.1.0"}))

    found = examined()["versions"]

    assert (found["status"], "some workers 0.1.0" in str(found["message"])) == ("warn", True)


def test_broker_that_takes_nothing(broker: ScriptedBroker) -> None:
    broker.on("status", {"broker": {"accepting": False}, "workers": [WORKER], "jobs": COUNTS})

    assert problems()["disk"][0] == "fail"


@pytest.mark.parametrize(("free", "status"), [(2**29, "warn"), (2**31, "warn"), (2**36, "ok")])
def test_disk(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=2**37))

    assert examined()["disk"]["status"] == status


@pytest.mark.parametrize(
    ("workers", "waiting", "status"),
    [
        ((), [{}], "fail"),
        ((), [{"held": True}], "warn"),
        ((), [], "warn"),
        (({**WORKER, "state": "away"},), [], "warn"),
        ((WORKER,), [{"held": True}], "ok"),
    ],
)
def test_workers(
    broker: ScriptedBroker, workers: tuple[dict[str, Any], ...], waiting: list[dict[str, Any]], status: str
) -> None:
    tell(broker, workers=workers, pending=len(waiting))
    jobs = [job_view(**each) for each in waiting]
    broker.on("why", {"reasons": [{"code": "no_worker", "text": "because"}]})
    broker.on("list", lambda args: {"jobs": jobs if args.get("state") == "pending" else [], "next": None})

    assert examined()["workers"]["status"] == status


@pytest.mark.parametrize(
    ("code", "age_s", "status", "mend"),
    [
        ("no_worker", 0, "fail", "queuectl worker start --queue mail"),
        ("next", 600, "warn", "look at the logs of broker and workers; this should not be"),
        ("next", 0, "ok", None),
        ("workers_busy", 600, "ok", None),
    ],
)
def test_queues(broker: ScriptedBroker, code: str, age_s: int, status: str, mend: str | None) -> None:
    since = rfc3339(round((time.time() - age_s) * 1000))
    waiting = [job_view(id=each, queue="mail", run_at=since, created_at=since) for each in ("new", "old")]
    broker.on("list", lambda args: {"jobs": waiting if args.get("state") == "pending" else [], "next": None})
    broker.on("why", {"reasons": [{"code": code, "text": "because"}]})

    found = examined()["queues"]

    assert (found["status"], found["mend"]) == (status, mend)
    assert broker.only("why").args == {"id": "old"}


@pytest.mark.parametrize(("age_s", "cancelling", "status"), [(600, True, "warn"), (0, True, "ok"), (600, False, "ok")])
def test_jobs_that_do_not_end(broker: ScriptedBroker, age_s: int, cancelling: bool, status: str) -> None:
    since = rfc3339(round((time.time() - age_s) * 1000))
    running = [job_view(id="a1", state="processing", cancelling=cancelling, updated_at=since)]
    broker.on("list", lambda args: {"jobs": running if args.get("state") == "processing" else [], "next": None})

    assert examined()["stuck jobs"]["status"] == status


@pytest.mark.parametrize(("dead", "status"), [(0, "ok"), (90, "ok"), (91, "warn")])
def test_dead_jobs(broker: ScriptedBroker, dead: int, status: str) -> None:
    tell(broker, dead=dead)

    assert examined()["dead jobs"]["status"] == status


def test_who_may_not_look_is_told_so(broker: ScriptedBroker) -> None:
    broker.on("status", NotAllowed("'desk' has the role submit, and may not do this"))

    found = examined()

    assert {name for name, each in found.items() if each["status"] == "skipped"} >= {"disk", "workers"}


def test_quiet_names_what_is_not_well(broker: ScriptedBroker) -> None:
    tell(broker, workers=(), pending=1)

    assert run_cli("doctor", "-q").out == "workers\n"


def test_fits_a_terminal(broker: ScriptedBroker) -> None:
    tell(broker, workers=({**WORKER, "id": "\x1b[31mhost" * 20, "state": "away"},))

    ran = run_cli("doctor", tty=True, columns=60)

    assert max(len(line) for line in ran.out.replace("\x1b[0m", "").split("\n")) <= 60 + len("\x1b[33m")
    assert "\x1b[31mhost" not in ran.out
