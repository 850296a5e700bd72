"""`queuectl` with a fault planted in its broker, so that a campaign can show that it finds one.

`python -m tests.campaign.planted FAULT …` is `queuectl …` with that fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from broker.store import Store
from broker.store.ledger import Ledger
from cli.main import main

Deeds = dict[str, Callable[..., Any]]


def forget_replies() -> None:
    """A request that is repeated is carried out again."""
    _replace(Ledger, {"replies": lambda *_: {}, "keep_replies": lambda *_: None})


def speak_first() -> None:
    """What a turn has decided is said before it is committed: at the beginning of the next one."""
    begin, commit, close = Store.begin, Store.commit, Store.close
    uncommitted: list[Store] = []

    def catch_up() -> None:
        while uncommitted:
            commit(uncommitted.pop())

    def begin_late(store: Store) -> None:
        catch_up()
        begin(store)

    def close_late(store: Store) -> None:
        catch_up()
        close(store)

    def commit_later(store: Store) -> None:
        uncommitted.append(store)

    _replace(Store, {"begin": begin_late, "commit": commit_later, "close": close_late, "tidy": lambda _: False})


def _replace(owner: type, deeds: Deeds) -> None:
    for name, deed in deeds.items():
        assert hasattr(owner, name)
        setattr(owner, name, deed)


FAULTS = {"forget_replies": forget_replies, "speak_first": speak_first}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(main())
