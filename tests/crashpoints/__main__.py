"""`python -m tests.crashpoints --states N --from S`: lose the power N times, then let every operation fail.

The failing operations come on top of the power cuts: a second half that takes as long whatever N is. Then controls
break a rule on purpose. Exits 1 if a state is not as it was promised, or if a control loses nothing.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time

import apsw

from tests.command_line import run, whole
from tests.crashpoints.campaign import CONTROLS, Found, cut_power
from tests.crashpoints.failing import Answers, fail_each

STEPS = 60  # of a broker, for each seed
FAILING_SEEDS = 2  # one that begins with nothing, one with an old database
CONTROL_SHARE = 0.2
FAULTS_SHOWN = 20


def main() -> int:
    """Run the campaign, and say what was found; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description=__doc__)
    parser.add_argument(
        "--states",
        type=whole(1),
        default=5000,
        metavar="N",
        help="after power cuts, failing operations not counted [%(default)s]",
    )
    parser.add_argument(
        "--from", type=whole(0), default=1, dest="first", metavar="SEED", help="the first of the seeds [%(default)s]"
    )
    options = parser.parse_args()
    print(f"SQLite at work {apsw.sqlite_lib_version()}, SQLite that opens what is left {sqlite3.sqlite_version}")
    faults = _cut(options.states, options.first).faults + _fail(options.first).faults + _break_rules(options.first)
    for fault in faults[:FAULTS_SHOWN]:
        print("  " + fault)
    print(f"FAILED: {len(faults)} faults" if faults else "no promise was broken, and each control was noticed")
    return 1 if faults else 0


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


def _break_rules(first: int) -> list[str]:
    """The faults: controls that lost nothing."""
    faults = []
    for name, how in CONTROLS.items():
        found = Found()
        cut_power(first, found, steps=STEPS, share=CONTROL_SHARE, **how)
        said = f"control, {name}: {found.jobs_lost} jobs lost in {found.states} states"
        if found.jobs_lost:
            print(f"{said}, as it must lose some: ok")
        else:
            faults.append(f"{said}: a broken rule was not noticed")
    return faults


if __name__ == "__main__":
    sys.exit(run(main))
