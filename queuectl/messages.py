"""What broker and worker say to each other: one struct a message, one union a direction.

Every message is a msgpack array that starts with its name. After WELCOME every message of either side
carries the session number, because ZeroMQ reconnects silently and what was meant for an older session
may surface in a newer one. docs/protocol.md tells the rules; the fields are said here.

A lease id is a random 63-bit integer. Held leases are named in every heartbeat, and the broker answers
with what to drop: so a lost push, a lost cancel and a zombie heal by themselves (anti-entropy).
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

LeaseId = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=256)]
Boot = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Instant = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]  # milliseconds UTC, to the end of the year 9999
Offset = Annotated[int, Meta(ge=0, le=2**62)]  # of a byte; what follows it must be a Count, too
Small = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
CHUNK_BYTES_MAX = 64 * 1024
Chunk = Annotated[bytes, Meta(max_length=CHUNK_BYTES_MAX)]
Stream = Annotated[int, Meta(ge=1, le=2)]  # 1 stdout, 2 stderr
STDOUT, STDERR = 1, 2


class _Message(msgspec.Struct, array_like=True, frozen=True):
    pass


# --- worker → broker ---------------------------------------------------------------------------


class Held(_Message, frozen=True):
    """A lease that a worker still has: its job is queued, running, or done and not yet recorded."""

    lease: LeaseId
    job: Text
    attempt: Count
    done: bool  # the command has ended; its result waits


class Hello(_Message, frozen=True, tag="hello"):
    """First message on a new socket, repeated each second until WELCOME or REFUSE; idempotent for one boot."""

    version_min: Count  # oldest version of the protocol that it speaks
    version_max: Count  # newest
    boot: Boot  # random per process start; leases belong to it
    home: Text  # which worker home on that host
    host: Text  # name of its machine
    pid: Count  # its process id there
    slots: Annotated[int, Meta(ge=0, le=4096)]  # jobs it runs at once
    queues: list[Text]  # empty: all queues
    software: Text  # version of queuectl
    draining: bool  # it takes nothing new
    held: list[Held]  # all leases of this boot, and of dead boots whose results it has
    broker: Text  # id of the broker that its held leases come from; "" if none
    n: Count  # number of this HELLO of the boot, from 1: an older one that comes late is ignored


class Beat(_Message, frozen=True, tag="beat"):
    """Sign of life, every heartbeat: renews exactly the leases it names."""

    session: Count
    n: Count  # number of this beat in the session
    received: Count  # highest push sequence number seen in this session
    held: list[LeaseId]  # queued or running
    done: list[LeaseId]  # finished, result not yet recorded
    draining: bool  # it takes nothing new


class Result(_Message, frozen=True):
    """How an attempt ended. Sent again until the broker says `recorded` or `stale`."""

    lease: LeaseId
    job: Text
    attempt: Count
    outcome: Text  # a word of queuectl.jobs.Outcome
    exit_code: Small | None  # null if it was ended by a signal or did not start
    signal: Small | None  # that ended it
    started_at_ms: Instant  # worker's clock
    duration_ms: Count  # how long it ran
    stdout_bytes: Count  # all that the command wrote, kept or not
    stderr_bytes: Count
    last_line: Annotated[str, Meta(max_length=512)]  # of stderr, or of stdout if stderr is empty
    note: Annotated[str, Meta(max_length=512)]  # in words: spawn error, what was left running …


class Results(_Message, frozen=True, tag="results"):
    """Results of one or more attempts."""

    session: Count
    results: Annotated[list[Result], Meta(max_length=1000)]  # one or more


class Piece(_Message, frozen=True):
    """A piece of output. `offset` counts all bytes the command wrote to the stream; a jump is a gap of that size."""

    lease: LeaseId
    job: Text
    attempt: Count
    stream: Stream
    offset: Offset  # place of its first byte in the stream
    data: Chunk  # the bytes, not text


class Output(_Message, frozen=True, tag="output"):
    """Pieces of output, within the byte credit of the session."""

    session: Count
    pieces: Annotated[list[Piece], Meta(max_length=1000)]  # in order, for each stream


class Returned(_Message, frozen=True):
    """A lease given back before the job had run to an end; costs nothing unless `lost`, or `on_lost` is dead."""

    lease: LeaseId
    reason: Text  # draining | busy | stopped | worker_fault | lost


class Release(_Message, frozen=True, tag="release"):
    """Leases given back: the jobs are pending again at once."""

    session: Count
    leases: Annotated[list[Returned], Meta(max_length=10_000)]  # those given back


class Gone(_Message, frozen=True, tag="gone"):
    """Boots of this worker's home that are dead and whose processes are gone: their leases are lost now."""

    session: Count
    boots: Annotated[list[Boot], Meta(max_length=1000)]  # of the same host and home; others are ignored


