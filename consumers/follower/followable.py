"""Followable: what a follower needs from a database, embedded or remote: its feed, keys and consumers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from everlog.proto import feed_pb2, log_pb2
from everlog.store.crypto.vault import Opener
from everlog.store.upkeep.consumers import Cap, Consumer


class FeedBatch(Protocol):
    """Commits that the feed returns together."""

    @property
    def commits(self) -> Sequence[log_pb2.Commit]: ...
    @property
    def schema(self) -> log_pb2.Schema | None: ...
    @property
    def mark(self) -> feed_pb2.Mark | None: ...


class Subscription(Protocol):
    """An open feed."""

    def batches(self) -> Iterator[FeedBatch]: ...
    def close(self) -> None: ...


class Registry(Protocol):
    """Registers followers under durable names: `consumers` of a database."""

    def register(
        self, name: str, *, after: int | log_pb2.Cursor | None = None, cap: Cap | None = None
    ) -> Consumer: ...
    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None: ...


class Followable(Protocol):
    """The part of a database, embedded or remote, that a follower needs."""

    @property
    def uuid(self) -> bytes: ...
    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """Return an opener for the sealed rows of these tables, or of all. Raises AccessError if rows of
        them are sealed and the caller may not have keys."""
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
