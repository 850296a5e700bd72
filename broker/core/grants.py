"""Who gets which job: leases for free credits, in the commit that also stored what made them possible.

Order: priority (higher first), then due time, then arrival, over all queues that a worker serves. Jobs go to
the least busy worker; leases beyond the free slots are given only once no slot is free anywhere.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import msgpack

from broker.core.memory import Kept, Lease, Session, policy_of
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import ALONE_FROM_LOSSES, Event, after
from broker.store.rows import CODES, STATES, Candidate
from queuectl.ids import lease_text
from queuectl.messages import Grant, Push

GRANTS_PER_TURN = 500
PUSH_CHARS = 512 * 1024  # commands and environments of one push; a worker takes messages of 4 MiB


def grant(core: State, turn: Turn) -> None:
    """Lease jobs to workers that have room, and push them after the commit."""
    core.grants_left = False
    if not core.ready or core.stopping:
        return
    groups: dict[frozenset[str], list[tuple[Session, int]]] = defaultdict(list)
    for session in core.sessions.values():
        if (room := session.room(turn.now.mono_ms)) > 0:
            groups[session.queues].append((session, room))
    for queues, group in groups.items():
        buckets = [bucket for bucket in sorted(core.ready) if not queues or core.queues[bucket] in queues]
        _grant_group(core, turn, buckets, group)


def _grant_group(core: State, turn: Turn, buckets: list[int], group: list[tuple[Session, int]]) -> None:
    wanted = min(GRANTS_PER_TURN, sum(room for _, room in group))
    chosen = _share_out(_candidates(core, buckets, wanted), group)
    if not chosen:
        return
    core.grants_left |= len(chosen) == GRANTS_PER_TURN
    rows = []
    pushes: dict[bytes, list[tuple[Lease, Candidate]]] = defaultdict(list)
    for session, candidate in chosen:
        lease = _lease(core, turn, session, candidate)
        rows.append((lease.lease, session.holder.worker.worker, int(lease.slot), turn.now.wall_ms, candidate.seq))
        pushes[session.route].append((lease, candidate))
    core.store.jobs.lease(rows)
    for route, leases in pushes.items():
        _push(core, turn, core.sessions[route], leases)


def _push(core: State, turn: Turn, session: Session, leases: list[tuple[Lease, Candidate]]) -> None:
    """Say it in as few messages as the size of a message allows."""
    grants: list[Grant] = []
    chars = 0
    for lease, candidate in leases:
        more = len(candidate.command) + len(candidate.env or b"")
        if grants and chars + more > PUSH_CHARS:
            session.pushes += 1
            turn.send(session.route, Push(session.number, session.pushes, grants))
            grants, chars = [], 0
        lease.push = session.pushes + 1
        grants.append(_grant(core, lease, candidate))
        chars += more
    session.pushes += 1
    turn.send(session.route, Push(session.number, session.pushes, grants))


def _candidates(core: State, buckets: list[int], limit: int) -> list[Candidate]:
    """The next jobs over these queues, in order. A queue that turns out to be empty is not asked again."""
    found: list[list[Candidate]] = []
    for bucket in buckets:
        plain = core.store.jobs.candidates(bucket, limit)
        alone = core.store.jobs.candidates(bucket, limit, alone=True)
        if not plain and not alone:
            core.ready.discard(bucket)
        found += [plain, alone]
    merged = heapq.merge(*found, key=lambda candidate: (-candidate.priority, candidate.run_at_ms, candidate.seq))
    return list(merged)[: limit + sum(1 for jobs in found for job in jobs if job.losses >= ALONE_FROM_LOSSES)]


def _share_out(candidates: list[Candidate], group: list[tuple[Session, int]]) -> list[tuple[Session, Candidate]]:
    """Each job to the least busy worker that may have it."""
    load = [(_load(session, 0), index, 0) for index, (session, _) in enumerate(group)]
    heapq.heapify(load)
    with_alone = {
        index
        for index, (session, _) in enumerate(group)
        if any(lease.alone for lease in session.holder.leases.values())
    }
    chosen: list[tuple[Session, Candidate]] = []
    for candidate in candidates:
        (no_slot_is_free, _), _, _ = load[0]
        if no_slot_is_free and candidate.on_lost == "dead":
            continue  # a lease ahead could be lost, and the job with it, for nothing
        is_alone = candidate.losses >= ALONE_FROM_LOSSES
        passed_over = []
        while load and is_alone and load[0][1] in with_alone:
            passed_over.append(heapq.heappop(load))
        if load:
            _, index, given = heapq.heappop(load)
            session, room = group[index]
            chosen.append((session, candidate))
            if is_alone:
                with_alone.add(index)
            if given + 1 < room:
                heapq.heappush(load, (_load(session, given + 1), index, given + 1))
        for entry in passed_over:
            heapq.heappush(load, entry)
        if not load:
            break
    return chosen


def _load(session: Session, given: int) -> tuple[bool, float]:
    """Free slots come before leases ahead, and the emptier worker before the fuller."""
    busy = len(session.holder.leases) + given
    return busy >= session.slots, busy / max(session.slots, 1)


def _lease(core: State, turn: Turn, session: Session, candidate: Candidate) -> Lease:
    number = core.chance.getrandbits(63)
    lease = Lease(
        lease=number,
        seq=candidate.seq,
        job=candidate.id,
        bucket=candidate.bucket,
        attempt=candidate.attempt + 1,
        attempts=candidate.attempts,
        losses=candidate.losses,
        slot=len(session.holder.leases) < session.slots,
        granted_at_ms=turn.now.wall_ms,
        run_at_ms=candidate.run_at_ms,
        policy=policy_of(candidate),
        holder=session.holder,
        output=Kept(candidate.seq, candidate.attempt + 1, candidate.output_limit, is_new=True),
        session=session.number,
    )
    core.leases[number] = session.holder.leases[number] = lease
    core.tally.move(candidate.bucket, candidate.state, CODES[after(STATES[candidate.state], Event.LEASE)])
    if core.verbose:
        _log_lease(turn, lease)
    return lease


def _log_lease(turn: Turn, lease: Lease) -> None:
    turn.log(
        "debug",
        "job_leased",
        job_id=lease.job,
        attempt=lease.attempt,
        lease_id=lease_text(lease.lease),
        worker_id=lease.holder.worker.name,
    )


def _grant(core: State, lease: Lease, candidate: Candidate) -> Grant:
    return Grant(
        lease=lease.lease,
        job=candidate.id,
        attempt=lease.attempt,
        max_retries=candidate.max_retries,
        queue=core.queues[candidate.bucket],
        command=candidate.command,
        env=msgpack.unpackb(candidate.env) if candidate.env is not None else None,
        cwd=candidate.cwd,
        timeout_ms=candidate.timeout_ms,
        output_limit=candidate.output_limit,
        keep_children=bool(candidate.keep_children),
    )
