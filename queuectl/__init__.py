"""The language that broker, workers and clients speak, and the public Python client.

This room imports nothing of the other rooms. `from queuectl import Client` is all that a program
needs; the rest (messages, errors, jobs, settings) is shared by the command line and the daemons.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.6.0"
__all__ = ["AttemptEnd", "Chunk", "Client", "Event", "JobSpec", "QueuectlError", "RunResult", "__version__"]

if TYPE_CHECKING:
    from queuectl.client import Client
    from queuectl.errors import QueuectlError
    from queuectl.feed import Event
    from queuectl.following import AttemptEnd, Chunk, RunResult
    from queuectl.jobs import JobSpec

_MODULES = {
    "AttemptEnd": "queuectl.following",
    "Chunk": "queuectl.following",
    "Client": "queuectl.client",
    "Event": "queuectl.feed",
    "JobSpec": "queuectl.jobs",
    "QueuectlError": "queuectl.errors",
    "RunResult": "queuectl.following",
}


def __getattr__(name: str) -> Any:
    """Load what a program asks for on first use: the daemons and most commands need none of it."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'queuectl' has no attribute {name!r}")
