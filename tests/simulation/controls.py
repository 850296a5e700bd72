"""Rules broken on purpose: with any of them the simulator has to fail, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from broker.core import Core, Turn, reports, sessions
from broker.core.memory import Session
from broker.core.state import State
from broker.loop import Loop
from broker.store.ledger import Ledger
from queuectl.clock import Now
from queuectl.messages import Beat, Result
from worker.core.slots import Slots


class Control(NamedTuple):
    """A broken rule, and the seeds of which at least one has to find it."""

    seeds: range
    broken: Callable[[], AbstractContextManager[object]]


_settle = reports._settle


def _settle_by_job(core: State, turn: Turn, session: Session, result: Result) -> str | None:
    lease = next((each for each in core.leases.values() if each.job == result.job), None)
    if lease is not None:
        result = msgspec.structs.replace(result, lease=lease.lease, attempt=lease.attempt)
    return _settle(core, turn, session, result)


def _send_then_commit(
    self: Loop,
    now: Now,
    workers: Sequence[Any],
    clients: Sequence[Any],
    gone: Sequence[bytes] = (),
    *,
    drained: bool = False,
    with_duties: bool = True,
) -> Turn:
    self._store.begin()
    try:
        turn = self.core.turn(now, workers, clients, gone=gone, drained=drained, with_duties=with_duties)
        self._send(turn)
        self._store.commit()
    except BaseException:
        self._undo(now)
        raise
    return Turn(now)


_on_beat = sessions._HANDLERS[Beat]


def _on_beat_at_once(core: State, turn: Turn, session: Session, beat: Beat) -> None:
    for lease in session.holder.leases.values():
        lease.push = 0
    _on_beat(core, turn, session, beat)


def _keep_new_replies(self: Ledger, replies: Sequence[tuple[str, str, int, bytes]]) -> None:
    self._db.run_many("INSERT OR IGNORE INTO reply (id, op, at_ms, body) VALUES (?, ?, ?, ?)", replies)


CONTROLS: dict[str, Control] = {
    "a stale result is taken for the run of the moment": Control(
        range(1, 50), lambda: patch.object(reports, "_settle", _settle_by_job)
    ),
    "the reply leaves before the commit": Control(
        range(1, 50), lambda: patch.object(Loop, "_commit", _send_then_commit)
    ),
    "a lease that is on its way is granted again": Control(
        range(1, 50), lambda: patch.dict(sessions._HANDLERS, {Beat: _on_beat_at_once})
    ),
    "a request is carried out as often as it is sent": Control(
        range(1, 50),
        lambda: patch.multiple(Ledger, replies=lambda self, request_ids: {}, keep_replies=_keep_new_replies),
    ),
    "a stall of the broker is blamed on its workers": Control(
        range(136, 190), lambda: patch.object(Core, "forgive", lambda self, stall_ms: None)
    ),
    "what was given back is not said again": Control(
        range(700, 750), lambda: patch.object(Slots, "untell", lambda self: self._told.clear())
    ),
    "a turn that failed stays in memory": Control(
        range(1, 50), lambda: patch.object(Loop, "_undo", lambda self, now: self._store.rollback())
    ),
}
