"""`queuectl completion`: what makes a shell complete commands, ids and the rest."""

from __future__ import annotations

import os
from pathlib import PurePath

import click

from cli.options import shared, usage
from cli.session import Session

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@shared
def completion(session: Session, shell: str | None) -> int:
    """Print what a shell has to read to complete commands, options, job ids, tags, queues, workers and settings.

    Without a SHELL it is for yours. Ids and the like come from the broker, which is asked for 200 ms at most and never
    started; while it is away nothing is offered.

    \b
    Examples:
      echo 'eval "$(queuectl completion bash)"' >> ~/.bashrc
      echo 'eval "$(queuectl completion zsh)"' >> ~/.zshrc
      queuectl completion fish > ~/.config/fish/completions/queuectl.fish
    """
    from cli.completing import script

    text = script(shell or _own_shell())
    if session.as_json:
        session.emit({"shell": shell or _own_shell(), "script": text})
    else:
        session.print(text.rstrip("\n"))
    return 0


def _own_shell() -> str:
    name = PurePath(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        usage("which shell?", f"name one of: {', '.join(SHELLS)}")
    return name
