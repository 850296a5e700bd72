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
    commit = Store.commit
    uncommitted: list[Store] = []

    def commit_later(store: Store) -> None:
        uncommitted.append(store)

    def after_commit(deed: Callable[[Store], None]) -> Callable[[Store], None]:
        def late(store: Store) -> None:
            while uncommitted:
                commit(uncommitted.pop())
            deed(store)

        return late

    others = {name: after_commit(getattr(Store, name)) for name in ("begin", "write_through", "close")}
    _replace(Store, {**others, "commit": commit_later, "tidy": lambda _: False})


def _replace(owner: type, deeds: Deeds) -> None:
    for name, deed in deeds.items():
        assert hasattr(owner, name)
        setattr(owner, name, deed)


FAULTS = {"forget_replies": forget_replies, "speak_first": speak_first}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(main())
