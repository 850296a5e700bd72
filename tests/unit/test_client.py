"""What the client decides before it speaks: where to, in which pieces, under which ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from queuectl import Client
from queuectl.client import EnqueueResult, _chunks, _derived
from queuectl.errors import BadConfig, BadRequest
from queuectl.home import Home
from queuectl.ids import REQUEST_ID
from queuectl.jobs import JobSpec
from queuectl.verbs import Verbs, selection


def test_endpoint_is_the_local_one_by_default(home: Path) -> None:
    assert Client().endpoint == f"ipc://{home}/run/client.sock"


def test_endpoint_comes_from_the_configuration_of_the_home(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('endpoint = "tcp://127.0.0.2:7710"\n')

    assert Client(home=tmp_path).endpoint == "tcp://127.0.0.2:7711"


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("tcp://127.0.0.1:7710", "tcp://127.0.0.1:7711"),
        ("tcp://[::1]:7710", "tcp://[::1]:7711"),
        ("ipc:///somewhere/client.sock", "ipc:///somewhere/client.sock"),
    ],
)
def test_given_endpoint_comes_first(tmp_path: Path, given: str, endpoint: str) -> None:
    assert Client(given, home=Home(tmp_path)).endpoint == endpoint


def test_endpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="is not an endpoint"):
        Client("host:7710", home=tmp_path)


def test_jobs_of_every_form_go_out_in_chunks_of_a_thousand() -> None:
    chunks = list(_chunks(["a"] * 1000 + [{"command": "b"}, JobSpec(command="c", priority=1, stdin=b"in")]))

    assert [len(chunk) for chunk in chunks] == [1000, 2]
    assert chunks[1] == [{"command": "b"}, {"command": "c", "priority": 1, "stdin": b"in"}]


def test_chunk_stays_below_a_mebibyte() -> None:
    assert [len(chunk) for chunk in _chunks(["x" * 100_000] * 25)] == [10, 10, 5]


def test_request_ids_of_chunks_are_the_same_for_the_same_call() -> None:
    ids = [_derived("01234567", number) for number in range(3)]

    assert ids == [_derived("01234567", number) for number in range(3)]
    assert len(set(ids)) == 3
    assert all(REQUEST_ID.fullmatch(each) for each in ids)


def test_result_counts_what_was_accepted() -> None:
    assert EnqueueResult(["a1", None, "a3"]).accepted == 2


def test_dead_letters_are_named_or_all_but_not_both(home: Path) -> None:
    with Client() as client, pytest.raises(BadRequest):
        client.dlq_retry(["a1"], all_jobs=True)
    with Client() as client, pytest.raises(BadRequest):
        client.dlq_purge()


def test_client_may_be_closed_twice(home: Path) -> None:
    client = Client()

    client.close()
    client.close()


class _Asked(Verbs):
    """Notes what would be asked of a broker."""

    def __init__(self) -> None:
        self.ops: list[str] = []
        self.named: list[list[str]] = []

    def request(self, op: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self.ops.append(op)
        self.named.append((args or {})["select"].get("ids", []))
        return {"ids": self.named[-1], "skipped": [], "next": None}


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry", "purge"])
def test_empty_list_of_jobs_is_none_of_them(verb: str) -> None:
    client = _Asked()

    assert getattr(client, verb)([]).ids == []
    assert client.ops == []
    getattr(client, verb)(queue="mail")
    assert client.ops == [verb]


def test_many_ids_go_in_requests_that_do_not_hold_the_broker() -> None:
    client = _Asked()
    ids = [f"a{number}" for number in range(401)]

    assert sorted(client.hold(ids).ids) == sorted(ids)
    assert sorted(len(named) for named in client.named) == [1, 200, 200]


@pytest.mark.parametrize("select", [{"queue": ""}, {"state": ""}, {"ids": "a1"}, {"tags": "nightly"}])
def test_selection_that_means_something_else_is_refused(select: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        selection(**select)
