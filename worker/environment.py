"""The environment of a job: the worker's own, less what is not the job's business, plus what the job is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from queuectl.ids import lease_text
from queuectl.messages import Grant

_PREFIX = b"QUEUECTL_"
# What a service manager tells the service, which a job would take as told to itself.
_SERVICE_MANAGER = frozenset(
    b"NOTIFY_SOCKET WATCHDOG_PID WATCHDOG_USEC CREDENTIALS_DIRECTORY LISTEN_PID LISTEN_FDS LISTEN_FDNAMES "
    b"LISTEN_PIDFDID JOURNAL_STREAM INVOCATION_ID MAINPID MAINPIDFDID MANAGERPID MANAGERPIDFDID SYSTEMD_EXEC_PID "
    b"FDSTORE MONITOR_SERVICE_RESULT MONITOR_EXIT_CODE MONITOR_EXIT_STATUS MONITOR_INVOCATION_ID MONITOR_UNIT "
    b"MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE RUNTIME_DIRECTORY STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY "
    b"CONFIGURATION_DIRECTORY".split()
)

Environment = dict[bytes, bytes]


class JobEnvironment:
    """Makes environments from one base, computed once. A job that calls queuectl means the home of its worker."""

    def __init__(self, own: Mapping[bytes, bytes], boot: str, home: Path) -> None:
        self._base = {name: value for name, value in own.items() if _is_passed_on(name)}
        self._base[b"QUEUECTL_HOME"] = os.fsencode(home)
        self._base[b"QUEUECTL_JOB_WORKER"] = boot.encode()

    def of(self, grant: Grant, slot: int) -> Environment:
        """The environment for this grant's command."""
        environment = self._base.copy()
        if grant.env:
            environment.update((name.encode(), value.encode()) for name, value in grant.env.items())
        environment[b"QUEUECTL_JOB_ID"] = grant.job.encode()
        environment[b"QUEUECTL_JOB_ATTEMPT"] = b"%d" % grant.attempt
        environment[b"QUEUECTL_JOB_MAX_RETRIES"] = b"%d" % grant.max_retries
        environment[b"QUEUECTL_JOB_QUEUE"] = grant.queue.encode()
        environment[b"QUEUECTL_JOB_SLOT"] = b"%d" % slot
        environment[b"QUEUECTL_JOB_LEASE"] = lease_text(grant.lease).encode()
        return environment


def _is_passed_on(name: bytes) -> bool:
    return not name.startswith(_PREFIX) and name not in _SERVICE_MANAGER
