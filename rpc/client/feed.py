"""Feed: a subscription to a server that resumes after a broken connection.

    Subscribe(after) ─▶ message ─▶ check, decode ─▶ batch       the position moves with each
         ▲                              │
         └──── wait a little ◀── UNAVAILABLE

Invariants
  (1) it continues exactly after the last received message, in the same history, or raises;
  (2) a message that cannot be decoded is never skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from everlog.feed import cursor, message
from everlog.feed.message import FeedBatch
from everlog.feed.subscription import check_bounds
from everlog.proto import feed_pb2, log_pb2
from everlog.rpc import errors
from everlog.rpc.client.channel import Channel
from everlog.store.errors import CorruptionError

HEARTBEAT_MS_MAX = (1 << 32) - 1  # a uint32
METHOD = "/everlog.v1.Feed/Subscribe"


class RemoteBatches:
    """Batches from a server. The constructor returns once it is subscribed.

    Raises the server's errors about cursor and tables, and UnavailableError.
    """

    def __init__(
        self,
        channel: Channel,
        after: int | log_pb2.Cursor,
        *,
        tables: Sequence[str],
        now: bool,
        until: int | None,
        bounded: bool,
        heartbeat_s: float,
    ) -> None:
        check_bounds(until, heartbeat_s)
        self._channel = channel
        self._subscribe: Any = channel.grpc.unary_stream(METHOD)  # returns bytes
        self._request = feed_pb2.SubscribeRequest(
            database=channel.address.database,
            tables=tables,
            until=until or 0,
            bounded=bounded,
            heartbeat_ms=min(max(1, int(heartbeat_s * 1e3)), HEARTBEAT_MS_MAX),
        )
        if now:
            self._request.now = True
        else:
            self._request.after.CopyFrom(cursor.of(after))
        self._closed = threading.Event()
        self._patience = channel.patience()
        self._call: Any = None
        self._nothing = until == 0
        first = self._open()
        assert first is not None  # it cannot be closed yet
        self._first = first
        if bounded:  # the end is fixed now, and stays the same after a reconnection
            head = self._first.mark.head
            self._request.bounded = False
            self._request.until = head if until is None else min(head, until)
            self._nothing = not self._request.until

    def __iter__(self) -> Iterator[FeedBatch]:
        yield self._first
        while not self._closed.is_set() and not self._nothing:
            try:
                for raw in self._call:
                    batch = message.read(raw)
                    yield batch
                    self._saw(batch)
                return
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return
                self._channel.check_open()
                self._patience.after(errors.translate(error, self._channel.url))
                self._open()

    def close(self) -> None:
        self._closed.set()
        self._call.cancel()

    def _open(self) -> FeedBatch | None:
        """Subscribe, and return the opening message; None once it is closed."""
        request = self._request.SerializeToString()
        while not self._closed.is_set():
            self._call = self._channel.started(
                lambda: self._subscribe(request, metadata=self._channel.metadata)
            )
            if self._closed.is_set():  # closed since the last check: nothing else cancels this call
                self._call.cancel()
            try:
                raw = next(self._call, None)
                if raw is None:
                    raise CorruptionError(f"{self._channel.url}: the feed ended before it began")
                batch = message.read(raw)
                self._saw(batch)
                return batch
            except grpc.RpcError as error:
                if not self._closed.is_set():
                    self._patience.after(errors.translate(error, self._channel.url))
        return None

    def _saw(self, batch: FeedBatch) -> None:
        self._request.after.CopyFrom(batch.mark.position)
        self._patience.succeeded()
