"""A gate that is served in a thread of its own, for tests of sockets that have no broker's loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from broker.gate import Gate


@contextmanager
def served_gate(
    context: zmq.Context[zmq.Socket[bytes]], user_of: Callable[[str], str | None] = lambda public_key: None
) -> Iterator[None]:
    """Let in at the routers of this context whom the gate lets in."""
    is_open, is_over = threading.Event(), threading.Event()

    def serve() -> None:
        gate = Gate(context, user_of)
        is_open.set()
        while not is_over.is_set():
            if gate.socket.poll(10):
                gate.serve()
        gate.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert is_open.wait(60)
        yield
    finally:
        is_over.set()
        thread.join()
