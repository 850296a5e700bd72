"""How a job or an attempt has ended: in a word or two, in a sentence, and as an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.escape import visible

if TYPE_CHECKING:
    from cli.session import Session
    from queuectl.client import Client

OWN_FAILURE = 125  # the job has no exit code of its own
SIGNAL_CODE = 128  # and the number of the signal, as a shell has it
_NOT_STARTED = "not started"
_BEFORE_CODES = ("timeout", "spawn_error", "poison", "deadline", "lost")  # they say more than how the process ended
_REASONS = {
    "timeout": "it took longer than its timeout",
    "deadline": "its deadline came",
    "lost": "its worker was lost",
    "poison": "it lost one worker after the other",
    "expired": "it expired before it was started",
    "replaced": "another has taken its unique key",
}


def ending(job: dict[str, Any]) -> str:
    """How the last attempt of a job ended, in a word or two."""
    reason = job["reason"]
    if reason in _BEFORE_CODES:
        return _NOT_STARTED if reason == "spawn_error" else str(reason)
    if job.get("signal") is not None:
        return f"signal {job['signal']}"
    if job.get("exit_code") is not None:
        return f"exit {job['exit_code']}"
    return str(reason or "-")


def because(client: Client, job: dict[str, Any]) -> str:
    """Why a job has ended as it has; empty: nobody knows more than that."""
    reason = job["reason"] or ""
    if reason == "spawn_error":
        text = client.get(job["id"]).get("last_line")
        return f"its command could not be started{f': {visible(text)}' if text else ''}"
    if reason in ("exit", "signal"):
        return ending_words(reason, job["exit_code"], job["signal"])
    return _REASONS.get(reason, "" if reason == job["state"] else visible(reason))


def ending_words(outcome: str | None, exit_code: int | None, signal: int | None) -> str:
    """`exit 3`, `signal 9`, `timeout`, `lost`."""
    if outcome == "exit" and exit_code is not None:
        return f"exit {exit_code}"
    if outcome == "signal" and signal is not None:
        return f"signal {signal}"
    return visible(outcome or _NOT_STARTED)


def whole_ending(outcome: str, exit_code: int | None, signal: int | None) -> str:
    """The same, and by what a process has ended that did not end by itself: `cancelled, signal 15`."""
    words = ending_words(outcome, exit_code, signal)
    if outcome in ("completed", "exit", "signal"):
        return words
    more = f", exit {exit_code}" if exit_code is not None else f", signal {signal}" if signal is not None else ""
    return words + more


def own_code(job: dict[str, Any]) -> int | None:
    """The exit code that a job has ended with; None: it has none of its own."""
    if job["state"] == "completed":
        return 0
    if job["signal"] is not None and job["reason"] not in ("lost", "poison"):
        return SIGNAL_CODE + int(job["signal"])
    if job["state"] == "dead" and job["exit_code"] is not None and job["reason"] in ("exit", "deadline"):
        return int(job["exit_code"]) or OWN_FAILURE
    return None


def code_of(session: Session, job: dict[str, Any]) -> int:
    """The exit code that stands for how a job has ended; where it has none of its own, a line says why."""
    code = own_code(job)
    if code is not None:
        return code
    why = because(session.client(), job)
    words = f"{visible(job['state'])}{f' ({why})' if why else ''}"
    session.warn(f"error: job {visible(job['id'])} is {words}: it has no exit code of its own")
    return OWN_FAILURE
