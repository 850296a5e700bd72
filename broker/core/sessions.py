"""Workers come, live on their heartbeats, and go.

The rules heal what gets lost on the way (anti-entropy): a heartbeat names all leases that the worker still
has. One connection is first in, first out; so a lease that was pushed before the last push the worker has
seen, and that it does not name, is lost on the worker's side and goes back to the queue. What it names and
does not have is dropped. Silence alone never ends a session before a whole lease has passed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from broker.core import farewells, feed, outputs, reports, stops, writing
from broker.core.access import ADMIN, WORKER, Actor, Queues
from broker.core.adoption import adopt_lost
from broker.core.memory import Holder, Session
from broker.core.state import State
from broker.core.turn import Turn
from queuectl.errors import BadRequest, KeyNotAccepted, NotAllowed, QueuectlError, TooManySessions
from queuectl.messages import (
    TO_BROKER,
    Beat,
    Bye,
    ByeOk,
    Echo,
    Gone,
    Held,
    Hello,
    Output,
    Recorded,
    Refuse,
    Release,
    Results,
    Stop,
    Took,
    Welcome,
    Who,
)
from queuectl.wire import PROTOCOL_VERSION, WORKER_MESSAGE_BYTES_MAX, decode

SERVING = frozenset({WORKER, ADMIN})  # the roles that may say anything of this
SUSPECT_HEARTBEATS = 3  # silence after which a worker gets nothing new
WINDOW_BYTES = 2**20  # output credit of a session
DEAF_BEATS_MAX = 3  # heartbeats that miss a push before the session counts as one-way
OTHER_BROKER_RETRY_MS = 5000
BOOTS_PER_SECOND = 5  # of one key; each is a row
DENIED_RETRY_MS = 2000  # it may be let in by then
_ASK_WHO_EVERY_MS = 1000
_REVOKED = "the key of its worker was revoked"
_EPOCH_SHIFT = 10**9  # sessions per epoch


def on_message(core: State, turn: Turn, route: bytes, body: bytes, user: str) -> None:
    """One message of a worker. Whatever it is, it cannot stop the broker."""
    by = core.access.actor(user)
    if by is None or by.role not in SERVING:
        _turn_away(core, turn, route, by)
        return
    try:
        message = decode(body, TO_BROKER, bytes_max=WORKER_MESSAGE_BYTES_MAX)
    except BadRequest as error:
        core.malformed += 1
        turn.log("warning", "message_malformed", reason=error.message, count=core.malformed)
        return
    if isinstance(message, Hello):
        _on_hello(core, turn, route, message, by)
        return
    session = core.sessions.get(route)
    if session is None or session.number != message.session:
        _ask_who(core, turn, route)
        return
    session.holder.heard_ms = turn.now.mono_ms
    session.silent = False
    core.rooms.touch(session)  # whatever it says, it may have room now that it had not, or the other way round
    if session.incomplete:  # it is heard, no more: an echo of a heartbeat would say that what came before has arrived
        turn.send(route, Echo(session.number, 0, core.heartbeat_ms, []))
        return
    _HANDLERS[type(message)](core, turn, session, message)


def _ask_who(core: State, turn: Turn, route: bytes) -> None:
    """An unknown speaker is asked to introduce itself, at most once a second."""
    if _is_time_to_answer(core, turn, route):
        turn.send(route, Who())


def _turn_away(core: State, turn: Turn, route: bytes, by: Actor | None) -> None:
    """One who may not serve as a worker is told so, at most once a second."""
    core.denied += 1
    if not _is_time_to_answer(core, turn, route):
        return
    if by is None:
        _refuse(turn, route, KeyNotAccepted("this key was revoked"), DENIED_RETRY_MS)
    else:
        text = f"'{by.name}' has the role {by.role}, and may not run jobs; that takes the role worker"
        _refuse(turn, route, NotAllowed(text), DENIED_RETRY_MS, by)


def _is_time_to_answer(core: State, turn: Turn, route: bytes) -> bool:
    if len(core.asked_who) > 10_000:
        core.asked_who.clear()
    is_time = core.asked_who.get(route, -_ASK_WHO_EVERY_MS) + _ASK_WHO_EVERY_MS <= turn.now.mono_ms
    if is_time:
        core.asked_who[route] = turn.now.mono_ms
    return is_time


def _refuse(turn: Turn, route: bytes, error: QueuectlError, retry_ms: int, by: Actor | None = None) -> None:
    turn.send(route, Refuse(error.code, error.message, retry_ms))
    who = {} if by is None else {"by": by.name}
    turn.log("warning", "worker_denied", code=error.code, reason=error.message, **who)


# --- hello -----------------------------------------------------------------------------------------


def _on_hello(core: State, turn: Turn, route: bytes, hello: Hello, by: Actor) -> None:
    if not hello.version_min <= PROTOCOL_VERSION <= hello.version_max:
        text = f"this broker speaks version {PROTOCOL_VERSION}, not {hello.version_min} to {hello.version_max}"
        turn.send(route, Refuse("version_mismatch", text, 0))
        return
    running = [held for held in hello.held if not held.done]
    if running and hello.broker != core.broker_id:
        text = f"{len(running)} jobs of another broker still run there; they come first"
        turn.send(route, Refuse("other_broker", text, OTHER_BROKER_RETRY_MS))
        return
    before = core.holders.get(hello.boot)
    if (reason := _why_not(core, turn, hello, before, by)) is not None:
        core.denied += 1
        _refuse(turn, route, reason, DENIED_RETRY_MS, by)
        return
    if before is not None and hello.n < before.hello:
        return  # held up on the way: its worker has said a later one
    holder = _holder(core, turn, hello, by)
    known = core.sessions.get(route)
    is_same_line = holder.route == route
    session = (
        known if known is not None and known.holder is holder else _open_session(core, turn, route, hello, holder, by)
    )
    session.draining = hello.draining
    core.rooms.touch(session)
    keep, drop = _compare(core, turn, session, hello.held, is_new=session is not known, is_same_line=is_same_line)
    turn.send(route, _welcome(core, session, keep, drop))
    stops.remind(turn, session, session.holder.leases.values())
    if holder.stop is not None and session is not known and not hello.draining:
        turn.send(route, Stop(session.number, holder.stop))  # the first one was lost with the old session


def _why_not(core: State, turn: Turn, hello: Hello, before: Holder | None, by: Actor) -> QueuectlError | None:
    """Why there is no session for this worker."""
    worker = before.worker if before is not None else core.store.ledger.worker_of(hello.boot)
    if worker is not None and not core.trusts(by, worker):
        return NotAllowed("this boot is that of a worker with another key")
    if hello.queues and not any(by.queues.has(queue) for queue in hello.queues):
        globs = ", ".join(by.queues.globs)
        return NotAllowed(f"'{by.name}' may serve the queues {globs}, and none of those that this worker is for")
    if by.key is None:
        return None
    others = sum(other.by.name == by.name and other.holder is not before for other in core.sessions.values())
    most = core.settings["max_sessions"]
    assert isinstance(most, int)
    if others >= most:
        return TooManySessions(f"'{by.name}' has {others} workers connected, the most that it may have (max_sessions)")
    if worker is None and not core.boots.may_ask(by, turn.now.mono_ms, BOOTS_PER_SECOND, at_once=most):
        return TooManySessions(f"'{by.name}' starts more than {BOOTS_PER_SECOND} workers a second")
    return None


def _holder(core: State, turn: Turn, hello: Hello, by: Actor) -> Holder:
    holder = core.holders.get(hello.boot)
    if holder is None:
        ledger = core.store.ledger
        worker = ledger.worker_of(hello.boot) or ledger.add_worker(
            boot=hello.boot,
            name=f"{re.sub(r'[^A-Za-z0-9-]', '-', hello.host.split('.')[0])[:40]}-{hello.boot[:6]}",
            host=hello.host,
            home=hello.home,
            pid=hello.pid,
            slots=hello.slots,
            software=hello.software,
            now_ms=turn.now.wall_ms,
            actor=core.actor_number(by.name),
        )
        core.part()
        holder = core.holders[hello.boot] = Holder(worker, turn.now.mono_ms, stop=core.stop_of(worker))
    holder.heard_ms = turn.now.mono_ms
    holder.hello = hello.n
    return holder


def _open_session(core: State, turn: Turn, route: bytes, hello: Hello, holder: Holder, by: Actor) -> Session:
    if holder.session is not None:
        close_route(core, turn, holder.session.route, "superseded")
    if route in core.sessions:
        close_route(core, turn, route, "superseded")
    core.part()
    core.holders[hello.boot] = holder  # the end of its old session may have let it go
    core.sessions_opened += 1
    number = core.epoch * _EPOCH_SHIFT + core.sessions_opened
    queues = Queues(frozenset(hello.queues), by.queues.globs)
    session = Session(number, route, holder, hello.slots, queues, by)
    core.sessions[route] = session
    core.rooms.open(session)
    holder.session, holder.route = session, route
    turn.note(feed.WORKER_JOINED, holder.worker.worker, core.actor_number(by.name), hello.slots)
    turn.log(
        "info", "session_opened", worker_id=holder.worker.name, slots=hello.slots, held=len(hello.held), by=by.name
    )
    return session


def _compare(
    core: State, turn: Turn, session: Session, named: list[Held], *, is_new: bool, is_same_line: bool
) -> tuple[list[int], list[int]]:
    """What the worker may keep and what it must drop; what it has lost goes back to the queue.

    On the same line as its last session, WELCOME and pushes of that may still be on their way, and be obeyed when
    they arrive: only a heartbeat of the new session tells what has been lost. In a session that goes on, HELLO may be
    older than what has ended a lease since.
    """
    keep: list[int] = []
    drop: list[int] = []
    for held in named:
        lease = core.leases.get(held.lease)
        if lease is None and is_new:  # done or not: nobody else need run it again
            lease = adopt_lost(core, turn, held.lease, held.job, held.attempt, session)
        is_ours = lease is not None and lease.holder is session.holder
        (keep if is_ours or held.done else drop).append(held.lease)  # a result always gets its verdict
    if is_new:
        names = {held.lease for held in named}
        for lease in list(session.holder.leases.values()):
            if lease.lease in names or is_same_line:
                core.move(lease)
                lease.session, lease.push = session.number, 0
            else:
                reports.give_back(core, turn, lease, "undelivered")
    return keep, drop


def _welcome(core: State, session: Session, keep: list[int], drop: list[int]) -> Welcome:
    return Welcome(
        session=session.number,
        version=PROTOCOL_VERSION,
        broker=core.broker_id,
        epoch=core.epoch,
        heartbeat_ms=core.heartbeat_ms,
        silence_ms=core.silence_ms,
        window_bytes=WINDOW_BYTES,
        worker=session.holder.worker.name,
        keep=keep,
        drop=drop,
    )


# --- in a session ------------------------------------------------------------------------------------


def _on_beat(core: State, turn: Turn, session: Session, beat: Beat) -> None:
    session.holder.has_beaten()
    named = {*beat.held, *beat.done}
    drop = [number for number in beat.held if number not in session.holder.leases]
    deaf = False
    for lease in list(session.holder.leases.values()):
        if lease.lease in named:
            continue
        if lease.session == session.number and lease.push > beat.received:
            deaf = True  # still on its way, unless that goes on
        else:
            reports.give_back(core, turn, lease, "undelivered")
    session.draining = beat.draining
    session.deaf_beats = session.deaf_beats + 1 if deaf and beat.received == session.received else 0
    session.received = beat.received
    if session.deaf_beats >= DEAF_BEATS_MAX:
        turn.send(session.route, Who())
        close_route(core, turn, session.route, "hears nothing")
        return
    turn.send(session.route, Echo(session.number, beat.n, core.heartbeat_ms, drop))
    stops.remind(turn, session, session.holder.leases.values())


def _on_gone(core: State, turn: Turn, session: Session, gone: Gone) -> None:
    """Dead boots of the same home: their processes are gone, so their jobs may run again now."""
    teller = session.holder.worker
    for boot in gone.boots:
        holder = core.holders.get(boot)
        if holder is None or holder is session.holder:
            continue
        is_its_own = (holder.worker.host, holder.worker.home) == (teller.host, teller.home)
        if is_its_own and core.trusts(session.by, holder.worker):
            turn.log("warning", "boot_gone", worker_id=holder.worker.name, leases=len(holder.leases))
            _lose(core, turn, holder, "its worker died")
            farewells.has_ended(core, holder)


def _on_bye(core: State, turn: Turn, session: Session, _: Bye) -> None:
    for lease in list(session.holder.leases.values()):
        reports.give_back(core, turn, lease, "undelivered")
    turn.send(session.route, ByeOk(session.number))
    close_route(core, turn, session.route, "left")
    core.dismiss(session.holder)
    farewells.has_ended(core, session.holder)


_HANDLERS: dict[type, Callable[[State, Turn, Session, Any], None]] = {
    Beat: _on_beat,
    Results: reports.on_results,
    Output: outputs.on_output,
    Release: reports.on_release,
    Gone: _on_gone,
    Bye: _on_bye,
}


def retime(core: State, turn: Turn, lease_ms: int) -> None:
    """Heartbeat or lease have changed: tell all workers, and leave each the old lease until it has heard."""
    for holder in core.holders.values():
        holder.be_patient(lease_ms)
        if holder.session is not None:
            turn.send(holder.session.route, Echo(holder.session.number, 0, core.heartbeat_ms, []))


def end_sessions_of(core: State, turn: Turn, keys: frozenset[int]) -> int:
    """These keys are good for nothing any more: what their workers hold is lost; how many were connected."""
    ended = [session for session in core.sessions.values() if session.by.key in keys]
    for session in ended:
        turn.send(session.route, Echo(session.number, 0, core.heartbeat_ms, list(session.holder.leases)))
        turn.send(session.route, Refuse(KeyNotAccepted.code, "this key was revoked", DENIED_RETRY_MS))
        _lose(core, turn, session.holder, _REVOKED)
    writing.flush(core, turn)
    return len(ended)


def lose_those_away(core: State, turn: Turn, name: str) -> None:
    """No key of this name is good any more: those of its workers that are away cannot come back."""
    actor = core.actors.get(name)
    for holder in list(core.holders.values()):
        if holder.session is None and holder.worker.actor is not None and holder.worker.actor == actor:
            _lose(core, turn, holder, _REVOKED)


def say_verdicts(core: State, turn: Turn) -> None:
    """One message of each kind to each session, however many results and pieces it sent."""
    for session, verdicts, taken in turn.told.values():
        if core.sessions.get(session.route) is not session:
            continue
        if verdicts:
            turn.send(session.route, Recorded(session.number, verdicts))
        if taken:
            turn.send(session.route, Took(session.number, taken))


# --- silence and the end of a session ----------------------------------------------------------------


def sweep(core: State, turn: Turn) -> None:
    """Who has been silent for too long? Called only when all that workers have said has been heard."""
    suspect_ms = core.heartbeat_ms * SUSPECT_HEARTBEATS
    for holder in list(core.holders.values()):
        silent_ms = turn.now.mono_ms - holder.heard_ms
        if holder.session is None and not holder.leases:
            core.dismiss(holder)
        elif silent_ms >= max(core.lease_ms, holder.patience_ms):
            turn.log("warning", "worker_lost", worker_id=holder.worker.name, leases=len(holder.leases))
            _lose(core, turn, holder, f"its worker was not heard of for {silent_ms / 1000:.1f} s")
        elif holder.session is not None and silent_ms >= suspect_ms:
            holder.session.silent = True
            core.rooms.touch(holder.session)


def _lose(core: State, turn: Turn, holder: Holder, why: str) -> None:
    for place, lease in enumerate(list(holder.leases.values())):
        held_slot = lease.slot or place < holder.worker.slots  # a worker starts its leases in order
        reports.lose(core, turn, lease, why, held_slot=held_slot)
    if holder.session is not None:
        close_route(core, turn, holder.session.route, "lost")
    core.dismiss(holder)


def close_route(core: State, turn: Turn, route: bytes, why: str) -> None:
    """End the session at a route, if there is one. Its leases stay with the boot."""
    session = core.sessions.get(route)
    if session is None:
        return
    core.part()
    del core.sessions[route]
    core.rooms.close(session)
    session.holder.session = None
    if not session.holder.leases:
        core.dismiss(session.holder)
    turn.note(feed.WORKER_LEFT, session.holder.worker.worker, why)
    turn.log("info", "session_closed", worker_id=session.holder.worker.name, reason=why)
