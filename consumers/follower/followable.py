"""Followable: what a follower needs of a database, embedded or remote, of its feed, and of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from everlog.proto import feed_pb2, log_pb2
from everlog.store.crypto.vault import Opener
from everlog.store.upkeep.consumers import Cap, Consumer


class FeedBatch(Protocol):
    """What the feed gives at once."""

    @property
    def commits(self) -> Sequence[log_pb2.Commit]: ...
    @property
    def schema(self) -> log_pb2.Schema | None: ...
    @property
    def mark(self) -> feed_pb2.Mark | None: ...


class Subscription(Protocol):
    """A feed that was asked for."""

    def batches(self) -> Iterator[FeedBatch]: ...
    def close(self) -> None: ...


class Registry(Protocol):
    """Where a follower registers under a durable name: `consumers` of a database."""

    def register(
        self, name: str, *, after: int | log_pb2.Cursor | None = None, cap: Cap | None = None
    ) -> Consumer: ...
    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None: ...


class Followable(Protocol):
    """A database, embedded or remote, as far as a follower needs it."""

    @property
    def uuid(self) -> bytes: ...
    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """What opens sealed rows for who follows these tables, or all. Raises AccessError for who may not,
        where rows of them are sealed."""
        ...

    def feed(
        self,
        after: int | log_pb2.Cursor = 0,
        *,
        tables: Sequence[str] | None = None,
        until: int | None = None,
        bounded: bool = False,
        heartbeat_s: float = 5,
    ) -> Subscription: ...
