"""What a core is told when it starts: who this worker is, and what dead ones of the same home left behind."""

from __future__ import annotations

from dataclasses import dataclass, field

from queuectl.messages import Piece, Result, Returned


@dataclass(frozen=True, slots=True)
class Identity:
    """One start of a worker, as HELLO tells it."""

    boot: str  # 32 hex digits, random; leases belong to it
    home: str
    host: str
    pid: int
    slots: int
    queues: tuple[str, ...] = ()  # empty: all
    software: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a dead boot of this home left in its spool, each thing with the id of the database that it is for."""

    boot: str
    results: list[tuple[str, Result]] = field(default_factory=list)
    pieces: list[tuple[str, Piece]] = field(default_factory=list)
    returned: list[tuple[str, Returned]] = field(default_factory=list)
    is_gone: bool = True  # no process of it is left, so that its leases may go to others
