"""What is said on stderr while a command waits: for the broker, or for a job that does not begin."""

from __future__ import annotations

from typing import Any

from cli.escape import visible
from cli.render import moment
from cli.session import Session
from queuectl.errors import QueuectlError


def away(session: Session, error: QueuectlError) -> None:
    """The broker does not answer; the command goes on when it does."""
    session.note(f"queuectl: waiting for the broker: {visible(error.message)}")
    if session.config.is_local:
        session.hint("it goes on when the broker is back: queuectl broker start --detach")


def as_of_now(reason: dict[str, Any]) -> str:
    """Why a job does not run, with its moment by the clock here, and how far from now that is."""
    text = visible(reason["text"])
    at = reason.get("at") or reason.get("until")
    return text.replace(visible(at), moment(at) or "", 1) if at else text


class Reasons:
    """Why a job does not begin, told whenever that becomes another reason."""

    def __init__(self, session: Session, job_id: str) -> None:
        self._session = session
        self._job_id = job_id
        self._told: frozenset[str] = frozenset(
            {"backoff", "running", "queued_at_worker"}
        )  # nothing new, or none at all

    def tell(self) -> None:
        """Ask, and say what is new. A broker that cannot tell is not asked to."""
        try:
            reasons = self._session.client().why(self._job_id)["reasons"]
        except QueuectlError:
            return
        codes = frozenset(reason["code"] for reason in reasons)
        if not codes <= self._told:
            texts = "; ".join(map(as_of_now, reasons))
            self._session.note(f"queuectl: {visible(self._job_id)} waits: {texts}")
            self._told |= codes
