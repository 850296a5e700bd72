"""Which addresses a name stands for, and in which order they are tried."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from queuectl import probe
from queuectl.errors import BrokerUnreachable
from queuectl.probe import ADDRESSES_MAX, addresses_of

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is answered for each name: addresses, or an error."""
    names: dict[str, Any] = {}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        answer = names[host]
        if isinstance(answer, Exception):
            raise answer
        return [(V6 if ":" in text else V4, socket.SOCK_STREAM, 6, "", (text, port)) for text in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("endpoint", ["tcp://10.0.0.1:7711", "tcp://[fd00::1]:7711"])
def test_address_is_not_looked_up(names: dict[str, Any], endpoint: str) -> None:
    assert addresses_of(endpoint) == [endpoint]


def test_addresses_of_a_name_come_once_each_and_those_of_ipv4_first(names: dict[str, Any]) -> None:
    names["queue.example"] = ["fd00::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]

    assert addresses_of("tcp://queue.example:7711") == [
        "tcp://10.0.0.2:7711",
        "tcp://10.0.0.1:7711",
        "tcp://[fd00::1]:7711",
    ]


def test_name_of_many_addresses_is_not_tried_for_ever(names: dict[str, Any]) -> None:
    names["queue.example"] = [f"10.0.0.{number}" for number in range(100)]

    assert len(addresses_of("tcp://queue.example:7711")) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label empty or too long"), "it is not one"),
    ],
)
def test_name_that_nobody_knows_is_told(names: dict[str, Any], answer: Exception, reason: str) -> None:
    names["quwue.example"] = answer

    with pytest.raises(BrokerUnreachable, match="no address for the name 'quwue") as caught:
        addresses_of("tcp://quwue.example:7711")
    assert reason in caught.value.message
    assert caught.value.details == {"endpoint": "tcp://quwue.example:7711"}


def test_nobody_waits_for_names_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: is_over.wait(60) and [])
    monkeypatch.setattr(probe, "LOOKUP_TIMEOUT_S", 0.05)
    try:
        with pytest.raises(BrokerUnreachable, match="nobody answers for names"):
            addresses_of("tcp://queue.example:7711")
    finally:
        is_over.set()
