"""The forms in which a listing can be had: a table, JSON, lines of JSON, CSV; whole, or some of its fields.

A command takes `@listing` above `@shared`, gets a Form as its argument `form`, and gives its rows to `print_listing`.
It knows its fields, and what its table looks like where nobody has asked for others.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.escape import visible
from cli.options import usage

if TYPE_CHECKING:
    from cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])
Row = dict[str, Any]

TABLE, JSON, LINES, CSV = FORMATS = ("table", "json", "jsonl", "csv")
HELP = "help"
SPOOL_BYTES = 8 * 2**20  # a longer answer waits on disk, so that a failure half way leaves no half JSON on stdout
_FORMULA_STARTS = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")  # the last four are the wide ones of East Asian keyboards

_OPTIONS = (
    click.option("--format", "format_", type=click.Choice(FORMATS), help="How to print it [table]; --json is json."),
    click.option("--fields", metavar="F,F...", help="Only these, in this order; `--fields help` names them."),
)


@dataclass(frozen=True, slots=True)
class Form:
    """The form that was asked for."""

    name: str
    fields: str | None

    def chosen(self, known: Sequence[str]) -> list[str] | None:
        """The fields that were asked for; None if none were. Raises BadRequest for one that is not there.

        Where somebody asks which there are, it says so and ends the command.
        """
        if self.fields is None:
            return None
        if self.fields == HELP:
            click.echo(json.dumps(known, indent=2) if self.name in (JSON, LINES) else "\n".join(known))
            raise click.exceptions.Exit(0)
        names = dict.fromkeys(name.strip().lower().replace("-", "_") for name in self.fields.split(","))
        for name in names:
            if name not in known:
                raise _unknown(name, known)
        return list(names)


def _unknown(name: str, known: Sequence[str]) -> Exception:
    from queuectl.errors import BadRequest
    from queuectl.suggest import did_you_mean

    guess = did_you_mean(name, known)
    return BadRequest(f"there is no field '{name}'", hint=f"{f'{guess} ' if guess else ''}known: {', '.join(known)}")


def listing(function: F) -> F:
    """Give a command --format and --fields; its argument `form` says what they come to. Stands above `@shared`."""

    @functools.wraps(function)
    def run(*args: Any, as_json: bool, format_: str | None, fields: str | None, **rest: Any) -> Any:
        if as_json and format_ not in (None, JSON):
            usage(f"--json and --format {format_} exclude each other")
        name = JSON if as_json else format_ or TABLE
        return function(*args, as_json=name == JSON, form=Form(name, fields), **rest)

    decorated: Any = run
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def print_listing(
    session: Session,
    form: Form,
    rows: Iterable[Row],
    *,
    known: Sequence[str],
    key: str,
    draw: Callable[[list[Row]], str],
    nothing: str,
) -> None:
    """Print rows, which are JSON objects with the `known` fields, in the form that was asked for.

    `key` is the field that -q prints; `draw` makes the usual table of all rows; `nothing` is said instead of an empty
    one. Only a table and an array wait for the last row. Raises BadRequest before the first row is asked for.
    """
    fields = form.chosen(known)
    if form.name == JSON:
        print_array(_picked(rows, fields))
    elif session.quiet:
        for row in rows:
            session.print_id(row[key])
    elif form.name == LINES:
        for row in _picked(rows, fields):
            click.echo(json.dumps(row))
    elif form.name == CSV:
        _print_csv(rows, fields or known)
    elif found := list(rows):
        session.print(draw(found) if fields is None else _drawn(found, fields, key))
    else:
        session.note(nothing)


def print_array(values: Iterable[Any]) -> None:
    """Print a JSON array of any length, one element a line."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, mode="w+") as spool:
        opening = "["
        for value in values:
            spool.write(f"{opening}\n{json.dumps(value)}")
            opening = ","
        spool.write("[]\n" if opening == "[" else "\n]\n")
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout)


def _picked(rows: Iterable[Row], fields: Sequence[str] | None) -> Iterable[Row]:
    return rows if fields is None else ({name: row.get(name) for name in fields} for row in rows)


def _print_csv(rows: Iterable[Row], fields: Sequence[str]) -> None:
    """Quoted as in RFC 4180; but lines end as lines do here: in a shell a CR would belong to the last cell."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        writer.writerow([_csv_cell(row.get(name)) for name in fields])


def _csv_cell(value: Any) -> str:
    """A cell of one line that a spreadsheet shows and does not compute."""
    text = visible(_text(value))
    is_formula = not isinstance(value, int | float) and text.lstrip()[:1] in _FORMULA_STARTS
    return f"'{text}" if is_formula else text


def _text(value: Any) -> str:
    """A value in a cell: text as it is, all else as in JSON, nothing where there is none."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _drawn(rows: Iterable[Row], fields: Sequence[str], key: str) -> str:
    """A table of these fields. What is too wide is cut, but never the key."""
    from cli.render import table

    cells = [[_text(row.get(name)) or "-" for name in fields] for row in rows]
    return table(
        [name.upper() for name in fields],
        cells,
        state_column=fields.index("state") if "state" in fields else None,
        cuttable=[number for number, name in enumerate(fields) if name != key],
    )
