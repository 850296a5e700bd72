"""`queuectl top` on a terminal: what it shows, what its keys do, and that the terminal is given back as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness_cli import LIMIT_S, PROGRAM, CommandLine, until
from tests.harness_terminal import CTRL_C, CTRL_Z, CURSOR_SHOWN, SCREEN_LEFT, SCREEN_TAKEN, OnTerminal

pytestmark = pytest.mark.acceptance


def top(q: CommandLine, *args: str, env: dict[str, str] | None = None, **how: int) -> OnTerminal:
    line = [*PROGRAM, "top", "--interval", "0.2", *args]
    return OnTerminal(line, cwd=q.cwd, env=q.environment(**(env or {})), **how)


def assert_given_back(terminal: OnTerminal) -> None:
    assert terminal.modes == terminal.modes_before
    assert terminal.written.count(SCREEN_TAKEN) == terminal.written.count(SCREEN_LEFT) > 0
    assert terminal.written.rindex(CURSOR_SHOWN) > terminal.written.rindex("\x1b[?25l")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_job_is_cancelled_by_keys(q: CommandLine) -> None:
    q.broker()
    q.worker(1)
    gate = q.gate()
    running = q.enqueue(f"[red]; {gate.wait}")
    q.await_state("processing", running)
    waiting = q.enqueue("echo one")

    with top(q) as terminal:
        terminal.await_line(f"> {running}", "processing", "[red]; :")
        terminal.press("\x1b[B")
        terminal.await_line(f"> {waiting}")
        terminal.press("c")
        terminal.await_line(f"Cancel job {waiting}?")
        terminal.press("y")
        terminal.await_line(f"Job {waiting} cancelled.")
        q.await_state("cancelled", waiting)
        terminal.await_line(f"> {running}")  # the one below has gone
        terminal.press("cy")
        q.await_state("cancelled", running)
        terminal.await_line("No job waits or runs.")
        terminal.await_line("pending 0", "cancelled 2")
        assert terminal.modes != terminal.modes_before
        terminal.press("q")

        assert terminal.wait() == 0
        assert_given_back(terminal)


def test_dead_jobs_are_shown_with_their_cause_and_retried(q: CommandLine) -> None:
    q.broker()
    worker = q.worker(1)
    dead = q.enqueue("echo no luck >&2; exit 3", max_retries=1)
    q.await_state("dead", dead)
    worker.signal(signal.SIGTERM)
    worker.wait()

    with top(q) as terminal:
        terminal.await_line("No worker runs.")
        terminal.press("3")
        terminal.await_line(f"> {dead}", "exit 3", "no luck")
        terminal.press("r")
        terminal.await_line(f"Job {dead} runs again.")
        q.await_state("pending", dead)
        terminal.press("1")
        terminal.await_line(f"> {dead}")
        terminal.press("h")
        until(lambda: q.client.get(dead)["held"], "held")
        terminal.press("w")
        terminal.await_line("held")
        terminal.press(" ")
        terminal.press("q")
        assert terminal.wait() == 0


def press_ctrl_c(terminal: OnTerminal) -> None:
    terminal.press(CTRL_C)


def terminate(terminal: OnTerminal) -> None:
    terminal.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(("end", "code"), [(press_ctrl_c, 130), (terminate, 143)], ids=["ctrl-c", "term"])
def test_the_terminal_is_given_back_whatever_ends_it(
    q: CommandLine, end: Callable[[OnTerminal], None], code: int
) -> None:
    q.broker()

    with top(q) as terminal:
        terminal.await_line("No job waits or runs.")
        end(terminal)

        assert terminal.wait() == code
        assert_given_back(terminal)


def test_it_ends_with_its_terminal_though_it_is_told_to_go_on(q: CommandLine) -> None:
    """As a shell does with a job that was stopped when its terminal hangs up: SIGHUP, and SIGCONT with it."""
    q.broker()

    with top(q) as terminal:
        terminal.await_line("No job waits or runs.")
        terminal.process.send_signal(signal.SIGSTOP)
        terminal.process.send_signal(signal.SIGHUP)
        terminal.process.send_signal(signal.SIGCONT)

        assert terminal.wait() == 129
        assert_given_back(terminal)


def test_it_ends_with_its_terminal(q: CommandLine) -> None:
    q.broker()

    with top(q) as terminal:
        terminal.await_line("No job waits or runs.")
        terminal.hang_up()

        assert terminal.process.wait(LIMIT_S) != 0  # by which code depends on what it wrote last


def test_without_a_broker_the_screen_is_not_taken(q: CommandLine) -> None:
    with top(q, "--no-autostart") as terminal:
        assert terminal.wait() == 69
        assert "error: no broker runs" in terminal.written
        assert SCREEN_TAKEN not in terminal.written
        assert terminal.modes == terminal.modes_before


def test_ctrl_z_gives_the_terminal_back_for_a_while(q: CommandLine) -> None:
    q.broker()

    with top(q) as terminal:
        terminal.await_line("No job waits or runs.")
        terminal.press(CTRL_Z)
        until(lambda: terminal.takes_all() and state_of(terminal.process.pid) == "T", "it stops")
        assert_given_back(terminal)
        job_id = q.enqueue("echo meanwhile")
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.await_line(f"> {job_id}")
        terminal.press("q")
        assert terminal.wait() == 0
        assert_given_back(terminal)


def test_output_is_followed_in_the_same_terminal(q: CommandLine) -> None:
    q.broker()
    q.worker(1)
    gate = q.gate()
    job_id = q.enqueue(f"echo fir''st; {gate.wait}; echo second")

    with top(q) as terminal:
        terminal.await_line(f"> {job_id}")
        terminal.press("f")
        terminal.await_line("first")
        terminal.press(CTRL_C)
        terminal.await_line(f"> {job_id}")
        terminal.press("f")
        until(lambda: terminal.written.count("first\r\n") == 2, "followed again")
        gate.open()
        terminal.await_line("Press Enter to come back.")
        assert "first\nsecond\n" in terminal.screen
        terminal.press("\r")
        terminal.await_line("No job waits or runs.")
        terminal.press("q")
        assert terminal.wait() == 0
        assert_given_back(terminal)


def test_what_was_shown_stays_while_the_broker_is_away(q: CommandLine) -> None:
    q.broker()
    job_id = q.enqueue("echo one")

    with top(q, columns=60, lines=12) as terminal:
        terminal.await_line(f"> {job_id}")
        q.kill_broker()
        terminal.await_line("waiting for the broker")
        terminal.await_line(f"> {job_id}", "echo one")
        q.broker()
        later = q.enqueue("echo two")
        terminal.await_absence("waiting", beside=later)
        terminal.resize(30, 5)
        terminal.await_line("Too small")
        terminal.press("q")
        assert terminal.wait() == 0
