"""The operations of clients: one table from the name to who may do it, what it takes, and who carries it out.

What is not in here does not exist. Roles are of the key that a connection has proved; a request cannot name one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from broker.core import again, asks, deeds, deletion, edits, export, feed, holds, keys, reading, stops, why
from broker.core.access import ADMIN, EVERYBODY, READ, SUBMIT, Actor
from broker.core.state import State
from broker.core.turn import Turn
from queuectl import requests

Handler = Callable[[State, Turn, Actor, Any], dict[str, Any]]

ADMINS = frozenset({ADMIN})
SEERS = frozenset({READ, ADMIN})
OWNERS = frozenset({SUBMIT, READ, ADMIN})  # a submit key: of its own jobs only
SUBMITTERS = frozenset({SUBMIT, ADMIN})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. One that changes the store has its reply stored with its effect."""

    roles: frozenset[str]
    args: type[msgspec.Struct]
    handler: Handler | None  # None: it is stored in sets (enqueue), or answered later (wait)
    changes: bool = False


OPERATIONS: dict[str, Operation] = {
    "ping": Operation(EVERYBODY, requests.Ping, asks.ping),
    "whoami": Operation(EVERYBODY, requests.Whoami, asks.whoami),
    "enqueue": Operation(SUBMITTERS, requests.Enqueue, None, changes=True),
    "job": Operation(OWNERS, requests.Job, asks.job),
    "output": Operation(OWNERS, requests.Output, reading.output),
    "why": Operation(OWNERS, requests.Why, why.why),
    "list": Operation(OWNERS, requests.List, asks.list_jobs),
    "events": Operation(OWNERS, requests.Events, feed.events),
    "wait": Operation(OWNERS, requests.Wait, None),
    "status": Operation(SEERS, requests.Status, asks.status),
    "dlq_retry": Operation(ADMINS, requests.DlqRetry, deeds.dlq_retry, changes=True),
    "dlq_purge": Operation(ADMINS, requests.DlqPurge, deeds.dlq_purge, changes=True),
    "cancel": Operation(SUBMITTERS, requests.Cancel, stops.cancel, changes=True),
    "hold": Operation(ADMINS, requests.Hold, holds.hold, changes=True),
    "release": Operation(ADMINS, requests.Release, holds.release, changes=True),
    "edit": Operation(ADMINS, requests.Edit, edits.edit, changes=True),
    "retry": Operation(ADMINS, requests.Retry, again.retry, changes=True),
    "purge": Operation(ADMINS, requests.Purge, deletion.purge, changes=True),
    "export": Operation(ADMINS, requests.Export, export.export),
    "config_show": Operation(SEERS, requests.ConfigShow, asks.config_show),
    "config_set": Operation(ADMINS, requests.ConfigSet, deeds.config_set, changes=True),
    "config_unset": Operation(ADMINS, requests.ConfigUnset, deeds.config_unset, changes=True),
    "worker_stop": Operation(ADMINS, requests.WorkerStop, deeds.worker_stop),
    "key_add": Operation(ADMINS, requests.KeyAdd, keys.add, changes=True),
    "key_rotate": Operation(ADMINS, requests.KeyRotate, keys.rotate, changes=True),
    "key_revoke": Operation(ADMINS, requests.KeyRevoke, keys.revoke, changes=True),
    "key_list": Operation(SEERS, requests.KeyList, keys.show),
    "reload": Operation(ADMINS, requests.Reload, keys.reload),
    "shutdown": Operation(ADMINS, requests.Shutdown, deeds.shutdown),
}
