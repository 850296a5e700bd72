"""The deciding part of the worker: no socket, no clock, no process, no file. Time and chance are arguments."""

from worker.core.effects import Effect
from worker.core.identity import Adopted, Identity
from worker.core.worker import WorkerCore

__all__ = ["Adopted", "Effect", "Identity", "WorkerCore"]
