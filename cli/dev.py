"""`queuectl dev`: a broker and a worker in one foreground command."""

from __future__ import annotations

import click

from cli.options import shared
from cli.session import Session


@click.command()
@shared
def dev(session: Session) -> int:
    """Run a broker and a worker here, for development.

    \b
    Example:
      queuectl dev
    """
    raise NotImplementedError
