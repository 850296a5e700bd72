"""A bar that shows how far something has come: on a terminal only, and only where words are wanted."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cli.session import Session


def shows_progress(session: Session) -> bool:
    """Whether there is somebody to see it."""
    return not session.quiet and not session.as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def progress_bar(session: Session, label: str, *, length: int, counts: bool = False) -> Any:
    """A click progress bar on stderr, hidden where nobody would see it; `counts`: say `3/10` beside the percentage."""
    return click.progressbar(
        length=length,
        label=label,
        file=sys.stderr,
        hidden=not length or not shows_progress(session),
        show_pos=counts,
        update_min_steps=1,
    )
