"""Conditions mean what they say, whatever the letters, the kind of the field, and where there is no value."""

from __future__ import annotations

import pytest

from tests.harness import BrokerHarness


def found(broker: BrokerHarness, *where: str) -> list[str]:
    return [job["id"] for job in broker.ask("list", select={"where": where})["jobs"]][::-1]


# --- ~ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("echo Äpfel", "äpfel"),
        ("echo Äpfel", "ÄPFEL"),
        ("echo äpfel", "Äpfel"),
        ("echo Äpfel", "PFEL"),
        ("tar привет", "ПРИВЕТ"),
        ("run ΟΔΟΣ", "οδος"),
        ("run οδος", "ΟΔΟΣ"),
        ("cd Straße", "straße"),
        ("cd STRASSE", "straße"),
        ("a%b_[c]*", "%B_[C]*"),
    ],
)
def test_text_is_contained_whatever_the_case(broker: BrokerHarness, command: str, asked: str) -> None:
    broker.enqueue(command, "sleep 1")

    assert found(broker, f"command~{asked}") == ["a1"]


@pytest.mark.parametrize("field", ["reason", "cwd", "unique", "retry_of", "worker", "last_line"])
def test_text_that_is_not_there_contains_nothing(broker: BrokerHarness, field: str) -> None:
    broker.enqueue("x")

    assert found(broker, f"{field}~ä") == []
