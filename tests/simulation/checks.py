"""What must hold, read from the store itself after every turn that wrote or spoke, and after every death.

What the broker has said to anybody is noted as it leaves, and has to be found in the store: at once, and again
after each crash. What the broker records of an attempt is held against what its command truly did.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgpack

from broker.core.operations import OPERATIONS
from broker.lifecycle import TRANSITIONS, Event
from broker.store.rows import STATES
from queuectl.jobs import TERMINAL, JobState
from tests.invariants import find_broken
from tests.simulation.diary import Diary
from tests.simulation.network import WORKERS, Line
from tests.simulation.tape import Violation
from tests.simulation.wishes import Reply, Wishes

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.processes import Process

JOBS = "SELECT seq, id, state, ready, attempt, attempts, losses, lease, reason, unique_key, finished_at_ms FROM job"
REPLIES = "SELECT reply, id, op, body FROM reply WHERE reply > ? ORDER BY reply"
REVOKED = "SELECT key, name FROM access_key WHERE revoked_at_ms IS NOT NULL"
SPEC = "SELECT on_lost, retry_of FROM spec WHERE seq = ?"
ENDED = "SELECT attempt, outcome, exit_code, signal FROM attempt WHERE seq = ? AND lease = ?"
HISTORY = "SELECT seq, attempt, lease, outcome, exit_code, signal FROM attempt"

EVERY = 16  # turns that wrote, between two looks at everything
UNHEARD = frozenset({"lost", "released"})  # outcomes that no worker reported


class Row(NamedTuple):
    """A job as it stands in the store."""

    seq: int
    id: str
    state: int
    ready: int
    attempt: int
    attempts: int
    losses: int
    lease: int | None
    reason: str | None
    unique_key: str | None
    finished_at_ms: int | None


class Granted(NamedTuple):
    """A lease that was pushed."""

    job: str
    attempt: int
    at_ms: int
    seq: int


class Wanted(NamedTuple):
    """Why there is a new job: what was asked for, and where; or the job that it runs again."""

    place: tuple[str, object]  # in a request
    spec: dict[str, Any]
    retry_of: str | None = None


def _wanted(replies: list[Reply]) -> dict[str, Wanted]:
    """By its id, why each job that these replies are about was made."""
    wanted: dict[str, Wanted] = {}
    for asked, data in replies:
        if asked.op == "enqueue":
            found = data.get("found", ())
            for index, job in enumerate(data["ids"]):
                if job is not None and index not in found:
                    wanted[job] = Wanted((asked.id, index), asked.args["jobs"][index])
        for old, copy in data.get("copies", {}).items():
            wanted[copy] = Wanted((asked.id, old), {}, old)
    return wanted


def _reach() -> dict[JobState, frozenset[JobState]]:
    """Where a job may be some moves later, without help from a person."""
    reach = {}
    for start in JobState:
        seen: set[JobState] = set()
        edge = {start}
        while edge:
            edge = {
                after
                for (before, event), after in TRANSITIONS.items()
                if before in edge and event is not Event.REVIVE and after not in seen
            }
            seen |= edge
        reach[start] = frozenset(seen)
    return reach


REACH = _reach()


class Checks:
    """Holds what was said against what is stored."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connection = cluster.broker.connection
        self.wishes = Wishes(cluster, self.fail)
        self.diary = Diary(cluster, self.fail)
        self._changes = -1
        self._looks = 0
        self.rows: dict[int, Row] = {}
        self.standing: Counter[str] = Counter()  # jobs in each state
        self._carried_out: set[tuple[str, object]] = set()  # places in requests, each of which stands for one job
        self._gone: set[int] = set()  # deleted jobs
        self._seq_of: dict[str, int] = {}
        self._on_lost: dict[str, str] = {}
        self._replies: dict[str, bytes] = {}  # stored
        self._last_reply = 0
        self._heard_reply = 0
        self._revoked: set[int] = set()
        self._revived_ms: dict[str, int] = {}
        self._said: list[tuple[str, Any]] = []
        self._acknowledged: dict[str, Any] = {}  # request id → what its reply said
        self._granted: dict[int, Granted] = {}  # by lease
        self._recorded: set[int] = set()  # leases whose result a worker was told is recorded
        self._history: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._outcomes: dict[int, str] = {}  # lease → what a worker reported of it
        self.told_to_stop: set[str] = set()  # names of workers, where that could be stored

    def fail(self, text: str) -> NoReturn:
        """A promise was broken."""
        self._cluster.tape.note("checks", "VIOLATION", text)
        raise Violation(f"seed {self._cluster.plan.seed} at {self._cluster.timeline.now_ms} ms: {text}")

    @property
    def is_unfinished(self) -> bool:
        """Whether a job has still to come to its end."""
        return any(self.standing[state.value] for state in JobState if state not in TERMINAL)

    def by_state(self) -> dict[JobState, list[str]]:
        """The ids of the jobs that are in each state."""
        jobs: dict[JobState, list[str]] = {}
        for row in self.rows.values():
            jobs.setdefault(STATES[row.state], []).append(row.id)
        return jobs

    # --- what is said --------------------------------------------------------------------------------

    def on_send(self, line: Line, body: bytes) -> None:
        """The broker says something."""
        message = msgpack.unpackb(body)
        if line.door == WORKERS:
            if message[0] in ("push", "recorded"):
                self._said.append((message[0], message[2:]))
        elif "ok" in message:
            self._said.append(("reply", message))

    def _verify(self) -> None:
        said, self._said = self._said, []
        for kind, about in said:
            _VERIFY[kind](self, about)

    def _verify_push(self, about: Any) -> None:
        for grant in about[1]:
            lease, job, attempt, *_ = grant
            row = self.rows.get(self._seq_of.get(job, 0))
            if row is None or (row.lease, row.attempt, row.state) != (lease, attempt, 1):
                self.fail(f"lease {lease} of {job}/{attempt} was pushed, the store has {row}")
            self._granted[lease] = Granted(job, attempt, self._cluster.timeline.now_ms, row.seq)
            self.wishes.on_push(row.seq, grant)

    def _verify_recorded(self, about: Any) -> None:
        for lease, verdict in about[0]:
            if verdict == "recorded":
                self._recorded.add(lease)
                self._expect_recorded(lease)

    def _expect_recorded(self, lease: int) -> None:
        job, attempt, _, seq = self._granted.get(lease, Granted("?", 0, 0, 0))
        if seq in self._gone:
            return
        ended = self._connection.ask(ENDED, (seq, lease))
        if len(ended) != 1 or ended[0][0] != attempt or ended[0][1] in UNHEARD:
            self.fail(f"the result of {job}/{attempt} was recorded, as its worker was told; the store has {ended}")

    def _verify_reply(self, about: Any) -> None:
        asked = self._cluster.asked.get(about["id"])
        if asked is None:
            self.fail(f"a reply to a request that nobody made: {about['id']}")
        elif asked.op == "worker_stop":
            core = self._cluster.broker.core
            if core is not None and not core.storage_full:
                self.told_to_stop |= set(about["ok"]["workers"])
        elif OPERATIONS[asked.op].changes and not asked.args.get("dry"):  # what is only tried may differ each time
            before = self._acknowledged.setdefault(asked.id, about["ok"])
            if before != about["ok"]:
                self.fail(f"{asked.id} was answered in two ways: {before} and {about['ok']}")
            self._expect_stored(asked.id)

    def _expect_stored(self, request_id: str) -> None:
        told = self._acknowledged[request_id]
        stored = self._replies.get(request_id)
        if stored is None or msgpack.unpackb(stored) != told:
            self.fail(f"{request_id} was answered with {told}, and the store has {stored!r}")
        for job in told.get("ids", ()):
            if job is not None and job not in self._seq_of and job not in self.wishes.deleted:
                self.fail(f"{job} was acknowledged to {request_id}, and is not in the store")

    # --- what is stored --------------------------------------------------------------------------------

    def on_turn(self) -> None:
        """Between two turns."""
        if self._changes != self._connection.changes:
            self._look()
            self._looks += 1
            if self._looks % EVERY == 0:
                self.look_at_everything()
        if self._said:
            self._verify()

    def on_down(self) -> None:
        """The broker has died: all that it ever said is in the store."""
        self._changes = -1
        self._replies.clear()
        self._last_reply = 0
        self._look()
        self._verify()
        self.look_at_everything()

    def _look(self) -> None:
        self._changes = self._connection.changes
        self._look_at_keys()
        rows = {row[0]: Row(*row) for row in self._connection.ask(JOBS)}
        replies = self._look_at_replies()
        changed = [(self.rows.get(row.seq), row) for row in rows.values() if self.rows.get(row.seq) != row]
        reused = {row.seq for before, row in changed if before is None and row.id in self._seq_of}
        wanted = _wanted(replies)
        for before, row in changed:
            if before is None:
                self._on_new(row, wanted.get(row.id))
        self.wishes.hear(replies, rows, self._seq_of, reused)
        revived = {job for asked, data in replies if asked.op in ("dlq_retry", "retry") for job in data["ids"]}
        for before, row in changed:
            if before is not None:
                self._on_change(before, row, revived)
            self.wishes.on_move(before, row, rows)
        if changed:
            self._expect_unique(rows)
        self._gone |= self.rows.keys() - rows.keys()
        self.wishes.on_looked(rows)
        self.diary.read(rows)
        self.rows = rows
        self.standing = Counter(STATES[row.state].value for row in rows.values())

    def _look_at_keys(self) -> None:
        """A revoked key costs its worker all that it holds: noted when it has come about."""
        revoked = dict(self._connection.ask(REVOKED))
        for key in revoked.keys() - self._revoked:
            self._cluster.faults.note("key_revoked", revoked[key])
        self._revoked = set(revoked)

    def _look_at_replies(self) -> list[Reply]:
        """What was stored since the last look, or since the broker died."""
        replies: list[Reply] = []
        for number, request_id, _, body in self._connection.ask(REPLIES, (self._last_reply,)):
            if number > self._heard_reply:
                self._heard_reply = number
                replies.append(Reply(self._cluster.asked[request_id], msgpack.unpackb(body)))
            self._last_reply = number
            self._replies[request_id] = body
        return replies

    def _expect_unique(self, rows: dict[int, Row]) -> None:
        keys = [row.unique_key for row in rows.values() if row.unique_key and row.finished_at_ms is None]
        if len(keys) != len(set(keys)):
            self.fail(f"two jobs that are not over share a key: {sorted(keys)}")

    def _on_new(self, row: Row, wanted: Wanted | None) -> None:
        [(on_lost, retry_of)] = self._connection.ask(SPEC, (row.seq,))
        if wanted is None or wanted.retry_of != retry_of or wanted.spec.get("id", row.id) != row.id:
            self.fail(f"{row.id} was enqueued by nobody: {wanted}")
        if wanted.place in self._carried_out:
            self.fail(f"{wanted.place} was asked for once and stored twice")
        self._carried_out.add(wanted.place)
        self._seq_of[row.id] = row.seq
        self._on_lost[row.id] = on_lost
        self.wishes.on_new(row, wanted.spec)

    def _on_change(self, before: Row, row: Row, revived: set[str]) -> None:
        state, was = STATES[row.state], STATES[before.state]
        if row.id in revived:
            self._revived_ms[row.id] = self._cluster.timeline.now_ms
            if was is JobState.DEAD:
                was = JobState.PENDING
        if was in TERMINAL or (state is not was and state not in REACH[was]):
            self.fail(f"{row.id} went from {before} to {row}")
        if before.lease is not None and row.lease != before.lease:
            self._on_ended(before, row, revived)
        elif row.attempt < before.attempt:
            self.fail(f"{row.id}: the number of attempts shrank from {before} to {row}")

    def _on_ended(self, before: Row, row: Row, revived: set[str]) -> None:
        """A lease is over, or the job has gone on without it."""
        assert before.lease is not None
        process = self._cluster.processes.by_lease.get(before.lease)
        ended = self._connection.ask(ENDED, (row.seq, before.lease))
        if not ended:
            if process is not None and not self._is_garbled(process):
                self.fail(f"{row.id}/{before.attempt} had been started, and nothing is recorded of it: {row}")
            if row.attempt not in (before.attempt, before.attempt - 1):
                self.fail(f"{row.id}: an attempt that never started counts: {before}, {row}")
            return
        attempt, outcome, exit_code, number = ended[0]
        if attempt != before.attempt or row.attempt < attempt:
            self.fail(f"{row.id}: the lease of {before} ended attempt {attempt}, now {row}")
        if outcome == "lost":
            self._expect_cause(process, f"{row.id}/{attempt} is given up as lost")
        if outcome in UNHEARD:
            return
        self._outcomes[before.lease] = outcome
        self.wishes.on_result(row, outcome, exit_code, number, is_revived=row.id in revived)
        if outcome == "cancelled":
            self._expect_no_success(row.id, process)
        elif outcome != "spawn_error":
            self._hold_against_truth(row.id, before.lease, process, exit_code, number)

    def _expect_no_success(self, job: str, process: Process | None) -> None:
        """What had not started has no end to tell; what had succeeded by itself was not cancelled."""
        if process is not None:
            self._hold_against_truth(job, process.grant.lease, process, process.exit_code, process.signal)
            if process.exit_code == 0 and not process.is_told:
                self.fail(f"{job} was a success before it was told to end, and is cancelled: {process}")

    def _hold_against_truth(
        self, job: str, lease: int, process: Process | None, exit_code: int | None, number: int | None
    ) -> None:
        if process is None or process.ended_ms is None:
            self.fail(f"{job}: a result is recorded of lease {lease}, whose command has not ended: {process}")
        elif (process.exit_code, process.signal) != (exit_code, number):
            self.fail(f"{job}: recorded {exit_code}, {number} of {process}")

    # --- everything, now and then ------------------------------------------------------------------------

    def look_at_everything(self) -> None:
        """What is too much for every turn."""
        history = {(seq, attempt): tuple(rest) for seq, attempt, *rest in self._connection.ask(HISTORY)}
        for key, ended in self._history.items():
            if history.get(key) != ended and ended[1] != "lost" and key[0] not in self._gone:
                self.fail(f"the history of {key} was {ended}, and is {history.get(key)}")
        self._history = history
        for (seq, attempt), about in history.items():
            if seq in self.rows:
                heard = self.diary.finished(self.rows[seq].id, attempt)
                if heard != (None if about[1] in UNHEARD else about[1:]):
                    self.fail(f"{self.rows[seq].id}/{attempt} ended as {about}, and by the feed with {heard}")
        self.diary.compare_deeds()
        for lease in sorted(self._recorded):
            self._expect_recorded(lease)
        for request_id in self._acknowledged:
            self._expect_stored(request_id)
        core = self._cluster.broker.core
        if core is not None and (broken := find_broken(core)):
            self.fail("; ".join(broken))

    # --- what runs ------------------------------------------------------------------------------------------

    def on_start(self, process: Process) -> None:
        """A command is about to be started."""
        grant = process.grant
        if grant.lease in self._cluster.processes.by_lease:
            self.fail(f"lease {grant.lease} of {grant.job} starts a second command")
        if grant.lease in self._outcomes:
            self.fail(f"lease {grant.lease} of {grant.job} starts a command, and its end is told already")
        seq = self._granted[grant.lease].seq
        self._expect_open(process, seq)
        for earlier in self._cluster.processes.by_job.get(grant.job, ()):
            if self._granted[earlier.grant.lease].seq != seq:
                continue  # of a job that is deleted, whose name this one has
            if earlier.ended_ms is None:
                self._on_overlap(earlier, process)
            if earlier.grant.attempt == grant.attempt and not self._is_garbled(earlier):
                self.fail(f"{grant.job}/{grant.attempt} is started twice: {earlier}, {process}")
            if self._on_lost.get(grant.job) == "dead":
                self._expect_known(earlier, process)

    def _expect_open(self, process: Process, seq: int) -> None:
        """A job that is over is started no more, but by a worker that could not know."""
        row = self.rows.get(seq)
        since_ms = self._granted[process.grant.lease].at_ms - 2 * self._cluster.plan.lease_ms
        if (row is None or STATES[row.state] in TERMINAL) and not self._causes(process, since_ms):
            self.fail(f"{process.grant.job} is over, and is started: {row}, {process}")

    def _expect_known(self, earlier: Process, process: Process) -> None:
        """A job that must not run twice is started again only by a person, or when its end was recorded.

        A worker that was held up may start what it was given before a person decided that it was lost.
        """
        lease = earlier.grant.lease
        revived_ms = self._revived_ms.get(process.grant.job, -1)
        granted_ms = self._granted[process.grant.lease].at_ms
        if granted_ms < revived_ms and self._causes(process, granted_ms - 2 * self._cluster.plan.lease_ms):
            return
        if lease not in self._outcomes and revived_ms < self._granted[lease].at_ms and not self._is_garbled(earlier):
            self.fail(f"{process.grant.job} must not run twice: {earlier}, and now {process}")

    def _on_overlap(self, earlier: Process, process: Process) -> None:
        """Two commands of one job at one time: only if a fault kept a worker from being heard, or from hearing.

        Mostly that of the first one. But one that was paused starts what had waited before it hears that this is lost.
        """
        text = f"two commands of one job run: {earlier}, {process}"
        late = self._causes(process, self._granted[process.grant.lease].at_ms - 2 * self._cluster.plan.lease_ms)
        cause = max(late, key=SEPARATING.index) if late else self._expect_cause(earlier, text)
        self._cluster.overlaps[cause] += 1

    def _is_garbled(self, process: Process) -> bool:
        """Whether messages of its worker went astray on a line that stayed up, which ZeroMQ over TCP does not do.

        Then a report may be missing that nobody misses, and a run that was given back seem never to have begun.
        """
        return bool(self._causes(process) & {"message_dropped", "message_reordered"})

    def _causes(self, process: Process, since_ms: int | None = None) -> set[str]:
        """What befell its worker since then; else since two leases before it started."""
        machine = self._cluster.machine_of(process.boot)
        if since_ms is None:
            since_ms = process.started_ms - 2 * self._cluster.plan.lease_ms
        return {
            strike.kind
            for strike in self._cluster.faults.strikes
            if strike.at_ms >= since_ms and strike.kind in SEPARATING and strike.whom in (machine.name, "everywhere")
        }

    def _expect_cause(self, process: Process | None, text: str) -> str:
        """The likeliest fault for which a command's lease could be lost. Without one, it must not be."""
        if process is None:
            return "never started"
        causes = self._causes(process)
        if not causes:
            self.fail(f"{text}, and nothing explains it")
        return max(causes, key=SEPARATING.index)


_VERIFY = {"push": Checks._verify_push, "recorded": Checks._verify_recorded, "reply": Checks._verify_reply}

# Faults that may cost a worker its leases, or their commands their lives, the likeliest cause last. None of the
# broker's own is among them: however it dies, hangs or runs out of disk, that alone costs no job anything.
SEPARATING = [
    "message_delayed",
    "message_doubled",
    "message_reordered",
    "message_dropped",
    "connection_reset",
    "guardian_killed",
    "worker_paused",
    "worker_killed",
    "worker_stopped",  # two requests are one to stop at once
    "worker_stopped_now",
    "workers_told_to_stop",
    "worker_and_guards_killed",
    "power_lost",
    "partition_to_broker",
    "partition_from_broker",
    "partition",
    "key_revoked",
]
