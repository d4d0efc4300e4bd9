"""Feed service: subscriptions over gRPC, as bytes that are built once and sent as they are.

    behind      ─▶ read in a thread ─▶ send, while the next is being read
    at the tail ─▶ wait in a cohort, and be told with all others there (cohort.py)

Invariants
  (1) one message is under way for each subscription, and one is ready: the transport's flow
      control is the subscriber's pace, and the server keeps nothing more for those who are slow.
"""

from __future__ import annotations

import asyncio

from google.protobuf.message import DecodeError

from everlog.feed.subscription import HEARTBEAT_S, Subscription
from everlog.feed.tail import Tail
from everlog.proto import feed_pb2
from everlog.rpc import enums
from everlog.rpc.cohort import Cohorts
from everlog.rpc.hosting import Hosting
from everlog.rpc.stream import Stream
from everlog.store.errors import ClosedError, CursorError

PATH = "/everlog.v1.Feed/Subscribe"
BEHIND = 256  # records: more than these are read in a thread


class FeedService:
    """Subscribe."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._cohorts: dict[Tail, Cohorts] = {}
        self._draining = False

    async def subscribe(self, stream: Stream, request: bytes) -> None:
        """Sends messages until the subscription is done, or the stream is closed."""
        try:
            asked = feed_pb2.SubscribeRequest.FromString(request)
        except DecodeError as error:
            raise CursorError(f"expected a SubscribeRequest: {error}", why="unclear") from None
        enums.check(asked)
        subscription = await self._hosting.read(self._subscription, asked)
        subscribers = self._hosting.subscribers
        subscribers[asked.database] += 1
        try:
            await self._send(subscription, stream)
        finally:
            subscribers[asked.database] -= 1

    def drain(self) -> None:
        """Ends all subscriptions; their clients resume where they were."""
        self._draining = True
        for cohorts in self._cohorts.values():
            cohorts.close(_stopping())

    async def _send(self, found: Subscription, stream: Stream) -> None:
        subscription: Subscription | None = found
        while subscription is not None and not self._draining:
            if subscription.filters and subscription.behind > BEHIND:
                raw = await self._hosting.read(subscription.poll)
            else:
                raw = subscription.poll()
                await asyncio.sleep(0)
            await stream.writable()
            if raw is not None:
                stream.send(raw)
            elif subscription.done:
                return
            else:
                subscription = await self._at(subscription.tail).wait(subscription, stream)
        if self._draining:
            raise _stopping()

    def _at(self, tail: Tail) -> Cohorts:
        cohorts = self._cohorts.get(tail)
        if cohorts is None:
            cohorts = self._cohorts[tail] = Cohorts(tail, asyncio.get_running_loop())
        return cohorts

    def _subscription(self, asked: feed_pb2.SubscribeRequest) -> Subscription:
        return Subscription(
            self._hosting.database(asked.database),
            after=asked.after if asked.HasField("after") else 0,
            tables=asked.tables,
            now=asked.now,
            until=asked.until or None,
            bounded=asked.bounded,
            heartbeat_s=asked.heartbeat_ms / 1e3 or HEARTBEAT_S,
        )


def _stopping() -> ClosedError:
    return ClosedError("the server is stopping; resume with another one, or a little later")
