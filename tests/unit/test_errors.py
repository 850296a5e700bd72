"""Errors: a closed set of codes that travels and comes back the same."""

from __future__ import annotations

import pytest

from queuectl.errors import BY_CODE, JobExists, QueuectlError, UnknownJob, from_wire

EXIT_CODES = {1, 2, 3, 4, 5, 69, 74, 75, 124}


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_error_travels_and_comes_back(code: str) -> None:
    error = BY_CODE[code]("what went wrong", hint="how to mend it", details={"id": "x"})

    back = from_wire(error.to_wire())

    assert type(back) is BY_CODE[code]
    assert (back.message, back.hint, back.details) == ("what went wrong", "how to mend it", {"id": "x"})
    assert str(back) == "what went wrong"


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_error_has_a_default_message_and_a_known_exit_code(code: str) -> None:
    cls = BY_CODE[code]

    assert cls().message.endswith(".")
    assert cls.exit_code in EXIT_CODES
    assert cls.retryable or cls.exit_code not in (69, 74, 75, 124)


def test_codes_are_unique() -> None:
    def count(cls: type[QueuectlError]) -> int:
        return 1 + sum(count(child) for child in cls.__subclasses__() if child.__module__ == cls.__module__)

    assert count(QueuectlError) == len([cls for cls in BY_CODE.values() if cls.__module__ == "queuectl.errors"])


def test_error_without_hint_and_details_is_short() -> None:
    assert JobExists().to_wire() == {
        "code": "job_exists",
        "message": "A job with this id exists already.",
        "retryable": False,
    }


def test_code_of_a_newer_broker_is_a_plain_error() -> None:
    back = from_wire({"code": "from_the_future", "message": "later"})

    assert type(back) is QueuectlError
    assert (back.message, back.exit_code) == ("later", 1)


def test_kind_is_kept_by_its_code() -> None:
    assert type(from_wire({"code": "unknown_job", "message": "x"})) is UnknownJob
