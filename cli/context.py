"""`queuectl context`: credentials for several brokers under names, one of which is in force.

Nothing here needs the present context to be well: this is where a broken one is put right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.autostart import home_flag
from cli.escape import visible
from cli.options import Group, completed, shared, usage
from cli.render import table
from cli.session import Session
from queuectl.config import LOCAL
from queuectl.errors import QueuectlError, WrongState
from queuectl.home import Home
from queuectl.ids import KEY_NAME

_WHERE = ("endpoint", "credentials", "context")


class UnknownContext(QueuectlError):
    """There is no such context."""

    code = "unknown_context"
    exit_code = 3


@click.group(cls=Group)
def context() -> None:
    """Keep credentials under names, and say which are in force.

    The context `local` is the broker of this machine, and is always there. --context NAME or QUEUECTL_CONTEXT is
    for one command, or one shell.

    \b
    Examples:
      queuectl context add office desk.toml
      queuectl context use office
    """


@context.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@shared
def add(session: Session, name: str, file: Path) -> int:
    """Keep a copy of a file of credentials under a name.

    \b
    Example:
      queuectl context add office desk.toml
    """
    from queuectl.credentials import load_credentials, text_of, write_secret

    kept = session.home.context_file(_checked(name))
    if name == LOCAL:
        raise WrongState("'local' is the broker of this machine", hint="choose another name")
    credentials = load_credentials(file)
    session.home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    kept.parent.chmod(0o700)
    try:
        write_secret(kept, text_of(credentials))
    except FileExistsError:
        raise WrongState(
            f"there is a context of the name '{name}' already", hint=f"remove it: queuectl context rm {name}"
        ) from None
    if session.as_json:
        session.emit(_view(session.home, name, in_force(session.home, session.flags)))
    elif session.quiet:
        session.print_id(name)
    else:
        session.print(f"Added context {name}: {visible(credentials.name)} ({credentials.role}).")
        session.note(f"It is a copy: {visible(file)} is not needed any more.")
        session.hint(f"queuectl context use {name}{home_flag(session)}")
    return 0


@context.command()
@click.argument("name", shell_complete=completed("contexts"))
@shared
def use(session: Session, name: str) -> int:
    """Have all commands of this home use a context from now on; `local` for the broker of this machine.

    \b
    Examples:
      queuectl context use office
      queuectl context use local
    """
    return use_context(session, name)


def use_context(session: Session, name: str) -> int:
    """Write the name into config.toml. Raises UnknownContext, BadCredentials, WrongState."""
    from cli.config_file import write

    if name != LOCAL:
        from queuectl.credentials import load_credentials

        load_credentials(_known(session.home, name))
    write(session.home, "context", name)
    if session.as_json:
        session.emit({"key": "context", "value": name, "file": str(session.home.config_file)})
        return 0
    session.print(f"Set context = {name}")
    if in_force(session.home, session.flags) != name:
        session.note("A flag or the environment says otherwise and comes first.")
    return 0


@context.command("list")
@shared
def list_contexts(session: Session) -> int:
    """List the contexts; a star marks the one in force.

    \b
    Example:
      queuectl context list
    """
    names = [LOCAL, *names_of(session.home)]
    chosen = in_force(session.home, session.flags)
    views = [_view(session.home, name, chosen) for name in names]
    if session.as_json:
        session.emit(views)
    elif session.quiet:
        for name in names:
            session.print_id(name)
    else:
        headers = ("", "NAME", "YOU ARE", "ROLE", "KEY", "BROKER")
        session.print(table(headers, [_row(view) for view in views], dispensable=(4, 2)))
        if chosen not in names:
            what = "an endpoint or credentials" if chosen is None else f"{visible(chosen)}, which is not there,"
            session.note(f"None of them is in force: {what} named by a flag, the environment or config.toml.")
    return 0


@context.command()
@click.argument("name", shell_complete=completed("contexts"))
@shared
def rm(session: Session, name: str) -> int:
    """Delete a context, with the key in it. The broker knows the key still, until it is revoked there.

    \b
    Example:
      queuectl context rm office
    """
    from queuectl.config import read_file

    if name == LOCAL:
        raise WrongState("'local' is the broker of this machine, and always there")
    file = _known(session.home, name)
    if name in (in_force(session.home, session.flags), read_file(session.home.config_file).get("context")):
        raise WrongState(f"'{name}' is in force", hint="use another one first: queuectl context use local")
    file.unlink()
    if session.as_json:
        session.emit({"name": name})
    elif session.quiet:
        session.print_id(name)
    else:
        session.print(f"Removed context {name}.")
    return 0


def in_force(home: Home, flags: Mapping[str, Any]) -> str | None:
    """The context that commands use now, None if it is none: found without reading its credentials."""
    from queuectl.config import read_file

    environment = {key: os.environ.get(f"QUEUECTL_{key.upper()}") for key in _WHERE}
    name: str | None = LOCAL
    for layer in (read_file(home.config_file), environment, flags):
        if layer.get("context"):
            name = str(layer["context"])
        elif layer.get("credentials") or (layer.get("endpoint") not in (None, LOCAL) and name == LOCAL):
            name = None
        elif layer.get("endpoint") == LOCAL:
            name = LOCAL
    return name


def _checked(name: str) -> str:
    if not KEY_NAME.fullmatch(name):
        usage(f"{name!r} is not a name for a context", "1 to 64 letters, digits, and . _ - between them")
    return name


def names_of(home: Home) -> list[str]:
    return sorted(path.stem for path in home.context_file("any").parent.glob("*.toml") if KEY_NAME.fullmatch(path.stem))


def _known(home: Home, name: str) -> Path:
    """The file of a context that is there, well or not. Raises UnknownContext."""
    file = home.context_file(_checked(name))
    if not file.exists():
        from queuectl.suggest import did_you_mean

        known = [LOCAL, *names_of(home)]
        raise UnknownContext(
            f"there is no context '{name}'", hint=did_you_mean(name, known) or f"there are: {', '.join(known)}"
        )
    return file


def _view(home: Home, name: str, chosen: str | None) -> dict[str, Any]:
    """A context as `--json` shows it; what is wrong with it is `error`."""
    from queuectl.credentials import fingerprint, load_credentials

    view: dict[str, Any] = {"name": name, "in_force": name == chosen}
    if name == LOCAL:
        return {**view, "endpoints": [home.client_endpoint]}
    try:
        credentials = load_credentials(home.context_file(name))
    except QueuectlError as error:
        return {**view, "error": error.to_wire()}
    return {
        **view,
        "holder": credentials.name,
        "role": credentials.role,
        "endpoints": list(credentials.endpoints),
        "fingerprint": fingerprint(credentials.public_key),
    }


def _row(view: dict[str, Any]) -> tuple[Any, ...]:
    where = f"broken: {view['error']['message']}" if "error" in view else ", ".join(view["endpoints"])
    about = (view.get(key, "-") for key in ("holder", "role", "fingerprint"))
    return ("*" if view["in_force"] else "", view["name"], *about, where)
