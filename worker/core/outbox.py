"""Where everything that the core wants piles up until the loop takes it away."""

from __future__ import annotations

from typing import Any

from queuectl.messages import ToBroker
from worker.core.effects import Effect, Start, Tell


class Outbox:
    """Messages to send and effects to carry out, in order. `is_dirty`: a flush would have something to say."""

    __slots__ = ("effects", "is_dirty", "messages")

    def __init__(self) -> None:
        self.messages: list[ToBroker] = []
        self.effects: list[Effect] = []
        self.is_dirty = False

    def say(self, message: ToBroker) -> None:
        self.messages.append(message)

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def take_back(self, lease: int) -> bool:
        """Leave the command of this lease unstarted; False if it is too late for that."""
        for place, effect in enumerate(self.effects):
            if isinstance(effect, Start) and effect.grant.lease == lease:
                del self.effects[place]
                return True
        return False

    def tell(self, level: str, event: str, **keys: Any) -> None:
        """A line for the log."""
        self.effects.append(Tell(level, event, keys))
