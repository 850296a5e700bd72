"""Who gets which job: leases for free credits, in the commit that also stored what made them possible.

Order: priority (higher first), then due time, then arrival, over all queues that a worker serves. Jobs go to
the least busy worker; leases beyond the free slots are given only once no slot is free anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgpack

from broker.core import feed
from broker.core.lines import next_jobs
from broker.core.memory import Lease, Session, policy_of
from broker.core.rooms import Group
from broker.core.state import State
from broker.core.turn import Turn
from broker.lifecycle import ALONE_FROM_LOSSES, TRANSITIONS, Event
from broker.store.rows import CODES, Candidate
from queuectl.ids import lease_text
from queuectl.messages import Grant, Push

GRANTS_PER_TURN = 500
_LEASED = {CODES[state]: CODES[following] for (state, event), following in TRANSITIONS.items() if event is Event.LEASE}
PUSH_CHARS = 512 * 1024  # commands and environments of one push; a worker takes messages of 4 MiB


def grant(core: State, turn: Turn) -> None:
    """Lease jobs to workers that have room, and push them after the commit."""
    core.grants_left = False
    if not core.ready or core.stopping:
        return
    for group in core.rooms.groups(turn.now.mono_ms):
        buckets = [bucket for bucket in sorted(core.ready) if group.queues.has(core.queues[bucket])]
        limit = min(GRANTS_PER_TURN, group.room)
        jobs, is_all = next_jobs(core, buckets, limit)
        granted = _grant_group(core, turn, group, jobs) if jobs else 0
        if is_all and granted == len(jobs):
            core.ready.difference_update(buckets)
        elif granted >= GRANTS_PER_TURN or (granted and not is_all and len(jobs) < limit):
            core.grants_left = True


def _grant_group(core: State, turn: Turn, group: Group, candidates: list[Candidate]) -> int:
    """Lease what may be leased; how many that were."""
    rows = []
    pushes: dict[bytes, list[tuple[Lease, Candidate]]] = defaultdict(list)
    now_ms = turn.now.wall_ms
    in_time = [job for job in candidates if job.until_ms is None or job.until_ms > now_ms]  # the others end next
    for session, candidate in _share_out(group, in_time):
        lease = _lease(core, turn, session, candidate)
        group.put(session, session.credit - 1)
        rows.append((lease.lease, session.holder.worker.worker, int(lease.slot), turn.now.wall_ms, candidate.seq))
        pushes[session.route].append((lease, candidate))
    core.store.jobs.lease(rows)
    for route, leases in pushes.items():
        _push(core, turn, core.sessions[route], leases)
    return len(rows)


def _share_out(group: Group, candidates: list[Candidate]) -> Iterator[tuple[Session, Candidate]]:
    """Each job to the least busy worker that may have it; the caller leases it before it asks for the next."""
    for candidate in candidates:
        is_suspect = candidate.losses >= ALONE_FROM_LOSSES
        session = group.least_busy_without_suspect() if is_suspect else group.least_busy()
        if session is None:
            if is_suspect:
                continue
            return
        if candidate.on_lost == "dead" and len(session.holder.leases) >= session.slots:
            continue  # a lease ahead could be lost, and the job with it, for nothing
        yield session, candidate


def _push(core: State, turn: Turn, session: Session, leases: list[tuple[Lease, Candidate]]) -> None:
    """Say it in as few messages as the size of a message allows."""
    grants: list[Grant] = []
    chars = 0
    for lease, candidate in leases:
        size = candidate.size
        if grants and chars + size > PUSH_CHARS:
            session.pushes += 1
            turn.send(session.route, Push(session.number, session.pushes, grants))
            grants, chars = [], 0
        lease.push = session.pushes + 1
        grants.append(_grant(core, turn, lease, candidate))
        chars += size
    session.pushes += 1
    turn.send(session.route, Push(session.number, session.pushes, grants))


def _lease(core: State, turn: Turn, session: Session, candidate: Candidate) -> Lease:
    number = core.chance.getrandbits(63)
    holder = session.holder
    lease = Lease(
        lease=number,
        seq=candidate.seq,
        job=candidate.id,
        bucket=candidate.bucket,
        attempt=candidate.attempt + 1,
        attempts=candidate.attempts,
        losses=candidate.losses,
        slot=len(holder.leases) < session.slots,
        granted_at_ms=turn.now.wall_ms,
        run_at_ms=candidate.run_at_ms,
        policy=policy_of(candidate),
        holder=holder,
        output_limit=candidate.output_limit,
        is_new=True,
        session=session.number,
        deadline_ms=candidate.deadline_ms,
        until_ms=candidate.until_ms,
    )
    core.leases[number] = holder.leases[number] = lease
    if core.waiters:
        turn.written.add(candidate.seq)  # who reads the attempt before this one has read all of it
    core.tally.move(candidate.bucket, candidate.state, _LEASED[candidate.state])
    turn.note(feed.LEASED, lease.job, lease.attempt, holder.worker.worker)
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


def _grant(core: State, turn: Turn, lease: Lease, candidate: Candidate) -> Grant:
    return Grant(
        lease=lease.lease,
        job=candidate.id,
        attempt=lease.attempt,
        max_retries=candidate.max_retries,
        queue=core.queues[candidate.bucket],
        command=candidate.command,
        env=msgpack.unpackb(candidate.env) if candidate.env is not None else None,
        cwd=candidate.cwd,
        timeout_ms=_longest_run_ms(turn, candidate),
        output_limit=candidate.output_limit,
        keep_children=bool(candidate.keep_children),
        stdin=candidate.stdin,
    )


def _longest_run_ms(turn: Turn, candidate: Candidate) -> int | None:
    """How long the attempt may take: a deadline is not passed by the attempt that it finds running."""
    if candidate.deadline_ms is None:
        return candidate.timeout_ms
    left_ms = max(1, candidate.deadline_ms - turn.now.wall_ms)
    return left_ms if candidate.timeout_ms is None else min(left_ms, candidate.timeout_ms)
