"""Telling the service manager how we are: sd_notify(3) is one datagram."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send a state (`READY=1`, `STOPPING=1` …) if a service manager listens; never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
    except OSError:
        return
