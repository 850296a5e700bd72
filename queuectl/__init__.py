"""The language that broker, workers and clients speak, and the public Python client.

This room imports nothing of the other rooms. `from queuectl import Client` is all that a program
needs; the rest (messages, errors, jobs, settings) is shared by the command line and the daemons.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"
__all__ = ["Client", "QueuectlError", "__version__"]

if TYPE_CHECKING:
    from queuectl.client import Client
    from queuectl.errors import QueuectlError


def __getattr__(name: str) -> Any:
    """Load the client on first use: the daemons never need it, and zmq costs 50 ms to import."""
    if name == "Client":
        from queuectl.client import Client

        return Client
    if name == "QueuectlError":
        from queuectl.errors import QueuectlError

        return QueuectlError
    raise AttributeError(f"module 'queuectl' has no attribute {name!r}")
