"""The worker's core, without socket, clock or process: what it says and does for what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from queuectl.clock import Now
from queuectl.errors import BrokerUnreachable, KeyNotAccepted, QueuectlError
from queuectl.messages import (
    Beat,
    Bye,
    ByeOk,
    Cancel,
    Echo,
    Gone,
    Grant,
    Hello,
    Output,
    Piece,
    Push,
    Recorded,
    Refuse,
    Release,
    Result,
    Results,
    Returned,
    Stop,
    Taken,
    ToBroker,
    Took,
    ToWorker,
    Verdict,
    Welcome,
    Who,
)
from worker.core import Adopted, Identity, WorkerCore, effects

T = TypeVar("T")
BOOT = "a" * 32
DEAD_BOOT = "d" * 32
BROKER = "broker-1"
START = Now(1_000_000, 50_000)


def grant(lease: int, **changes: Any) -> Grant:
    fields: dict[str, Any] = {
        "lease": lease,
        "job": f"job-{lease}",
        "attempt": 1,
        "max_retries": 3,
        "queue": "default",
        "command": "true",
        "env": None,
        "cwd": None,
        "timeout_ms": None,
        "output_limit": 1000,
        "keep_children": False,
    }
    return Grant(**(fields | changes))


def result(lease: int) -> Result:
    return Result(lease, f"job-{lease}", 1, "completed", 0, None, 1, 1, 0, 0, "", "")


@dataclass
class Desk:
    """The core under test, its clock, and everything that it wanted, until the test takes it."""

    core: WorkerCore
    now: Now = START
    session: int = 100
    pushes: int = 0
    said: list[ToBroker] = field(default_factory=list)
    done: list[effects.Effect] = field(default_factory=list)
    logged: list[effects.Tell] = field(default_factory=list)

    def collect(self) -> None:
        self.said += self.core.outbox.messages
        self.logged += [effect for effect in self.core.outbox.effects if isinstance(effect, effects.Tell)]
        self.done += [effect for effect in self.core.outbox.effects if not isinstance(effect, effects.Tell)]
        self.core.outbox.messages.clear()
        self.core.outbox.effects.clear()

    def take(self, kind: type[T]) -> T:
        """The first thing said or done, which must be of this kind."""
        self.collect()
        pile: list[Any] = self.said if self.said and isinstance(self.said[0], kind) else self.done
        assert pile, f"nothing of {kind.__name__}; said {self.said}, done {self.done}"
        assert isinstance(pile[0], kind), f"{pile[0]} instead of {kind.__name__}"
        thing: T = pile.pop(0)
        return thing

    def assert_quiet(self) -> None:
        self.collect()
        assert self.said == []
        assert self.done == []

    def advance(self, ms: int) -> None:
        """Let time pass, waking the core whenever it asked for that."""
        end = self.now.mono_ms + ms
        idle_wakes = 0
        while self.core.next_deadline() <= end:
            step = max(self.core.next_deadline() - self.now.mono_ms, 0)
            self.now = Now(self.now.wall_ms + step, self.now.mono_ms + step)
            self.core.tick(self.now)
            self.flush()
            idle_wakes = 0 if self.core.next_deadline() > self.now.mono_ms else idle_wakes + 1
            assert idle_wakes < 3, "the core wants to be woken for ever"
        rest = end - self.now.mono_ms
        self.now = Now(self.now.wall_ms + rest, self.now.mono_ms + rest)

    def flush(self) -> None:
        if self.core.outbox.is_dirty:
            self.core.flush(self.now)

    def tell(self, message: ToWorker) -> None:
        self.core.on_message(message, self.now)

    def welcome(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "session": self.session,
            "version": 1,
            "broker": BROKER,
            "epoch": 1,
            "heartbeat_ms": 2000,
            "silence_ms": 10_000,
            "window_bytes": 1 << 20,
            "worker": "worker-1",
            "keep": [],
            "drop": [],
        }
        self.pushes = 0
        self.tell(Welcome(**(fields | changes)))

    def connect(self) -> None:
        """From nothing to a session."""
        self.core.start(self.now)
        self.core.on_writable(self.now)
        self.take(effects.Connect)
        self.take(Hello)
        self.welcome()
        self.take(effects.Ready)

    def push(self, *grants: Grant) -> None:
        self.pushes += 1
        self.tell(Push(self.session, self.pushes, list(grants)))

    def run(self, lease: int, **changes: Any) -> None:
        """A lease that is running."""
        self.push(grant(lease, **changes))
        self.take(effects.Start)

    def end(self, lease: int, exit_code: int | None = 0, signal: int | None = None, note: str = "") -> None:
        self.core.on_exit(lease, exit_code=exit_code, signal=signal, note=note, now=self.now)

    def finish(self, lease: int) -> Result:
        """End a running lease well, and have its result sent."""
        self.end(lease)
        self.take(effects.Spool)
        self.flush()
        return self.take(Results).results[0]

    def settle(self, lease: int, verdict: str = "recorded") -> None:
        self.tell(Recorded(self.session, [Verdict(lease, verdict)]))

    def events(self) -> list[str]:
        self.collect()
        names = [told.event for told in self.logged]
        self.logged.clear()
        return names


def new_desk(slots: int = 2, **changes: Any) -> Desk:
    identity = Identity(BOOT, "/home/q", "host", 42, slots, ("mail",), "0.1.0")
    return Desk(WorkerCore(identity, chance=lambda: 0.5, **changes))


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = new_desk()
    desk.connect()
    desk.events()
    yield desk
    desk.assert_quiet()


# --- session -----------------------------------------------------------------------------------


def test_start_connects_and_says_hello_when_the_connection_is_up() -> None:
    desk = new_desk()

    desk.core.start(desk.now)
    assert desk.take(effects.Connect) == effects.Connect()
    desk.assert_quiet()
    desk.core.on_writable(desk.now)

    hello = desk.take(Hello)
    assert (hello.boot, hello.home, hello.host, hello.pid, hello.slots) == (BOOT, "/home/q", "host", 42, 2)
    assert (hello.queues, hello.draining, hello.held, hello.broker) == (["mail"], False, [], "")
    desk.assert_quiet()


def test_hello_is_repeated_each_second_until_welcome() -> None:
    desk = new_desk()
    desk.core.start(desk.now)
    desk.take(effects.Connect)

    desk.advance(2500)

    assert [type(desk.take(Hello)) for _ in range(3)] == [Hello] * 3
    desk.welcome()
    assert desk.take(effects.Ready) == effects.Ready("worker-1", BROKER)
    desk.advance(1500)
    desk.assert_quiet()


def test_second_welcome_of_a_session_changes_nothing(desk: Desk) -> None:
    desk.run(1)
    desk.welcome(drop=[1])

    desk.advance(2000)

    assert desk.take(Beat).held == [1]


def test_writable_connection_is_of_no_interest_in_a_session(desk: Desk) -> None:
    desk.core.on_writable(desk.now)


def test_messages_of_another_session_are_ignored(desk: Desk) -> None:
    desk.tell(Push(99, 1, [grant(1)]))
    desk.tell(Stop(99, True))

    assert not desk.core.is_draining


def test_who_is_answered_with_hello_that_names_what_is_held(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.finish(2)
    desk.push(grant(3), grant(4))
    desk.take(effects.Start)

    desk.tell(Who())

    hello = desk.take(Hello)
    assert [(held.lease, held.done) for held in hello.held] == [(1, False), (3, False), (4, False), (2, True)]
    assert hello.broker == BROKER
    assert desk.events() == ["job_finished", "worker_disconnected"]


def test_who_without_a_session_is_not_answered_twice(desk: Desk) -> None:
    desk.tell(Who())
    desk.take(Hello)

    desk.tell(Who())


def test_new_session_sends_unsettled_results_again_and_keeps_jobs(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    first = desk.finish(2)
    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    desk.take(Hello)

    desk.session += 1
    desk.welcome(keep=[1, 2])
    desk.flush()

    assert desk.take(Results) == Results(desk.session, [first])
    assert 1 in desk.core.slots


def test_disconnection_without_a_session_says_nothing(desk: Desk) -> None:
    desk.core.on_disconnected(desk.now)
    desk.core.on_disconnected(desk.now)

    assert desk.events() == ["worker_disconnected"]


def test_session_that_only_we_thought_lost_goes_on_counting(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    desk.take(Hello)
    desk.welcome(keep=[1])

    desk.advance(2000)

    assert desk.take(Beat).received == 1


def test_silence_gives_up_the_connection_but_not_the_jobs(desk: Desk) -> None:
    desk.run(1)

    desk.advance(9_999)
    assert [desk.take(Beat).n for _ in range(4)] == [1, 2, 3, 4]
    desk.advance(1)
    assert desk.events() == ["worker_disconnected"]
    desk.assert_quiet()
    desk.advance(100)

    desk.take(effects.Connect)
    desk.take(Hello)
    assert 1 in desk.core.slots


def test_pauses_between_connections_grow_to_five_seconds_and_to_two_with_leases(desk: Desk) -> None:
    def pauses() -> list[int]:
        found = []
        for _ in range(8):
            while desk.core.session.connect_at_ms is None:
                desk.advance(1)
            found.append(desk.core.session.connect_at_ms - desk.now.mono_ms)
            desk.advance(found[-1])
        desk.collect()
        desk.said.clear()
        desk.done.clear()
        return found

    assert pauses() == [100, 200, 400, 800, 1600, 2500, 2500, 2500]
    desk.session += 1
    desk.welcome()
    desk.run(1)
    assert pauses() == [100, 200, 400, 800, 1000, 1000, 1000, 1000]


def test_any_message_counts_as_a_sign_of_life(desk: Desk) -> None:
    desk.advance(9_000)
    for _ in range(4):
        desk.take(Beat)

    desk.tell(Took(desk.session, []))
    desk.advance(5_000)

    assert [desk.take(Beat).n for _ in range(3)] == [5, 6, 7]


def test_refusal_for_a_while_connects_again_after_it(desk: Desk) -> None:
    desk.tell(Refuse("shutting_down", "soon back", 700))

    desk.advance(699)
    desk.assert_quiet()
    desk.advance(1)

    desk.take(effects.Connect)
    desk.take(Hello)
    assert desk.events() == ["worker_refused"]


def test_refusal_for_good_leaves_what_waits_for_a_slot_in_the_spool(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.tell(Refuse("not_allowed", "go away", 0))
    for lease in (1, 2):
        desk.end(lease)
        desk.take(effects.Spool)
    desk.core.tick(desk.now)

    assert desk.take(effects.SpoolReturned).returned == [Returned(3, "draining")]
    assert desk.take(effects.Leave) == effects.Leave(5, is_tidy=False)


def test_refusal_for_good_ends_the_worker_after_its_jobs(desk: Desk) -> None:
    desk.run(1)

    desk.tell(Refuse("not_allowed", "go away", 0))
    desk.advance(60_000)
    desk.assert_quiet()
    desk.end(1)
    desk.take(effects.Spool)
    desk.core.tick(desk.now)

    assert desk.take(effects.Leave) == effects.Leave(5, is_tidy=False)


def test_session_keeps_the_pace_that_welcome_names() -> None:
    desk = new_desk()
    desk.core.start(desk.now)
    desk.core.on_writable(desk.now)
    desk.welcome(heartbeat_ms=500, silence_ms=1800)
    desk.collect()
    desk.said.clear()
    desk.done.clear()

    desk.advance(1799)
    assert [desk.take(Beat).n for _ in range(3)] == [1, 2, 3]
    desk.assert_quiet()
    desk.advance(1)
    assert "worker_disconnected" in desk.events()


def test_new_session_counts_from_the_beginning(desk: Desk) -> None:
    desk.run(1)
    desk.advance(2000)
    assert (desk.take(Beat).received, desk.pushes) == (1, 1)

    desk.session = 101
    desk.welcome(session=101)
    desk.advance(2000)

    beat = desk.take(Beat)
    assert (beat.n, beat.received) == (1, 0)


# --- what keeps it from the broker -----------------------------------------------------------------


AWAY = BrokerUnreachable("nobody there", hint="start it", details={"endpoint": "tcp://a:1"})
REVOKED = KeyNotAccepted("revoked", hint="ask", details={"endpoint": "tcp://a:1"})


def test_connection_that_does_not_come_back_is_made_anew_after_a_pause(desk: Desk) -> None:
    desk.run(1)

    desk.core.on_disconnected(desk.now, comes_back=False)
    desk.core.on_disconnected(desk.now, comes_back=False)

    desk.advance(99)
    desk.assert_quiet()
    desk.advance(1)
    desk.take(effects.Connect)
    desk.take(Hello)
    assert 1 in desk.core.slots
    assert desk.events() == ["worker_disconnected"]


def test_pauses_stay_short_while_a_result_waits_for_the_broker(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)
    for _ in range(8):
        desk.core.on_disconnected(desk.now, comes_back=False)
        pause_ms = (desk.core.session.connect_at_ms or 0) - desk.now.mono_ms
        desk.advance(pause_ms)
        desk.take(effects.Connect)
        desk.take(Hello)

    assert pause_ms == 1000


def test_refusal_that_asks_for_patience_is_not_cut_short_by_the_end_of_its_connection(desk: Desk) -> None:
    desk.tell(Refuse("too_many_sessions", "too many", 2000))
    desk.core.on_disconnected(desk.now, comes_back=False)

    desk.advance(1999)
    desk.assert_quiet()
    desk.advance(1)

    desk.take(effects.Connect)
    desk.take(Hello)


def test_each_cause_is_said_when_it_begins_and_each_minute_until_a_session_begins(desk: Desk) -> None:
    desk.core.on_disconnected(desk.now)
    desk.events()
    said = []
    for _ in range(61):
        for cause in (AWAY, REVOKED):
            desk.core.on_trouble(cause, desk.now)
        said.append(desk.events())
        desk.now = Now(desk.now.wall_ms + 1000, desk.now.mono_ms + 1000)

    both = ["connect_failed", "worker_refused"]
    assert said == [both, *[[]] * 59, both]
    desk.session += 1
    desk.welcome()
    desk.core.on_disconnected(desk.now)
    desk.core.on_trouble(AWAY, desk.now)
    assert desk.events() == ["worker_connected", "worker_disconnected", "connect_failed"]


def test_cause_is_said_with_what_to_do(desk: Desk) -> None:
    desk.core.on_disconnected(desk.now)
    desk.events()
    desk.core.on_trouble(AWAY, desk.now)
    desk.core.on_trouble(REVOKED, desk.now)
    desk.tell(Refuse("too_many_sessions", "64 of them", 2000))
    desk.tell(Refuse("of_tomorrow", "because", 2000))
    desk.collect()

    assert [(told.level, dict(told.keys)) for told in desk.logged] == [
        ("warning", {"code": "broker_unreachable", "detail": "nobody there", "hint": "start it"}),
        ("warning", {"code": "key_not_accepted", "detail": "revoked", "hint": "ask", "retry_ms": None}),
        (
            "warning",
            {
                "code": "too_many_sessions",
                "detail": "64 of them",
                "hint": "use a key for each machine, or: queuectl config set max-sessions N",
                "retry_ms": 2000,
            },
        ),
        ("warning", {"code": "of_tomorrow", "detail": "because", "hint": None, "retry_ms": 2000}),
    ]


def test_same_trouble_at_another_endpoint_is_another(desk: Desk) -> None:
    desk.core.on_disconnected(desk.now)
    desk.core.on_trouble(AWAY, desk.now)
    desk.core.on_trouble(BrokerUnreachable("nor there", details={"endpoint": "tcp://b:1"}), desk.now)

    assert desk.events() == ["worker_disconnected", "connect_failed", "connect_failed"]


def test_refusals_that_are_made_up_without_end_are_not_all_kept_in_mind(desk: Desk) -> None:
    for number in range(1000):
        desk.tell(Refuse(f"code_{number}", "because", 2000))

    assert len(desk.core._trouble._said) <= 100


def test_trouble_of_an_attempt_is_of_no_interest_in_a_session(desk: Desk) -> None:
    desk.core.on_trouble(AWAY, desk.now)

    assert desk.events() == []


def test_worker_that_is_let_in_by_nobody_tries_for_ever() -> None:
    desk = new_desk()
    desk.core.start(desk.now)
    desk.take(effects.Connect)
    for _ in range(20):
        desk.core.on_disconnected(desk.now, comes_back=False)
        desk.core.on_trouble(REVOKED, desk.now)
        desk.advance(5000)
        desk.take(effects.Connect)
        desk.said.clear()

    assert not desk.core.is_draining


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (REVOKED, 5),
        (Refuse("not_allowed", "of the role submit", 2000), 5),
        (Refuse("too_many_sessions", "64 of them", 2000), 75),
        (Refuse("version_mismatch", "too old", 0), 1),
    ],
)
def test_worker_that_is_waited_for_ends_when_it_is_not_let_in(refusal: QueuectlError | Refuse, code: int) -> None:
    desk = new_desk(is_awaited=True)
    desk.core.start(desk.now)
    desk.take(effects.Connect)

    for _ in range(2):
        if isinstance(refusal, Refuse):
            desk.tell(refusal)
        else:
            desk.core.on_trouble(refusal, desk.now)
    desk.core.tick(desk.now)

    assert desk.take(effects.Refused).error.exit_code == code
    while not isinstance(desk.done[0], effects.Leave):
        desk.take(effects.Refused)
    assert desk.take(effects.Leave) == effects.Leave(code, is_tidy=True)
    desk.assert_quiet()


@pytest.mark.parametrize("refusal", [AWAY, Refuse("shutting_down", "soon back", 700)])
def test_worker_that_is_waited_for_waits_for_a_broker_that_is_away(refusal: QueuectlError | Refuse) -> None:
    desk = new_desk(is_awaited=True)
    desk.core.start(desk.now)
    desk.take(effects.Connect)

    if isinstance(refusal, Refuse):
        desk.tell(refusal)
    else:
        desk.core.on_trouble(refusal, desk.now)
    desk.core.on_trouble(REVOKED, desk.now, is_everywhere=False)

    assert not desk.core.is_draining


def test_worker_that_was_let_in_once_is_not_ended_by_a_refusal() -> None:
    desk = new_desk(is_awaited=True)
    desk.connect()

    desk.tell(Refuse("key_not_accepted", "this key was revoked", 2000))
    desk.core.on_trouble(REVOKED, desk.now)

    assert not desk.core.is_draining


def test_session_has_time_to_begin_however_fast_its_heart_beats() -> None:
    desk = new_desk()
    desk.connect()
    desk.session += 1
    desk.welcome(heartbeat_ms=50, silence_ms=250)
    desk.core.on_disconnected(desk.now)
    desk.collect()
    desk.done.clear()

    desk.advance(4999)
    desk.collect()
    assert desk.done == []
    desk.advance(101)
    desk.said.clear()
    desk.take(effects.Connect)


@pytest.mark.parametrize("retry_ms", [0, 5000])
def test_refusal_ends_the_session(desk: Desk, retry_ms: int) -> None:
    desk.run(1)

    desk.tell(Refuse("other_broker", "not now", retry_ms))

    assert not desk.core.session.is_open
    desk.end(1)
    desk.take(effects.Spool)
    desk.flush()


# --- heartbeats --------------------------------------------------------------------------------


def test_heartbeats_keep_their_schedule_when_one_is_late(desk: Desk) -> None:
    desk.now = Now(desk.now.wall_ms, desk.now.mono_ms + 2300)
    desk.core.tick(desk.now)
    desk.take(Beat)

    desk.advance(1699)
    desk.assert_quiet()
    desk.advance(1)

    assert desk.take(Beat).n == 2


def test_heartbeats_that_were_missed_are_not_made_up_for(desk: Desk) -> None:
    desk.now = Now(desk.now.wall_ms, desk.now.mono_ms + 9_000)
    desk.core.tick(desk.now)
    desk.take(Beat)
    desk.tell(Took(desk.session, []))

    desk.advance(1999)
    desk.assert_quiet()
    desk.advance(1)

    desk.take(Beat)


def test_heartbeat_names_what_is_held_and_what_is_done(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.advance(1900)
    desk.push(grant(3))
    desk.end(1)
    desk.take(effects.Start)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Results)

    desk.advance(100)

    assert desk.take(Beat) == Beat(desk.session, 1, 3, held=[2, 3], done=[1], draining=False)


def test_heartbeat_does_not_name_what_is_only_waited_for_until_it_is_dead(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.tell(Echo(desk.session, 0, 2000, [1]))
    desk.take(effects.Kill)

    desk.advance(2000)

    assert desk.take(Beat).held == [2]


def test_echo_changes_the_pace(desk: Desk) -> None:
    desk.tell(Echo(desk.session, 0, 500, []))

    desk.advance(1000)

    assert [desk.take(Beat).n for _ in range(2)] == [1, 2]


def test_pace_of_nothing_is_a_hundred_beats_a_second(desk: Desk) -> None:
    desk.tell(Echo(desk.session, 0, 0, []))

    desk.advance(100)
    desk.collect()

    assert len(desk.said) == 10
    desk.said.clear()


def test_slower_pace_is_not_taken_for_silence(desk: Desk) -> None:
    desk.tell(Echo(desk.session, 0, 60_000, []))
    desk.advance(2000)
    desk.take(Beat)

    desk.advance(60_000)

    desk.take(Beat)
    assert desk.core.session.is_open


def test_what_was_finished_or_given_back_is_said_before_the_heartbeat(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.push(grant(3))
    desk.end(1)
    desk.take(effects.Start)
    desk.take(effects.Spool)
    desk.core.stop(desk.now)

    assert [found.lease for found in desk.take(Results).results] == [1]
    beat = desk.take(Beat)
    assert (beat.held, beat.done, beat.draining) == ([2, 3], [1], True)


# --- slots -------------------------------------------------------------------------------------


def test_leases_run_in_order_in_the_lowest_free_slot_before_the_end_of_the_last_is_written_down(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    assert [desk.take(effects.Start) for _ in range(2)] == [effects.Start(grant(1), 1), effects.Start(grant(2), 2)]

    desk.end(1)

    assert desk.take(effects.Start) == effects.Start(grant(3), 1)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Results)


def test_repeated_push_is_ignored(desk: Desk) -> None:
    desk.run(1)

    desk.tell(Push(desk.session, 1, [grant(1), grant(2)]))


def test_lease_that_is_here_already_or_done_is_not_taken_again(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.finish(2)

    desk.push(grant(1), grant(2))


def test_lease_that_waits_while_no_slot_changes_hands_goes_back(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)
    desk.advance(200)
    desk.push(grant(4))

    desk.advance(50)
    assert desk.take(Release) == Release(desk.session, [Returned(3, "busy")])
    desk.advance(200)

    assert desk.take(Release) == Release(desk.session, [Returned(4, "busy")])


def test_lease_given_back_is_not_taken_again_before_that_is_told(desk: Desk) -> None:
    desk.core.stop(desk.now)
    desk.take(Beat)
    desk.push(grant(1))

    desk.push(grant(1))
    desk.flush()

    assert desk.take(Release).leases == [Returned(1, "draining")]


def test_lease_waits_on_while_slots_change_hands(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3), grant(4))
    desk.take(effects.Start)
    desk.take(effects.Start)
    desk.advance(200)

    desk.end(1)
    desk.take(effects.Start)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Results)
    desk.advance(249)
    desk.assert_quiet()
    desk.advance(1)

    desk.take(Release)


@pytest.mark.parametrize(
    ("exit_code", "signal", "outcome"), [(0, None, "completed"), (3, None, "exit"), (None, 9, "signal")]
)
def test_end_of_a_command_becomes_a_result(desk: Desk, exit_code: int | None, signal: int | None, outcome: str) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"out\n")
    desk.core.on_output(1, 2, b"first\n last \n\n")
    started = desk.now
    desk.advance(250)
    desk.take(Output)

    desk.end(1, exit_code, signal, "note")
    desk.flush()

    said = desk.take(Results).results[0]
    assert desk.take(effects.Spool) == effects.Spool(said, BROKER)
    assert said == Result(1, "job-1", 1, outcome, exit_code, signal, started.wall_ms, 250, 4, 14, "last", "note")


def test_silent_command_has_written_nothing(desk: Desk) -> None:
    desk.run(1)

    told = desk.finish(1)

    assert (told.stdout_bytes, told.stderr_bytes, told.last_line) == (0, 0, "")


def test_what_has_been_said_is_not_said_again(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)

    assert not desk.core.outbox.is_dirty
    desk.core.flush(desk.now)


def test_output_that_was_taken_before_the_end_is_not_waited_for(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"x")
    desk.flush()
    desk.take(Output)
    desk.tell(Took(desk.session, [Taken(1, 1, 1)]))

    desk.finish(1)
    desk.settle(1)
    desk.take(effects.Settle)

    assert not desk.core.reports.is_owing


def test_output_is_sent_before_the_result(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"hello")
    desk.end(1)
    desk.flush()

    assert desk.take(Output) == Output(desk.session, [Piece(1, "job-1", 1, 1, 0, b"hello")])
    desk.take(Results)
    desk.take(effects.Spool)


def test_output_beyond_the_limit_is_dropped_and_told(desk: Desk) -> None:
    desk.run(1, output_limit=100)
    desk.core.on_output(1, 1, b"x" * 300)
    desk.end(1)
    desk.flush()

    assert [piece.offset for piece in desk.take(Output).pieces] == [0, 250]
    assert desk.take(Results).results[0].stdout_bytes == 300
    desk.take(effects.Spool)
    assert desk.logged[-1].keys["bytes"] == 200


def test_plenty_is_one_lease_waiting_for_every_slot(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)
    assert not desk.core.slots.has_plenty

    desk.push(grant(4))

    assert desk.core.slots.has_plenty


def test_plenty_ends_when_more_results_wait_than_leases(desk: Desk) -> None:
    desk.push(*(grant(lease) for lease in range(1, 9)))
    desk.end(1)
    desk.end(2)
    desk.end(3)
    plenty = [desk.core.slots.has_plenty]  # three wait on either side
    desk.end(4)
    plenty.append(desk.core.slots.has_plenty)

    desk.flush()
    plenty.append(desk.core.slots.has_plenty)

    assert plenty == [True, False, True]
    desk.collect()
    desk.said.clear()
    desk.done.clear()


def test_plenty_begins_at_one_lease_for_one_slot_and_is_never_there_without_slots() -> None:
    desk = new_desk(slots=1)
    desk.connect()
    desk.push(grant(1), grant(2))
    none = new_desk(slots=0)

    assert desk.core.slots.has_plenty
    assert not none.core.slots.has_plenty


def test_results_of_one_turn_share_a_message(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.end(1)
    desk.end(2)
    desk.flush()

    assert [found.lease for found in desk.take(Results).results] == [1, 2]
    desk.take(effects.Spool)
    desk.take(effects.Spool)


def test_nothing_is_said_without_a_session(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.core.on_output(1, 1, b"hello")
    desk.end(1)
    desk.flush()

    desk.take(effects.Spool)
    assert desk.take(effects.SpoolOutput).pieces == [Piece(1, "job-1", 1, 1, 0, b"hello")]


def test_output_of_a_finished_job_is_spooled_once_when_the_connection_breaks(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"hello")
    desk.end(1)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Output)
    desk.take(Results)

    desk.core.on_disconnected(desk.now)
    assert len(desk.take(effects.SpoolOutput).pieces) == 1
    desk.session += 1
    desk.welcome()
    desk.flush()
    desk.take(Output)
    desk.take(Results)
    desk.core.on_disconnected(desk.now)


def test_spawn_error_is_a_failed_attempt(desk: Desk) -> None:
    desk.run(1)

    desk.core.on_spawn_error(1, "no such directory", desk.now)
    desk.flush()

    desk.take(effects.Spool)
    said = desk.take(Results).results[0]
    assert (said.outcome, said.exit_code, said.note) == ("spawn_error", None, "no such directory")
    assert desk.events() == ["spawn_failed", "job_finished"]


def test_spawn_error_frees_its_slot_for_the_next(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.core.on_spawn_error(1, "cwd: no such directory", desk.now)
    desk.take(effects.Spool)

    assert desk.take(effects.Start).grant.lease == 3
    desk.flush()
    desk.take(Results)


def test_fault_of_the_worker_gives_everything_back_for_a_growing_while(desk: Desk) -> None:
    def fail(lease: int) -> None:
        desk.run(lease)
        desk.core.on_worker_fault(lease, "no memory", desk.now)
        desk.flush()
        assert desk.take(Release).leases == [Returned(lease, "worker_fault")]

    fail(1)
    desk.advance(499)
    desk.push(grant(2))
    desk.flush()
    assert desk.take(Release).leases == [Returned(2, "worker_fault")]
    desk.advance(1)
    fail(3)
    desk.advance(999)
    desk.push(grant(4))
    desk.flush()
    assert desk.take(Release).leases == [Returned(4, "worker_fault")]
    desk.advance(1)
    desk.run(5)
    desk.finish(5)
    fail(6)
    desk.advance(490)
    desk.push(grant(7))
    desk.flush()
    desk.take(Release)
    desk.advance(10)
    desk.take(Beat)
    desk.run(8)


def test_fault_of_the_worker_gives_back_what_waits(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.core.on_worker_fault(2, "no memory", desk.now)
    desk.flush()

    assert desk.take(Release).leases == [Returned(2, "worker_fault"), Returned(3, "worker_fault")]


# --- verdicts ----------------------------------------------------------------------------------


def test_recorded_result_is_settled_and_not_sent_again(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)

    desk.settle(1)

    assert desk.take(effects.Settle) == effects.Settle([1])
    desk.settle(1)
    desk.advance(1999)


def test_unanswered_result_is_sent_again_with_growing_pauses(desk: Desk) -> None:
    desk.run(1)
    first = desk.finish(1)

    times = []
    for _ in range(12_000):
        desk.tell(Took(desk.session, []))
        desk.advance(10)
        desk.collect()
        if any(isinstance(message, Results) for message in desk.said):
            times.append(desk.now.mono_ms)
        desk.said.clear()

    assert [later - sooner for sooner, later in pairwise(times)][:5] == [
        2000,
        4000,
        8000,
        15000,
        15000,
    ]
    assert desk.core.reports.results.leases() == [first.lease]


def test_result_goes_again_though_another_was_settled(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.finish(1)
    desk.finish(2)
    desk.settle(1)
    desk.take(effects.Settle)

    desk.advance(1000)

    assert [each.lease for each in desk.take(Results).results] == [2]
    desk.settle(2)
    desk.take(effects.Settle)
    desk.core.flush(desk.now)
    assert desk.core.reports.next_deadline() is None


def test_verdict_that_comes_when_the_result_is_about_to_go_again_is_in_time(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)
    desk.now = Now(desk.now.wall_ms + 1000, desk.now.mono_ms + 1000)
    desk.core.tick(desk.now)
    assert desk.core.outbox.is_dirty

    desk.settle(1)
    desk.take(effects.Settle)
    desk.flush()


def test_pauses_begin_anew_after_an_answer(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)
    desk.advance(1000)
    assert desk.core.reports.next_deadline() == desk.now.mono_ms + 2000
    desk.settle(1)
    desk.collect()
    desk.said.clear()
    desk.done.clear()

    desk.run(2)
    desk.finish(2)

    assert desk.core.reports.next_deadline() == desk.now.mono_ms + 1000


def test_stale_verdict_settles_the_result_and_forgets_its_output(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"x")
    desk.end(1)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Output)
    desk.take(Results)

    desk.settle(1, "stale")

    desk.take(effects.Settle)
    assert desk.core.reports.output.finished() == []


def test_stale_verdict_on_what_was_never_reported_leaves_the_output_of_a_running_job(desk: Desk) -> None:
    desk.welcome(session=101, window_bytes=4)
    desk.session = 101
    desk.run(1)
    desk.core.on_output(1, 1, b"1234")
    desk.flush()
    desk.take(Output)

    desk.settle(1, "stale")
    desk.core.on_output(1, 1, b"5678")
    desk.flush()
    desk.assert_quiet()

    desk.tell(Took(101, [Taken(1, 1, 4)]))
    desk.flush()
    assert desk.take(Output).pieces == [Piece(1, "job-1", 1, 1, 4, b"5678")]


def test_lease_that_is_given_twice_costs_its_credit_once(desk: Desk) -> None:
    desk.welcome(session=101, window_bytes=4)
    desk.session = 101
    for _ in range(3):
        desk.run(1)
        desk.core.on_output(1, 1, b"1234")
        desk.flush()
        assert desk.take(Output).pieces == [Piece(1, "job-1", 1, 1, 0, b"1234")]
        desk.finish(1)
        desk.settle(1)
        desk.take(effects.Settle)


# --- force -------------------------------------------------------------------------------------


def test_timeout_kills_and_is_reported(desk: Desk) -> None:
    desk.run(1, timeout_ms=1000)

    desk.advance(1000)
    assert desk.take(effects.Kill) == effects.Kill(1, hard=False, kill_at_ms=desk.now.mono_ms + 10_000)
    desk.end(1, None, 15)
    desk.flush()

    assert desk.take(effects.Spool).result.outcome == "timeout"
    assert desk.take(Results).results[0].signal == 15
    assert desk.events() == ["job_timed_out", "job_finished"]


def test_timeout_of_a_job_that_has_ended_does_nothing(desk: Desk) -> None:
    desk.run(1, timeout_ms=1000)
    desk.finish(1)
    desk.settle(1)
    desk.take(effects.Settle)

    desk.advance(1500)


def test_timeouts_of_jobs_that_have_ended_do_not_pile_up(desk: Desk) -> None:
    desk.run(10**9, timeout_ms=5000)
    for lease in range(1, 3001):
        desk.run(lease, timeout_ms=3_600_000)
        desk.finish(lease)
        desk.settle(lease)
        desk.take(effects.Settle)

    assert len(desk.core.slots._timeouts) < 2000
    desk.advance(5000)
    assert desk.take(effects.Kill).lease == 10**9, "the one that runs has kept its timeout"
    desk.take(Beat)
    desk.take(Beat)


def test_cancel_kills_and_is_reported(desk: Desk) -> None:
    desk.run(1, timeout_ms=1000)

    desk.tell(Cancel(desk.session, [1, 99], 3000))
    assert desk.take(effects.Kill) == effects.Kill(1, hard=False, kill_at_ms=desk.now.mono_ms + 3000)
    desk.tell(Cancel(desk.session, [1], 3000))
    desk.advance(1000)
    desk.end(1, 0)
    desk.flush()

    assert desk.take(effects.Spool).result.outcome == "cancelled"
    desk.take(Results)


def cancel(desk: Desk, lease: int, *, signal: int, grace_ms: int = 3000) -> None:
    desk.tell(Cancel(desk.session, [lease], grace_ms, signal))


@pytest.mark.parametrize("number", [2, 64, 0, -1, 2**31 - 1])
def test_cancel_passes_its_signal_on_known_or_not(desk: Desk, number: int) -> None:
    desk.run(1)

    cancel(desk, 1, signal=number)

    assert desk.take(effects.Kill) == effects.Kill(1, False, desk.now.mono_ms + 3000, number)
    end_cancelled(desk)


def end_cancelled(desk: Desk, lease: int = 1) -> None:
    """The command ends, and nothing but its cancellation is reported."""
    desk.end(lease, 0)
    desk.flush()
    assert desk.take(effects.Spool).result.outcome == "cancelled"
    desk.take(Results)
    assert desk.events().count("job_killed") == 1


def test_cancel_by_kill_waits_for_nothing(desk: Desk) -> None:
    desk.run(1)

    cancel(desk, 1, signal=9)

    assert desk.take(effects.Kill) == effects.Kill(1, True, desk.now.mono_ms, 9)
    [told] = [told for told in desk.logged if told.event == "job_killed"]
    assert (told.keys["reason"], told.keys["signal"]) == ("cancelled", 9)
    end_cancelled(desk)


def test_cancel_said_again_with_less_grace_ends_sooner_and_the_signal_is_not_sent_twice(desk: Desk) -> None:
    desk.run(1)
    cancel(desk, 1, signal=2, grace_ms=60_000)
    desk.take(effects.Kill)

    desk.advance(1000)
    cancel(desk, 1, signal=2, grace_ms=5000)

    assert desk.take(effects.Kill) == effects.Kill(1, False, desk.now.mono_ms + 5000, None)
    end_cancelled(desk)


def test_cancel_said_again_by_another_signal_with_less_grace_sends_that_too(desk: Desk) -> None:
    desk.run(1)
    cancel(desk, 1, signal=2, grace_ms=60_000)
    desk.take(effects.Kill)

    cancel(desk, 1, signal=15, grace_ms=5000)

    assert desk.take(effects.Kill) == effects.Kill(1, False, desk.now.mono_ms + 5000, 15)
    end_cancelled(desk)


@pytest.mark.parametrize(("number", "grace_ms"), [(2, 3000), (15, 2000), (2, 60_000), (10, 2**63 - 1)])
def test_cancel_said_again_with_a_later_end_changes_nothing(desk: Desk, number: int, grace_ms: int) -> None:
    desk.run(1)
    cancel(desk, 1, signal=2, grace_ms=3000)
    desk.take(effects.Kill)

    desk.advance(1000)
    cancel(desk, 1, signal=number, grace_ms=grace_ms)

    end_cancelled(desk)


def test_cancel_said_again_by_kill_kills_once(desk: Desk) -> None:
    desk.run(1)
    cancel(desk, 1, signal=2, grace_ms=60_000)
    desk.take(effects.Kill)
    cancel(desk, 1, signal=15, grace_ms=30_000)
    desk.take(effects.Kill)

    cancel(desk, 1, signal=9, grace_ms=60_000)
    assert desk.take(effects.Kill) == effects.Kill(1, True, desk.now.mono_ms, 9)
    desk.advance(10)
    cancel(desk, 1, signal=9)
    cancel(desk, 1, signal=2, grace_ms=0)

    end_cancelled(desk)


def test_cancel_said_again_after_stop_now_takes_the_nearer_end_into_account(desk: Desk) -> None:
    desk.run(1)
    cancel(desk, 1, signal=2, grace_ms=60_000)
    desk.take(effects.Kill)
    desk.tell(Stop(desk.session, True))
    desk.take(Beat)
    assert desk.take(effects.Kill) == effects.Kill(1, False, desk.now.mono_ms + 2000, 15)

    cancel(desk, 1, signal=2, grace_ms=5000)
    cancel(desk, 1, signal=2, grace_ms=100)

    assert desk.take(effects.Kill) == effects.Kill(1, False, desk.now.mono_ms + 100, 2)
    end_cancelled(desk)


def test_cancel_of_a_job_that_ends_for_another_reason_is_ignored(desk: Desk) -> None:
    desk.run(1, timeout_ms=1000)
    desk.advance(1000)
    desk.take(effects.Kill)

    cancel(desk, 1, signal=9)

    desk.end(1, None, 15)
    desk.flush()
    assert desk.take(effects.Spool).result.outcome == "timeout"
    desk.take(Results)


def test_input_goes_with_the_start_and_is_not_kept_after_it(desk: Desk) -> None:
    desk.push(grant(1, stdin=b"some input"))

    assert desk.take(effects.Start).grant == grant(1, stdin=b"some input")
    assert desk.core.slots._leases[1].grant == grant(1)
    desk.end(1, 0)
    desk.flush()
    desk.take(effects.Spool)
    desk.take(Results)


def test_cancel_of_a_waiting_lease_is_reported_at_once(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.tell(Cancel(desk.session, [3], 3000))
    desk.flush()

    said = desk.take(Results).results[0]
    desk.take(effects.Spool)
    assert (said.lease, said.outcome, said.duration_ms) == (3, "cancelled", 0)
    desk.end(1)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Results)


def test_dropped_lease_is_killed_and_forgotten_but_keeps_its_slot_until_it_is_dead(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.core.on_output(1, 1, b"x")

    desk.tell(Echo(desk.session, 0, 2000, [1]))
    assert desk.take(effects.Kill).hard
    desk.core.on_output(1, 1, b"y")
    desk.push(grant(3))
    desk.flush()
    desk.assert_quiet()
    desk.end(1, None, 9)

    assert desk.take(effects.Start).slot == 1
    assert desk.events() == ["lease_dropped", "job_killed"]


def test_dropped_waiting_lease_is_forgotten(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.tell(Echo(desk.session, 0, 2000, [3]))
    desk.advance(500)


def test_lease_dropped_before_its_command_was_started_never_runs(desk: Desk) -> None:
    desk.push(grant(1, timeout_ms=500), grant(2), grant(3))

    desk.tell(Echo(desk.session, 0, 2000, [1]))

    assert [(start.grant.lease, start.slot) for start in (desk.take(effects.Start), desk.take(effects.Start))] == [
        (2, 2),
        (3, 1),
    ]
    assert desk.events() == ["lease_dropped"]
    desk.advance(1000)


def test_lease_given_again_after_it_was_dropped_unstarted_is_taken(desk: Desk) -> None:
    desk.push(grant(1))
    desk.tell(Echo(desk.session, 0, 2000, [1]))
    desk.assert_quiet()

    desk.push(grant(1))

    assert desk.take(effects.Start).slot == 1


def test_all_leases_dropped_in_the_turn_of_their_push_leave_the_slots_free(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))

    desk.tell(Echo(desk.session, 0, 2000, [1, 2, 3]))
    desk.tell(Refuse("key_not_accepted", "this key was revoked", 2000))

    desk.assert_quiet()
    assert len(desk.core.slots) == 0


def test_lease_dropped_twice_is_killed_once(desk: Desk) -> None:
    desk.run(1)
    desk.tell(Echo(desk.session, 0, 2000, [1]))
    desk.take(effects.Kill)

    desk.tell(Echo(desk.session, 1, 2000, [1]))


def test_result_of_a_dropped_lease_still_gets_its_verdict(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_output(1, 1, b"x")
    desk.end(1)
    desk.take(effects.Spool)

    desk.tell(Echo(desk.session, 0, 2000, [1]))
    desk.flush()

    assert desk.take(Results).results[0].lease == 1


def test_welcome_drops_as_an_echo_does(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.session += 1

    desk.welcome(drop=[1])

    assert desk.take(effects.Kill) == effects.Kill(1, hard=True, kill_at_ms=0)


# --- leaving -----------------------------------------------------------------------------------


def leave(desk: Desk) -> effects.Leave:
    """Answer the BYE that must be said now."""
    desk.core.tick(desk.now)
    desk.take(Bye)
    desk.tell(ByeOk(desk.session))
    return desk.take(effects.Leave)


def test_idle_worker_stops_at_once(desk: Desk) -> None:
    desk.core.on_signal(desk.now)

    assert desk.take(Beat).draining
    assert leave(desk) == effects.Leave(0, is_tidy=True)
    desk.core.tick(desk.now)


def test_stop_takes_nothing_new_gives_waiting_leases_back_and_finishes_what_runs(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)

    desk.tell(Stop(desk.session, False))
    assert desk.take(Release).leases == [Returned(3, "draining")]
    assert desk.take(Beat).held == [1, 2]
    desk.push(grant(4))
    desk.flush()
    assert desk.take(Release).leases == [Returned(4, "draining")]
    desk.tell(Stop(desk.session, False))
    desk.end(1)
    desk.end(2)
    desk.take(effects.Spool)
    desk.take(effects.Spool)
    desk.core.tick(desk.now)
    desk.flush()
    desk.take(Results)
    desk.core.tick(desk.now)
    desk.assert_quiet()
    desk.tell(Recorded(desk.session, [Verdict(1, "recorded"), Verdict(2, "recorded")]))
    desk.take(effects.Settle)

    assert leave(desk).is_tidy
    assert "worker_draining" in desk.events()


def test_second_request_kills_and_gives_back_at_no_cost_and_third_kills_hard(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_signal(desk.now)
    desk.take(Beat)

    desk.core.on_signal(desk.now)
    assert desk.take(effects.Kill) == effects.Kill(1, hard=False, kill_at_ms=desk.now.mono_ms + 2000)
    desk.core.on_signal(desk.now)
    assert desk.take(effects.Kill).hard
    desk.core.on_output(1, 1, b"x")
    desk.end(1, 0)
    desk.flush()

    assert desk.take(Release).leases == [Returned(1, "stopped")]
    assert leave(desk) == effects.Leave(0, is_tidy=True)


def stop_by_force(desk: Desk) -> None:
    """A lease that ran was given back, and the broker was told."""
    desk.run(1)
    desk.core.stop(desk.now, hard=True)
    desk.take(effects.Kill)
    desk.take(Beat)
    desk.end(1, None, 15)
    desk.flush()
    assert desk.take(Release).leases == [Returned(1, "stopped")]


def test_what_was_given_back_after_a_run_is_said_again_where_nobody_knows_whether_it_arrived(desk: Desk) -> None:
    stop_by_force(desk)

    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    assert [held.lease for held in desk.take(Hello).held] == [1]
    desk.session += 1
    desk.welcome(keep=[1])
    desk.flush()

    assert desk.take(Release) == Release(desk.session, [Returned(1, "stopped")])
    assert leave(desk).is_tidy


@pytest.mark.parametrize("end", [None, Refuse("other_broker", "not now", 500)], ids=["unnoticed", "refused"])
def test_what_was_given_back_after_a_run_is_said_again_after_a_session_that_just_ended(
    desk: Desk, end: Refuse | None
) -> None:
    desk.advance(6000)
    beats = [desk.take(Beat).n for _ in range(3)]
    stop_by_force(desk)
    if end is not None:
        desk.tell(end)
        desk.advance(500)
        desk.take(effects.Connect)
        assert [held.lease for held in desk.take(Hello).held] == [1]

    desk.session += 1
    desk.welcome(keep=[1])
    desk.flush()

    assert desk.take(Release) == Release(desk.session, [Returned(1, "stopped")])
    desk.tell(Echo(desk.session, 0, 2000, []))
    assert 1 in desk.core.slots, "no heartbeat of this session has been answered yet"
    desk.advance(2000)
    first = desk.take(Beat).n
    assert first < beats[-1]
    desk.tell(Echo(desk.session, first, 2000, []))
    assert 1 not in desk.core.slots
    desk.take(Bye)


def test_what_was_given_back_after_a_run_has_arrived_when_a_later_heartbeat_is_answered(desk: Desk) -> None:
    desk.run(1)
    desk.run(2)
    desk.core.on_signal(desk.now)
    before = desk.take(Beat).n
    desk.core.on_signal(desk.now)
    desk.take(effects.Kill)
    desk.take(effects.Kill)
    desk.end(1, None, 15)
    desk.flush()
    desk.take(Release)
    desk.tell(Echo(desk.session, before, 2000, []))
    assert 1 in desk.core.slots

    desk.advance(2000)
    desk.tell(Echo(desk.session, desk.take(Beat).n, 2000, []))

    assert 1 not in desk.core.slots
    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    assert [held.lease for held in desk.take(Hello).held] == [2]


def test_what_was_given_back_after_a_run_stays_on_disk_where_nobody_answers_the_bye(desk: Desk) -> None:
    stop_by_force(desk)
    desk.core.tick(desk.now)
    desk.take(Bye)

    desk.advance(2000)

    desk.take(Beat)
    assert desk.take(effects.SpoolReturned) == effects.SpoolReturned([Returned(1, "stopped")], BROKER)
    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=False)


def test_what_was_given_back_after_a_run_and_dropped_is_not_said_again(desk: Desk) -> None:
    stop_by_force(desk)
    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    desk.take(Hello)
    desk.session += 1

    desk.welcome(drop=[1])
    desk.flush()

    assert leave(desk).is_tidy


def test_stop_now_keeps_the_outcome_of_a_job_that_was_being_ended(desk: Desk) -> None:
    desk.run(1)
    desk.tell(Cancel(desk.session, [1], 10_000))
    desk.take(effects.Kill)

    desk.tell(Stop(desk.session, True))
    desk.take(effects.Kill)
    desk.take(Beat)
    desk.end(1, None, 15)

    assert desk.take(effects.Spool).result.outcome == "cancelled"
    desk.flush()
    desk.take(Results)


def test_result_that_is_never_recorded_does_not_hold_the_worker_for_ever(desk: Desk) -> None:
    desk.run(1)
    desk.core.stop(desk.now)
    desk.take(Beat)
    desk.finish(1)

    desk.core.tick(desk.now)
    for _ in range(10):
        desk.tell(Took(desk.session, []))
        desk.advance(1000)
    desk.collect()
    desk.said.clear()

    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=False)


def test_patience_begins_anew_when_the_connection_breaks(desk: Desk) -> None:
    desk.run(1)
    desk.finish(1)
    desk.core.stop(desk.now)
    desk.core.tick(desk.now)
    desk.take(Beat)
    desk.advance(8000)
    desk.collect()
    desk.said.clear()

    desk.core.on_disconnected(desk.now)
    desk.advance(1900)
    desk.collect()
    assert desk.done == [], "it waits as long for the broker as if it had just begun"
    desk.said.clear()

    desk.advance(100)
    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=False)


def test_bye_that_is_not_answered_is_waited_for_two_seconds(desk: Desk) -> None:
    desk.core.stop(desk.now)
    desk.take(Beat)
    desk.core.tick(desk.now)
    desk.take(Bye)

    desk.advance(1999)
    desk.assert_quiet()
    desk.advance(1)

    desk.take(Beat)
    assert desk.take(effects.Leave).is_tidy


def test_bye_is_said_again_in_a_new_session(desk: Desk) -> None:
    desk.core.stop(desk.now)
    desk.take(Beat)
    desk.core.tick(desk.now)
    desk.take(Bye)

    desk.core.on_disconnected(desk.now)
    desk.core.on_writable(desk.now)
    assert desk.take(Hello).draining
    desk.session += 1
    desk.welcome()

    assert leave(desk).is_tidy


def test_bye_ok_that_nobody_asked_for_is_ignored(desk: Desk) -> None:
    desk.tell(ByeOk(desk.session))


def test_stop_while_the_broker_is_away_waits_two_seconds_and_leaves_the_result_in_the_spool(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.core.stop(desk.now)
    desk.advance(500)
    desk.take(Hello)
    desk.core.on_output(1, 1, b"x")
    desk.end(1)
    desk.take(effects.Spool)
    desk.take(effects.SpoolOutput)
    desk.core.tick(desk.now)

    desk.advance(1999)
    desk.take(Hello)
    desk.take(Hello)
    desk.assert_quiet()
    desk.advance(1)

    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=False)


def test_stop_while_the_broker_is_away_with_nothing_to_tell_leaves_at_once(desk: Desk) -> None:
    desk.core.on_disconnected(desk.now)
    desk.core.stop(desk.now)

    desk.core.tick(desk.now)

    desk.take(Hello)
    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=True)


def test_lost_guardian_kills_everything_and_reports_it_as_lost(desk: Desk) -> None:
    desk.push(grant(1), grant(2), grant(3))
    desk.take(effects.Start)
    desk.take(effects.Start)
    desk.tell(Echo(desk.session, 0, 2000, [2]))
    desk.take(effects.Kill)

    desk.core.on_guardian_lost()
    assert [desk.take(effects.Kill) for _ in range(2)] == [effects.Kill(1, True, 0), effects.Kill(2, True, 0)]
    desk.flush()
    assert desk.take(Release).leases == [Returned(3, "draining"), Returned(1, "lost")]
    desk.end(1, None, 9)
    desk.end(2, None, 9)

    assert leave(desk) == effects.Leave(1, is_tidy=True)


def test_what_was_given_back_is_held_until_the_broker_was_told(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.core.stop(desk.now, hard=True)
    desk.take(effects.Kill)
    desk.end(1, None, 15)
    desk.core.on_writable(desk.now)
    assert [held.lease for held in desk.take(Hello).held] == [1]
    desk.session += 1
    desk.welcome(keep=[1])
    desk.flush()

    assert desk.take(Release).leases == [Returned(1, "stopped")]


def test_what_was_given_back_and_never_told_is_left_in_the_spool(desk: Desk) -> None:
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.core.stop(desk.now, hard=True)
    desk.take(effects.Kill)
    desk.end(1, None, 15)
    desk.core.tick(desk.now)
    desk.take(Hello)

    desk.advance(2000)
    desk.said.clear()
    desk.collect()
    desk.said.clear()

    assert desk.take(effects.SpoolReturned) == effects.SpoolReturned([Returned(1, "stopped")], BROKER)
    assert desk.take(effects.Leave) == effects.Leave(0, is_tidy=False)


# --- dead boots --------------------------------------------------------------------------------


def heir(*adopted: Adopted, **changes: Any) -> Desk:
    desk = new_desk(adopted=adopted, **changes)
    desk.connect()
    return desk


def test_dead_boot_is_reported_when_its_results_and_output_are_settled() -> None:
    piece = Piece(7, "job-7", 1, 1, 500, b"tail")
    desk = heir(Adopted(DEAD_BOOT, [(BROKER, result(7))], [(BROKER, piece)]))

    desk.flush()
    assert desk.take(Output).pieces == [piece]
    assert desk.take(Results).results == [result(7)]
    desk.core.tick(desk.now)
    desk.assert_quiet()
    desk.settle(7)
    desk.core.tick(desk.now)
    desk.assert_quiet()
    desk.tell(Took(desk.session, [Taken(7, 1, 504)]))
    desk.core.tick(desk.now)
    assert desk.take(Gone) == Gone(desk.session, [DEAD_BOOT])
    beat = desk.take(Beat)
    assert (beat.held, beat.done) == ([], [])
    desk.core.tick(desk.now)
    desk.tell(Echo(desk.session, beat.n - 1, 2000, []))
    desk.assert_quiet()
    desk.tell(Echo(desk.session, beat.n, 2000, []))

    assert desk.take(effects.Forget) == effects.Forget([DEAD_BOOT])
    desk.core.tick(desk.now)
    desk.assert_quiet()


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_a_dead_boot_had_given_back_is_told_before_it_is_said_to_be_gone(is_gone: bool) -> None:
    desk = heir(Adopted(DEAD_BOOT, returned=[(BROKER, Returned(7, "stopped"))], is_gone=is_gone))

    desk.core.tick(desk.now)
    assert desk.take(Release) == Release(desk.session, [Returned(7, "stopped")])
    if is_gone:
        desk.take(Gone)
    beat = desk.take(Beat)
    desk.core.tick(desk.now)
    desk.assert_quiet()
    desk.tell(Echo(desk.session, beat.n, 2000, []))

    assert desk.take(effects.Forget).boots == [DEAD_BOOT]
    desk.assert_quiet()


def test_dead_boot_is_reported_while_own_output_is_on_its_way() -> None:
    desk = heir(Adopted(DEAD_BOOT))
    desk.run(1)
    desk.core.on_output(1, 1, b"x")
    desk.end(1)
    desk.take(effects.Spool)
    desk.flush()
    desk.take(Output)
    desk.take(Results)

    desk.core.tick(desk.now)

    assert desk.take(Gone) == Gone(desk.session, [DEAD_BOOT])
    desk.take(Beat)


def test_what_a_dead_boot_had_given_back_to_another_broker_is_kept() -> None:
    desk = heir(Adopted(DEAD_BOOT, returned=[("other", Returned(7, "stopped"))]))

    desk.core.tick(desk.now)

    desk.assert_quiet()


def test_gone_is_said_again_in_a_new_session() -> None:
    desk = heir(Adopted(DEAD_BOOT))
    desk.core.tick(desk.now)
    desk.take(Gone)
    desk.take(Beat)

    desk.core.on_disconnected(desk.now)
    desk.session += 1
    desk.welcome()
    desk.core.tick(desk.now)

    assert desk.take(Gone).session == desk.session
    desk.take(Beat)
    desk.assert_quiet()


def test_boot_of_another_host_is_not_reported_as_gone() -> None:
    desk = heir(Adopted(DEAD_BOOT, is_gone=False))

    desk.core.tick(desk.now)

    assert desk.take(effects.Forget).boots == [DEAD_BOOT]
    desk.assert_quiet()


def test_results_for_another_broker_are_neither_sent_nor_forgotten() -> None:
    desk = heir(Adopted(DEAD_BOOT, [("other", result(7))]), Adopted("e" * 32))
    assert "result_spooled" in desk.events()

    desk.core.tick(desk.now)
    assert desk.take(Gone).boots == ["e" * 32]
    beat = desk.take(Beat)
    desk.tell(Echo(desk.session, beat.n, 2000, []))
    assert desk.take(effects.Forget).boots == ["e" * 32]
    desk.core.stop(desk.now)
    desk.take(Beat)

    assert leave(desk) == effects.Leave(0, is_tidy=False)


def test_output_for_another_broker_is_not_sent() -> None:
    desk = heir(Adopted(DEAD_BOOT, [], [("other", Piece(7, "job-7", 1, 1, 0, b"x"))]))

    desk.flush()
    desk.core.tick(desk.now)

    desk.assert_quiet()


def test_own_results_for_another_broker_are_kept() -> None:
    desk = heir()
    desk.run(1)
    desk.core.on_disconnected(desk.now)
    desk.end(1)
    desk.take(effects.Spool)
    desk.session += 1
    desk.welcome(broker="other")
    desk.flush()
    desk.assert_quiet()

    desk.advance(2000)

    assert desk.take(Beat).done == []


def test_errand_tells_what_is_left_and_leaves() -> None:
    desk = new_desk(slots=0, adopted=[Adopted(DEAD_BOOT, [(BROKER, result(7))])], patience_ms=5000)
    desk.core.stop(desk.now)
    desk.core.start(desk.now)
    desk.core.tick(desk.now)
    desk.take(effects.Connect)
    desk.take(Hello)
    desk.welcome()
    desk.take(effects.Ready)
    desk.flush()
    desk.take(Results)
    desk.settle(7)
    desk.core.tick(desk.now)
    desk.take(Gone)
    beat = desk.take(Beat)
    desk.tell(Echo(desk.session, beat.n, 2000, []))
    desk.take(effects.Forget)

    assert leave(desk) == effects.Leave(0, is_tidy=True)


def test_errand_gives_up_when_no_broker_answers() -> None:
    desk = new_desk(slots=0, adopted=[Adopted(DEAD_BOOT)], patience_ms=3000)
    desk.core.stop(desk.now)
    desk.core.start(desk.now)
    desk.core.tick(desk.now)

    desk.advance(3000)

    desk.collect()
    assert desk.done[-1] == effects.Leave(0, is_tidy=False)
