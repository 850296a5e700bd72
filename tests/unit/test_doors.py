"""Where a broker may listen, and by what name others are told to find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.doors import Endpoints, endpoints_of
from broker.porter import GARBAGE_LOGGED_PER_SECOND, PROBE_AGAIN_MS, PROBE_SOON_MS, GarbageLog, Probes
from queuectl.clock import Now
from queuectl.config import load_config
from queuectl.errors import BadConfig, NotAllowed
from queuectl.home import Home


def endpoints(home: Path, listen: str | None, *, advertise: str | None = None, insecure: bool = False) -> Endpoints:
    config = load_config(Home(home), {"listen": listen, "advertise": advertise}, {})
    return endpoints_of(Home(home), config, insecure_no_auth=insecure)


def test_unless_asked_nobody_is_let_in_from_elsewhere(tmp_path: Path) -> None:
    found = endpoints(tmp_path, None)

    assert found.tcp is None
    assert found.advertised == ()
    assert found.all == (Home(tmp_path).worker_endpoint, Home(tmp_path).client_endpoint)


def test_one_address_is_found_by_itself(tmp_path: Path) -> None:
    found = endpoints(tmp_path, "tcp://10.0.0.1:7710")

    assert found.tcp == ("tcp://10.0.0.1:7710", "tcp://10.0.0.1:7711")
    assert found.advertised == ("tcp://10.0.0.1:7710",)
    assert found.needs_keys


@pytest.mark.parametrize("listen", ["tcp://0.0.0.0:7710", "tcp://[::]:7710", "tcp://[0:0::0]:7710"])
def test_every_address_needs_a_name_to_be_found_by(tmp_path: Path, listen: str) -> None:
    with pytest.raises(BadConfig) as caught:
        endpoints(tmp_path, listen)
    assert "--advertise" in (caught.value.hint or "")

    found = endpoints(tmp_path, listen, advertise="queue.example,[fe80::1]")
    assert found.advertised == ("tcp://queue.example:7710", "tcp://[fe80::1]:7710")


@pytest.mark.parametrize("advertise", ["a b", "", "tcp://x", "x:1", "a,,b"])
def test_what_is_no_host_is_refused(tmp_path: Path, advertise: str) -> None:
    with pytest.raises(BadConfig, match="is not a host"):
        endpoints(tmp_path, "tcp://0.0.0.0:7710", advertise=advertise)


@pytest.mark.parametrize("listen", ["tcp://10.0.0.1:7710", "tcp://0.0.0.0:7710", "tcp://localhost:7710"])
def test_without_keys_only_loopback(tmp_path: Path, listen: str) -> None:
    with pytest.raises(NotAllowed, match="can be reached from elsewhere"):
        endpoints(tmp_path, listen, advertise="x", insecure=True)

    assert not endpoints(tmp_path, "tcp://127.0.0.1:7710", insecure=True).needs_keys
    assert not endpoints(tmp_path, "tcp://[::1]:7710", insecure=True).needs_keys


# --- who has gone -----------------------------------------------------------------------------------------------


def at(ms: int) -> Now:
    return Now(0, ms)


def looks(probes: Probes, upto_ms: int) -> list[int]:
    """When it is time to look, until then."""
    return [ms for ms in range(0, upto_ms + 1, PROBE_SOON_MS) if probes.take(at(ms))]


def test_end_of_a_connection_is_looked_into_soon_and_again() -> None:
    probes = Probes()
    probes.expect(at(0))
    probes.expect(at(0))  # many end together when a host goes

    assert looks(probes, 5000) == [PROBE_SOON_MS, PROBE_AGAIN_MS]


def test_strangers_that_come_and_go_are_looked_into_less_and_less() -> None:
    probes = Probes()
    pauses = []
    for _ in range(8):
        probes.expect(at(0))
        pauses.append(probes.at_ms[0])
        probes.at_ms.clear()
        probes.found(anybody=False)
    assert pauses == [20, 40, 80, 160, 320, 640, 1000, 1000]

    probes.found(anybody=True)
    probes.expect(at(0))
    assert probes.at_ms[0] == PROBE_SOON_MS


class Told:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, object]]] = []

    def warning(self, event: str, **keys: object) -> None:
        self.records.append((event, keys))


def test_little_of_a_flood_of_nonsense_is_told_of_each_kind_and_how_much_was_not() -> None:
    told = Told()
    garbage = GarbageLog(told)  # type: ignore[arg-type]

    for event in ("connection_refused", "request_refused"):
        assert sum(garbage.may_log(at(ms), event) for ms in range(1000)) == GARBAGE_LOGGED_PER_SECOND
    assert garbage.may_log(at(1000), "message_malformed")
    assert told.records == [
        ("events_left_out", {"failed_event": "connection_refused", "count": 990}),
        ("events_left_out", {"failed_event": "request_refused", "count": 990}),
    ]
    assert garbage.may_log(at(2000), "request_refused")
    assert len(told.records) == 2
