"""`queuectl auth`: who may come in from other machines, with which key, and in which role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.escape import visible
from cli.keyfiles import Face, broker_of, face_of, handed_out, refreshed
from cli.options import Group, completed, shared, usage
from cli.render import counted, distance, facts, moment, table
from cli.session import Session
from queuectl.credentials import ROLES, Credentials, fingerprint, new_key_pair
from queuectl.ids import KEY_NAME, QUEUE_GLOB


@click.group(cls=Group)
def auth() -> None:
    """Let people and workers in from other machines, and keep them out.

    Whoever is let in has a file of credentials: a key of its own, the broker's key, and where the broker is. These
    commands are for the broker's machine, or for who has the role admin.

    \b
    Examples:
      queuectl auth add builder --role worker --out builder.toml
      queuectl auth list
      queuectl auth revoke builder
    """


@auth.command()
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)), required=True, help="What it may do.")
@click.option("--queues", "queues", multiple=True, metavar="GLOB", help="Only queues like this: 'mail-*'; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it here [NAME.toml].")
@shared
def add(session: Session, name: str, role: str, queues: tuple[str, ...], out: Path | None) -> int:
    """Let somebody in: write a file of credentials, which is all that the other machine needs.

    The key is made here, and the broker gets its public half. Whoever has the file is NAME: copy it over something
    that encrypts, and leave no copy behind. Roles: worker (run jobs), submit (enqueue, and see its own jobs), read
    (see everything), admin (everything). --queues is for the first two.

    \b
    Examples:
      queuectl auth add builder --role worker --out builder.toml
      queuectl auth add desk --role submit --queues 'mail-*'
    """
    file = out or Path(f"{_checked(name)}.toml")
    for glob in queues:
        _check_glob(glob)
    face = face_of(broker_of(session))
    made = _with_new_key(name, role, face)
    with handed_out(session, made, file):
        args = {"name": name, "role": role, "public_key": made.public_key, "queues": list(queues)}
        told = broker_of(session).request("key_add", args)
    return _hand_over(session, told, file, f"Added {visible(name)} ({role})", _first_step(name, role, file))


@auth.command("list")
@shared
def list_keys(session: Session) -> int:
    """List who may come in, and who might once.

    \b
    Example:
      queuectl auth list
    """
    holders = broker_of(session).request("key_list")["keys"]
    if session.as_json:
        session.emit(holders)
    elif session.quiet:
        for holder in holders:
            session.print_id(holder["name"])
    elif holders:
        headers = ("NAME", "ROLE", "QUEUES", "KEYS", "CONNECTED", "ADDED", "STATE")
        session.print(table(headers, [_row(holder) for holder in holders], dispensable=(5, 2)))
    else:
        session.note("Nobody was let in from other machines yet.")
        session.hint("let somebody in: queuectl auth add NAME --role worker")
    return 0


@auth.command()
@click.argument("name", shell_complete=completed("keys"))
@shared
def show(session: Session, name: str) -> int:
    """Show the keys of one name: their fingerprints, and who added and revoked them.

    \b
    Example:
      queuectl auth show builder
    """
    [holder] = broker_of(session).request("key_list", {"name": name})["keys"]
    if session.as_json:
        session.emit(holder)
    elif session.quiet:
        for key in holder["keys"]:
            session.print_id(key["fingerprint"])
    else:
        about = [
            ("Name", visible(holder["name"])),
            ("Role", visible(holder["role"])),
            ("Queues", visible(_queues(holder))),
            ("Connected", counted(holder["sessions"], "worker")),
            ("State", _state(holder)),
        ]
        session.print("\n\n".join([facts(about), *[_key_text(key) for key in holder["keys"]]]))
    return 0


@auth.command()
@click.argument("name", shell_complete=completed("keys"))
@click.option("--old", is_flag=True, help="Only the keys before the newest: after `auth rotate`.")
@click.option("--cut", is_flag=True, help="End all connections over TCP; who may come in is back at once.")
@shared
def revoke(session: Session, name: str, old: bool, cut: bool) -> int:
    """Let somebody in no more, from this moment on. Jobs that its workers run are given to others.

    \b
    Examples:
      queuectl auth revoke builder
      queuectl auth revoke builder --old
    """
    told = broker_of(session).request("key_revoke", {"name": name, "old": old, "cut": cut})
    if session.as_json:
        session.emit(told)
    elif session.quiet:
        for each in told["revoked"]:
            session.print_id(each)
    else:
        for each in told["revoked"]:
            session.print(f"Revoked {visible(each)} of {visible(name)}.")
        if told["sessions"]:
            session.note(f"{counted(told['sessions'], 'worker')} of it must go.")
        if not told["revoked"]:
            session.note(f"There was nothing to revoke: {visible(name)} has no {'older ' if old else ''}key.")
    return 0


@auth.command()
@click.argument("name", required=False, shell_complete=completed("keys"))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it here [NAME.toml].")
@click.option("--server", is_flag=True, help="Make the broker's next key, on the broker's machine.")
@click.option("--finish", is_flag=True, help="With --server: put the next key in the place of the present one.")
@shared
def rotate(session: Session, name: str | None, out: Path | None, server: bool, finish: bool) -> int:
    """Make a new key for somebody who is let in already, or for the broker itself. Nothing stops meanwhile.

    A holder's old key stays good until `auth revoke NAME --old`. The broker's is exchanged in three steps: --server
    makes the next key, `auth refresh` makes it known to each holder, --server --finish puts it in place.

    \b
    Examples:
      queuectl auth rotate builder --out builder.toml
      queuectl auth rotate --server
      queuectl auth rotate --server --finish
    """
    if server == (name is not None) or (finish and not server) or (out is not None and server):
        usage("name a holder, or say --server", "queuectl auth rotate NAME --out FILE, or: --server [--finish]")
    if name is None:
        from cli.server_exchange import finish_exchange, prepare_exchange

        return finish_exchange(session) if finish else prepare_exchange(session)
    file = out or Path(f"{_checked(name)}.toml")
    client = broker_of(session)
    [holder] = client.request("key_list", {"name": name})["keys"]
    made = _with_new_key(name, holder["role"], face_of(client))
    with handed_out(session, made, file):
        told = client.request("key_rotate", {"name": name, "public_key": made.public_key})
    return _hand_over(session, told, file, f"Made a second key for {visible(name)}", _second_step(name))


@auth.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@shared
def refresh(session: Session, file: Path | None) -> int:
    """Ask the broker for its keys and addresses, and write them into a file of credentials.

    Of the credentials in force, unless a FILE is named. To be done between `auth rotate --server` and its --finish.

    \b
    Examples:
      queuectl auth refresh
      queuectl auth refresh builder.toml
    """
    if file is not None:
        if session.flags["credentials"] or session.flags["context"]:
            usage("the credentials are named twice")
        session.flags["credentials"] = str(file)
    path = session.config.credentials
    if path is None:
        usage("no credentials are in force here", "name a file: queuectl auth refresh FILE")
    changes, now = refreshed(path, face_of(broker_of(session)))
    if session.as_json:
        keys = [fingerprint(key) for key in now.server_keys]
        session.emit(
            {"file": str(path), "changed": bool(changes), "endpoints": list(now.endpoints), "server_keys": keys}
        )
    elif session.quiet:
        session.print_id(path)
    else:
        session.print("\n".join([f"Changed {visible(path)}:", *changes]) if changes else "Nothing has changed.")
    return 0


@auth.command()
@shared
def whoami(session: Session) -> int:
    """Say who you are to the broker, and which broker that is.

    \b
    Example:
      queuectl auth whoami
    """
    client = broker_of(session)
    told = client.request("whoami")
    if session.as_json:
        session.emit({**told, "endpoint": client.endpoint, "credentials": _file_in_force(session)})
    elif session.quiet:
        session.print_id(told["name"])
    else:
        about = [
            ("You are", visible(told["name"])),
            ("Role", f"{visible(told['role'])}: {ROLES[told['role']]}" if told["role"] in ROLES else None),
            ("Queues", visible(_queues(told))),
            ("Broker", visible(client.endpoint)),
            ("Credentials", visible(_file_in_force(session) or "none: a user of this machine")),
        ]
        keys = [("Broker's key", fingerprint(key)) for key in told["server_keys"][:1]]
        keys += [("Its next key", fingerprint(key)) for key in told["server_keys"][1:]]
        session.print(facts([*about, *keys]))
    return 0


# --- making a key ------------------------------------------------------------------------------------


def _checked(name: str) -> str:
    """The name, if it is one: it is to become the name of a file."""
    if not KEY_NAME.fullmatch(name):
        usage(f"{name!r} is not a name for a key", "1 to 64 letters, digits, and . _ - between them")
    return name


def _check_glob(glob: str) -> None:
    if not QUEUE_GLOB.fullmatch(glob):
        letters = "1 to 64 letters, digits and . _ -, and * ? [a-z] [!a-z]"
        usage(f"--queues {glob!r} is not like a queue's name", letters)


def _with_new_key(name: str, role: str, face: Face) -> Credentials:
    return Credentials(name, role, face.endpoints, face.server_keys, *new_key_pair())


def _hand_over(session: Session, told: dict[str, Any], file: Path, deed: str, steps: str) -> int:
    if session.as_json:
        session.emit({key: told[key] for key in ("name", "role", "queues", "fingerprint")} | {"file": str(file)})
        return 0
    session.print_id(file)
    session.note(f"{deed}, key {visible(told['fingerprint'])}.")
    session.note(steps)
    return 0


def _first_step(name: str, role: str, file: Path) -> str:
    from shlex import quote

    there = quote(file.name)
    if role == "worker":
        line = f"queuectl worker start --credentials {there}"
    else:
        line = f"queuectl context add {name} {there} && queuectl context use {name}"
    return (
        f"Whoever has the file is {visible(name)}: copy it to the other machine, e.g. with scp, and delete it here.\n"
        f"There: {visible(line)}"
    )


def _second_step(name: str) -> str:
    return (
        f"Both keys are good. Put the file in the place of the old one, and start again what uses it; then:\n"
        f"queuectl auth revoke {visible(name)} --old"
    )


# --- showing keys ------------------------------------------------------------------------------------


def _row(holder: dict[str, Any]) -> tuple[Any, ...]:
    added = distance(holder["keys"][0]["added_at"])
    keys = len(_good(holder))
    return (holder["name"], holder["role"], _queues(holder), keys, holder["sessions"], added, _state(holder))


def _good(holder: dict[str, Any]) -> list[dict[str, Any]]:
    return [key for key in holder["keys"] if key["revoked_at"] is None]


def _state(holder: dict[str, Any]) -> str:
    return "let in" if _good(holder) else "revoked"


def _queues(holder: dict[str, Any]) -> str:
    return ", ".join(holder["queues"]) or "all"


def _key_text(key: dict[str, Any]) -> str:
    revoked = None if key["revoked_at"] is None else f"{moment(key['revoked_at'])} by {visible(key['revoked_by'])}"
    return facts(
        [
            ("Key", visible(key["fingerprint"])),
            ("  added", f"{moment(key['added_at'])} by {visible(key['added_by'])}"),
            ("  revoked", revoked),
        ]
    )


def _file_in_force(session: Session) -> str | None:
    path = session.config.credentials
    return None if path is None else str(path)
