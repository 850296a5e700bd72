"""Which jobs a command is about: the same words for every verb, and a question before many are changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from cli.escape import visible
from cli.options import JOB, Whole, completed, usage
from cli.render import counted
from queuectl.ids import LAST

if TYPE_CHECKING:
    from cli.session import Session
    from queuectl.verbs import Changed

F = TypeVar("F", bound=Callable[..., Any])
STATES = ("pending", "processing", "completed", "failed", "dead", "cancelled")
SAMPLE = 3
COUNTED = 10_000

_IDS = click.argument("ids", type=JOB, nargs=-1, metavar="[ID|last]...", shell_complete=completed("jobs"))
_FILTERS = (
    click.option("--state", type=click.Choice(STATES), help="Only jobs in this state."),
    click.option("--queue", metavar="NAME", help="Only jobs of this queue.", shell_complete=completed("queues")),
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="K[=V]",
        help="Only jobs with this tag; repeatable.",
        shell_complete=completed("tags"),
    ),
    click.option(
        "--where",
        multiple=True,
        metavar="COND",
        help="Only where it holds: 'exit_code=3', 'command~tar'.",
        shell_complete=completed("conditions"),
    ),
    click.option("--since", metavar="T", help="Only jobs of the last 2h, or since 2026-11-22T03:00:00Z."),
)
_CHANGES = (
    click.option("--all", "everything", is_flag=True, help="All that it can be done to."),
    click.option("--limit", type=Whole(1), metavar="N", help="At most so many, the newest."),
    click.option("-n", "--dry-run", "dry", is_flag=True, help="Say what would happen, and change nothing."),
    click.option("--yes", is_flag=True, help="Do not ask; needed for a selection where there is no terminal."),
)


def filtering(function: F) -> F:
    """Options that say what jobs have in common; `filter_of` makes a selection of them."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def selecting(function: F) -> F:
    """Arguments and options that say which jobs are to be changed; `chosen` makes a Choice of them."""
    for option in reversed((_IDS, *_FILTERS, *_CHANGES)):
        function = option(function)
    return function


def filtering_dead(function: F) -> F:
    """The options of `filtering` for dead jobs."""
    for option in reversed(_FILTERS[1:]):
        function = option(function)
    return function


def selecting_dead(function: F) -> F:
    """Those of `selecting` for dead jobs, which may also be named by what they have died of."""
    group = click.option("--group", metavar="G", help="Those of one cause, as `dlq list --by-cause` shows it.")
    for option in reversed((_IDS, *_FILTERS[1:], group, *_CHANGES)):
        function = option(function)
    return function


def filter_of(options: dict[str, Any]) -> dict[str, Any]:
    """The selection that the options of `filtering` name; they are taken out. Raises BadRequest."""
    given = {name: options.pop(name) for name in ("state", "queue", "tags", "where", "since")}
    for name, value in given.items():  # a script's empty variable must not mean all jobs
        if value == "" or (isinstance(value, tuple) and "" in value):
            usage(f"--{name.removesuffix('s') if name == 'tags' else name} is empty", "leave it out, or say which")
    if given["where"]:
        from queuectl.where import parse_condition

        for text in given["where"]:
            parse_condition(text)
    since = given.pop("since")
    select = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    return select | ({} if since is None else {"since": since_ms(since, time.time() * 1000)})


def since_ms(text: str, now_ms: float) -> int:
    """An instant, or how long ago it was, in ms UTC. Raises BadRequest."""
    from queuectl.times import parse_duration, parse_rfc3339

    try:
        return round(now_ms - parse_duration(text) * 1000)
    except ValueError:
        pass
    try:
        return parse_rfc3339(text)
    except ValueError:
        usage(f"--since {text!r} is no time", "write how long ago, 90s or 2h or 7d, or when: 2026-11-22T03:00:00Z")


@dataclass(frozen=True, slots=True)
class Choice:
    """The jobs that are to be changed, and whether to ask and to do it."""

    select: dict[str, Any]
    limit: int | None
    dry: bool
    yes: bool
    is_found: bool = False  # the ids of the selection were found by something else, nobody has named them

    @property
    def names(self) -> Sequence[str]:
        """Ids, where jobs are named one by one."""
        names: Sequence[str] = () if self.is_found else self.select.get("ids", ())
        return names


def chosen(session: Session, options: dict[str, Any]) -> Choice:
    """The jobs that the options of `selecting` name; they are taken out. Raises BadRequest, UnknownJob."""
    ids, everything = options.pop("ids"), options.pop("everything")
    limit, dry, yes = options.pop("limit"), options.pop("dry"), options.pop("yes")
    select = filter_of(options)
    if ids and (select or everything or limit):
        usage("ids stand alone", "name the jobs, or say what they have in common")
    if not ids and not select and not everything and not limit:
        usage("which jobs?", "name them (last: the newest), or say --queue, --state, --tag, --where, --since or --all")
    if ids:
        select = {"ids": named(session, ids)}
    return Choice(select, limit, dry, yes)


def named(session: Session, ids: Sequence[str]) -> list[str]:
    """The ids, each once, with the newest job's in the place of `last`. Raises UnknownJob."""
    return list(dict.fromkeys(_newest(session) if job_id == LAST else job_id for job_id in ids))


def _newest(session: Session) -> str:
    for job in session.client().list(limit=1):
        return str(job["id"])
    from queuectl.errors import UnknownJob

    raise UnknownJob("there is no last job: there are none", hint="see: queuectl list")


