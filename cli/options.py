"""What every command has: the shared options, the session that they make, groups that load on demand."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def completed(source: str) -> Callable[[click.Context, click.Parameter, str], Any]:
    """How a shell completes a value: from a source of `cli.completing`, which is loaded only when a shell asks."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> Any:
        from cli.completing import candidates

        return candidates(source, ctx, incomplete)

    return complete


_SHARED = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included."),
    click.option("-q", "--quiet", is_flag=True, help="Print ids only."),
    click.option("--endpoint", metavar="ENDPOINT", help="The broker: local, or tcp://HOST:PORT."),
    click.option("--credentials", metavar="FILE", help="Who you are to a broker elsewhere, and where it is."),
    click.option(
        "--context",
        metavar="NAME",
        help="The same, as `queuectl context` keeps it; or local.",
        shell_complete=completed("contexts"),
    ),
    click.option("--home", "home_path", metavar="DIR", help="Use this home instead of ~/.queuectl."),
    click.option("--no-autostart", is_flag=True, help="Do not start a broker in the background."),
    click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong."),
)


def shared(function: F) -> F:
    """Give a command the options that every command has; its first argument becomes the Session made of them."""

    @functools.wraps(function)
    def run(
        as_json: bool,
        quiet: bool,
        endpoint: str | None,
        credentials: str | None,
        context: str | None,
        home_path: str | None,
        no_autostart: bool,
        debug: bool,  # noqa: ARG001  main reads it from the arguments: an error may come before they are parsed
        **rest: Any,
    ) -> Any:
        from cli.session import Session

        session = Session(as_json, quiet, endpoint, home_path, no_autostart, credentials=credentials, context=context)
        with session:
            return function(session, **rest)

    decorated: Any = run
    for option in reversed(_SHARED):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


class Group(click.Group):
    """A group of commands that says which command was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from None


class LazyGroup(Group):
    """A group whose commands stand in modules that are imported when they are called.

    `lazy` says for each name where the command is, `module:attribute`, and in a line what it does: so the list of
    commands is shown without one of them.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


class Converted(click.ParamType[Any]):
    """An option's value, parsed by a function that raises ValueError for what it does not take."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _duration(text: str) -> float:
    from queuectl.times import parse_duration

    return parse_duration(text)


def _size(text: str) -> int:
    from queuectl.times import parse_size

    return parse_size(text)


CODE_MAX = 255
ID_CHARS_MAX = 128
WORKER_CHARS_MAX = 256


def _backoff(text: str) -> str | list[float]:
    """A word, or the waits themselves."""
    from queuectl.jobs import BACKOFFS

    if text in BACKOFFS:
        return text
    try:
        return [_duration(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is no backoff; write exp, linear, fixed, or waits: 10s,1m,10m") from None


def _codes(text: str) -> list[int]:
    """Exit codes, and ranges of them."""
    codes: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f"{part!r} is not a code; write codes and ranges: 75,100-110; a signal N is 128+N")
        first, last = int(low), int(high or low)
        if not 1 <= first <= last <= CODE_MAX:
            raise ValueError(f"{part.strip()!r}: codes are 1 to {CODE_MAX}, in a range the lower one first")
        codes += range(first, last + 1)
    return sorted(set(codes))


def _id_up_to(chars_max: int) -> Callable[[str], str]:
    """An id, a beginning of one, or `last`: as it is, if it can be one at all."""

    def parse(text: str) -> str:
        if not text.strip():
            raise ValueError("an id is empty; is a variable not set?")
        if len(text) > chars_max:
            raise ValueError(f"no id has more than {chars_max} characters")
        return text

    return parse


class Whole(click.IntRange):
    """A whole number within bounds, called so where something else was given."""

    name = "whole number"

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()


def duration_up_to(most: str) -> Converted:
    """A duration that is at most so long."""

    def parse(text: str) -> float:
        seconds = _duration(text)
        if seconds > _duration(most):
            raise ValueError(f"{text!r} is more than {most}")
        return seconds

    return Converted("duration", parse)


BACKOFF = Converted("backoff", _backoff)
CODES = Converted("codes", _codes)
DURATION = Converted("duration", _duration)
JOB = Converted("id", _id_up_to(ID_CHARS_MAX))
SIZE = Converted("size", _size)
WORKER = Converted("id", _id_up_to(WORKER_CHARS_MAX))


def usage(message: str, hint: str | None = None) -> NoReturn:
    """End the command with exit code 2."""
    from queuectl.errors import BadRequest

    raise BadRequest(message, hint=hint)
