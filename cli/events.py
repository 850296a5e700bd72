"""`queuectl events`: what happens, or has happened to one job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import click

from cli.endings import whole_ending
from cli.escape import visible
from cli.options import JOB, Whole, completed, shared, usage
from cli.render import local, state_word
from cli.selecting import named
from cli.session import Session
from cli.waiting import away
from queuectl.feed import MISSED, Event, Feed
from queuectl.times import human_duration

SHOWN = 50
LAST_MAX = 1_000_000
INTERRUPTED = 130


@click.command()
@click.argument("job_id", type=JOB, metavar="[ID]", required=False, shell_complete=completed("jobs"))
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens; of one job until it is over.")
@click.option("--since", metavar="CURSOR", help="Go on after this event (--json shows cursors); 0 for all.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only of this type; may be given again.")
@click.option("-n", "--last", type=Whole(0, LAST_MAX), metavar="N", help="Begin with the last N: 50, or 0 with -f.")
@shared
def events(
    session: Session, job_id: str | None, follow: bool, since: str | None, types: tuple[str, ...], last: int | None
) -> int:
    """Show what happens: jobs, workers, settings, keys.

    With an ID, what became of that job, and who did it, from when it was enqueued. With -f what happens from now on is
    shown as it happens, over restarts of the broker. --json prints one object a line.

    \b
    Examples:
      queuectl events -f --type finished --type dead
      queuectl events job-1
      queuectl events --json --since 0
    """
    if since is not None and last is not None:
        usage("--since and -n exclude each other", "with --since all after that event is shown")
    if job_id is not None:
        [job_id] = named(session, [job_id])
    feed = Feed(session.client(), job_id=job_id, since=since, types=types, on_away=lambda error: away(session, error))
    write = _writer(session)
    try:
        for event in chain(_past(feed, job_id, since, last, follow=follow), feed.follow() if follow else ()):
            write(event)
    except KeyboardInterrupt:
        if not follow:
            raise
        return INTERRUPTED  # that is how it ends: nothing to say about it
    return 0


def _past(feed: Feed, job_id: str | None, since: str | None, last: int | None, *, follow: bool) -> Iterable[Event]:
    """What has happened before now, as far as it is wanted."""
    if since is not None:
        return () if follow else feed.rest()
    if last is None and job_id is not None:
        return feed.begin()
    return feed.last(last if last is not None else 0 if follow else SHOWN)


def _writer(session: Session) -> Callable[[Event], None]:
    """How an event is shown: an object, the id of its job, or a line."""
    if session.as_json:
        return lambda event: click.echo(json.dumps(event.as_dict()))
    if session.quiet:
        return lambda event: session.print_id(event.job_id) if event.job_id is not None else None
    return lambda event: session.warn(_GAP) if event.type == MISSED else session.print(line(event))


_GAP = "Some events were forgotten before they were read (setting keep_events)."


def line(event: Event) -> str:
    """An event for people: when it was, by the clock of this machine, what, to which job, and who did it."""
    words = [*_about(event), *([f"by {visible(event.by)}"] if event.by else [])]
    subject = f"{visible(event.job_id)}  " if event.job_id is not None else ""
    return f"{local(event.at)}  {visible(event.type):<15}  {subject}{', '.join(words)}".rstrip()


def _about(event: Event) -> Iterator[str]:
    """What there is to say of an event, whatever its type is: types that come later are shown as well."""
    if event.attempt is not None:
        yield f"attempt {event.attempt}" + (f" on {visible(event.worker)}" if event.worker else "")
    elif event.worker is not None:
        yield visible(event.worker)
    if event.more.get("outcome") is not None:
        yield _outcome(event.more)
    if event.more.get("state") not in (None, event.more.get("outcome")) and event.type != "retried":
        yield f"now {state_word(event.more['state'])}"
    for name, value in event.more.items():
        if value is not None and name not in _SAID:
            yield _WORDS.get(name, lambda value, name=name: f"{visible(name)} {visible(value)}")(value)


def _outcome(more: dict[str, Any]) -> str:
    took = more.get("duration_s")
    ended = whole_ending(more["outcome"], more.get("exit_code"), more.get("signal"))
    return ended + (f" after {human_duration(took)}" if took is not None else "")


_SAID = frozenset({"outcome", "exit_code", "signal", "duration_s", "state"})
_WORDS: dict[str, Callable[[Any], str]] = {
    "queue": lambda value: f"queue {visible(value)}",
    "reason": visible,
    "changes": visible,
    "key": visible,
    "key_name": visible,
    "value": lambda value: f"is {visible(value)}",
    "copy": lambda value: f"as {visible(value)}",
    "run_at": lambda value: f"again at {local(value)}",
    "before": lambda value: f"was {visible(value)}",
}
