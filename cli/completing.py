"""What a shell offers for the word under the cursor: ids, tags, queues, workers, settings, contexts.

The broker is asked for 200 ms at most, and never started. Whatever goes wrong, nothing is offered and nothing is said.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from cli.escape import visible
from queuectl.feed import ENDS

if TYPE_CHECKING:
    from cli.session import Session

VARIABLE = "_QUEUECTL_COMPLETE"
ASKED_S = 0.2
JOBS_READ = 200  # the newest
OFFERED = 50
COMMAND_SHOWN = 60
WAITING = frozenset({"pending", "failed"})

# The states of jobs to which a command can be done; all, where it is not named.
STATES_OF: dict[str, frozenset[str]] = {
    "cancel": frozenset({"pending", "processing", "failed"}),
    "wait": frozenset({"pending", "processing", "failed"}),
    "why": frozenset({"pending", "processing", "failed"}),
    "hold": WAITING,
    "release": WAITING,
    "edit": WAITING,
    "retry": ENDS | {"failed"},
    "purge": ENDS,
}


# What the shell takes as it is: a tag or a name with anything else in it, `$(…)` even, would be read by the shell.
_SAFE = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")


class TooLateError(Exception):
    """The broker has not answered in time."""


class Line(NamedTuple):
    """What has been typed: the command with its options so far, and the beginning of the word."""

    ctx: click.Context
    incomplete: str


# --- what is offered -------------------------------------------------------------------------------------


def candidates(source: str, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What this source has that begins so."""
    try:
        with _limited():
            answers = SOURCES[source](Line(ctx, incomplete))
            offered = [item for item in answers if item.value.startswith(incomplete) and _is_safe(item)]
    except Exception:  # noqa: BLE001 - nobody has asked a question: there is nothing to answer
        return []
    return offered[:OFFERED]


@contextmanager
def _limited() -> Iterator[None]:
    """Whatever is done is given up after a moment, wherever it waits."""

    def give_up(*_: object) -> None:
        raise TooLateError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, ASKED_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _session(ctx: click.Context) -> Iterator[Session]:
    """What the options that stand on the line already amount to."""
    from cli.session import Session

    given = {name: ctx.params.get(name) for name in ("endpoint", "home_path", "credentials", "context")}
    session = Session(False, True, given.pop("endpoint"), given.pop("home_path"), True, **given)
    with session:
        yield session


def _list(ctx: click.Context, **select: str) -> list[dict[str, Any]]:
    with _session(ctx) as session:
        pages = session.client(autostart=False).list_pages(select, limit=JOBS_READ)
        return [job for page in pages for job in page["jobs"]]


def _jobs(line: Line) -> Iterator[CompletionItem]:
    name = line.ctx.info_name or ""
    is_dead_only = line.ctx.parent is not None and line.ctx.parent.info_name == "dlq"
    states = None if is_dead_only else STATES_OF.get(name)
    for job in _list(line.ctx, **({"state": "dead"} if is_dead_only else {})):
        if job["id"] in line.ctx.params.get("ids", ()) or (states is not None and job["state"] not in states):
            continue
        if name in ("hold", "release") and bool(job.get("held")) is (name == "hold"):
            continue
        yield CompletionItem(job["id"], help=f"{job['state']}: {visible(job['command'])[:COMMAND_SHOWN]}")
    yield CompletionItem("last", help="the newest job")


def _queues(line: Line) -> Iterator[CompletionItem]:
    yield from _each(str(job["queue"]) for job in _list(line.ctx))


def _tags(line: Line) -> Iterator[CompletionItem]:
    """Keys; after a key and `=` its values."""
    pairs = [pair for job in _list(line.ctx) for pair in job.get("tags", {}).items()]
    yield from _each(f"{key}={value}" if "=" in line.incomplete else str(key) for key, value in pairs)


def _workers(line: Line) -> Iterator[CompletionItem]:
    with _session(line.ctx) as session:
        for worker in session.client(autostart=False).status()["workers"]:
            yield CompletionItem(worker["id"], help=f"{worker['state']}, {worker['busy']} of {worker['slots']} busy")


def _keys(line: Line) -> Iterator[CompletionItem]:
    with _session(line.ctx) as session:
        for key in session.client(autostart=False).request("key_list")["keys"]:
            yield CompletionItem(key["name"], help=key["role"])


def _settings(_: Line) -> Iterator[CompletionItem]:
    from queuectl.config import KEYS
    from queuectl.settings import SETTINGS

    yield from _each(name.replace("_", "-") for name in (*SETTINGS, *KEYS))


def _contexts(line: Line) -> Iterator[CompletionItem]:
    from cli.context import names_of

    with _session(line.ctx) as session:
        yield from _each((*names_of(session.home), "local"))


def _conditions(_: Line) -> Iterator[CompletionItem]:
    from queuectl.where import FIELDS

    yield from _each(FIELDS)


def _files(line: Line) -> Iterator[CompletionItem]:
    yield CompletionItem(line.incomplete, type="file")


def _is_safe(item: CompletionItem) -> bool:
    return item.type != "plain" or _SAFE.fullmatch(item.value) is not None


def _each(values: Iterable[str]) -> Iterator[CompletionItem]:
    return map(CompletionItem, dict.fromkeys(values))


SOURCES: dict[str, Callable[[Line], Iterator[CompletionItem]]] = {
    "jobs": _jobs,
    "queues": _queues,
    "tags": _tags,
    "workers": _workers,
    "keys": _keys,
    "settings": _settings,
    "contexts": _contexts,
    "conditions": _conditions,
    "files": _files,
}


# --- between the shell and click -------------------------------------------------------------------------


class Bash(BashComplete):
    """The line as it stands, cut at the cursor: bash itself takes `a=b` for three words."""

    source_template = """\
_queuectl_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" type value answer
    local word="${line##*[[:space:]]}"
    local kept="${word%%"${word##*[=:]}"}"  # bash completes what comes after these alone
    COMPREPLY=()
    while IFS= read -r answer; do
        type="${answer%%%%,*}" value="${answer#*,}"
        case "$type" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            *) COMPREPLY+=("${value#"$kept"}") ;;
        esac
    done < <(COMP_LINE="$line" %(complete_var)s=bash_complete %(prog_name)s 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *= ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _queuectl_completion %(prog_name)s
"""

    @staticmethod
    def _check_version() -> None:
        """Whoever asks for the script may do so in another shell."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one under the cursor, and what there is of that."""
        line = os.environ.get("COMP_LINE")
        if line is None:  # asked by a script of before 0.5
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        return words[1:], incomplete


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


def script(shell: str) -> str:
    """What the shell is to read once, so that it asks."""
    from cli.main import root

    return SHELLS[shell](root, {}, "queuectl", VARIABLE).source()


def answer(root: click.Command) -> int:
    """Tell the shell what there is for the line in its variables. The exit code is 0: nobody reads an error."""
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    if shell in SHELLS and instruction == "complete":
        with suppress(Exception):  # a line that makes no sense yet
            if offered := SHELLS[shell](root, {}, "queuectl", VARIABLE).complete():
                click.echo(offered)
    return 0
