"""What clients ask: one table from operation to handler, and the envelope around it.

Requests are carried out in the order of their arrival; neighbouring enqueues are stored together. The reply
to a changing request is stored with its effect, so a repeat of the request gets the same reply and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from broker.core import asks, deeds, enqueues, reading
from broker.core.envelope import Envelope, failed, ok
from broker.core.state import State, Waiter
from broker.core.turn import Turn
from broker.core.waits import WAITERS_MAX
from broker.store import OF_THE_STORE
from broker.store.ledger import StoredReply
from queuectl.errors import (
    BadRequest,
    DiskFull,
    QueuectlError,
    RequestIdReused,
    ShuttingDown,
    VersionMismatch,
)
from queuectl.requests import OPS, Enqueue, Output, Request, SoundEnqueue, Wait, sound_enqueue
from queuectl.suggest import did_you_mean
from queuectl.wire import CLIENT_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, convert, encode, unpack

AnyRequest = Request | SoundEnqueue
Handler = Callable[[State, Turn, Any], dict[str, Any]]
_OWN_ID = "a request that is not a repeat takes an id of its own"

HANDLERS: dict[str, Handler] = {
    "ping": asks.ping,
    "job": asks.job,
    "output": reading.output,
    "list": asks.list_jobs,
    "status": asks.status,
    "config_show": asks.config_show,
    "config_set": deeds.config_set,
    "config_unset": deeds.config_unset,
    "dlq_retry": deeds.dlq_retry,
    "dlq_purge": deeds.dlq_purge,
    "worker_stop": deeds.worker_stop,
    "shutdown": deeds.shutdown,
}  # and `enqueue`, which is stored in sets, and `wait`, which is answered later
assert set(HANDLERS) | {"enqueue", "wait"} == set(OPS)


def on_requests(core: State, turn: Turn, arrived: Sequence[tuple[Envelope, bytes]]) -> None:
    """Carry out the requests of a turn."""
    parsed = [
        (envelope, request)
        for envelope, body in arrived
        if (request := sound_enqueue(body) or _parse(core, turn, envelope, body))
    ]
    changing = [request.id for _, request in parsed if OPS[request.op].changes]
    answered = core.store.ledger.replies(changing) if changing else {}
    batch: dict[str, tuple[Envelope, AnyRequest]] = {}  # by the id of the request
    for envelope, request in parsed:
        if request.op != "enqueue" or request.id in batch:
            _store(core, turn, batch.values(), answered)
            batch = {}
        if request.op == "enqueue" and request.id not in answered:
            batch[request.id] = envelope, request
        else:
            _carry_out(core, turn, envelope, request, answered)
    _store(core, turn, batch.values(), answered)


def _parse(core: State, turn: Turn, envelope: Envelope, body: bytes) -> Request | None:
    """The request of a body; what is wrong with it is answered at once."""
    request_id = ""
    try:
        data = unpack(body, bytes_max=CLIENT_MESSAGE_BYTES_MAX)
        if isinstance(data, dict) and isinstance(data.get("id"), str):
            request_id = data["id"][:64]
        if isinstance(data, dict) and isinstance(data.get("v"), int) and data["v"] != PROTOCOL_VERSION:
            raise VersionMismatch(f"this broker speaks version {PROTOCOL_VERSION} of the protocol, not {data['v']}")
        request = convert(data, Request)
        if request.op not in OPS:
            raise BadRequest(f"unknown operation '{request.op}'", hint=did_you_mean(request.op, OPS))
        return request
    except QueuectlError as error:
        core.malformed += 1
        turn.log("warning", "request_refused", request_id=request_id, code=error.code, reason=error.message)
        turn.reply(envelope, failed(request_id, error))
        return None


def _carry_out(
    core: State, turn: Turn, envelope: Envelope, request: AnyRequest, answered: dict[str, StoredReply]
) -> None:
    """One request, unless it has been carried out before."""
    try:
        if (before := answered.get(request.id)) is not None and OPS[request.op].changes:
            _refuse_reuse(core, request, before)
            turn.reply(envelope, ok(request.id, before.body, repeated=True))
            return
        if request.op == "wait":
            _hold(core, turn, asks.waiter(core, turn, envelope, request.id, convert(request.args, Wait)))
            return
        args = convert(request.args, OPS[request.op].args)
        if core.stopping and OPS[request.op].changes:
            raise ShuttingDown(hint="start it again: queuectl broker start")
        data = HANDLERS[request.op](core, turn, args)
        if isinstance(args, Output) and (held := reading.follower(core, turn, envelope, request.id, args, data)):
            _hold(core, turn, held)
            return
        body = encode(data)
    except OF_THE_STORE:
        raise
    except QueuectlError as error:
        _refuse(turn, envelope, request, error)
        return
    if OPS[request.op].changes:
        _keep(core, turn, request, body, answered)
    turn.reply(envelope, ok(request.id, body))


def _refuse_reuse(core: State, request: AnyRequest, before: StoredReply) -> None:
    """A repeat is the same request. What is compared costs nothing where nothing is repeated."""
    if before.op != request.op:
        raise RequestIdReused(f"request id {request.id} was used for '{before.op}' before", hint=_OWN_ID)
    if request.op == "enqueue":
        ids = unpack(before.body, bytes_max=len(before.body))["ids"]
        if not enqueues.is_repeat(core, _wanted(request).specs, ids):
            raise RequestIdReused(f"request id {request.id} was used for other jobs before", hint=_OWN_ID)


def _hold(core: State, turn: Turn, waiter: Waiter) -> None:
    if len(core.waiters) + len(turn.held) >= WAITERS_MAX:
        raise ShuttingDown("too many clients wait already", hint="try again in a while")
    turn.held.append(waiter)


def _wanted(request: AnyRequest) -> enqueues.Wanted:
    return enqueues.read(request.args if isinstance(request, SoundEnqueue) else convert(request.args, Enqueue))


def _store(
    core: State, turn: Turn, batch: Iterable[tuple[Envelope, AnyRequest]], answered: dict[str, StoredReply]
) -> None:
    """Store the jobs of neighbouring enqueues in one go, and answer each."""
    wanted: list[tuple[Envelope, AnyRequest, enqueues.Wanted]] = []
    for envelope, request in batch:
        try:
            if core.stopping:
                raise ShuttingDown(hint="start it again: queuectl broker start")
            jobs = _wanted(request)
            if core.disk_low:
                raise DiskFull(hint="free some space where the database is; running jobs and results are not affected")
            wanted.append((envelope, request, jobs))
        except QueuectlError as error:
            _refuse(turn, envelope, request, error)
    enqueues.store(core, turn, [jobs for _, _, jobs in wanted])
    for envelope, request, jobs in wanted:
        body = encode(jobs.answer())
        enqueues.note(turn, request.id, jobs)
        _keep(core, turn, request, body, answered)
        turn.reply(envelope, ok(request.id, body))


def _keep(core: State, turn: Turn, request: AnyRequest, body: bytes, answered: dict[str, StoredReply]) -> None:
    turn.replies.append((request.id, request.op, core.steady_wall_ms(turn.now), body))
    answered[request.id] = StoredReply(request.op, body)


def _refuse(turn: Turn, envelope: Envelope, request: AnyRequest, error: QueuectlError) -> None:
    turn.log("info", "request_refused", request_id=request.id, code=error.code, reason=error.message)
    turn.reply(envelope, failed(request.id, error))
