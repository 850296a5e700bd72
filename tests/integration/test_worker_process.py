"""A worker as users start it, against a scripted broker: reports, stopping, dying, coming back."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from queuectl.home import Home
from queuectl.messages import Beat, Gone, Hello, Refuse, Release, Results, Took
from queuectl.pidfiles import local_workers
from tests.harness_worker import (
    ScriptedBroker,
    WorkerProcess,
    below,
    grant,
    is_alive,
    scripted_broker,
    wait_for,
)

STUBBORN = "trap '' TERM; while :; do sleep 1; done"


@pytest.fixture
def place(home: Path) -> Home:
    place = Home(home)
    place.prepare()
    return place


@pytest.fixture
def broker(place: Home) -> Iterator[ScriptedBroker]:
    with scripted_broker(place) as broker:
        yield broker


@pytest.fixture
def worker(place: Home, broker: ScriptedBroker) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(place, slots=2)
    try:
        broker.until(lambda: broker.peers)
        yield worker
    finally:
        worker.end()


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.read_text().strip() if path.exists() else ""))


def is_connected(broker: ScriptedBroker) -> bool:
    """Whether a message for the worker finds it there; it is one that it ignores."""
    broker.socket.router_mandatory = 1
    try:
        broker.send(broker.peer.route, Took(0, []))
    except zmq.ZMQError:
        return False
    finally:
        broker.socket.router_mandatory = 0
    return True


def exit_code(broker: ScriptedBroker, worker: WorkerProcess) -> int:
    """Serve the worker until it has ended."""
    broker.until(lambda: worker.process.poll() is not None)
    return worker.wait()


def spools(place: Home) -> list[str]:
    return sorted(path.name for path in place.spool.iterdir())


def test_job_is_run_and_reported(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("echo out; echo err >&2; exit 3", 1))

    result = broker.result_of(1)

    assert (result.outcome, result.exit_code, result.signal) == ("exit", 3, None)
    assert (result.stdout_bytes, result.stderr_bytes, result.last_line, result.note) == (4, 4, "err", "")
    assert (broker.text(1, 1), broker.text(1, 2)) == (b"out\n", b"err\n")


def test_timeout_kills_the_tree(broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path) -> None:
    broker.push(grant(f"setsid sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000", 1, timeout_ms=300))

    assert broker.result_of(1).outcome == "timeout"

    wait_for(lambda: not is_alive(pid_in(tmp_path / "pid")))


def test_cancel_kills_the_tree_and_says_so(broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path) -> None:
    broker.push(grant(f"echo $$ > {tmp_path}/pid; {STUBBORN}", 1))
    pid_in(tmp_path / "pid")

    broker.cancel(1, grace_ms=100)

    assert (broker.result_of(1).outcome, broker.results[1].signal) == ("cancelled", 9)


def test_cancel_by_another_signal_lets_the_job_answer_it(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path
) -> None:
    broker.push(grant(f"trap 'echo saved; exit 5' INT; sleep 1000 & echo $$ > {tmp_path}/pid; wait", 1))
    pid_in(tmp_path / "pid")

    broker.cancel(1, number=signal.SIGINT)

    result = broker.result_of(1)
    assert (result.outcome, result.exit_code, result.signal) == ("cancelled", 5, None)
    assert broker.text(1) == b"saved\n"


@pytest.mark.parametrize(
    ("number", "grace_ms"), [(signal.SIGKILL, 3_600_000), (signal.SIGTERM, 100)], ids=["KILL", "less grace"]
)
def test_cancel_said_again_with_more_force_ends_a_stubborn_job(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path, number: int, grace_ms: int
) -> None:
    waits = f"sleep 1000 & echo $$ > {tmp_path}/pid; while :; do wait; done"
    broker.push(grant(f"trap 'echo asked' INT; trap '' TERM; {waits}", 1))
    pid_in(tmp_path / "pid")
    broker.cancel(1, number=signal.SIGINT, grace_ms=3_600_000)
    broker.until(lambda: broker.text(1) == b"asked\n")

    broker.cancel(1, number=number, grace_ms=grace_ms)

    assert (broker.result_of(1).outcome, broker.results[1].signal) == ("cancelled", 9)


def test_input_of_a_job_is_read_and_is_written_down_nowhere(
    broker: ScriptedBroker, worker: WorkerProcess, place: Home
) -> None:
    secret = b"input-%s" % os.urandom(16).hex().encode()
    broker.push(grant("cat; exit 3", 1, stdin=secret), grant("cat", 2))

    assert broker.result_of(1).exit_code == 3
    assert broker.result_of(2).exit_code == 0

    broker.until(lambda: broker.text(1) == secret)
    assert broker.text(2) == b""
    worker.stop()
    assert exit_code(broker, worker) == 0
    assert worker.events("job_started"), "the log is told everything that it may be told"
    files = [path for path in place.path.rglob("*") if path.is_file()]
    assert [path for path in files if secret in path.read_bytes()] == []


def test_dropped_lease_is_killed_and_not_reported(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path
) -> None:
    broker.push(grant(f"echo $$ > {tmp_path}/pid; {STUBBORN}", 1), grant("sleep 0.2", 2))
    pid = pid_in(tmp_path / "pid")

    broker.drop = [1]

    broker.result_of(2)
    broker.until(lambda: not is_alive(pid) and 1 not in broker.last(Beat).held)
    assert 1 not in broker.results
    assert worker.events("lease_dropped")


def test_large_output_has_one_gap_of_exact_size(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.answers_output = False
    total, limit = 5_000_000, 100_000
    broker.push(grant(f"head -c {total - 4} /dev/zero; printf tail", 1, output_limit=limit))
    assert broker.result_of(1).stdout_bytes == total

    broker.answers_output = True
    broker.vanish()
    broker.open()
    broker.until(lambda: broker.text(1).endswith(b"tail"))

    assert len(broker.text(1)) + broker.gap(1) == total
    assert limit <= len(broker.text(1)) <= limit + 256 * 1024


def test_flood_does_not_hold_up_the_other_job(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("head -c 200000000 /dev/zero", 1), grant("echo quick", 2))

    assert broker.result_of(2).outcome == "completed"
    assert broker.result_of(1).stdout_bytes == 200_000_000


def test_first_signal_lets_jobs_finish(broker: ScriptedBroker, worker: WorkerProcess, place: Home) -> None:
    broker.push(grant("sleep 0.5; echo done", 1), grant("sleep 0.5", 2), grant("true", 3))
    broker.until(lambda: len(below(worker.inner())) >= 2)

    worker.stop()

    assert exit_code(broker, worker) == 0
    assert broker.released == {3: "draining"}
    assert {broker.results[1].outcome, broker.results[2].outcome} == {"completed"}
    assert broker.byes == 1
    assert spools(place) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_second_signal_kills_jobs_and_gives_them_back(
    broker: ScriptedBroker, worker: WorkerProcess, number: int
) -> None:
    broker.push(grant(f"(setsid sleep 1000 &); {STUBBORN}", 1))
    broker.until(lambda: len(below(worker.pid)) >= 3)

    worker.stop(number)
    broker.until(lambda: broker.last(Beat).draining)
    worker.stop(number)

    assert exit_code(broker, worker) == 0
    assert broker.released == {1: "stopped"}
    assert broker.results == {}


def test_signal_to_all_processes_of_the_service_is_one_request(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("trap '' TERM; sleep 0.5", 1))
    broker.until(lambda: len(below(worker.pid)) >= 3)

    os.kill(worker.inner(), signal.SIGTERM)
    worker.stop(signal.SIGTERM)

    assert exit_code(broker, worker) == 0
    assert broker.results[1].outcome == "completed"


def test_stop_message_stops(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("sleep 0.3", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)

    broker.stop()

    assert exit_code(broker, worker) == 0
    assert broker.results[1].outcome == "completed"


def test_stop_now_message_gives_jobs_back(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("sleep 1000", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)

    broker.stop(now=True)

    assert exit_code(broker, worker) == 0
    assert broker.released == {1: "stopped"}


def test_killed_worker_leaves_nothing_and_its_results_are_told(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path, place: Home
) -> None:
    broker.answers_results = False
    broker.push(
        grant("exit 5", 1), grant(f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' &); {STUBBORN}", 2)
    )
    pid_in(tmp_path / "pid")
    broker.until(lambda: broker.count(Results))
    boot, inner = broker.peer.hello.boot, worker.inner()
    left = below(inner)
    broker.answers_results = True

    os.kill(inner, signal.SIGKILL)

    assert exit_code(broker, worker) == 1
    assert [pid for pid in left if is_alive(pid)] == []
    assert broker.results[1].exit_code == 5
    assert broker.gone == [boot]
    assert broker.last(Hello).slots == 0
    assert spools(place) == []


def test_worker_whose_guardian_is_killed_ends_everything(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path, place: Home
) -> None:
    broker.push(grant(f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' &); {STUBBORN}", 1))
    pid_in(tmp_path / "pid")
    inner = worker.inner()
    left = [inner, *below(inner)]

    os.kill(worker.pid, signal.SIGKILL)

    broker.until(lambda: not any(is_alive(pid) for pid in left))
    assert broker.released == {1: "lost"}
    assert broker.results == {}
    assert spools(place) == []


def test_job_outlives_the_broker(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("sleep 1; echo still here", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)

    broker.vanish()
    wait_for(lambda: worker.events("worker_disconnected"))
    broker.open()

    assert broker.result_of(1).outcome == "completed"
    assert [held.lease for held in broker.last(Hello).held] == [1]
    assert broker.text(1) == b"still here\n"


def test_result_waits_for_a_broker_that_is_away(broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path) -> None:
    broker.push(grant(f"sleep 0.3; echo said; touch {tmp_path}/ended", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)

    broker.vanish()
    wait_for(lambda: worker.events("job_finished"))
    broker.open()

    assert broker.result_of(1).outcome == "completed"
    assert broker.text(1) == b"said\n"
    assert [(held.lease, held.done) for held in broker.last(Hello).held] == [(1, True)]


def test_stop_while_the_broker_is_away_keeps_the_result_for_the_next_worker(
    broker: ScriptedBroker, worker: WorkerProcess, place: Home
) -> None:
    broker.push(grant("sleep 0.3; echo said; exit 6", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)
    boot = broker.peer.hello.boot

    broker.vanish()
    worker.stop()
    assert worker.wait() == 0
    assert spools(place) == [boot]

    broker.open()
    heir = WorkerProcess(place)
    try:
        assert broker.result_of(1).exit_code == 6
        assert broker.text(1) == b"said\n"
        broker.until(lambda: broker.gone == [boot])
        broker.until(lambda: len(spools(place)) == 1)
    finally:
        heir.end()


def test_jobs_given_back_while_the_broker_is_away_are_told_by_the_next_worker(
    broker: ScriptedBroker, worker: WorkerProcess, place: Home
) -> None:
    broker.push(grant("sleep 1000", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)
    boot = broker.peer.hello.boot

    broker.vanish()
    worker.stop()
    wait_for(lambda: worker.events("worker_draining"))
    worker.stop()
    assert worker.wait() == 0
    assert spools(place) == [boot]

    broker.open()
    heir = WorkerProcess(place)
    try:
        broker.until(lambda: broker.gone == [boot])
        assert broker.released == {1: "stopped"}
        assert [type(message) for message in broker.received if isinstance(message, Release | Gone)] == [Release, Gone]
        broker.until(lambda: len(spools(place)) == 1)
    finally:
        heir.end()


def test_signal_that_is_ignored_from_the_start_stays_ignored(broker: ScriptedBroker, place: Home) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = WorkerProcess(place)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGCHLD, before[1])
    try:
        broker.until(lambda: broker.peers)
        worker.stop(signal.SIGHUP)
        os.kill(worker.inner(), signal.SIGHUP)
        broker.push(grant("exit 3", 1))
        assert broker.result_of(1).exit_code == 3
        assert not broker.last(Beat).draining
        worker.stop()
        assert exit_code(broker, worker) == 0
    finally:
        worker.end()


def test_full_disk_does_not_stop_the_worker(broker: ScriptedBroker, place: Home) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        worker = WorkerProcess(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    try:
        broker.until(lambda: broker.peers)
        for lease in range(1, 41):
            broker.push(grant("true", lease))
            broker.result_of(lease)
        worker.stop()
        assert exit_code(broker, worker) == 0
    finally:
        worker.end()


def test_worker_connects_over_tcp_too(place: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"tcp://127.0.0.1:{port}"
    broker = ScriptedBroker(endpoint)
    worker = WorkerProcess(place, QUEUECTL_ENDPOINT=endpoint)
    try:
        broker.until(lambda: broker.peers)
        broker.push(grant("sleep 0.5; echo ${QUEUECTL_ENDPOINT-unset}", 1))
        broker.until(lambda: broker.count(Beat))
        broker.vanish()
        broker.open()
        broker.result_of(1)
        worker.stop()
        assert exit_code(broker, worker) == 0
    finally:
        worker.end()
        broker.close()

    assert broker.text(1) == b"unset\n"


def test_the_two_processes_of_a_worker_look_different(worker: WorkerProcess) -> None:
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() for pid in (worker.pid, worker.inner())]

    assert shown[1] == f"queuectl: runs the jobs of {worker.pid}"
    assert shown[0] != shown[1]


def test_dead_boot_is_swept_before_hello(
    broker: ScriptedBroker, worker: WorkerProcess, place: Home, tmp_path: Path
) -> None:
    broker.push(grant(f"echo $$ > {tmp_path}/pid; sleep 1000", 1))
    job, boot = pid_in(tmp_path / "pid"), broker.peer.hello.boot
    worker.kill_whole()
    assert is_alive(job)

    heir = WorkerProcess(place)
    try:
        broker.until(lambda: broker.gone == [boot])
        assert not is_alive(job)
        assert heir.events("orphan_swept")
    finally:
        heir.end()


def test_results_for_another_broker_are_kept_and_not_sent(
    broker: ScriptedBroker, worker: WorkerProcess, place: Home
) -> None:
    broker.push(grant("sleep 0.3", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)
    boot = broker.peer.hello.boot
    broker.vanish()
    worker.stop()
    assert worker.wait() == 0

    broker.broker_id = "broker-2"
    broker.open()
    heir = WorkerProcess(place)
    try:
        broker.until(lambda: broker.count(Beat) > 2 and heir.events("result_spooled"))
        heir.stop()
        assert exit_code(broker, heir) == 0
    finally:
        heir.end()

    assert broker.results == {}
    assert boot in spools(place)


def test_refused_for_good_ends_with_the_code_of_the_error(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.send(broker.peer.route, Refuse("not_allowed", "no", 0))

    assert exit_code(broker, worker) == 5
    assert worker.events("worker_refused")


def test_worker_that_has_left_hangs_up_before_it_waits_for_the_last_processes(
    broker: ScriptedBroker, worker: WorkerProcess, tmp_path: Path
) -> None:
    broker.push(grant(f"(echo $$ > {tmp_path}/pid; {STUBBORN}) & sleep 0.3", 1))
    pid_in(tmp_path / "pid")
    worker.stop()
    broker.until(lambda: broker.byes)

    broker.until(lambda: not is_connected(broker))

    assert worker.events("worker_stopped") == [], "a broker that went meanwhile would wake it without end"
    assert worker.wait() == 0


def test_living_worker_is_found_without_a_broker(broker: ScriptedBroker, worker: WorkerProcess, place: Home) -> None:
    assert [(found.pid, found.slots) for found in local_workers(place)] == [(worker.pid, 2)]

    worker.stop()
    exit_code(broker, worker)

    assert local_workers(place) == []


def test_beats_go_on_while_jobs_run(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("sleep 1000", 1))

    broker.until(lambda: [beat.held for beat in broker.all(Beat)].count([1]) >= 4)

    assert broker.results == {}


def test_messages_that_cannot_be_understood_are_told_but_not_each(
    broker: ScriptedBroker, worker: WorkerProcess
) -> None:
    for _ in range(50):
        broker.socket.send_multipart([broker.peer.route, b"\xc1"])

    broker.until(lambda: [told["count"] for told in worker.events("message_malformed")][-1:] == [50])
    assert len(worker.events("message_malformed")) < 50
    assert worker.events("message_malformed")[0]["reason"]
    broker.push(grant("exit 3", 1))
    assert broker.result_of(1).exit_code == 3


def test_silent_broker_gets_a_fresh_connection(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    hellos = broker.count(Hello)
    broker.push(grant("sleep 1000", 1))
    broker.until(lambda: len(below(worker.pid)) >= 2)
    job = below(worker.inner())

    wait_for(lambda: worker.events("worker_disconnected"))  # nobody answers while this waits
    broker.until(lambda: broker.count(Hello) > hellos and 1 in [held.lease for held in broker.last(Hello).held])

    assert worker.events("worker_disconnected")[0]["reason"] == "silence"
    assert set(job) <= set(below(worker.inner()))


def test_lease_behind_a_long_job_goes_back(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(*[grant("sleep 1000", lease) for lease in (1, 2, 3)])

    broker.until(lambda: broker.released == {3: "busy"})


def test_job_inherits_no_descriptor_of_the_worker(broker: ScriptedBroker, worker: WorkerProcess) -> None:
    broker.push(grant("ls -l /proc/self/fd | grep -Ec 'socket|anon_inode|lock|log'", 1))

    broker.result_of(1)

    assert broker.text(1) == b"0\n"


def test_many_slots_need_many_files_but_jobs_keep_their_limit(broker: ScriptedBroker, place: Home) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        worker = WorkerProcess(place, slots=300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        broker.until(lambda: broker.peers)
        broker.push(*[grant("sleep 0.1; ulimit -Sn", lease) for lease in range(1, 251)])
        broker.until(lambda: len(broker.results) == 250)
    finally:
        worker.end()

    assert broker.released == {}
    assert {broker.text(lease) for lease in broker.results} == {b"512\n"}


def test_service_manager_is_told(broker: ScriptedBroker, place: Home, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.path / "notify"))
        worker = WorkerProcess(place, NOTIFY_SOCKET=str(place.path / "notify"))
        try:
            broker.until(lambda: broker.peers)
            manager.settimeout(20)
            assert manager.recv(100) == b"READY=1"
            broker.push(grant("echo ${NOTIFY_SOCKET-unset}", 1))
            broker.result_of(1)
            worker.stop()
            assert manager.recv(100) == b"STOPPING=1"
            assert exit_code(broker, worker) == 0
        finally:
            worker.end()

    assert broker.text(1) == b"unset\n"
