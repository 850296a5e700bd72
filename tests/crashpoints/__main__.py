"""`python -m tests.crashpoints --states N --from S`: lose the power N times, then let every operation fail.

Exits 1 if a state is not as it was promised, or if a control that breaks a rule on purpose loses nothing.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time

import apsw

from tests.crashpoints.campaign import CONTROLS, Found, cut_power
from tests.crashpoints.failing import Answers, fail_each

STEPS = 60  # of a broker, for each seed
FAILING_SEEDS = 2  # one that begins with nothing, one with an old database
CONTROL_SHARE = 0.2
FAULTS_SHOWN = 20


def main() -> int:
    """Run the campaign, and say what was found; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description=__doc__)
    parser.add_argument("--states", type=int, default=5000)
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="SEED")
    options = parser.parse_args()
    print(f"SQLite at work {apsw.sqlite_lib_version()}, SQLite that opens what is left {sqlite3.sqlite_version}")
    found, answers = _cut(options.states, options.first), _fail(options.first)
    controls = _break_rules(options.first)
    for fault in (found.faults + answers.faults)[:FAULTS_SHOWN]:
        print("  " + fault)
    return 0 if not found.faults and not answers.faults and all(controls) else 1


def _cut(states: int, first: int) -> Found:
    found, began = Found(), time.process_time()
    while found.states < states:
        cut_power(first + found.seeds, found, steps=STEPS, states=states)
        print(f"seed {first + found.seeds - 1}: {found.states} states, {found.jobs_lost} jobs lost", flush=True)
    print(
        f"power cuts: {found.states} states of {found.seeds} seeds ({found.of_second_cuts} of second cuts, "
        f"{found.thorough} with the whole integrity check), {found.jobs} jobs, {found.jobs_lost} lost, "
        f"{len(found.faults)} faults, {time.process_time() - began:.0f} s of one core"
    )
    return found


def _fail(first: int) -> Answers:
    answers, began = Answers(), time.process_time()
    for seed in range(first, first + FAILING_SEEDS):
        fail_each(seed, answers)
    print(
        f"failing operations: {answers.runs} runs, {answers.states} states, {answers.jobs_lost} jobs lost, "
        f"{len(answers.faults)} faults, {time.process_time() - began:.0f} s of one core"
    )
    for (operation, how, answer), times in sorted(answers.answers.items()):
        print(f"  {operation:8} {how:5} {answer:15} {times}")
    return answers


def _break_rules(first: int) -> list[bool]:
    """Whether each control showed a loss."""
    lost = []
    for name, how in CONTROLS.items():
        found = Found()
        cut_power(first, found, steps=STEPS, share=CONTROL_SHARE, **how)
        lost.append(found.jobs_lost > 0)
        print(f"control, {name}: {found.jobs_lost} jobs lost in {found.states} states")
    return lost


if __name__ == "__main__":
    sys.exit(main())
