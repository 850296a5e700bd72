"""Write docs/commands.md from the commands themselves: `python -m cli.reference > docs/commands.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from cli.escape import visible
from cli.main import root

SHARED = (
    "as_json",
    "quiet",
    "endpoint",
    "credentials",
    "context",
    "home_path",
    "no_autostart",
    "debug",
    "help",
    "version",
)

HEAD = """# Commands

Made from the commands themselves by `python -m cli.reference > docs/commands.md`; `make test` checks that it is
current. The same text is in `queuectl COMMAND --help`.

Data goes to stdout, words about it to stderr. Moments are told by the clock of this machine, with its zone; in JSON,
csv and --fields they are in UTC. Every command takes these options:

{shared}

## Exit codes

| code | meaning |
|---|---|
| 0 | ok |
| 1 | the operation failed |
| 2 | usage or bad input |
| 3 | not found |
| 4 | conflict or wrong state |
| 5 | not allowed |
| 69 | broker unreachable |
| 74 | the broker's disk has failed or is full: the broker has ended |
| 75 | try later: the disk is nearly full, as many jobs wait as may, or the broker is asked too often, or stopping |
| 124 | the wait timed out |
| 130 | interrupted |

`run` and `wait` for one job end as it did: with its own code, 128+N if signal N ended it, 125 if it has none.

With `--json` an error is `{{"error": {{"code": …, "message": …, "hint": …}}}}` on stdout; else it is `error: …` and
`hint: …` on stderr."""


def commands() -> list[tuple[click.Context, click.Command]]:
    """Every command that does something, with its context, in the order of the help."""
    context = click.Context(root, info_name="queuectl", **root.context_settings)
    return list(_below(root, context))


def _below(group: click.Group, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _below(command, inner)
        else:
            yield inner, command


def reference() -> str:
    """The whole page."""
    found = commands()
    parts = [HEAD.format(shared=_options(*found[0], shared=True))]
    parts += [_section(inner, command) for inner, command in found]
    return "\n\n".join(parts) + "\n"


def _section(context: click.Context, command: click.Command) -> str:
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    pieces = " ".join(command.collect_usage_pieces(context))
    own = _options(context, command, shared=False)
    lines = inspect.cleandoc(examples.partition("\n")[2]).strip("\n")
    parts = [f"## {context.command_path}", f"`{context.command_path} {pieces}`", text.strip()]
    parts += [own] if own else []
    parts.append(f"```console\n{chr(10).join('$ ' + line.strip() for line in lines.splitlines())}\n```")
    return "\n\n".join(parts)


def _options(context: click.Context, command: click.Command, *, shared: bool) -> str:
    rows = []
    for option in command.params:
        record = option.get_help_record(context)
        if not isinstance(option, click.Option) or record is None or (option.name in SHARED) is not shared:
            continue
        flags, text = record
        rows.append(f"| `{flags.replace('|', chr(92) + '|')}` | {visible(text).replace('|', chr(92) + '|')} |")
    return "\n".join(["| option | |", "|---|---|", *rows]) if rows else ""


if __name__ == "__main__":
    sys.stdout.write(reference())
