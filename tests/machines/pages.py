"""The commands that a page tells people to type on several machines, typed on machines of the tests.

A line `HOST$ COMMAND` in a fenced block is run as it stands, on that machine, in the home of its user. Nothing is
substituted: the machines have the names that the page gives them. What stands below it must come out of it, line by
line, where `…` is anything, and any blanks are some. What only looks (`LOOKS`) is asked again until it shows that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tests.harness_cli import Ran, until
from tests.harness_process import ROOT
from tests.machines.network import Network

LOOKS = ("queuectl logs", "queuectl list", "queuectl show", "queuectl status", "queuectl worker list")
_PROMPT = re.compile(r"([a-z0-9.-]+\.example)\$ (.+)")


class Line(NamedTuple):
    """A command of a page, where it is typed, and what the page shows below it."""

    host: str
    command: str
    shown: tuple[str, ...]


def commands(page: str, heading: str) -> list[Line]:
    """The commands of one section of a page, in order."""
    text = (ROOT / page).read_text()
    section = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None, f"{page} has no section {heading}"
    found: list[Line] = []
    for block in re.findall(r"^```console\n(.*?)^```", section[2], re.DOTALL | re.MULTILINE):
        for text in filter(None, block.splitlines()):
            if prompt := _PROMPT.fullmatch(text):
                found.append(Line(prompt[1], prompt[2], ()))
            else:
                found[-1] = found[-1]._replace(shown=(*found[-1].shown, text))
    return found


def hosts(lines: Sequence[Line]) -> list[str]:
    """The machines that a page speaks of, in order."""
    return list(dict.fromkeys(line.host for line in lines))


def type_all(network: Network, lines: Sequence[Line]) -> None:
    """Type what a page says, on machines that are there. Raises AssertionError where something else comes of it."""
    for line in lines:
        type_line(network, line)


def type_line(network: Network, line: Line) -> Ran:
    """Type one line."""
    machine = network[line.host]
    tried: list[Ran] = []

    def shows() -> bool:
        tried.append(machine.run(line.command))
        return tried[-1].code == 0 and _shows(tried[-1], line.shown)

    if line.command.startswith(LOOKS):
        until(shows, f"{line.command} to show {line.shown}")
    else:
        assert shows(), f"{line}: {tried[-1]}"
    return tried[-1]


def _shows(ran: Ran, shown: Sequence[str]) -> bool:
    """Whether these lines came out, in this order; on a terminal, words stand among data."""
    came = iter((ran.stderr + ran.stdout).splitlines())
    return all(any(_pattern(text).fullmatch(line) for line in came) for text in shown)


def _pattern(text: str) -> re.Pattern[str]:
    words = (r"\s+".join(map(re.escape, piece.split(" "))) for piece in re.sub(" +", " ", text.rstrip()).split("…"))
    return re.compile(".*".join(words) + r"\s*")
