"""What the reports of a turn have come to, written down: each kind in one statement."""

from __future__ import annotations

from broker.core.state import State
from broker.core.turn import Turn
from broker.core.wall import leave
from broker.store.rows import CODES
from queuectl.jobs import JobState


def flush(core: State, turn: Turn) -> None:
    """Write what has piled up. Whoever reads from the store what a report may have changed calls this first."""
    if turn.new_chunks or turn.longer_chunks or turn.dropped_chunks:
        core.store.history.drop_output(turn.dropped_chunks)
        core.store.history.add_output(list(turn.new_chunks.items()), turn.now.wall_ms)
        core.store.history.extend_output(list(turn.longer_chunks.items()))
        turn.new_chunks, turn.longer_chunks, turn.dropped_chunks = {}, {}, []
    if turn.completions:
        core.store.jobs.complete(turn.completions)
        turn.completions = []
    if turn.moves:
        core.store.jobs.move(turn.moves)
        leave(core, (move.seq for move in turn.moves if move.state == CODES[JobState.FAILED]))
        turn.moves = []
    if turn.ended:
        core.store.history.record(turn.ended)
        turn.ended = []
