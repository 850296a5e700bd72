"""What the broker decides, with no way to the outside but the store it is given."""

from broker.core.core import Core
from broker.core.state import Identity
from broker.core.turn import ToClient, ToRoute, Turn

__all__ = ["Core", "Identity", "ToClient", "ToRoute", "Turn"]
