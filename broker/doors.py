"""Where others come in: the local sockets, and TCP ports with the server's key. Ports can be cut and opened again."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import zmq

from broker.gate import KEYS, LOCAL, UNLOCKED
from broker.sockets import Router
from queuectl.config import Config, tcp_pair
from queuectl.errors import BadConfig, NotAllowed, QueuectlError
from queuectl.home import Home
from queuectl.server_keys import ServerKeys, load_server_keys
from queuectl.ways import is_loopback


class Endpoints(NamedTuple):
    """Where to listen: for workers and for clients."""

    local: tuple[str, str]
    tcp: tuple[str, str] | None = None
    advertised: tuple[str, ...] = ()  # TCP endpoints of the workers' port, as others reach them
    needs_keys: bool = True

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.local, *(self.tcp or ()))


class OpenDoors:
    """The broker's ports. The core says that they are to be cut; the loop does it when its replies are out."""

    def __init__(self, endpoints: Endpoints, routers: Sequence[Router], keys_dir: Path) -> None:
        self._endpoints = endpoints
        self._routers = routers
        self._keys_dir = keys_dir
        self._keys: ServerKeys | None = None
        self._bound: list[tuple[Router, str]] = []  # over TCP
        self._is_shut = False
        self.is_to_be_cut = False
        self.has_made_key = False

    @property
    def server_keys(self) -> tuple[str, ...]:
        """The public keys that others may be told to trust, the one in use first."""
        return () if self._keys is None else self._keys.public

    def open(self) -> None:
        """Listen everywhere. The first time with keys makes the server's. Raises QueuectlError."""
        if self._endpoints.tcp is not None and self._endpoints.needs_keys:
            self.has_made_key = load_server_keys(self._keys_dir) is None
            self._keys = load_server_keys(self._keys_dir, create=True)
        for router, endpoint in zip(self._routers, self._endpoints.local, strict=True):
            _bind(router, endpoint, LOCAL)
        self._open_tcp()

    def reload(self) -> tuple[str, ...]:
        """Read the server's keys again; if the one in use is another now, connections are to be cut."""
        if self._keys is not None:
            before, self._keys = self._keys, load_server_keys(self._keys_dir) or self._keys
            self.is_to_be_cut |= before.current != self._keys.current
        return self.server_keys

    def cut(self) -> None:
        """All TCP connections are to be cut: whoever may come in comes back."""
        self.is_to_be_cut = self._endpoints.tcp is not None

    def shut(self) -> None:
        """End what comes in over TCP, once."""
        if not self._is_shut:
            for router, endpoint in self._bound:
                router.unbind(endpoint)
            self._bound, self._is_shut = [], True

    def open_again(self) -> None:
        """Listen again where it was shut, with the key of now. Raises QueuectlError if a port cannot be had yet."""
        self._open_tcp()
        self._is_shut = self.is_to_be_cut = False

    def _open_tcp(self) -> None:
        secret = None if self._keys is None else self._keys.current.secret
        for router, endpoint in zip(self._routers, self._endpoints.tcp or (), strict=False):
            if (router, endpoint) not in self._bound:
                _bind(router, endpoint, UNLOCKED if secret is None else KEYS, secret)
                self._bound.append((router, endpoint))


def _bind(router: Router, endpoint: str, domain: str, secret: str | None = None) -> None:
    try:
        router.bind(endpoint, domain, secret)
    except zmq.ZMQError as error:
        raise _cannot_listen(endpoint, error) from None


def _cannot_listen(endpoint: str, error: zmq.ZMQError) -> QueuectlError:
    is_taken = error.errno == zmq.EADDRINUSE
    hint = "is another program there?" if is_taken else "it must be an address of this machine, not a name"
    return QueuectlError(f"cannot listen on {endpoint}: {error.strerror}", hint=hint)


def endpoints_of(home: Home, config: Config, *, insecure_no_auth: bool) -> Endpoints:
    """Where this broker is to listen. Raises NotAllowed where strangers could get in, BadConfig."""
    local = (home.worker_endpoint, home.client_endpoint)
    if config.listen is None:
        return Endpoints(local)
    if insecure_no_auth and not is_loopback(config.listen):
        raise NotAllowed(
            f"{config.listen} can be reached from elsewhere: without keys, anybody there could run commands here",
            hint="--insecure-no-auth goes with 127.0.0.1 only; leave it out to let in who has a key",
        )
    if _is_wildcard(config.listen) and config.advertise is None:
        raise BadConfig(
            f"{config.listen} is every address of this machine: nobody can tell by which one it is reached",
            hint="say so: --advertise NAME-OR-ADDRESS-OF-THIS-MACHINE",
        )
    return Endpoints(local, tcp_pair(config.listen), _advertised(config.listen, config.advertise), not insecure_no_auth)


def _advertised(listen: str, hosts: str | None) -> tuple[str, ...]:
    if hosts is None:
        return (listen,)
    port = listen.rpartition(":")[2]
    return tuple(tcp_pair(f"tcp://{host}:{port}")[0] for host in hosts.split(","))


def _is_wildcard(endpoint: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(endpoint).hostname or "").is_unspecified
    except ValueError:
        return False
