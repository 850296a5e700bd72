"""`queuectl config`: settings of the queue, kept by the broker, and of this machine, kept in config.toml."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from cli.autostart import home_flag
from cli.options import Group, completed, shared, usage
from cli.session import Session

QUEUE = "queue.db"  # in the data directory


@click.group(cls=Group)
def config() -> None:
    """Show and change settings.

    Settings of the queue (max_retries, backoff_base, ...) are kept by the broker and hold for everyone. Settings
    of this machine (endpoint, data_dir, ...) stand in config.toml in the home. Keys with dashes or underscores.

    \b
    Examples:
      queuectl config show
      queuectl config set max-retries 5
    """


@config.command("show")
@shared
def show(session: Session) -> int:
    """Print all settings in force as one JSON object.

    \b
    Example:
      queuectl config show
    """
    session.emit(_all_settings(session))
    return 0


@config.command("get")
@click.argument("key", shell_complete=completed("settings"))
@shared
def get(session: Session, key: str) -> int:
    """Print the value of one setting.

    \b
    Example:
      queuectl config get max-retries
    """
    name, _ = _find(key)
    value = _all_settings(session)[name] if name == "data_dir" or not _is_machine(name) else _machine(session)[name]
    if session.as_json:
        session.emit(value)
    else:
        session.print(value_text(value))
    return 0


@config.command("set", context_settings={"ignore_unknown_options": True})  # a value may be -1
@click.argument("key", shell_complete=completed("settings"))
@click.argument("value")
@shared
def set_value(session: Session, key: str, value: str) -> int:
    """Change one setting.

    A setting of the queue holds at once, for new jobs; jobs that are enqueued keep what they came with.

    \b
    Examples:
      queuectl config set max-retries 5
      queuectl config set backoff-base 3
      queuectl config set data-dir /srv/queuectl
    """
    name, is_machine = _find(key)
    if is_machine:
        return _set_machine(session, name, value)
    from queuectl.settings import parse_setting

    _, checked = parse_setting(name, value)
    return _say_changed(session, session.client().config_set(name, checked))


@config.command("unset")
@click.argument("key", shell_complete=completed("settings"))
@shared
def unset(session: Session, key: str) -> int:
    """Put one setting back to its default.

    \b
    Example:
      queuectl config unset max-retries
    """
    name, is_machine = _find(key)
    if not is_machine:
        return _say_changed(session, session.client().config_unset(name))
    from cli.config_file import remove

    before = _data_dir(session, name)
    remove(session.home.config_file, name)
    return _say_machine_changed(session, name, before)


def _find(key: str) -> tuple[str, bool]:
    """The key as it is kept, and whether it is one of this machine. Ends with exit code 2 if there is none."""
    from queuectl.config import KEYS
    from queuectl.settings import SETTINGS, canonical
    from queuectl.suggest import did_you_mean

    name = canonical(key)
    if name not in KEYS and name not in SETTINGS:
        known = [*SETTINGS, *KEYS]
        usage(f"unknown setting '{key}'", did_you_mean(name, known) or f"known: {', '.join(known)}")
    return name, name in KEYS


def _is_machine(name: str) -> bool:
    from queuectl.config import KEYS

    return name in KEYS


def _machine(session: Session) -> dict[str, Any]:
    from queuectl.config import KEYS

    values = {key: getattr(session.config, key) for key in KEYS}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def _all_settings(session: Session) -> dict[str, Any]:
    told = session.client().config()
    machine = _machine(session)
    if session.config.is_local and told["data_dir"] != machine["data_dir"]:
        session.note(f"data_dir = {machine['data_dir']} is set, and applies at the next broker start.")
    return {**machine, "data_dir": told["data_dir"], **told["settings"]}


def _say_changed(session: Session, told: dict[str, Any]) -> int:
    if session.as_json:
        session.emit(told)
        return 0
    session.print(f"Set {told['key']} = {value_text(told['value'])}")
    _say_unit(session, told["key"], told["value"])
    if told.get("per_job"):
        session.note("It holds for jobs enqueued from now on; those in the queue keep what they came with.")
    return 0


def _say_unit(session: Session, key: str, value: Any) -> None:
    """Whoever wrote 5 may have meant days."""
    from queuectl.settings import SETTINGS
    from queuectl.times import human_duration

    if key in SETTINGS and SETTINGS[key].is_time and value is not None:
        session.note(f"That is {human_duration(value)}.")


def _set_machine(session: Session, name: str, text: str) -> int:
    from cli.config_file import write
    from queuectl.config import parse_machine_setting

    _, value = parse_machine_setting(name, text)
    if name == "context":
        from cli.context import use_context

        return use_context(session, value)
    if name == "credentials":
        from queuectl.credentials import load_credentials

        load_credentials(value)
    before = _data_dir(session, name)
    write(session.home, name, str(value) if isinstance(value, Path) else value)
    return _say_machine_changed(session, name, before)


def _data_dir(session: Session, name: str) -> Path | None:
    """Where the queue is, as a broker that runs says, or as is set; None if something else is to change."""
    if name != "data_dir":
        return None
    from queuectl.errors import QueuectlError
    from queuectl.probe import somebody_listens

    try:
        if session.config.is_local and somebody_listens(session.client_endpoint):
            return Path(session.client().ping()["data_dir"])
    except (QueuectlError, KeyError):
        pass
    return session.config.data_dir


def _say_machine_changed(session: Session, name: str, data_dir_before: Path | None) -> int:
    from queuectl.config import load_config

    now = load_config(session.home, session.flags)
    value = getattr(now, name)
    plain = str(value) if isinstance(value, Path) else value
    if session.as_json:
        session.emit({"key": name, "value": plain, "file": str(session.home.config_file)})
        return 0
    session.print(f"Set {name} = {value_text(plain)}")
    if now.origins[name] in ("environment", "flag"):
        session.note(f"The {now.origins[name]} says otherwise and comes first.")
    if name != "data_dir":
        session.note("It holds for commands, brokers and workers started from now on.")
    elif data_dir_before is not None and value != data_dir_before:
        _say_how_to_move(session, data_dir_before, value)
    return 0


def _say_how_to_move(session: Session, before: Path, after: Path) -> None:
    flag, old, new = home_flag(session), shlex.quote(str(before)), shlex.quote(str(after))
    session.note("It applies at the next broker start.")
    if not (before / QUEUE).exists():
        return
    session.note(f"Jobs and their history stay where they are:\n  {before / QUEUE}")
    if (after / QUEUE).exists():
        session.note(f"There is another queue already, with which the broker goes on then:\n  {after / QUEUE}")
        return
    session.note("To take them along:")
    session.note(f"  queuectl broker stop{flag}")
    session.note(f"  mkdir -p {new} && mv -n {old}/{QUEUE}* {old}/broker.id {new}/")
    session.note(f"  queuectl broker start{flag}")


def value_text(value: Any) -> str:
    """A value as it could be given to `config set`."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
