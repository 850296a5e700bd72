"""The examples of docs/protocol.md, run against a real broker in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import zmq

from tests.harness_process import RawClient, running_broker

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
LOCAL = "ipc:///home/you/.queuectl/run/"


def test_examples_run(home: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}

    assert len(blocks) == 4
    with running_broker(home) as broker, RawClient(broker.endpoint) as client:
        try:
            for block in blocks:
                assert 0 < max(map(len, block.splitlines())) <= 120
                exec(compile(block.replace(LOCAL, f"ipc://{home}/run/"), PAGE.name, "exec"), scope)
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
