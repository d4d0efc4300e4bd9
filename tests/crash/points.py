"""Points: the named places at which a process of the campaign dies, or waits to be killed.

A point is the moment before or after a call that writes to the disk, or takes effect: `"sync before 3"` is
the moment before the third sync. The calls are wrapped in the process that is meant to die: the store has no
hooks for this.

A new point is a line in CALLS.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from everlog.audit import manifest
from everlog.audit.place import LocalPlace
from everlog.audit.tree import Tree
from everlog.consumers.sqlite.sink import SqliteSink
from everlog.store.crypto.key_store import KeyStore
from everlog.store.crypto.vault import Vault
from everlog.store.database import Database
from everlog.store.history.version_index import Versions
from everlog.store.rocks import files
from everlog.store.rocks.engine import Engine

CALLS: dict[str, tuple[tuple[Any, str], ...]] = {
    "log write": ((Engine, "append_record"), (Engine, "append_records")),
    "sync": ((Engine, "sync_log"), (Engine, "sync_beside")),
    "projection": ((Engine, "write_data"),),
    "flush": ((Engine, "flush"),),
    "new tables": ((Engine, "create_family"),),
    "rebuild switch": ((Engine, "switch_data"),),
    "drop of old tables": ((Engine, "drop_family"),),
    "compaction": ((Engine, "compact_data"),),
    "migration": ((Database, "apply_migration"),),
    "archive removal": ((Engine, "trim"),),
    "compaction of the log": ((Engine, "compact_log"),),
    "merge of the log": ((Engine, "merge_log"),),
    "key write": ((KeyStore, "put"),),
    "key sync": ((KeyStore, "sync"),),
    "shredding": ((Vault, "forget"),),
    "versions": ((Versions, "_write"),),
    "tree": ((Tree, "_write"),),
    "side family": ((Engine, "side"),),
    "file of a backup": ((LocalPlace, "write"),),
    "manifest": ((manifest, "write"),),
    "small file": ((files, "write"),),
    "rename": ((os, "replace"), (os, "rename")),
    "follower's commit": ((SqliteSink, "commit"),),
    "follower's schema": ((SqliteSink, "evolve"),),
}
SIDES = ("before", "after")
OFTEN = {
    "log write": 300,
    "sync": 200,
    "projection": 10,
    "follower's commit": 60,
    "key write": 20,
    "key sync": 20,
    "side family": 8,
    "small file": 6,
    "file of a backup": 6,
    "manifest": 6,
}


class Point(NamedTuple):
    """The `nth` passing of one side of a named call."""

    call: str
    side: str
    nth: int

    def __str__(self) -> str:
        return f"{self.call}, {self.side}, {self.nth}"

    @classmethod
    def parse(cls, text: str) -> Point:
        call, side, nth = text.split(", ")
        return cls(call, side, int(nth))


def arm(point: Point, die: Callable[[], None] | None = None) -> None:
    """Make this process, but none of its children, kill itself at the point. Only for a process that is meant
    to die.
    """
    passed, armed = itertools.count(1), os.getpid()

    def here() -> None:
        if os.getpid() == armed and next(passed) == point.nth:
            (die or _die)()

    for owner, name in CALLS[point.call]:
        setattr(owner, name, _deadly(getattr(owner, name), here, before=point.side == "before"))


def _deadly(call: Callable[..., Any], here: Callable[[], None], *, before: bool) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        if before:
            here()
        result = call(*args, **kwargs)
        if not before:
            here()
        return result

    return called


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def every() -> Iterator[tuple[str, str]]:
    """Yield each name, with each side."""
    return itertools.product(CALLS, SIDES)
