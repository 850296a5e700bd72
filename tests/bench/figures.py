"""The table of figures: what is measured, at what size, and what each reading is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import curve, following, idle, latency, listing, lockstep, million, others, startup, throughput
from tests.bench.measuring import OURS, Readings


@dataclass(frozen=True, slots=True)
class Bar:
    """What a reading stands beside: another of the same run.

    Asked for is a `share` of it (at least, or at most where less is better), or at most so much `more`, or nothing.
    """

    beside: str
    share: float | None = None
    more: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `most` is a number that must not be exceeded."""

    what: str
    unit: str
    bars: tuple[Bar, ...] = ()
    ours: str = OURS
    most: float | None = None
    more_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured together. `size` is what `measure` takes: jobs, samples or seconds.

    It returns the readings of one run, or of as many as it makes while what took long to prepare is there.
    """

    name: str
    measure: Callable[[int], Readings | list[Readings]]
    size: int
    quick: int
    rows: tuple[Row, ...]
    runs: int = 5


def _at_scale(what: str) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{verb} beside a million {what} jobs, and beside a thousand",
            f"{unit}/s",
            (Bar(f"{name}, few", 0.9),),
            f"{name}, many",
        )
        for verb, name, unit in (("enqueue", "enqueue", "jobs"), ("lease and result", "lease", "cycles"))
    )


def _slower(what: str, ours: str, *bars: Bar) -> Row:
    return Row(what, "ms", bars, ours, more_is_better=False)


FIGURES = (
    Figure(
        "true",
        throughput.true,
        5000,
        500,
        (
            Row(
                "`true` through a broker and one worker with 2 slots, first enqueue to last recorded result",
                "jobs/s",
                (Bar("xargs -P2", 0.8), Bar("beanstalkd -f 0", 1.0)),
            ),
        ),
    ),
    Figure(
        "backlog",
        throughput.backlog,
        100_000,
        5000,
        (Row("the same while 100,000 jobs wait", "jobs/s", (Bar("no backlog", 0.95), Bar("xargs -P2"))),),
    ),
    Figure(
        "lockstep1",
        lockstep.one,
        3000,
        400,
        (
            Row(
                "acknowledged enqueue, one client in lock-step",
                "jobs/s",
                (
                    Bar("series", 0.7),
                    Bar("series, rows of jobs alone"),
                    Bar("beanstalkd -f 0"),
                    Bar("RQ, Redis always"),
                    Bar("bare LPUSH, Redis always"),
                ),
            ),
        ),
    ),
    Figure(
        "lockstep8",
        lockstep.eight,
        16_000,
        800,
        (
            Row(
                "acknowledged enqueue, 8 clients in lock-step",
                "jobs/s",
                (
                    Bar("series", 0.5),
                    Bar("series, rows of jobs alone"),
                    Bar("RQ, Redis always", 1.0),
                    Bar("beanstalkd -f 0", 1.0),
                    Bar("bare LPUSH, Redis always"),
                ),
            ),
        ),
    ),
    Figure(
        "bulk",
        throughput.bulk,
        100_000,
        10_000,
        (Row("bulk enqueue of JSON Lines through the command line", "jobs/s", (Bar("SQLite", 0.5),)),),
    ),
    Figure(
        "cycles",
        throughput.cycles,
        100_000,
        10_000,
        (
            Row(
                "lease → result cycles, 8 simulated workers",
                "cycles/s",
                (Bar("SQLite", 0.5), Bar("beanstalkd -f 50", 1.0)),
            ),
        ),
    ),
    Figure(
        "latency",
        latency.latency,
        400,
        30,
        (
            _slower(
                "from the acknowledged enqueue to the command's first act, p50",
                "queuectl p50",
                Bar("series p50", 1.5),
                Bar("beanstalkd -f 0 p50"),
            ),
            _slower("the same, p99", "queuectl p99", Bar("series p99", 3.0), Bar("beanstalkd -f 0 p99")),
            _slower(
                "from the sending of the enqueue, p50",
                "queuectl from sending p50",
                Bar("series p50"),
                Bar("beanstalkd -f 0 from sending p50"),
            ),
        ),
    ),
    Figure(
        "waiting",
        million.waiting,
        1_000_000,
        20_000,
        (
            *_at_scale("waiting"),
            Row(
                "memory of the broker with a million waiting jobs",
                "MB",
                (Bar("beanstalkd, memory"),),
                "memory",
                120,
                False,
            ),
            Row("the same at its highest", "MB", (), "memory, highest", 120, False),
            Row("disk per waiting job beside its command", "bytes", (Bar("beanstalkd, disk"),), "disk", 400, False),
            Row(
                "restart with a million waiting jobs, and with a thousand, to a waiting worker's first lease",
                "s",
                (Bar("restart, few", more=1.0),),
                "restart, many",
                more_is_better=False,
            ),
        ),
        runs=1,
    ),
    Figure("delayed", million.delayed, 1_000_000, 20_000, _at_scale("delayed"), runs=1),
    Figure("finished", million.finished, 1_000_000, 20_000, _at_scale("finished"), runs=1),
    Figure(
        "listing",
        listing.listing,
        1_000_000,
        10_000,
        tuple(
            Row(f"{name}, beside a million jobs that wait, p99", "ms", (), name, 50, False)
            for name in (*listing.QUESTIONS, "why, the last", "why, the first")
        ),
        runs=1,
    ),
    Figure(
        "followers",
        following.followers,
        200,
        10,
        (
            _slower(
                "heartbeat to echo while 200 jobs print 10 MB each, 8 at a time, each with 5 followers, p99",
                "echo p99",
                Bar("echo p99, followers nice"),
                Bar("echo p99, no followers"),
                Bar("echo p99, idle"),
            ),
            _slower(
                "enqueue to lease in another queue meanwhile, p99",
                "lease p99",
                Bar("lease p99, followers nice"),
                Bar("lease p99, no followers"),
                Bar("lease p99, idle"),
            ),
            Row("memory of the broker at its highest", "MB", (Bar("memory, no followers"),), "memory", 200, False),
            Row("such jobs", "jobs/s", (Bar("rate, followers nice"), Bar("rate, no followers")), "rate"),
            Row("bytes that reach followers", "MB/s", (Bar("delivered, followers nice"),), "delivered"),
            Row("bytes that a follower missed, or got twice or elsewhere", "bytes", (), "wrong", 0, False),
        ),
        runs=1,
    ),
    Figure(
        "idle",
        idle.idle,
        60,
        5,
        (
            Row("idle broker with 100 connected workers", "% of a core", (), "broker, 100 workers", 1, False),
            Row("idle broker with one worker", "% of a core", (), "broker, 1 worker", None, False),
            Row("idle worker", "% of a core", (), "worker", 0.2, False),
        ),
    ),
    Figure(
        "crowd",
        idle.crowd,
        20,
        4,
        (
            Row("broker with 1,000 connected workers and 500 jobs/s", "% of a core", (), "broker", 40, False),
            Row("jobs enqueued there, of 500", "jobs/s", (), "rate"),
            Row("there, from sending a job to its push, p50", "ms", (), "p50", None, False),
            Row("the same, p99", "ms", (), "p99", 50, False),
        ),
    ),
    Figure(
        "startup",
        startup.startup,
        20,
        2,
        (
            _slower("`--version`", "queuectl --version", Bar(startup.CLICK, 1.5)),
            _slower("`--help`", "queuectl --help", Bar(startup.CLICK, 1.5)),
            _slower("`status`", "queuectl status", Bar(startup.ROUND_TRIP, 1.5)),
            _slower("`status --json`", "queuectl status --json", Bar(startup.ROUND_TRIP, 1.5)),
        ),
    ),
    Figure(
        "others",
        others.others,
        2000,
        200,
        (
            Row(
                "`true`, beside programs without a durable queue",
                "jobs/s",
                (Bar("xargs -P2"), Bar("task-spooler"), Bar("GNU parallel")),
            ),
        ),
    ),
    Figure(
        "profile",
        throughput.profile,
        5000,
        500,
        tuple(
            Row(f"time of a `true`: {part}", "µs", (), part, None, False)
            for part in (
                "both cores",
                "broker, user",
                "broker, kernel",
                "worker, user",
                "worker, kernel",
                "commands, user",
                "commands, kernel",
            )
        ),
    ),
    Figure(
        "curve",
        curve.keys,
        2000,
        100,
        tuple(
            Row(what, "jobs/s", (Bar(f"{name}, {curve.OPEN}", 0.9),), f"{name}, {curve.KEYS}")
            for name, what in (
                ("true", "`true` through a worker over TCP with keys, and without"),
                ("lock-step", "enqueues one after the other over TCP with keys, and without"),
                ("bulk", "enqueues by the thousand over TCP with keys, and without"),
            )
        ),
    ),
)

BY_NAME = {figure.name: figure for figure in FIGURES}
