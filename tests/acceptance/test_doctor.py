"""`doctor` on a real queue: what it calls wrong is wrong, and is right once its mend was carried out."""

from __future__ import annotations

import json

import pytest

from tests.harness_cli import CommandLine

pytestmark = pytest.mark.acceptance


def test_what_it_says_mends_what_it_finds(q: CommandLine) -> None:
    away = q.run("doctor", "--no-autostart")
    q.ok("broker", "start", "--detach")
    q.enqueue("true", queue="mail")
    lonely = q.run("doctor", "-q")
    q.worker(1, "--queue", "other")
    unserved = json.loads(q.run("doctor", "--json").stdout)
    q.worker(1, "--queue", "mail")
    q.await_count("completed", 1)
    well = q.run("doctor")

    assert (away.code, "queuectl broker start --detach" in away.stdout) == (1, True)
    assert (lonely.code, lonely.stdout) == (1, "workers\n")
    assert [check["mend"] for check in unserved["checks"] if check["status"] == "fail"] == [
        "queuectl worker start --queue mail"
    ]
    assert (well.code, "FAIL" in well.stdout) == (0, False)
    assert q.json("broker", "status")["turned_away"] == 0  # none of these were strangers
