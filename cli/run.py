"""`queuectl run`: a command through the queue as if it ran here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.endings import because, code_of, ending_words, own_code
from cli.escape import visible, visible_lines
from cli.job_options import CommandAfterDashes, command_of, fields_of, job_options, request_id_of
from cli.letters import Letters
from cli.options import completed, shared, usage
from cli.output import attempt_text, mark
from cli.session import Session
from cli.waiting import Reasons, away
from queuectl.feed import ENDS
from queuectl.ids import new_request_id
from queuectl.patience import patiently

if TYPE_CHECKING:
    from queuectl.following import AttemptEnd, Chunk

INTERRUPTED = 130
_NO_TEXT = {"stdout": "", "stderr": ""}
ASK, CANCEL, DETACH = "ask", "cancel", "detach"


@click.command(cls=CommandAfterDashes)
@click.argument("words", nargs=-1, metavar="-- COMMAND...", shell_complete=completed("files"))
@job_options
@click.option("--no-cwd", is_flag=True, help="Not in this directory, but where its worker was started.")
@click.option("--inherit-env", is_flag=True, help="With all variables of this environment, but for QUEUECTL_*.")
@click.option("--on-interrupt", type=click.Choice([ASK, CANCEL, DETACH]), help="What Ctrl-C does: ask, cancel, detach.")
@shared
def run(
    session: Session,
    words: tuple[str, ...],
    no_cwd: bool,
    inherit_env: bool,
    on_interrupt: str | None,
    **options: Any,
) -> int:
    """Run a command through the queue as if it ran here: its output, live, and its exit code.

    It runs on whatever machine has room, in a directory of this name, and is retried like any other job; each
    attempt is shown once. The exit code is that of the last attempt, 128+N if signal N ended it, and 125 if it never
    ran to an end. Of each stream --output-limit bytes are kept (1 MiB unless set otherwise, at most 64 MiB), half of
    them from its start and half from its end; a line on stderr says where some are missing. On a terminal, control
    characters are shown as escapes; through a pipe all is as it was printed. Ctrl-C asks whether to
    cancel the job or to leave it running; whatever else ends this command leaves it running. --json prints how the job
    has ended, with the end of what its last attempt has printed; of one that was left, its state.

    \b
    Examples:
      queuectl run -- make test
      queuectl run --max-retries 1 --on-interrupt cancel -- 'sort < big | uniq -c'
      queuectl run --stdin dump.sql -- mysql shop
    """
    request_id = request_id_of(options.pop("request_id"), options.pop("token"))
    if not words:
        usage("there is no command", "write: queuectl run -- echo hello")
    if on_interrupt == ASK and not _can_be_asked():
        usage("--on-interrupt ask needs a terminal", "say cancel or detach")
    fields = {"command": command_of(words), **fields_of(options)}
    if not no_cwd and "cwd" not in fields:
        fields["cwd"] = str(Path.cwd())
    if inherit_env:
        fields["env"] = {**_environment(), **fields.get("env", {})}
    job_id = _enqueue(session, fields, request_id or new_request_id())
    followed = Followed(session, job_id)
    try:
        return followed.report(followed.to_the_end())
    except KeyboardInterrupt:
        return _interrupted(session, followed, job_id, on_interrupt)


def _environment() -> dict[str, str]:
    from queuectl.jobs import is_variable

    return {name: value for name, value in os.environ.items() if is_variable(name) and not name.startswith("QUEUECTL_")}


def _enqueue(session: Session, fields: dict[str, Any], request_id: str) -> str:
    from queuectl.errors import from_wire
    from queuectl.jobs import parse_job

    parse_job(fields)
    reply = session.client().request("enqueue", {"jobs": [fields]}, request_id=request_id)
    if reply["errors"]:
        raise from_wire(reply["errors"][0])
    return str(reply["ids"][0])


# --- following -----------------------------------------------------------------------------------------


class Followed:
    """A job that is shown until it is over; after Ctrl-C it can be shown on."""

    def __init__(self, session: Session, job_id: str) -> None:
        from queuectl.following import ALL, Reader

        self._session = session
        self._client = session.client()
        self._job_id = job_id
        self._show = Silent() if session.as_json else Show()
        self._reader = Reader(
            self._client,
            job_id,
            follow=True,
            attempt=ALL,
            on_away=lambda error: away(session, error),
            on_wait=Reasons(session, job_id).tell,
        )
        self._attempt = 0

    def to_the_end(self) -> dict[str, Any]:
        """Show what it prints; how it has ended."""
        from queuectl.following import AttemptEnd

        for piece in self._reader:
            if isinstance(piece, AttemptEnd):
                self._on_end(piece)
            else:
                self._show.chunk(piece)
        [job] = self._client.wait([self._job_id])["jobs"]
        return dict(job)

    def report(self, job: dict[str, Any]) -> int:
        """Say how it has ended, as far as that is not to be seen; its exit code."""
        if self._session.as_json:
            text = attempt_text(self._client, self._job_id, self._attempt) if self._attempt else _NO_TEXT
            self._session.emit({**job, "attempt": self._attempt or None, **text})
        elif own_code(job) and not (self._attempt == 1 and job["reason"] == "exit"):
            name = visible(job["id"])
            again = f"; run it again: queuectl retry {name}" if job["state"] == "dead" else ""
            why = because(self._client, job)
            self._session.note(f"queuectl: {name} is {visible(job['state'])}{f': {why}' if why else ''}{again}")
        return code_of(self._session, job)

    def has_come_to(self, job: Mapping[str, Any]) -> str:
        """What the broker says of it now; its state."""
        self._attempt = job["attempt"] or self._attempt
        return str(job["state"])

    def leave(self, state: str | None) -> int:
        """Show no more of it, though it is not over; its state, as far as it is known."""
        if self._session.as_json:
            self._session.emit({"id": self._job_id, "state": state, "attempt": self._attempt or None})
        return INTERRUPTED

    def _on_end(self, end: AttemptEnd) -> None:
        self._show.finish()
        if end.outcome is not None:
            self._attempt = end.attempt
        if not end.is_last:
            self._say_that_it_goes_on(end)

    def _say_that_it_goes_on(self, end: AttemptEnd) -> None:
        """Between two attempts, a line about them."""
        job = patiently(lambda: self._client.get(self._job_id))
        ended = f"attempt {end.attempt} of {visible(self._job_id)}"
        then = "the next one follows"
        if job["state"] == "failed" and job["reason"] == "backoff":
            from cli.render import distance

            then = f"the next one starts {distance(job['run_at'])}"
        words = ending_words(end.outcome, end.exit_code, end.signal)
        self._session.note(f"queuectl: {ended}: {words}; {then}")


class Silent:
    """Nothing of what a job prints: all of it is told in the end."""

    def chunk(self, chunk: Chunk) -> None:
        """Not shown."""

    def finish(self) -> None:
        """Nothing was begun."""


class Show(Silent):
    """What a job prints, on the same streams: as bytes to files and pipes, escaped on a terminal."""

    def __init__(self) -> None:
        self._streams = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        self._is_terminal = {"stdout": sys.stdout.isatty(), "stderr": sys.stderr.isatty()}
        self._at_line_start = {"stdout": True, "stderr": True}
        self._letters = Letters()

    def chunk(self, chunk: Chunk) -> None:
        """Show a piece; where bytes are missing, a line on stderr says how many."""
        if chunk.gap_bytes:
            self._write(
                "stderr", ("" if self._at_line_start["stderr"] else "\n").encode() + mark(chunk.gap_bytes).encode()
            )
        for piece in self._letters.cut(chunk) if self._is_terminal[chunk.stream] else [chunk]:
            self._write(piece.stream, piece.data)

    def finish(self) -> None:
        """The attempt is over: what comes next on a terminal begins a line."""
        for piece in self._letters.rest():
            self._write(piece.stream, piece.data)
        for name, is_terminal in self._is_terminal.items():
            if is_terminal and not self._at_line_start[name]:
                self._write(name, b"\n")

    def _write(self, name: str, data: bytes) -> None:
        if not data:
            return
        if self._is_terminal[name]:
            data = visible_lines(data.decode(errors="backslashreplace")).encode(errors="backslashreplace")
        self._streams[name].write(data)
        self._streams[name].flush()
        self._at_line_start[name] = data.endswith(b"\n")


# --- Ctrl-C ----------------------------------------------------------------------------------------------


def _interrupted(session: Session, followed: Followed, job_id: str, how: str | None) -> int:
    """Leave the job running, or end it: as was said, or as whoever sits there says now."""
    how = how or (ASK if _can_be_asked() else DETACH)
    if how == ASK:
        how = _asked(job_id)
    name = visible(job_id)
    state: str | None = None
    try:
        job = patiently(lambda: session.client().get(job_id))
        state = followed.has_come_to(job)
        if state in ENDS:
            session.warn(f"\nqueuectl: {name} was over by then")
            return followed.report(followed.to_the_end())
        if how == DETACH:
            session.warn(f"\nqueuectl: {name} goes on; follow it: queuectl logs -f {name}")
            return followed.leave(state)
        session.warn(f"\nqueuectl: cancelling {name} …")
        session.client().cancel([job_id], reason="interrupted")
        ended = followed.to_the_end()
    except KeyboardInterrupt:
        session.warn(f"\nqueuectl: left before {name} was over; see: queuectl show {name}")
        return followed.leave(state)
    if ended["state"] != "cancelled":
        return followed.report(ended)
    if session.as_json:
        followed.report(ended)
    return INTERRUPTED


def _can_be_asked() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked(job_id: str) -> str:
    """What to do; another Ctrl-C, or no answer, leaves the job running."""
    answers = {"": DETACH, "l": DETACH, "leave": DETACH, "c": CANCEL, "cancel": CANCEL}
    question = f"\nCancel job {visible(job_id)}, or leave it running? [c/L]"
    try:
        while (
            answer := click.prompt(question, default="", show_default=False, err=True).strip().lower()
        ) not in answers:
            question = "c to cancel it, l (or nothing) to leave it running"
    except (KeyboardInterrupt, click.Abort):
        return DETACH
    return answers[answer]
