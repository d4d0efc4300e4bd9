"""Feed service: subscriptions over gRPC, as bytes that are built once and sent as they are.

    behind      ─▶ read in a thread ─▶ send, while the next is being read
    at the tail ─▶ wait in a cohort, and be told with all others there (server/feed.py)

Invariants
  (1) one message is under way for each subscription, and one is ready: the transport's flow
      control is the subscriber's pace, and the server keeps nothing more for those who are slow.

Cohort: subscribers who wait at the same place with the same filter, told together.

    tail moves ─▶ cohort polls once ─▶ for each connection one write ─▶ all its members
                                          └─ too slow for it: leaves, goes on alone

Most subscribers of a server are at the tail of its log. There each commit is one read, one
message and one write for each connection, however many they are.

Invariants
  (1) members are exactly where the cohort's subscription is: what it polls, all of them get, or
      they leave with a subscription of their own from before that;
  (2) no two cohorts are alike: after each turn those that are become one.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict

from google.protobuf.message import DecodeError

from everlog.feed.subscription import HEARTBEAT_S, Subscription
from everlog.feed.tail import Tail
from everlog.proto import feed_pb2
from everlog.rpc.http2 import grpc
from everlog.rpc.http2.connection import Connection, Stream
from everlog.rpc.server.host import Hosting
from everlog.store.errors import ClosedError, CursorError, Error

TICK_S = 0.05
TURN_MAX = 8  # messages that a cohort is told before the loop does something else

# The subscription to go on with alone; None: it is done.
Leave = asyncio.Future[Subscription | None]


class Cohort:
    """Those who wait where `subscription` is."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.members: defaultdict[Connection, dict[Stream, Leave]] = defaultdict(dict)

    def tell(self) -> bool:
        """Tells all members what there is to tell. False: there is more, for another turn."""
        for _ in range(TURN_MAX):
            before = copy.copy(self.subscription)
            raw = self.subscription.poll()
            if raw is not None:
                for connection, streams in list(self.members.items()):
                    for stream in connection.out.send_to_all(streams, raw):
                        self.leave(stream, before)
                    connection.out.flush()
            elif self.subscription.done:
                self.dissolve(None)
                return True
            if raw is None or not self.members:
                return True
        return False

    def leave(self, stream: Stream, subscription: Subscription | None) -> None:
        streams = self.members[stream.connection]
        left = streams.pop(stream, None)
        if not streams:
            del self.members[stream.connection]
        if left is not None and not left.done():
            left.set_result(copy.copy(subscription))

    def dissolve(self, outcome: Exception | None) -> None:
        """Everybody leaves: because it is done, or with an error."""
        members, self.members = self.members, defaultdict(dict)
        for streams in members.values():
            for left in streams.values():
                if not left.done():
                    left.set_exception(outcome) if outcome else left.set_result(None)


class Cohorts:
    """All cohorts at one tail, in one event loop."""

    def __init__(self, tail: Tail, loop: asyncio.AbstractEventLoop) -> None:
        self._tail = tail
        self._loop = loop
        self._cohorts: dict[object, Cohort] = {}
        self._rung = False  # a turn is on its way
        self._ticking = False
        tail.add_waker(self._wake)

    async def wait(self, subscription: Subscription, stream: Stream) -> Subscription | None:
        """Waits, and is told, with others, for as long as the stream keeps up. Returns the
        subscription to go on with, or None if it is done."""
        cohort = self._cohorts.get(subscription.fanout_key)
        if cohort is None:
            cohort = self._cohorts[subscription.fanout_key] = Cohort(subscription)
        left: Leave = self._loop.create_future()
        cohort.members[stream.connection][stream] = left
        if subscription.lag:  # the head has moved since it looked
            self._wake()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)
        try:
            return await left
        finally:
            if not left.done() or left.cancelled():
                for one in self._cohorts.values():
                    if stream in one.members.get(stream.connection, ()):
                        one.leave(stream, None)
                        break

    def close(self, error: Error) -> None:
        """Ends all subscriptions with an error."""
        self._tail.remove_waker(self._wake)
        for cohort in self._cohorts.values():
            cohort.dissolve(error)
        self._cohorts.clear()

    def _wake(self) -> None:
        """On whichever thread commits: one turn is enough for all commits until it comes."""
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # the server has stopped
                self._tail.remove_waker(self._wake)

    def _turn(self) -> None:
        self._rung = False
        before, self._cohorts = self._cohorts, {}
        for cohort in before.values():
            try:
                if not cohort.tell():
                    self._wake()
            except Exception as error:  # noqa: BLE001  each member is told
                cohort.dissolve(error)
            if cohort.members:
                self._keep(cohort)

    def _keep(self, cohort: Cohort) -> None:
        alike = self._cohorts.setdefault(cohort.subscription.fanout_key, cohort)
        if alike is not cohort:
            for connection, streams in cohort.members.items():
                alike.members[connection].update(streams)

    def _tick(self) -> None:
        """For heartbeats: who has one due polls it."""
        if any(cohort.subscription.beat_s <= 0 for cohort in self._cohorts.values()):
            self._turn()
        self._ticking = bool(self._cohorts)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)


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
        grpc.check(asked)
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
            if subscription.filters and subscription.lag > BEHIND:
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
