"""The examples of docs/protocol.md, run against a real broker in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import zmq

from queuectl.credentials import Credentials, new_key_pair, text_of, write_secret
from queuectl.server_keys import load_server_keys
from tests.harness_process import RawClient, free_port, running_broker

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
LOCAL, CREDENTIALS = "ipc:///home/you/.queuectl/run/", "/home/you/desk.toml"


def write_credentials(home: Path, client: RawClient, listen: str) -> Path:
    """Let somebody in from elsewhere, and write the file for it."""
    public, secret = new_key_pair()
    client.ok("key_add", name="desk", role="submit", public_key=public)
    keys = load_server_keys(home / "keys")
    assert keys is not None
    path = home / "desk.toml"
    write_secret(path, text_of(Credentials("desk", "submit", (listen,), keys.public, public, secret)))
    return path


def test_examples_run(home: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}

    assert len(blocks) == 5
    listen = f"tcp://127.0.0.1:{free_port()}"
    with running_broker(home, listen=listen, insecure=False) as broker, RawClient(broker.endpoint) as client:
        here = {LOCAL: f"ipc://{home}/run/", CREDENTIALS: str(write_credentials(home, client, listen))}
        try:
            for block in blocks:
                assert 0 < max(map(len, block.splitlines())) <= 120
                for theirs, ours in here.items():
                    block = block.replace(theirs, ours)
                exec(compile(block, PAGE.name, "exec"), scope)
            client.send(scope["request"])
            assert client.receive()["ok"]["pid"] == broker.process.pid
            assert msgpack.unpackb(scope["request"]) == {"v": 1, "id": "request-1", "op": "ping", "args": {}}
            with scope["context"].socket(zmq.REQ) as link:
                link.connect(broker.endpoint)
                link.send(scope["request"])
                assert link.recv().startswith(scope["answer_begins"])
        finally:
            scope["context"].destroy(0)
        counts = client.ok("status")["jobs"]
        assert (counts["completed"], counts["failed"], counts["total"]) == (1, 1, 2)