# --- changing ----------------------------------------------------------------------------------------


def change(session: Session, op: str, choice: Choice, args: dict[str, Any], verb: str) -> Changed:
    """Do it to the jobs that are meant. `verb` as in `cancelled`. Exits if it was only tried, or somebody said no."""
    if choice.dry:
        tell_plan(session, planned(session, op, choice, args), choice, verb)
    confirm(session, op, choice, args, verb)
    return _slices(session, op, choice, args)


def confirm(session: Session, op: str, choice: Choice, args: dict[str, Any], verb: str) -> None:
    """Ask, unless jobs are named. Exits if somebody said no."""
    if not choice.names and not choice.yes and not _confirmed(session, op, choice, args, verb):
        session.warn(f"Nothing was {verb}.")
        if session.as_json:
            session.emit({"ids": [], "skipped": []})
        raise click.exceptions.Exit(1)


def _slices(session: Session, op: str, choice: Choice, args: dict[str, Any]) -> Changed:
    from queuectl.verbs import Changed, slices

    if choice.limit is not None:
        ids = planned(session, op, choice, args).ids
        choice = Choice({"ids": ids}, None, choice.dry, choice.yes, is_found=True)
        if not ids:
            return Changed()
    changed = Changed()
    for reply in slices(session.client(), op, choice.select, args):
        changed.add(reply)
    return changed


def planned(
    session: Session, op: str, choice: Choice, args: dict[str, Any], *, at_most: float = float("inf")
) -> Changed:
    """What would happen, as far as `at_most` goes; ids of all kinds together, the newest first."""
    from queuectl.verbs import Changed, slices

    plan = Changed()
    for reply in slices(session.client(), op, choice.select, {**args, "dry": True}):
        plan.add({**reply, "ids": [*reply["ids"], *reply.get("stopping", [])], "stopping": []})
        if choice.limit is not None and len(plan.ids) >= choice.limit:
            del plan.ids[choice.limit :]
            break
        if len(plan.ids) > at_most:
            break
    return plan


def tell_plan(session: Session, plan: Changed, choice: Choice, verb: str) -> NoReturn:
    """Tell what would happen, and exit as it would."""
    first = plan.skipped[0].error if plan.skipped else None
    if session.as_json:
        session.emit({"dry_run": True, **_as_json(plan)})
    elif first is not None and len(choice.names) == 1:
        raise first
    else:
        for job_id in plan.ids:
            session.print_id(job_id)
        _warn_of_skipped(session, plan)
        session.note(f"{counted(len(plan.ids), 'job')} would be {verb}.")
    raise click.exceptions.Exit(first.exit_code if first is not None else 0)


def _confirmed(session: Session, op: str, choice: Choice, args: dict[str, Any], verb: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        usage(f"jobs that are not named are {verb} without a question only with --yes", "add --yes, or -n to try")
    ids = planned(session, op, choice, args, at_most=COUNTED).ids
    if not ids:
        return True
    sample = ", ".join(visible(job_id) for job_id in ids[:SAMPLE]) + (", …" if len(ids) > SAMPLE else "")
    many = f"over {COUNTED}" if len(ids) > COUNTED else str(len(ids))
    noun = "job is" if len(ids) == 1 else "jobs are"
    try:
        return click.confirm(f"{many} {noun} to be {verb}: {sample}. Go on?", err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):  # Ctrl-C; Ctrl-D is a no
            raise
        session.warn("")  # what comes next begins a line
        return False


def report(
    session: Session, changed: Changed, choice: Choice, verb: str, sentence: Callable[[str], str] | None = None
) -> int:
    """Tell what has happened; the exit code: of the first job that was named and that it could not be done to."""
    first = changed.skipped[0].error if changed.skipped else None
    if session.as_json:
        session.emit(_as_json(changed))
    elif first is not None and len(choice.names) == 1:
        raise first
    else:
        _tell(session, changed, choice, verb, sentence)
    return first.exit_code if first is not None else 0


def _as_json(changed: Changed) -> dict[str, Any]:
    skipped = [{"id": each.id, **each.error.to_wire()} for each in changed.skipped]
    error = {"error": changed.skipped[0].error.to_wire()} if changed.skipped else {}
    more = {"copies": changed.copies, "stopping": changed.stopping}
    return {"ids": changed.ids, "skipped": skipped} | {name: told for name, told in more.items() if told} | error


def _warn_of_skipped(session: Session, changed: Changed) -> None:
    for each in changed.skipped:
        session.warn(f"error: {visible(each.error.message)}")


def _tell(session: Session, changed: Changed, choice: Choice, verb: str, sentence: Callable[[str], str] | None) -> None:
    for job_id in changed.ids:
        if session.quiet:
            session.print_id(changed.copies.get(job_id, job_id))
        elif choice.names:
            session.print(sentence(visible(job_id)) if sentence is not None else f"Job {visible(job_id)} {verb}.")
    for job_id in changed.stopping:
        if session.quiet:
            session.print_id(job_id)
        elif choice.names:
            session.print(f"Job {visible(job_id)} was told to end.")
    _warn_of_skipped(session, changed)
    if not choice.names and not session.quiet:
        also = f", {len(changed.stopping)} told to end" if changed.stopping else ""
        session.print(f"{counted(len(changed.ids), 'job')} {verb}{also}.")
