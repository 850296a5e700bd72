"""Every error of queuectl: a small closed set, each with a stable code, an exit code and `retryable`.

The code is for programs (wire, `--json`), the text is for people, the exit code is for scripts. The
docstring of a class is its default message. `retryable` says whether the same request may succeed
later without being changed.
"""

from __future__ import annotations

from typing import Any, ClassVar


class QueuectlError(Exception):
    """Something went wrong in queuectl."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, hint: str | None = None, details: dict[str, Any] | None = None):
        self.message = message or (type(self).__doc__ or "").strip()
        self.hint = hint
        self.details = details or {}
        super().__init__(self.message)

    def to_wire(self) -> dict[str, Any]:
        """The error as it travels in a reply and as `--json` prints it under `error`."""
        wire: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.hint:
            wire["hint"] = self.hint
        if self.details:
            wire["details"] = self.details
        return wire


class BadRequest(QueuectlError):
    """The request is not well formed."""

    code = "bad_request"
    exit_code = 2


class BadJob(BadRequest):
    """The job is not valid."""

    code = "bad_job"


class BadConfig(BadRequest):
    """The configuration is not valid."""

    code = "bad_config"


class AmbiguousId(BadRequest):
    """More than one job has an id that starts like this."""

    code = "ambiguous_id"


class TooLarge(BadRequest):
    """The message is larger than the broker takes."""

    code = "too_large"


class BadCredentials(BadRequest):
    """The credentials are not valid."""

    code = "bad_credentials"


class UnknownJob(QueuectlError):
    """There is no such job."""

    code = "unknown_job"
    exit_code = 3


class UnknownWorker(QueuectlError):
    """There is no such worker."""

    code = "unknown_worker"
    exit_code = 3


class UnknownKey(QueuectlError):
    """There is no such key."""

    code = "unknown_key"
    exit_code = 3


class JobExists(QueuectlError):
    """A job with this id exists already."""

    code = "job_exists"
    exit_code = 4


class UniqueKeyTaken(QueuectlError):
    """A job that waits or runs has this unique key."""

    code = "unique_key_taken"
    exit_code = 4


class KeyExists(QueuectlError):
    """A key of this name was added before."""

    code = "key_exists"
    exit_code = 4


class WrongState(QueuectlError):
    """The job is not in a state in which this can be done."""

    code = "wrong_state"
    exit_code = 4


class RequestIdReused(QueuectlError):
    """This request id was used for another request."""

    code = "request_id_reused"
    exit_code = 4


class BrokerRunning(QueuectlError):
    """A broker runs here already."""

    code = "broker_running"
    exit_code = 4


class DatabaseRefused(QueuectlError):
    """The database cannot be used."""

    code = "database_refused"


class NotAllowed(QueuectlError):
    """This is not allowed."""

    code = "not_allowed"
    exit_code = 5


class KeyNotAccepted(NotAllowed):
    """The broker does not accept this key: it was revoked, or never added."""

    code = "key_not_accepted"


class ServerKeyMismatch(NotAllowed):
    """Whoever answers there does not hold the server key that these credentials name."""

    code = "server_key_mismatch"


class KeysRequired(NotAllowed):
    """The broker there takes nobody without credentials."""

    code = "keys_required"


class KeysNotSpoken(NotAllowed):
    """Whoever answers there speaks without keys; with credentials nobody speaks to it."""

    code = "keys_not_spoken"


class BrokerUnreachable(QueuectlError):
    """No broker answers; nothing was sent."""

    code = "broker_unreachable"
    exit_code = 69
    retryable = True


class OutcomeUnknown(QueuectlError):
    """The request was sent, but no reply came: it may or may not have been carried out."""

    code = "outcome_unknown"
    exit_code = 69
    retryable = True


class VersionMismatch(QueuectlError):
    """The two sides speak no common version of the protocol."""

    code = "version_mismatch"


class DiskFull(QueuectlError):
    """The broker's disk is nearly full: no new jobs are taken until there is room."""

    code = "disk_full"
    exit_code = 75
    retryable = True


class QueueFull(QueuectlError):
    """As many jobs wait as may."""

    code = "queue_full"
    exit_code = 75
    retryable = True


class TooManyRequests(QueuectlError):
    """This key asks more often than it may."""

    code = "too_many_requests"
    exit_code = 75
    retryable = True


class TooManySessions(QueuectlError):
    """This key has as many workers connected as it may."""

    code = "too_many_sessions"
    exit_code = 75
    retryable = True


class ShuttingDown(QueuectlError):
    """The broker is shutting down."""

    code = "shutting_down"
    exit_code = 75
    retryable = True


class StorageFailed(QueuectlError):
    """The broker's disk failed: the broker stops before it answers."""

    code = "storage_failed"
    exit_code = 74
    retryable = True


class WaitTimedOut(QueuectlError):
    """The wait timed out."""

    code = "wait_timed_out"
    exit_code = 124
    retryable = True


class Internal(QueuectlError):
    """The broker failed to carry this out; it is a bug, its log says more."""

    code = "internal"


def _subclasses(cls: type[QueuectlError]) -> list[type[QueuectlError]]:
    return [cls] + [leaf for child in cls.__subclasses__() for leaf in _subclasses(child)]


BY_CODE: dict[str, type[QueuectlError]] = {cls.code: cls for cls in _subclasses(QueuectlError)}


def from_wire(wire: dict[str, Any]) -> QueuectlError:
    """The error that a reply carries; a code from a newer broker becomes a plain QueuectlError."""
    cls = BY_CODE.get(str(wire.get("code")), QueuectlError)
    return cls(str(wire.get("message", "")), hint=wire.get("hint"), details=wire.get("details"))
