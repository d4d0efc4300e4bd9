"""Feed: commits in order, as `db.feed(…)` gives them, here and from a server.

    for commit in db.feed(after=cursor, tables=[AIRPORTS]): …
    for batch in db.feed(after=cursor).batches(): …         commits, mark, schema

The two differ in where their batches come from alone. Close a feed to end it from elsewhere: who
iterates is woken, and the iteration ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from everlog.feed import message
from everlog.feed.message import FeedBatch
from everlog.feed.subscription import HEARTBEAT_S, Subscription
from everlog.feed.tail import Origin
from everlog.proto import log_pb2
from everlog.store.errors import ClosedError, SchemaError
from everlog.store.schema import arguments
from everlog.store.schema.table import Table


class Batches(Protocol):
    """Where a feed's batches come from."""

    def __iter__(self) -> Iterator[FeedBatch]: ...

    def close(self) -> None: ...


class Feed:
    """Iterate it once: over commits, or over `batches()`."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[log_pb2.Commit]:
        for batch in self._batches:
            yield from batch.commits

    def batches(self) -> Iterator[FeedBatch]:
        """Commits as they arrive together, each time with a mark to resume after. Those without
        commits are told as well: heartbeats, and how far a filtered feed has come."""
        return iter(self._batches)

    def close(self) -> None:
        """Ends the iteration, from any thread."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalBatches:
    """Batches of a database in this process: the same bytes that a server would send."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._closed = threading.Event()
        self._pid = os.getpid()

    def __iter__(self) -> Iterator[FeedBatch]:
        subscription, closed = self._subscription, self._closed
        while not closed.is_set():
            if self._pid != os.getpid():  # whose commits do not come here
                raise ClosedError("this feed was opened before this process was forked; open it in the child")
            raw = subscription.poll()
            if raw is not None:
                yield message.read(raw)
            elif subscription.done:
                return
            else:
                subscription.tail.wait(subscription.position, subscription.beat_s, closed.is_set)

    def close(self) -> None:
        self._closed.set()
        self._subscription.tail.advance()


def feed(
    origin: Origin,
    after: int | log_pb2.Cursor = 0,
    *,
    tables: Iterable[Table[Any, Any] | str] | None = None,
    now: bool = False,
    until: int | None = None,
    bounded: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
) -> Feed:
    """Follows a database in this process: what comes after a seq or a cursor, or from `now` on.

    `tables`: only their changes, and all migrations. It ends after the seq `until`, or, if
    `bounded`, at the newest record that there is now; else it never ends by itself.

    Raises CursorError, SchemaError; while iterating CorruptionError and ClosedError. Read-only.
    """
    names = table_names(tables)
    subscription = Subscription(
        origin, after=after, tables=names, now=now, until=until, bounded=bounded, heartbeat_s=heartbeat_s
    )
    return Feed(LocalBatches(subscription))


def table_names(tables: Iterable[Table[Any, Any] | str] | None) -> list[str]:
    """Names of tables given as constants or by name. Raises SchemaError."""
    if tables is None:
        return []
    return [arguments.table_name(table) for table in arguments.several(tables, "tables", error=SchemaError)]
