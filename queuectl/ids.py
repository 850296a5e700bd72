"""Identifiers: the short ids of jobs, the time-ordered ids of requests, how a lease is written.

A generated job id is one letter for the number of digits and then the digits: `a1` … `a9`, `b10` …
`b99`, `c100`. So ids sort in order of arrival, stay short, and no generated id is the prefix of
another, which matters where people shorten ids.
"""

from __future__ import annotations

import os
import re
import time

JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
LAST = "last"  # in the place of an id: the newest job
QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a key, and of a context; never like uid:1000
QUEUE_GLOB = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,64}")  # of the names of queues, as fnmatch reads it
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{8,64}")
OF_TOKEN = "token:"  # so begin the request ids that the command line makes of idempotency tokens


def job_id_of(seq: int) -> str:
    """The generated id of the job with this sequence number (from 1)."""
    digits = str(seq)
    return chr(ord("a") + len(digits) - 1) + digits


def job_ids(first: int, count: int) -> list[str]:
    """The generated ids of so many jobs in a row."""
    if len(str(first)) != len(str(first + count)):
        return [job_id_of(seq) for seq in range(first, first + count)]
    letter = job_id_of(first)[0]
    return [f"{letter}{seq}" for seq in range(first, first + count)]


def new_request_id() -> str:
    """A time-ordered request id: 48 bits of milliseconds and 80 random bits, as UUIDv7 (RFC 9562), in 32 hex digits."""
    return f"{int(time.time() * 1000):012x}{os.urandom(10).hex()}"


def lease_text(lease: int) -> str:
    """A lease id as people and environments see it: 16 hex digits."""
    return f"{lease:016x}"
