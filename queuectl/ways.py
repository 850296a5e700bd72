"""The ways to a broker: each of its endpoints, with each of the server keys that it may have.

Whoever connects takes the present way and says when it has failed; the next one is tried then. One that has worked
is kept. Without a pinned server key nobody is spoken to on another machine: it could be anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from queuectl.config import Config, client_endpoint_of
from queuectl.errors import BrokerUnreachable, NotAllowed, QueuectlError
from queuectl.home import Home

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from queuectl.credentials import Credentials

IPC = "ipc://"


class Way(NamedTuple):
    """Where to connect, who must answer there (a public key; None: no keys), and who one is."""

    endpoint: str
    server_key: str | None = None
    credentials: Credentials | None = None
    ipv6: bool = True  # of a name: by IPv6, if it has such an address

    @property
    def is_local(self) -> bool:
        return self.endpoint.startswith(IPC)


class Ways:
    """All ways to one broker, the present one first. Raises NotAllowed for a remote endpoint without credentials."""

    def __init__(self, endpoints: Sequence[str], credentials: Path | None = None, *, for_workers: bool = False) -> None:
        self._endpoints = endpoints
        self._file = credentials
        self._for_workers = for_workers
        self._ways = self._read()
        self._place = 0

    def __len__(self) -> int:
        return len(self._ways)

    @property
    def present(self) -> Way:
        return self._ways[self._place]

    def failed(self, error: QueuectlError) -> None:
        """Go on to the next way: where nobody answers, other keys will not help.

        The file of credentials is read again, for it may have been exchanged for one that opens.
        """
        before = self.present
        self._place = (self._place + 1) % len(self._ways)
        while isinstance(error, BrokerUnreachable) and self._place and _is_same_place(self.present, before):
            self._place = (self._place + 1) % len(self._ways)
        self.read_again()

    def read_again(self) -> QueuectlError | None:
        """Take up what the file of credentials says now. If it cannot be read, what we have may be good yet."""
        try:
            ways = self._read()
        except QueuectlError as error:  # it is being written, or was taken away
            return error
        if ways != self._ways:
            self._ways, self._place = ways, 0
        return None

    def _read(self) -> list[Way]:
        if self._file is None:
            for endpoint in self._endpoints:
                _refuse_open(endpoint)
            return [Way(endpoint) for endpoint in self._endpoints]
        from queuectl.credentials import load_credentials  # a local command needs none, and starts the sooner

        credentials = load_credentials(self._file)
        endpoints = self._endpoints or [self._port(endpoint) for endpoint in credentials.endpoints]
        return [
            Way(endpoint, key, credentials, ipv6)
            for endpoint in endpoints
            for ipv6 in self._families(endpoint)
            for key in credentials.server_keys
        ]

    def _families(self, endpoint: str) -> tuple[bool, ...]:
        """By what a worker is to look for the address of a name: libzmq finds one only, and the broker may not listen
        there, as one at 0.0.0.0 does not by IPv6. Clients look for all (`addresses_of`).
        """
        return (True, False) if self._for_workers and address_in(endpoint) is None else (True,)

    def _port(self, endpoint: str) -> str:
        return endpoint if self._for_workers else client_endpoint_of(endpoint)


def ways_of(config: Config, home: Home, *, for_workers: bool) -> Ways:
    """The ways to the broker of this configuration. Raises NotAllowed, BadCredentials."""
    if config.is_local:
        return Ways([home.worker_endpoint if for_workers else home.client_endpoint])
    if config.credentials is not None and config.endpoint_is_from_credentials:
        return Ways([], config.credentials, for_workers=for_workers)
    pairs = config.tcp_endpoints()
    return Ways([pair[0 if for_workers else 1] for pair in pairs], config.credentials, for_workers=for_workers)


def _is_same_place(way: Way, other: Way) -> bool:
    return (way.endpoint, way.ipv6) == (other.endpoint, other.ipv6)


def is_loopback(endpoint: str) -> bool:
    """Whether this TCP endpoint is on this machine for certain: a name may mean anything tomorrow."""
    address = address_in(endpoint)
    return address is not None and address.is_loopback


def address_in(endpoint: str) -> IPv4Address | IPv6Address | None:
    """The address of this TCP endpoint; None if it names its host."""
    import ipaddress
    from urllib.parse import urlsplit

    try:
        return ipaddress.ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return None


def _refuse_open(endpoint: str) -> None:
    if endpoint.startswith(IPC) or is_loopback(endpoint):
        return
    raise NotAllowed(
        f"{endpoint} is on another machine, and there are no credentials that say whose answer to trust",
        hint="have some made there (queuectl auth add NAME --role …) and give them: --credentials FILE",
        details={"endpoint": endpoint},
    )
