"""The worker's end of the connection: what it hears of a broker that goes."""

from __future__ import annotations

import random
import select
import time
from pathlib import Path

import zmq

from queuectl.messages import Hello
from queuectl.ways import Ways
from worker.link import Link

HELLO = Hello(1, 1, "0" * 32, "host", "/home", 1, 1, [], "test", False, [], "", 1)


def test_first_loss_of_a_connection_is_told(home: Path) -> None:
    endpoint, context = f"ipc://{home}/worker.sock", zmq.Context[zmq.Socket[bytes]]()
    broker = context.socket(zmq.ROUTER)
    broker.bind(endpoint)
    poller = select.epoll()
    link = Link(Ways([endpoint]), random.random, poller)
    link.connect(0)
    end = time.monotonic() + 20
    while not link.send(HELLO):
        assert time.monotonic() < end, "it does not connect"
        list(link.messages(dict(poller.poll(0.1))))
        link.has_become_writable()
    broker.recv_multipart()

    broker.close(0)

    while not link.was_lost(dict(poller.poll(0.1)), 0):
        assert time.monotonic() < end, "nobody said that the connection is lost"
    link.close()
    context.term()
