"""Brokers and workers on machines of their own: what the pages say, and what becomes of jobs when a link fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness_cli import processes_with, until
from tests.harness_process import ROOT
from tests.machines.network import Network, NotHere
from tests.machines.outage import BUILDERS, QUEUE, Plan, hold
from tests.machines.pages import commands, hosts, type_all

pytestmark = [pytest.mark.acceptance, pytest.mark.machines, pytest.mark.timeout(300)]


def quick(down_s: float, cut: tuple[str, ...], lease_s: float) -> Plan:
    """A short lease, and few jobs."""
    return Plan(down_s=down_s, cut=cut, lease_s=lease_s, heartbeat_s=0.4, backlog=24)


@pytest.fixture
def network(home: Path) -> Iterator[Network]:
    """A network of the test's own; skips where there may be none."""
    try:
        with Network(home) as network:
            network.machine("nobody.example")
            yield network
            network.tell_logs()
    except NotHere as error:
        pytest.skip(f"no machines here: {error}")


def test_two_machines_of_the_readme_run_a_job_and_take_no_other_command(network: Network) -> None:
    lines = commands("README.md", "Two machines")
    for host in hosts(lines):
        network.machine(host)
    on_first, on_second = (sum(line.host == host for line in lines[:4]) for host in hosts(lines))

    type_all(network, lines)

    assert (on_first, on_second) == (2, 2)
    assert lines[-1].shown == ("build.example",)


def test_keys_are_handled_as_the_security_page_says_and_jobs_go_on(network: Network) -> None:
    page = "docs/security.md"
    lines = commands(page, "Keys, step by step")
    for host in hosts(lines):
        network.machine(host)
    queue, desk = network["queue.example"], network["desk.example"]

    type_all(network, lines)
    type_all(network, commands(page, "When something was stolen"))

    refused = desk.run("queuectl enqueue --queue mail-out --credentials desk.toml -- hostname")
    assert (refused.code, "key" in refused.stderr) == (5, True), refused
    queue.ok("queuectl enqueue --id after -- hostname")
    until(lambda: queue.client.get("after")["state"] == "completed", "a job after all that")
    [attempt] = queue.client.history("after")
    assert attempt["worker"].startswith("build-")


def test_link_down_for_less_than_a_lease_loses_nothing_and_repeats_nothing(network: Network) -> None:
    report = hold(network, quick(2.5, (QUEUE,), lease_s=6))

    assert (report.faults, report.lost, report.second_runs) == ([], 0, 0), report.table()


def test_link_down_for_longer_than_a_lease_explains_each_second_run(network: Network) -> None:
    report = hold(network, quick(5, BUILDERS[:1], lease_s=3))

    assert (report.faults, report.lost, report.recorded_twice) == ([], 0, 0), report.table()
    assert report.second_runs == report.explained > 0, "no job ran twice: the outage was none"


def test_worker_goes_on_by_its_second_endpoint_when_the_first_fails(network: Network) -> None:
    queue = network.machine("queue.example", "queue-b.example")
    build = network.machine("build.example", "build-b.example")
    queue.ok("queuectl broker start --detach --listen tcp://0.0.0.0:7710 --advertise queue.example,queue-b.example")
    queue.ok("queuectl config set heartbeat 0.5")
    queue.ok("queuectl auth add builder --role worker --out builder.toml")
    build.ok("scp queue.example:builder.toml .")
    build.ok("queuectl worker start --detach --credentials builder.toml")
    queue.ok("queuectl enqueue --id before -- hostname")
    until(lambda: queue.client.get("before")["state"] == "completed", "the first job")

    build.link_down(0)
    queue.ok("queuectl enqueue --id after -- hostname")
    until(lambda: queue.client.get("after")["state"] == "completed", "the job after the link went down")

    assert [attempt["outcome"] for attempt in queue.client.history("after")] == ["completed"]


def test_nothing_is_left_of_machines_whose_maker_was_killed(network: Network) -> None:
    place = network.place / "other"
    place.mkdir()
    script = (
        "import sys, time; from pathlib import Path; from tests.machines.network import Network\n"
        "network = Network(Path(sys.argv[1])); machine = network.machine('one.example')\n"
        "machine.ok('queuectl broker start --detach; setsid sleep 600 >/dev/null 2>&1 &')\n"
        "print('up', flush=True); time.sleep(600)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, cwd=ROOT)
    assert maker.stdout is not None
    with maker:
        assert maker.stdout.readline() == b"up\n"
        assert processes_with(f"HOME={place}/one.example")
        maker.kill()

    until(lambda: not processes_with(f"HOME={place}/one.example"), "the end of all that ran there")
