"""What is said on stderr while a command waits: for the broker, or for a job that does not begin."""

from __future__ import annotations

from cli.escape import visible
from cli.session import Session
from queuectl.errors import QueuectlError


def away(session: Session, error: QueuectlError) -> None:
    """The broker does not answer; the command goes on when it does."""
    session.note(f"queuectl: waiting for the broker: {visible(error.message)}")


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
            texts = "; ".join(visible(reason["text"]) for reason in reasons)
            self._session.note(f"queuectl: {visible(self._job_id)} waits: {texts}")
            self._told |= codes