class Bye(_Message, frozen=True, tag="bye"):
    """The worker leaves; it holds no lease any more."""

    session: Count


ToBroker = Hello | Beat | Results | Output | Release | Gone | Bye


# --- broker → worker ---------------------------------------------------------------------------


class Welcome(_Message, frozen=True, tag="welcome"):
    """The session begins. `keep` and `drop` answer the held leases of HELLO: drop = kill and forget."""

    session: Count  # to be put into every message from now on
    version: Count  # of the protocol, for this session
    broker: Text  # id of the database; results are bound to it
    epoch: Count  # grows with every start of the broker
    heartbeat_ms: Count  # send a beat this often
    silence_ms: Count  # hear nothing for so long: close the socket and connect anew
    window_bytes: Count  # output credit of the session
    worker: Text  # the name this worker goes by, for people
    keep: list[LeaseId]  # go on
    drop: list[LeaseId]  # kill and forget


class Refuse(_Message, frozen=True, tag="refuse"):
    """No session: the reason, and after how long to try again (0: do not)."""

    code: Text  # version_mismatch, other_broker
    text: Text  # for people
    retry_ms: Count  # 0: do not come back


class Who(_Message, frozen=True, tag="who"):
    """Answer to anything from an unknown session: say HELLO."""


class Grant(_Message, frozen=True):
    """The right to run one attempt of one job."""

    lease: LeaseId  # the lease: name it in every report
    job: Text  # id of the job
    attempt: Count  # number of this run, from 1
    max_retries: Count  # for the job's environment
    queue: Text  # of the job
    command: str  # for `sh -c`
    env: dict[str, str] | None  # added to the worker's own
    cwd: str | None  # absolute; null: the worker's
    timeout_ms: Count | None  # longest run; null: none
    output_limit: Count  # bytes of each stream that will be kept
    keep_children: bool  # leave alone what the command left running
    stdin: bytes | None = None  # what the command reads; null: nothing


class Push(_Message, frozen=True, tag="push"):
    """Leases, sent after the transaction that they stand in; `seq` numbers the pushes of a session from 1."""

    session: Count
    seq: Count  # from 1 in each session
    grants: list[Grant]  # in order


class Echo(_Message, frozen=True, tag="echo"):
    """Answer to a heartbeat. `drop`: leases that are not this worker's any more: kill and forget."""

    session: Count
    n: Count  # of the beat; 0: nobody asked, no answer is wanted
    heartbeat_ms: Count  # the pace from now on
    drop: list[LeaseId]  # kill and forget


class Verdict(_Message, frozen=True):
    """What became of a result: `recorded` (also when it had been before) or `stale`; either way it is settled."""

    lease: LeaseId
    verdict: Text  # recorded, stale


class Recorded(_Message, frozen=True, tag="recorded"):
    """Verdicts on results, sent after COMMIT: the worker forgets them."""

    session: Count
    verdicts: list[Verdict]  # one for each result


class Taken(_Message, frozen=True):
    """All of this stream below `upto` is stored, or will never be wanted."""

    lease: LeaseId
    stream: Stream
    upto: Count  # an offset


class Took(_Message, frozen=True, tag="took"):
    """Output credit comes back, sent after COMMIT."""

    session: Count
    taken: list[Taken]  # one for each stream spoken of


class Cancel(_Message, frozen=True, tag="cancel"):
    """End these jobs' trees (the signal, grace, KILL) and report the outcome `cancelled`."""

    session: Count
    leases: list[LeaseId]  # to be ended
    grace_ms: Count  # between the signal and KILL
    signal: Small = 15  # the first that their trees get


class Stop(_Message, frozen=True, tag="stop"):
    """Take nothing new and end when all is done; `now`: kill the jobs and give them back first."""

    session: Count
    now: bool  # do not wait for the jobs


class ByeOk(_Message, frozen=True, tag="bye_ok"):
    """The broker has let the worker go."""

    session: Count


ToWorker = Welcome | Refuse | Who | Push | Echo | Recorded | Took | Cancel | Stop | ByeOk


def _by_name(union: Any) -> dict[str, Any]:
    return {kind.__struct_config__.tag: kind for kind in get_args(union)}


TO_BROKER: dict[str, type[ToBroker]] = _by_name(ToBroker)
TO_WORKER: dict[str, type[ToWorker]] = _by_name(ToWorker)
