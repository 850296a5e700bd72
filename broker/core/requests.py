"""Requests of clients, from bytes to replies.

Requests are carried out in the order of their arrival; neighbouring enqueues are stored together. The reply
to a changing request is stored with its effect, so a repeat of the request gets the same reply and changes
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgpack

from broker.core import asks, enqueues, feed, reading
from broker.core.access import Actor
from broker.core.envelope import Envelope, failed, ok
from broker.core.operations import OPERATIONS
from broker.core.repeats import is_repeat
from broker.core.state import State, Waiter
from broker.core.turn import Turn
from broker.core.waits import WAITERS_MAX, WAITERS_OF_KEY_MAX
from broker.store import OF_THE_STORE
from broker.store.ledger import StoredReply
from queuectl.errors import (
    BadRequest,
    DiskFull,
    KeyNotAccepted,
    NotAllowed,
    QueuectlError,
    RequestIdReused,
    ShuttingDown,
    TooManyRequests,
    VersionMismatch,
)
from queuectl.ids import OF_TOKEN
from queuectl.requests import Enqueue, Events, Output, Request, SoundEnqueue, Wait, sound_enqueue
from queuectl.suggest import did_you_mean
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, convert, encode, unpack

AnyRequest = Request | SoundEnqueue
RETRY_MS = 200  # for one who asked too often
REVOKED = "this key was revoked"
HEAD_BYTES = 512  # where the id of a request is looked for that is refused unread
_OWN_ID = "a request that is not a repeat takes an id, or a token, of its own"


class Asked(NamedTuple):
    """A request, who made it, and where its reply goes."""

    envelope: Envelope
    user: str
    by: Actor
    request: AnyRequest

    @property
    def key(self) -> str:
        """Under what its reply is stored: the ids of one key are nothing to another. No id has a blank in it."""
        return self.request.id if self.by.key is None else f"{self.by.name} {self.request.id}"

    @property
    def changes(self) -> bool:
        return OPERATIONS[self.request.op].changes


Answered = dict[str, StoredReply]  # by `Asked.key`


def on_requests(core: State, turn: Turn, arrived: Sequence[tuple[Envelope, bytes, str]]) -> None:
    """Carry out the requests of a turn, each of which came with the user id of its connection."""
    parsed = [
        asked for envelope, body, user in arrived if (asked := _admitted(core, turn, envelope, body, user)) is not None
    ]
    changing = [asked.key for asked in parsed if asked.changes]
    answered = core.store.ledger.replies(changing) if changing else {}
    batch: dict[str, Asked] = {}
    for asked in parsed:
        is_enqueue = asked.request.op == "enqueue"
        if not is_enqueue or asked.key in batch:
            _store(core, turn, batch.values(), answered)
            batch = {}
        if is_enqueue and asked.key not in answered:
            batch[asked.key] = asked
        else:
            _carry_out(core, turn, asked, answered)
    _store(core, turn, batch.values(), answered)


def _admitted(core: State, turn: Turn, envelope: Envelope, body: bytes, user: str) -> Asked | None:
    """The request of a body, if whoever sent it may make it now; what is wrong with it is answered at once."""
    request_id = ""
    by = core.access.actor(user)
    try:
        if by is None:
            raise KeyNotAccepted(REVOKED)
        pace = core.settings["max_requests_per_second"]
        assert isinstance(pace, int)
        if not core.pace.may_ask(by, turn.now.mono_ms, pace):
            raise TooManyRequests(
                f"'{by.name}' asks more than {pace} times a second (max_requests_per_second)",
                hint="ask again in a while, or put more jobs into a request",
                details={"limit": "max_requests_per_second", "value": pace, "retry_ms": RETRY_MS},
            )
        request = sound_enqueue(body) or _parsed(body)
        request_id = request.id
        _refuse_role(by, request.op)
        return Asked(envelope, user, by, request)
    except QueuectlError as error:
        is_garbage = isinstance(error, BadRequest | VersionMismatch)
        core.malformed += is_garbage
        core.denied += not is_garbage
        request_id = request_id or _id_in(body)
        who = {} if by is None else {"by": by.name}
        turn.log("warning", "request_refused", request_id=request_id, code=error.code, reason=error.message, **who)
        turn.reply(envelope, failed(request_id, error))
        return None


def _parsed(body: bytes) -> Request:
    data = unpack(body, bytes_max=CLIENT_MESSAGE_BYTES_MAX)
    if isinstance(data, dict) and isinstance(data.get("v"), int) and data["v"] != PROTOCOL_VERSION:
        raise VersionMismatch(f"this broker speaks version {PROTOCOL_VERSION} of the protocol, not {data['v']}")
    request = convert(data, Request)
    if request.op not in OPERATIONS:
        raise BadRequest(f"unknown operation '{request.op}'", hint=did_you_mean(request.op, OPERATIONS))
    return request


def _id_in(body: bytes) -> str:
    """The id of a request that is refused, so that its sender knows which it was: from its head alone.

    To read all of a body in order to refuse it would be what the refusal is to spare.
    """
    reader = msgpack.Unpacker(max_buffer_size=HEAD_BYTES, strict_map_key=False)
    reader.feed(body[:HEAD_BYTES])
    try:
        for _ in range(min(reader.read_map_header(), HEAD_BYTES)):
            if reader.unpack() == "id":
                request_id = reader.unpack()
                return request_id[:64] if isinstance(request_id, str) else ""
            reader.skip()
    except Exception:  # noqa: BLE001  msgpack raises many kinds for bad input, and for a head that ends too early
        return ""
    return ""


def _refuse_role(by: Actor, op: str) -> None:
    roles = OPERATIONS[op].roles
    if by.role not in roles:
        raise NotAllowed(
            f"'{by.name}' has the role {by.role}, and may not do this ({op})",
            hint=f"it takes the role {' or '.join(sorted(roles))}",
            details={"op": op, "role": by.role},
        )


def _refuse_revoked(core: State, asked: Asked) -> None:
    """A request that came in the turn in which its key is revoked comes too late."""
    if core.access.actor(asked.user) is None:
        raise KeyNotAccepted(REVOKED)


def _carry_out(core: State, turn: Turn, asked: Asked, answered: Answered) -> None:
    """One request, unless it has been carried out before."""
    envelope, _, by, request = asked
    try:
        _refuse_revoked(core, asked)
        if (before := answered.get(asked.key)) is not None and asked.changes:
            _refuse_reuse(core, turn, asked, before)
            turn.reply(envelope, ok(request.id, before.body, repeated=True))
            return
        operation = OPERATIONS[request.op]
        args = convert(request.args, operation.args)
        if isinstance(args, Wait):
            _hold(core, turn, asks.waiter(core, turn, envelope, by, request.id, args))
            return
        if core.stopping and operation.changes:
            raise ShuttingDown(hint="start it again: queuectl broker start")
        assert operation.handler is not None
        data = operation.handler(core, turn, by, args)
        if isinstance(args, Output) and (held := reading.follower(core, turn, envelope, by, request.id, args, data)):
            _hold(core, turn, held)
            return
        if isinstance(args, Events) and (watching := feed.watcher(core, turn, envelope, by, request.id, args, data)):
            _hold(core, turn, watching)
            return
        body = encode(data)
    except OF_THE_STORE:
        raise
    except QueuectlError as error:
        _refuse(core, turn, asked, error)
        return
    if operation.changes and not getattr(args, "dry", False):
        _keep(core, turn, asked, body, answered)
    turn.reply(envelope, ok(request.id, body))


def _refuse_reuse(core: State, turn: Turn, asked: Asked, before: StoredReply) -> None:
    """A repeat is the same request. What is compared costs nothing where nothing is repeated."""
    request = asked.request
    if before.op != request.op:
        raise RequestIdReused(f"{_named(request.id)} was used for '{before.op}' before", hint=_OWN_ID)
    if request.op != "enqueue":
        return
    if not is_repeat(core, _wanted(turn, asked).specs, unpack(before.body, bytes_max=len(before.body))):
        raise RequestIdReused(f"{_named(request.id)} was used for other jobs before", hint=_OWN_ID)


def _named(request_id: str) -> str:
    """A request id as those know it who gave it: nobody has seen what was made of a token."""
    return "this idempotency token" if request_id.startswith(OF_TOKEN) else f"request id {request_id}"


def _hold(core: State, turn: Turn, waiter: Waiter) -> None:
    if len(core.waiters) + len(turn.held) >= WAITERS_MAX:
        raise TooManyRequests("too many clients wait already", hint="try again in a while")
    if turn.waits is None:
        turn.waits = Counter(other.by.name for waiters in (core.waiters, turn.held) for other in waiters)
    if waiter.by.key is not None and turn.waits[waiter.by.name] >= WAITERS_OF_KEY_MAX:
        raise TooManyRequests(
            f"'{waiter.by.name}' has {WAITERS_OF_KEY_MAX} requests that wait already", hint="try again in a while"
        )
    turn.waits[waiter.by.name] += 1
    turn.held.append(waiter)


def _wanted(turn: Turn, asked: Asked) -> enqueues.Wanted:
    request = asked.request
    args = request.args if isinstance(request, SoundEnqueue) else convert(request.args, Enqueue)
    return enqueues.read(args, asked.by, turn.now.wall_ms)


def _store(core: State, turn: Turn, batch: Iterable[Asked], answered: Answered) -> None:
    """Store the jobs of neighbouring enqueues in one go, and answer each."""
    wanted: list[tuple[Asked, enqueues.Wanted]] = []
    taken = enqueues.Batch(core, turn)
    for asked in batch:
        try:
            if core.stopping:
                raise ShuttingDown(hint="start it again: queuectl broker start")
            _refuse_revoked(core, asked)
            jobs = _wanted(turn, asked)
            if core.disk_low:
                raise DiskFull(hint="free some space where the database is: min_free is to be left; running jobs go on")
            taken.take(jobs)
            wanted.append((asked, jobs))
        except OF_THE_STORE:
            raise
        except QueuectlError as error:
            _refuse(core, turn, asked, error)
    taken.store()
    for asked, jobs in wanted:
        body = encode(jobs.answer())
        enqueues.note(turn, asked.request.id, jobs)
        _keep(core, turn, asked, body, answered)
        turn.reply(asked.envelope, ok(asked.request.id, body))


def _keep(core: State, turn: Turn, asked: Asked, body: bytes, answered: Answered) -> None:
    turn.replies.append((asked.key, asked.request.op, core.steady_wall_ms(turn.now), body))
    answered[asked.key] = StoredReply(asked.request.op, body)


def _refuse(core: State, turn: Turn, asked: Asked, error: QueuectlError) -> None:
    core.denied += isinstance(error, NotAllowed)
    request, by = asked.request, asked.by.name
    turn.log("info", "request_refused", request_id=request.id, code=error.code, reason=error.message, by=by)
    turn.reply(asked.envelope, failed(request.id, error))
