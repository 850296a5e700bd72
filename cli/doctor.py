"""`queuectl doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import click

from cli.checks import CHECKS, FAIL, OK, SKIPPED, WARN, Case, Finding, examine
from cli.escape import visible
from cli.options import shared
from cli.render import coloured, columns_wanted, counted
from cli.session import Session

COLOURS = {OK: "green", WARN: "yellow", FAIL: "red", SKIPPED: "bright_black"}
NAME_WIDTH = max(len(check.name) for check in CHECKS)
LEFT = NAME_WIDTH + 2 + len(SKIPPED) + 2


@click.command()
@shared
def doctor(session: Session) -> int:
    """Look for what is wrong: configuration, broker, versions, clocks, disk, workers, queues, stuck jobs.

    Each check is OK, WARN or FAIL, and says how to mend it. The exit code is 1 if one fails. No broker is started for
    it. -q prints the names of those that are not OK.

    \b
    Examples:
      queuectl doctor
      queuectl doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    with Case(session) as case:
        found = dict(_examine_all(session, case))
    fails = sum(finding.status == FAIL for finding in found.values())
    if session.as_json:
        checks = [{"name": name, **finding._asdict()} for name, finding in found.items()]
        session.emit({"ok": not fails, "checks": checks})
    elif session.quiet:
        for name, finding in found.items():
            if finding.status in (WARN, FAIL):
                session.print_id(name)
    else:
        warnings = sum(finding.status == WARN for finding in found.values())
        session.note(f"{counted(fails, 'failure')}, {counted(warnings, 'warning')}.")
    return 1 if fails else 0


def _examine_all(session: Session, case: Case) -> Iterator[tuple[str, Finding]]:
    """One check after the other; each is shown when it is done."""
    obstacle = None
    for check in CHECKS:
        finding = examine(case, check) if obstacle is None else Finding(SKIPPED, obstacle)
        if finding.status == FAIL and check.before_others:
            obstacle = check.before_others
        if not session.as_json and not session.quiet:
            session.print(_lines(check.name, finding))
        yield check.name, finding


def _lines(name: str, finding: Finding) -> str:
    """The finding, and below it the mend, both in the last column."""
    word = coloured(f"{finding.status.upper():<{len(SKIPPED)}}", COLOURS[finding.status])
    texts = [visible(finding.message), *([f"→ {visible(finding.mend)}"] if finding.mend else [])]
    limit = columns_wanted()
    lines = [line for text in texts for line in (textwrap.wrap(text, max(20, limit - LEFT)) if limit else [text])]
    indented = f"\n{' ' * LEFT}".join(lines)
    return f"{name:<{NAME_WIDTH}}  {word}  {indented}"
