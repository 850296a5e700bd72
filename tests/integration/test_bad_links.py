"""A worker behind a link that breaks: one way dead, cut, or late. No lease is lost before its time, none twice run."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from queuectl.messages import Beat, Push, Results
from queuectl.ways import Ways
from tests.harness_process import (
    BrokerProcess,
    RawClient,
    ScriptedWorker,
    TcpProxy,
    free_port,
    result_of,
    running_broker,
    until,
)
from worker.link import Link as WorkerLink


@dataclass
class Link:
    """A worker that speaks to a broker through a proxy."""

    broker: BrokerProcess
    client: RawClient
    proxy: TcpProxy
    worker: ScriptedWorker

    def beat_blindly(self) -> None:
        """Say that nothing was received and nothing is held."""
        self.worker.beats += 1
        self.worker.say(Beat(self.worker.session, self.worker.beats, self.worker.received, [], [], draining=False))

    def shorten_lease(self) -> None:
        """A lease of one second. Until it has beaten twice since, the worker may count on the old one."""
        self.client.ok("config_set", key="heartbeat", value=0.1)
        self.client.ok("config_set", key="lease", value=1)
        self.worker.beat()
        self.worker.beat()

    def job(self, job: str) -> tuple[str, int, int]:
        """State, runs and losses of a job."""
        shown = self.client.ok("job", id=job)["job"]
        return shown["state"], shown["attempt"], shown["losses"]


@pytest.fixture
def link(home: Path) -> Iterator[Link]:
    port = free_port()
    with (
        running_broker(home, listen=f"tcp://127.0.0.1:{port}") as broker,
        RawClient(broker.endpoint) as client,
        TcpProxy(port) as proxy,
        ScriptedWorker(f"tcp://127.0.0.1:{proxy.port}") as worker,
    ):
        worker.hello()
        yield Link(broker, client, proxy, worker)


def test_a_worker_that_hears_nothing_loses_what_it_never_got(link: Link) -> None:
    link.proxy.set_mode("to_client")
    link.client.enqueue("true")
    until(lambda: link.job("a1")[0] == "processing", "the push into nowhere")
    for _ in range(3):
        link.beat_blindly()

    until(lambda: link.broker.logged("session_closed"), "the end of a session that is one-way")
    link.proxy.set_mode("pass")
    link.worker.reconnect()
    link.worker.hello()
    [grant] = link.worker.pushed()
    assert grant.attempt == 1
    assert link.worker.finish(grant) == ["recorded"]
    assert link.job("a1") == ("completed", 1, 0)


def test_a_worker_that_is_not_heard_loses_its_leases_after_their_time(link: Link) -> None:
    link.shorten_lease()
    link.client.enqueue("true")
    [grant] = link.worker.pushed()
    link.proxy.set_mode("to_server")
    link.worker.say(Results(link.worker.session, [result_of(grant)]))

    until(lambda: link.broker.logged("worker_lost"), "the end of the lease")
    link.client.ok("config_set", key="lease", value=30)  # what follows has all the time it needs
    assert link.job("a1") == ("pending", 1, 1)
    link.proxy.set_mode("pass")
    link.worker.reconnect()
    assert link.worker.hello(done=(grant.lease,)).drop == []
    assert link.worker.finish(grant) == ["recorded"], "nobody else has got the job meanwhile"
    assert link.job("a1") == ("completed", 1, 0)


def test_a_late_worker_is_stale_once_another_has_the_job(link: Link) -> None:
    link.shorten_lease()
    link.client.enqueue("true")
    [first] = link.worker.pushed()
    link.proxy.set_mode("both")
    until(lambda: link.broker.logged("worker_lost"), "the end of the lease")
    link.client.ok("config_set", key="lease", value=30)  # what follows has all the time it needs
    with ScriptedWorker(link.broker.home.worker_endpoint) as other:
        other.hello()
        [second] = other.pushed()
        link.proxy.set_mode("pass")
        link.worker.reconnect()
        assert link.worker.hello(done=(first.lease,)).keep == [first.lease], "its result has yet to be judged"

        assert link.worker.finish(first) == ["stale"]
        assert other.finish(second, exit_code=7) == ["recorded"]
    assert (second.attempt, link.client.ok("job", id="a1")["job"]["exit_code"]) == (2, 7)


def test_a_cut_connection_costs_nothing(link: Link) -> None:
    link.client.enqueue("true")
    [grant] = link.worker.pushed()
    link.proxy.set_mode("reset")
    until(lambda: link.broker.logged("session_closed"), "the loss of the connection is noticed")
    link.proxy.set_mode("pass")

    link.worker.reconnect()
    assert link.worker.hello().keep == [grant.lease]
    assert link.worker.beat().drop == []
    assert link.worker.finish(grant) == ["recorded"]
    assert link.job("a1") == ("completed", 1, 0)


def test_what_was_held_up_is_of_an_older_session_and_does_no_harm(link: Link) -> None:
    link.client.enqueue("true", "true")
    [grant] = link.worker.pushed()
    old = link.worker.session
    link.proxy.set_mode("hold")
    link.beat_blindly()  # names no lease: in its session it would give the job back
    with ScriptedWorker(link.broker.home.worker_endpoint, boot=link.worker.boot) as same:
        same.broker_id, same.grants = link.worker.broker_id, dict(link.worker.grants)
        assert same.hello().keep == [grant.lease]
        assert same.session != old
        link.proxy.set_mode("pass")
        link.worker.next()  # the broker has answered: who are you

        assert same.beat().drop == []
        assert link.job("a1") == ("processing", 1, 0)
        assert same.finish(grant) == ["recorded"]
        assert same.hear(Push).grants[0].job == "a2"


def test_a_result_that_comes_twice_is_recorded_once(link: Link) -> None:
    link.client.enqueue("true")
    [grant] = link.worker.pushed()
    for _ in range(3):
        assert link.worker.finish(grant, exit_code=3) == ["recorded"]

    assert len(link.client.ok("job", id="a1")["history"]) == 1
    assert link.client.ok("job", id="a1")["job"]["attempts"] == 1


def test_a_worker_that_hangs_up_waits_for_no_attempt_any_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, select.epoll() as poller:
        link = WorkerLink(Ways([f"tcp://127.0.0.1:{mute.getsockname()[1]}"]), random.random, poller)
        link.connect(0)
        assert link.next_deadline() is not None

        link.hang_up()

        assert link.next_deadline() is None, "a time that nobody looks at would keep the loop awake"
        assert poller.poll(0) == []
        link.close()
