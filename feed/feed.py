"""Feed: the commits of a database in order, as `db.feed(…)` returns them, embedded or remote.

    for commit in db.feed(after=cursor, tables=[AIRPORTS]): …
    for batch in db.feed(after=cursor).batches(): …         commits, mark, schema

The two iterations differ only in their grouping. `close` ends a feed from any thread: it wakes the
iterating thread, and the iteration ends.
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
    """The source of a feed's batches."""

    def __iter__(self) -> Iterator[FeedBatch]: ...

    def close(self) -> None: ...


class Feed:
    """A feed of commits. Iterate it once: over commits, or over `batches()`."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[log_pb2.Commit]:
        for batch in self._batches:
            yield from batch.commits

    def batches(self) -> Iterator[FeedBatch]:
        """Yield the commits that arrive together, with a mark from which to resume. Batches without commits
        are yielded as well: heartbeats, and the progress of a filtered feed."""
        return iter(self._batches)

    def close(self) -> None:
        """End the iteration. Thread-safe."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalBatches:
    """Batches of an embedded database: the same bytes that a server sends."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._closed = threading.Event()
        self._pid = os.getpid()

    def __iter__(self) -> Iterator[FeedBatch]:
        subscription, closed = self._subscription, self._closed
        while not closed.is_set():
            if self._pid != os.getpid():  # commits of the parent do not arrive in the child
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
    """Follow an embedded database: the commits after a seq or a cursor, or from `now` on.

    `tables`: only changes of these tables, and all migrations. The feed ends after the seq `until`, or with
    `bounded` at the current head; otherwise it does not end. `heartbeat_s`: seconds between messages of an
    idle feed. Read-only.

    Raises CursorError and SchemaError; while iterating, CorruptionError and ClosedError.
    """
    names = table_names(tables)
    subscription = Subscription(
        origin, after=after, tables=names, now=now, until=until, bounded=bounded, heartbeat_s=heartbeat_s
    )
    return Feed(LocalBatches(subscription))


def table_names(tables: Iterable[Table[Any, Any] | str] | None) -> list[str]:
    """Return the names of tables that are given as constants or names. Raises SchemaError."""
    if tables is None:
        return []
    return [arguments.table_name(table) for table in arguments.several(tables, "tables", error=SchemaError)]
