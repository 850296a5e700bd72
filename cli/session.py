"""One run of a command: what it was told, where its home is, the broker it talks to, and how it speaks.

Data goes to stdout, words about it to stderr.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from cli.escape import visible
from queuectl.errors import BadCredentials
from queuectl.home import Home, find_home

if TYPE_CHECKING:
    from queuectl.client import Client
    from queuectl.config import Config


class Session:
    """What the shared options of a command amount to. Nothing is read or connected before it is asked for."""

    def __init__(
        self,
        as_json: bool,
        quiet: bool,
        endpoint: str | None,
        home_path: str | None,
        no_autostart: bool,
        *,
        credentials: str | None = None,
        context: str | None = None,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.home_path = home_path
        self.flags: dict[str, Any] = {
            "endpoint": endpoint,
            "credentials": credentials,
            "context": context,
            "autostart": False if no_autostart else None,
        }
        self._client: Client | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    @cached_property
    def home(self) -> Home:
        if self.home_path == "":  # a variable that is not set must not mean another home
            from cli.options import usage

            usage("--home is empty", "leave it out, or say which directory")
        return find_home(self.home_path)

    @cached_property
    def config(self) -> Config:
        """The machine settings; set `flags` before the first use. Raises BadConfig, BadCredentials, NotAllowed."""
        from queuectl.config import load_config

        try:
            return load_config(self.home, self.flags)
        except BadCredentials as error:
            from cli.context import in_force

            if error.hint is None and in_force(self.home, self.flags) is not None:
                error.hint = "put the context right: queuectl context list, queuectl context use NAME"
            raise

    def stay_here(self) -> None:
        """This command is about this machine, whatever broker its commands are for."""
        self.flags |= {"endpoint": "local", "credentials": None, "context": None}

    @property
    def client_endpoint(self) -> str:
        return self.config.endpoints(self.home)[1]

    def client(self, *, autostart: bool = True) -> Client:
        """The broker, started in the background if it may be. Raises BrokerUnreachable, NotAllowed, BadCredentials."""
        if self._client is None:
            from queuectl.client import Client

            client = Client.of(self.config, self.home)
            if autostart and self.config.is_local and not client.connect():
                from cli.autostart import ensure_broker

                ensure_broker(self)
            self._client = client
        return self._client

    # --- speaking ----------------------------------------------------------------------------------

    def emit(self, value: Any) -> None:
        """Print one JSON value."""
        import json

        click.echo(json.dumps(value, indent=2))

    def print(self, text: str = "") -> None:
        """Print data for people, or an id."""
        click.echo(text)

    def print_id(self, text: object) -> None:
        """Print an id, which may come from elsewhere, on a line of its own."""
        click.echo(visible(text))

    def note(self, text: str) -> None:
        """Say something about the data."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Say something that must be heard even when quiet."""
        click.echo(text, err=True)

    def hint(self, text: str) -> None:
        """Tell the next step, to a person only."""
        if not self.quiet and not self.as_json and sys.stdout.isatty() and sys.stderr.isatty():
            click.echo(f"hint: {text}", err=True)
