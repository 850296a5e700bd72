"""What must hold between two turns, whatever has happened: store and memory agree, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from broker.core import Core

_ROWS = """
SELECT j.seq, j.id, j.bucket, j.state, j.ready, j.run_at_ms, j.attempt, j.attempts, j.losses, j.lease, j.worker,
       s.max_retries, (SELECT outcome FROM attempt a WHERE a.seq = j.seq AND a.attempt = j.attempt),
       (SELECT coalesce(max(attempt), 0) FROM attempt a WHERE a.seq = j.seq)
FROM job j LEFT JOIN spec s ON s.seq = j.seq"""

_ORPHANS = """
SELECT 'spec', seq FROM spec WHERE seq NOT IN (SELECT seq FROM job) UNION ALL
SELECT 'attempt', seq FROM attempt WHERE seq NOT IN (SELECT seq FROM job UNION SELECT seq FROM doomed) UNION ALL
SELECT 'output', seq FROM output WHERE seq NOT IN (SELECT seq FROM job UNION SELECT seq FROM doomed) UNION ALL
SELECT 'doomed', seq FROM doomed WHERE seq IN (SELECT seq FROM job)"""

_ENDING = "SELECT seq, signal, grace_ms, reason FROM cancellation ORDER BY seq"

_TAGGED = "SELECT seq, tags FROM spec WHERE tags IS NOT NULL"
_TAGS = "SELECT seq, key, value FROM tag"

# Waiting jobs, and when each is to be looked at.
_TIMES = """
SELECT id, until_ms, CASE WHEN attempt = 0 THEN expires_ms END, deadline_ms FROM job JOIN spec USING (seq)
WHERE ready <> 0 AND (until_ms IS NOT NULL OR expires_ms IS NOT NULL OR deadline_ms IS NOT NULL)"""

_LATER_MS = 2**62  # when every pause is over

_LAST = "SELECT (SELECT coalesce(max(seq), 0) FROM job), (SELECT coalesce(max(seq), 0) FROM doomed)"

_PIECES = """
SELECT o.seq, o.attempt, o.stream, o.offset, length(o.data), s.output_limit
FROM output o JOIN spec s ON s.seq = o.seq ORDER BY o.seq, o.attempt, o.stream, o.offset"""


def find_broken(core: Core) -> list[str]:
    """What does not hold, in words; empty if all is well."""
    return [
        *_broken_jobs(core),
        *_broken_leases(core),
        *_broken_sessions(core),
        *_broken_rooms(core),
        *_broken_books(core),
        *_broken_output(core),
        *_broken_wishes(core),
    ]


def _query(core: Core, sql: str) -> list[tuple[Any, ...]]:
    return core.store._db.query(sql)


def _broken_jobs(core: Core) -> Iterator[str]:
    max_losses = core.settings["max_losses"]
    assert isinstance(max_losses, int)
    for row in _query(core, _ROWS):
        _, name, bucket, state, ready, run_at_ms, attempt, attempts, losses, _, _, max_retries, outcome, last = row
        if max_retries is None:
            yield f"{name} has no spec"
            continue
        if (ready == 0) != (state in (1, 2, 4, 5)):
            yield f"{name}: state {state} with ready {ready}"
        if ready in (1, 3) and bucket not in core.ready:
            yield f"{name} is ready, and nobody looks at its queue"
        if ready == 3 and bucket not in core.suspects:
            yield f"{name} is ready alone, and nobody looks for it"
        if ready == 2 and (core.next_due_ms is None or core.next_due_ms > run_at_ms):
            yield f"{name} is due at {run_at_ms}, and nobody wakes up for it"
        if attempts > max(1, max_retries) or (state == 3 and attempts >= max_retries):
            yield f"{name}: {attempts} attempts of {max_retries} in state {state}"
        if losses > max_losses:
            yield f"{name}: {losses} losses of {max_losses}"
        if last > attempt:
            yield f"{name}: attempt {last} is in the history, and only {attempt} were started"
        if state == 1 and outcome is not None:
            yield f"{name} runs attempt {attempt}, which is over: {outcome}"
        if state == 2 and outcome != "completed":
            yield f"{name} is completed, its last attempt {outcome}"


def _broken_leases(core: Core) -> Iterator[str]:
    stored = {row[9]: row for row in _query(core, f"{_ROWS} WHERE j.state = 1")}
    if stored.keys() != core.leases.keys():
        yield f"leases: stored {sorted(stored)}, in memory {sorted(core.leases)}"
    for number, lease in core.leases.items():
        if (row := stored.get(number)) is not None:
            mirrored = (lease.seq, lease.job, lease.bucket, lease.attempt, lease.attempts, lease.losses)
            if mirrored != (row[0], row[1], row[2], row[6], row[7], row[8]):
                yield f"lease {number}: stored {row}, in memory {mirrored}"
            if row[10] != lease.holder.worker.worker:
                yield f"lease {number}: stored worker {row[10]}, in memory {lease.holder.worker.worker}"
        if lease.holder.leases.get(number) is not lease:
            yield f"lease {number} is not among its holder's"
    held = sum(len(holder.leases) for holder in core.holders.values())
    if held != len(core.leases):
        yield f"holders hold {held} leases, there are {len(core.leases)}"


def _broken_sessions(core: Core) -> Iterator[str]:
    for route, session in core.sessions.items():
        if session.route != route or session.holder.session is not session:
            yield f"the session at {route!r} is not its holder's"
        if core.holders.get(session.holder.worker.boot) is not session.holder:
            yield f"the holder of the session at {route!r} is unknown"
    for boot, holder in core.holders.items():
        if holder.worker.boot != boot:
            yield f"{boot} is the boot of {holder.worker.boot}"
        if holder.session is not None and core.sessions.get(holder.session.route) is not holder.session:
            yield f"{boot} has a session that is not open"
        if holder.stop != core.stop_of(holder.worker):
            yield f"{boot} was told to stop ({holder.stop}), and that is not what is remembered"
    if forgotten := {row.worker for row in core.store.ledger.stops()} - core.stops.keys():
        yield f"the store has workers that were told to stop, and memory has not: {forgotten}"


def _broken_rooms(core: Core) -> Iterator[str]:
    """Who is said to have room has it, unless it has been touched since or waits for the end of a pause."""
    unsettled = core.rooms._touched.keys() | core.rooms._paused.keys()
    if gone := unsettled - {session.number for session in core.sessions.values()}:
        yield f"sessions {sorted(gone)} are over, and somebody waits for them"
    for session in core.sessions.values():
        room = max(0, session.room(_LATER_MS))
        if session.number not in unsettled and session.credit != room:
            yield f"session {session.number} has room for {room}, and passes for one with {session.credit}"
        if (session.credit > 0) != (session.place is not None):
            yield f"session {session.number} has room for {session.credit} at place {session.place}"
    for group in core.rooms._groups.values():
        members = [session for session in core.sessions.values() if session.queues == group.queues]
        if (group.members, group.room) != (len(members), sum(session.credit for session in members)):
            yield f"a group of {group.members} with room for {group.room} has {len(members)} sessions"


def _broken_books(core: Core) -> Iterator[str]:
    counted = {
        (bucket, state): n for bucket, state, n in _query(core, "SELECT bucket, state, count(*) FROM job GROUP BY 1, 2")
    }
    stored = {key: jobs for key, jobs in core.store.ledger.tallies().items() if jobs}
    in_memory = {key: jobs for key, jobs in core.tally._jobs.items() if jobs}
    if not counted == stored == in_memory:
        yield f"tallies: counted {counted}, stored {stored}, in memory {in_memory}"
    facts = core.store.ledger.facts()
    [(last_seq, last_doomed)] = _query(core, _LAST)
    if not last_doomed < max(facts.get("next_seq", 1), last_seq + 1) <= core.next_seq:
        yield f"next_seq: {core.next_seq} in memory, {facts.get('next_seq')} stored, {last_seq}, {last_doomed} used"
    [(kept,)] = _query(core, "SELECT coalesce(sum(length(data)), 0) FROM output")
    if not kept == core.output_bytes == facts.get("output_bytes", 0):
        yield f"output: {kept} bytes kept, {core.output_bytes} in memory, {facts.get('output_bytes')} stored"
    for table, seq in _query(core, _ORPHANS):
        yield f"{table} of job {seq}, which is gone"


def _broken_output(core: Core) -> Iterator[str]:
    ends: dict[tuple[int, ...], int] = {}
    sizes: dict[tuple[int, ...], int] = {}
    for seq, attempt, stream, offset, length, limit in _query(core, _PIECES):
        key = (seq, attempt, stream)
        if offset < ends.get(key, 0):
            yield f"output of {key} overlaps at {offset}"
        ends[key] = offset + length
        sizes[key] = sizes.get(key, 0) + length
        if sizes[key] > limit:
            yield f"output of {key}: {sizes[key]} bytes, the limit is {limit}"


def _broken_wishes(core: Core) -> Iterator[str]:
    """What people chose of jobs, and what they want to end."""
    ending = _query(core, _ENDING)
    told = sorted((lease.seq, *lease.cancel) for lease in core.leases.values() if lease.cancel is not None)
    if ending != told:
        yield f"running jobs that are to end: stored {ending}, in memory {told}"
    chosen = {
        (seq, key, value)
        for seq, packed in _query(core, _TAGGED)
        for key, given in msgpack.unpackb(packed).items()
        for value in (given, "")
    }
    found = set(_query(core, _TAGS))
    if chosen != found:
        yield f"tags that nobody can look for: {chosen - found}; tags of no job: {found - chosen}"
    for name, until_ms, *limits in _query(core, _TIMES):
        due_ms = min((limit for limit in limits if limit is not None), default=None)
        if due_ms is not None and (until_ms is None or until_ms > due_ms):
            yield f"{name} has time until {due_ms}, and is looked at by {until_ms}"
        if until_ms is not None and (core.next_until_ms is None or core.next_until_ms > until_ms):
            yield f"{name} is to be looked at by {until_ms}, and nobody wakes up for it"
