"""`queuectl dlq retry` and `dlq purge`: dead jobs back to the queue, or gone; one by one, by selection, by cause."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cli.escape import visible
from cli.options import DURATION, Converted, shared, usage
from cli.selecting import Choice, confirm, filter_of, named, planned, report, selecting_dead, tell_plan
from cli.session import Session

if TYPE_CHECKING:
    from queuectl.errors import QueuectlError
    from queuectl.verbs import Changed

DEAD = {"state": "dead"}
BACK = "moved back to the queue"
_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
EDITED = ("command", "queue", "priority", "max_retries", "timeout")
Sentence = Callable[[str], str]


def _interval(text: str) -> float:
    """Seconds between two of so many jobs in a second, minute or hour."""
    number, slash, unit = text.partition("/")
    try:
        rate = float(number) / _PER_S[unit if slash else "s"]
    except (ValueError, KeyError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ValueError(f"{text!r} is not a rate; write 10/s, 30/m or 100/h")
    return 1 / rate


RATE = Converted("rate", _interval)


@click.command()
@selecting_dead
@click.option("--rate", "interval", type=RATE, metavar="N/s", help="One after the other: 10/s, 30/m, 100/h.")
@click.option("--delay", type=DURATION, default=0.0, metavar="D", help="Start the first so much later.")
@click.option("--edit", "edited", is_flag=True, help="Change the job in your editor before it runs.")
@shared
def retry(session: Session, interval: float | None, delay: float, edited: bool, **options: Any) -> int:
    """Move dead jobs back to 'pending', with a fresh budget of attempts. Their history is kept.

    \b
    Examples:
      queuectl dlq retry job-1
      queuectl dlq retry --all
      queuectl dlq retry --group 3fa91c02 --rate 5/s --yes
    """

    def sentence(job_id: str) -> str:
        return f"Job {job_id} moved back to queue as 'pending'."

    choice, everything = _dead(session, options)
    if edited:
        if choice.dry or delay or interval is not None:
            usage("--edit stands alone", "queuectl dlq retry ID --edit")
        return _edit(session, choice)
    if everything and not (sys.stdin.isatty() and sys.stderr.isatty()):
        choice = replace(choice, yes=True)  # nothing is lost by it, and scripts have never been asked
    is_plain = not delay and interval is None
    if choice.names and is_plain and not choice.dry:
        return apply(session, "dlq_retry", choice.names, sentence)
    if choice.dry:
        tell_plan(session, _planned(session, "retry", choice), choice, BACK)
    confirm(session, "retry", choice, {}, BACK)
    if everything and is_plain:
        return apply(session, "dlq_retry", (), sentence)
    changed = _one_after_the_other(session, _planned(session, "retry", choice), delay, interval or 0.0)
    if interval is not None and changed.ids and not session.quiet:
        session.note(f"The last of them starts in {delay + interval * (len(changed.ids) - 1):.0f} s.")
    return report(session, changed, choice, BACK, sentence)


def _planned(session: Session, op: str, choice: Choice) -> Changed:
    """The dead jobs that are meant; of those that are named, the ones that it cannot be done to are skipped."""
    from queuectl.verbs import Changed

    if choice.is_found:  # a while ago: some may have been retried since
        dead = {job["id"] for job in session.client().list(state="dead")}
        plan = Changed(ids=[job_id for job_id in choice.select["ids"] if job_id in dead])
    elif choice.names:
        plan = _dead_of(session, choice.names)
    else:
        return planned(session, op, choice, {})
    if plan.ids:
        asked = planned(session, op, Choice({"ids": plan.ids}, choice.limit, dry=True, yes=True), {})
        plan = Changed(asked.ids, skipped=[*plan.skipped, *asked.skipped])
    return plan


def _dead_of(session: Session, names: Sequence[str]) -> Changed:
    """Those of named jobs that are dead."""
    from queuectl.errors import QueuectlError
    from queuectl.verbs import Changed, Skipped

    plan = Changed()
    for name in names:
        try:
            plan.ids.append(session.client().request("job", {"id": name, "state": "dead"})["job"]["id"])
        except QueuectlError as error:
            if error.retryable:
                raise
            plan.skipped.append(Skipped(name, error))
    return plan


def _one_after_the_other(session: Session, plan: Changed, delay: float, interval: float) -> Changed:
    from queuectl.verbs import IDS_PER_REQUEST, Changed

    changed = Changed(skipped=plan.skipped)
    for start in range(0, len(plan.ids), IDS_PER_REQUEST):
        select = {"ids": plan.ids[start : start + IDS_PER_REQUEST]}
        args = {"select": select, "delay": delay + interval * start, "interval": interval}
        changed.add(session.client().request("retry", args))
    return changed


@click.command()
@selecting_dead
@shared
def purge(session: Session, **options: Any) -> int:
    """Delete dead jobs with their history and output.

    \b
    Examples:
      queuectl dlq purge job-1 job-2
      queuectl dlq purge --all --yes
      queuectl dlq purge --group 3fa91c02 -n
    """
    choice, everything = _dead(session, options)
    if (choice.names or (everything and choice.yes)) and not choice.dry:
        return apply(session, "dlq_purge", choice.names, lambda job_id: f"Job {job_id} purged.")
    if choice.dry:
        tell_plan(session, _planned(session, "purge", choice), choice, "purged")
    confirm(session, "purge", choice, {}, "purged")
    if everything:
        return apply(session, "dlq_purge", (), lambda job_id: f"Job {job_id} purged.")
    return report(session, session.client().purge(_planned(session, "purge", choice).ids), choice, "purged")


def _dead(session: Session, options: dict[str, Any]) -> tuple[Choice, bool]:
    """The dead jobs that are meant, and whether that is all of them."""
    ids, everything, group = options.pop("ids"), options.pop("everything"), options.pop("group")
    limit, dry, yes = options.pop("limit"), options.pop("dry"), options.pop("yes")
    select = filter_of({**options, "state": None})
    given = [bool(ids), everything, group is not None, bool(select) or limit is not None]
    if sum(given) != 1 and not (everything and limit is not None):
        usage("name the jobs, or say which: --all, --group, --queue …" + (", one of these" if any(given) else ""))
    if group is not None:
        select = {"ids": _of_group(session, group)}
        return Choice(select, limit, dry, yes, is_found=True), False
    if ids:
        return Choice({"ids": named(session, ids)}, limit, dry, yes), False
    return Choice({**DEAD, **select}, limit, dry, yes), everything and limit is None


def _of_group(session: Session, fingerprint: str) -> list[str]:
    from cli.causes import causes
    from queuectl.errors import UnknownJob

    for cause in causes(session.client().list(state="dead")):
        if cause.fingerprint == fingerprint:
            return cause.ids
    raise UnknownJob(f"there is no group '{fingerprint}' of dead jobs", hint="see: queuectl dlq list --by-cause")


# --- changing a job before it runs ---------------------------------------------------------------------


def _edit(session: Session, choice: Choice) -> int:
    """A dead job is changed in an editor while it is held, and released after that."""
    if len(choice.names) != 1:
        usage("--edit is about one job", "queuectl dlq retry ID --edit")
    client = session.client()
    job = client.request("job", {"id": choice.names[0], "state": "dead"})["job"]
    before = {name: job[name] for name in EDITED}
    text = click.edit(json.dumps(before, indent=2) + "\n", extension=".json")
    if text is None:
        session.warn("Nothing was changed: the job stays dead.")
        if session.as_json:
            session.emit({"ids": [], "changes": {}})
        return 1
    changes = _changes(before, text)
    select = {"select": {"ids": [job["id"]]}}
    _raise_skipped(client.request("retry", {**select, "hold": True}))
    try:
        if changes:
            _raise_skipped(client.request("edit", {**select, "changes": changes}))
        _raise_skipped(client.request("release", select))
    except BaseException:
        session.warn(f"Job {visible(job['id'])} is held, and goes on with: queuectl release {visible(job['id'])}")
        raise
    if session.as_json:
        session.emit({"ids": [job["id"]], "changes": changes})
    else:
        words = f", with another {', '.join(changes)}" if changes else ""
        session.print(f"Job {visible(job['id'])} moved back to queue as 'pending'{words}.")
    return 0


def _changes(before: dict[str, Any], text: str) -> dict[str, Any]:
    """What was changed in the editor. Raises BadJob before anything has happened to the job."""
    from cli.strict_json import parse_object
    from queuectl.jobs import parse_job

    after = parse_object(text)
    unknown = after.keys() - before.keys()
    if unknown:
        usage(f"there is no {sorted(unknown)[0]!r} to change here", f"known: {', '.join(EDITED)}")
    changes = {name: value for name, value in after.items() if value != before[name]}
    for name in changes.keys() - {"timeout"}:
        if changes[name] is None:
            usage(f"{name} cannot be null", f"it was {json.dumps(before[name])}; leave it as it was, or out")
    parse_job({"command": "true", **{name: value for name, value in changes.items() if value is not None}})
    return {name: 0 if name == "timeout" and value is None else value for name, value in changes.items()}


def _raise_skipped(reply: dict[str, Any]) -> None:
    from queuectl.errors import from_wire

    if reply["skipped"]:
        raise from_wire(reply["skipped"][0])


# --- named ones, or all ----------------------------------------------------------------------------------


def apply(session: Session, op: str, ids: Any, sentence: Sentence) -> int:
    """Do it to each of the ids, or to all; report each; the first failure decides the exit code."""
    from queuectl.errors import QueuectlError

    ids = tuple(dict.fromkeys(ids))
    done: list[str] = []
    failed: list[tuple[str, QueuectlError]] = []
    stopped: QueuectlError | None = None
    try:
        for result in _each(session, op, ids):
            if isinstance(result, str):
                done.append(result)
                if not session.as_json:
                    session.print(visible(result) if session.quiet else sentence(visible(result)))
            else:
                failed.append(result)
                if not session.as_json and len(ids) != 1:
                    session.warn(f"error: {visible(result[1].message)}")
    except QueuectlError as error:
        if not (session.as_json and (done or failed)):  # else what was done is told with it
            raise
        stopped = error
    if failed and len(ids) == 1:
        raise failed[0][1]
    verdict = stopped or (failed[0][1] if failed else None)
    if session.as_json:
        errors = [{"id": job_id, **error.to_wire()} for job_id, error in failed]
        told = {"ids": done, "skipped": errors, "errors": errors}
        session.emit(told | ({"error": verdict.to_wire()} if verdict else {}))
    elif not done and not failed:
        session.note("The dead letter queue is empty.")
    return verdict.exit_code if verdict else 0


def _each(session: Session, op: str, ids: tuple[str, ...]) -> Iterator[str | tuple[str, QueuectlError]]:
    """The id of each job that it was done to; of each other one, why not. Raises what is in the way of all."""
    from queuectl.errors import QueuectlError, QueueFull, from_wire

    client = session.client()
    for job_id in ids:
        try:
            yield from client.request(op, {"ids": [job_id]})["ids"]
        except QueuectlError as error:
            if error.retryable and not isinstance(error, QueueFull):
                raise
            yield job_id, error
    args: dict[str, Any] = {"all": True}
    while not ids:
        reply = client.request(op, args)
        yield from reply["ids"]
        yield from ((each["id"], from_wire(each)) for each in reply.get("skipped", ()))
        if reply["next"] is None:
            return
        args["cursor"] = reply["next"]
