"""The broker's core: the order of a turn.

No socket, no clock, no randomness, no process in here: bytes and a Now come in, a Turn goes out. It reaches
SQLite through the store, inside the transaction that the loop began, because the store is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.core import deletion, endings, farewells, feed, grants, outputs, requests, sessions, waits, wall, writing
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import ALONE_FROM_LOSSES
from queuectl.clock import Now

REPLIES_KEPT_MS = 24 * 3600 * 1000
MISSES_MAX = 3  # sessions in a row that end so
MISSES_IN_A_ROW_MS = 10_000  # from one to the next: sessions begin anew in a second
PROMOTED_PER_TURN = 1000
TIDY_ROWS = 500
TIDY_EVERY_MS = 60_000


class Core(State):
    """The broker without its process: one turn after another over its state."""

    def start(self, now: Now, new_broker_id: str) -> None:
        """Begin a new epoch. Leases found in the store get a full lease and time to be adopted."""
        super().start(now, new_broker_id)
        feed.append(self, now, [(feed.BROKER_STARTED, self.epoch, self.identity.version)])

    def stop(self, now: Now) -> None:
        """Note a clean end; the caller commits and closes."""
        self.store.ledger.note({"clean": 1})
        feed.append(self, now, [(feed.BROKER_STOPPED, self.epoch)])

    def turn(
        self,
        now: Now,
        from_workers: Sequence[tuple[bytes, bytes, str]],
        from_clients: Sequence[tuple[tuple[bytes, ...], bytes, str]],
        *,
        gone: Sequence[bytes] = (),
        drained: bool = True,
        with_duties: bool = True,
    ) -> Turn:
        """Apply what has arrived, each with the user id of its connection (access.py), and what is due.

        `gone`: routes whose connection has ended; their leases stay until they expire or their worker is back.
        `drained`: no worker has said anything that is not in here. Without duties only the messages are applied.
        """
        self.before = self.before_turn()
        self.moved = {}
        turn = Turn(now)
        wall.mind(self, turn)
        for route in gone:
            sessions.close_route(self, turn, route, "connection lost")
        for route, body, user in from_workers:
            sessions.on_message(self, turn, route, body, user)
        writing.flush(self, turn)
        if from_clients:
            requests.on_requests(self, turn, from_clients)
        if with_duties and not self.storage_full:
            self._tick(turn, drained=drained)
            grants.grant(self, turn)
        feed.write(self, turn)
        waits.answer(self, turn)
        self.takes_output = any(told.taken for told in turn.told.values())
        sessions.say_verdicts(self, turn)
        self._write_books(turn)
        return turn

    def _tick(self, turn: Turn, *, drained: bool) -> None:
        now = turn.now
        if self.next_due_ms is not None and self.next_due_ms <= now.wall_ms:
            self._promote(now)
        if self.next_until_ms is not None and self.next_until_ms <= now.wall_ms:
            endings.sweep(self, turn)
        if now.mono_ms >= self.next_sweep_ms and drained:
            sessions.sweep(self, turn)
            writing.flush(self, turn)
            self.next_sweep_ms = now.mono_ms + max(self.heartbeat_ms // 2, 20)
        if now.mono_ms >= self.next_tidy_ms:
            gone = self.store.ledger.forget_replies(self.steady_wall_ms(now) - REPLIES_KEPT_MS, TIDY_ROWS)
            gone = max(gone, feed.forget(self, now))
            farewells.tidy(self, turn)
            self.next_tidy_ms = now.mono_ms + (TIDY_EVERY_MS if gone < TIDY_ROWS else 100)
        if now.mono_ms >= self.next_retire_ms:
            deletion.retire(self, turn)
        outputs.evict(self, turn)
        if self.has_doomed:
            outputs.clear(self)

    def _promote(self, now: Now) -> None:
        limit, alone = PROMOTED_PER_TURN, ALONE_FROM_LOSSES
        promoted = self.store.jobs.promote_due(now.wall_ms, limit, alone_from_losses=alone)
        self.ready |= promoted
        self.suspects |= promoted
        self.next_due_ms = self.store.jobs.next_due_ms()

    def _write_books(self, turn: Turn) -> None:
        if changes := self.tally.take_changes():
            self.store.ledger.write_tallies(changes)
        if turn.replies:
            self.store.ledger.keep_replies(turn.replies)
        if self.output_bytes != self.written_bytes:
            self.store.ledger.note({"output_bytes": self.output_bytes})
            self.written_bytes = self.output_bytes

    def wake_ms(self, now: Now) -> int | None:
        """Milliseconds until the next duty that no message brings; None: there is none."""
        if self.grants_left or self.has_doomed or self.reads_left or self.setbacks:
            return 0
        waits_ms: list[int] = [waiter.deadline_ms - now.mono_ms for waiter in self.waiters]
        if self.tally.over():
            waits_ms.append(self.next_retire_ms - now.mono_ms)
        if self.next_due_ms is not None:
            waits_ms.append(self.next_due_ms - now.wall_ms)
        if self.next_until_ms is not None:
            waits_ms.append(self.next_until_ms - now.wall_ms)
        if self.holders:
            waits_ms.append(self.next_sweep_ms - now.mono_ms)
        if self.ready and (pause_ms := self.rooms.back_in_ms(now.mono_ms)) is not None:
            waits_ms.append(pause_ms)
        return max(0, min(waits_ms)) if waits_ms else None

    def miss(self, route: bytes, now: Now, *, is_its_fault: bool) -> None:
        """A message from there could not be taken. Nothing else of its session is, until HELLO makes up for it.

        One that fails in every session, by a fault of its own or of ours, must not silence its worker for ever:
        after some sessions in a row what follows it is taken.
        """
        session = self.sessions.get(route)
        if session is None or session.incomplete:
            return
        self.rooms.touch(session)
        session.incomplete = not (is_its_fault and self._misses(session.holder.worker.boot, now) > MISSES_MAX)

    def _misses(self, boot: str, now: Now) -> int:
        """One more session of this boot has missed a message; how many did in a row."""
        self.missed = {
            other: (count, at_ms)
            for other, (count, at_ms) in self.missed.items()
            if now.mono_ms - at_ms < MISSES_IN_A_ROW_MS
        }
        count = self.missed.get(boot, (0, 0))[0] + 1
        self.missed[boot] = (count, now.mono_ms)
        return count

    def forgive(self, stall_ms: int) -> None:
        """The loop was away: nobody could be heard meanwhile, so nobody is blamed for silence."""
        for holder in self.holders.values():
            holder.heard_ms += stall_ms
        for waiter in self.waiters:
            waiter.deadline_ms += stall_ms
