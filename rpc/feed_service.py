"""Feed service: subscriptions over gRPC, as bytes that are built once and sent as they are.

    tail ─ waker ─▶ event loop ─▶ every subscription that waits looks again
                                    └─ poll ─▶ message ─▶ one await for each

The committer wakes the loop once for all subscriptions, and not again while a wake-up is on its
way. Who is behind reads in a thread, who is at the tail shares what was read for the others.

Invariants
  (1) one message is in flight for each subscription: the transport's flow control is the
      subscriber's pace, and the server keeps nothing for those who are slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from everlog.feed.subscription import HEARTBEAT_S, Subscription
from everlog.feed.tail import Tail
from everlog.proto import feed_pb2
from everlog.rpc import status
from everlog.rpc.hosting import Hosting
from everlog.store.errors import ClosedError, CursorError

NAME = "everlog.v1.Feed"
HEARTBEAT_S_MIN = 0.05
TICK_S = 0.05
BEHIND = 256  # records: more than these are read in a thread


class FeedService:
    """Subscribe."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._alarms: dict[Tail, Alarm] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """Without (de)serialisers: requests and responses are bytes."""
        subscribe: Any = grpc.unary_stream_rpc_method_handler(self.Subscribe)
        return grpc.method_handlers_generic_handler(NAME, {"Subscribe": subscribe})

    def drain(self) -> None:
        """Ends all subscriptions; their clients resume where they were."""
        self._hosting.draining = True
        for alarm in self._alarms.values():
            alarm.close()

    @status.told_stream
    async def Subscribe(self, request: bytes, context: status.Context) -> AsyncIterator[bytes]:
        try:
            asked = feed_pb2.SubscribeRequest.FromString(request)
        except DecodeError as error:
            raise CursorError(f"expected a SubscribeRequest: {error}", why="unclear") from None
        subscription = await self._hosting.read(self._subscribe, asked)
        subscribers = self._hosting.subscribers
        subscribers[asked.database] += 1
        try:
            async for raw in self._messages(subscription):
                yield raw
        finally:
            subscribers[asked.database] -= 1

    async def _messages(self, subscription: Subscription) -> AsyncIterator[bytes]:
        hosting, alarm = self._hosting, self._alarm(subscription.tail)
        while True:
            if hosting.draining:
                raise ClosedError("the server is stopping; resume with another one, or a little later")
            if subscription.behind > BEHIND:
                raw = await hosting.read(subscription.poll)
            else:
                raw = subscription.poll()
            if raw is not None:
                yield raw
            elif subscription.done:
                return
            else:
                await alarm.wait(subscription)

    def _alarm(self, tail: Tail) -> Alarm:
        alarm = self._alarms.get(tail)
        if alarm is None:
            alarm = self._alarms[tail] = Alarm(tail, asyncio.get_running_loop())
        return alarm

    def _subscribe(self, asked: feed_pb2.SubscribeRequest) -> Subscription:
        return Subscription(
            self._hosting.database(asked.database),
            after=asked.after if asked.HasField("after") else 0,
            tables=asked.tables,
            now=asked.now,
            until=asked.until or None,
            bounded=asked.bounded,
            heartbeat_s=max(asked.heartbeat_ms / 1e3, HEARTBEAT_S_MIN) if asked.heartbeat_ms else HEARTBEAT_S,
        )


class Alarm:
    """Wakes the subscriptions of one loop that wait at one tail.

    Each waits on a future of its own, since a call that is cancelled cancels what it waits on;
    one timer serves the heartbeats of all.
    """

    def __init__(self, tail: Tail, loop: asyncio.AbstractEventLoop) -> None:
        self._tail = tail
        self._loop = loop
        self._rung = False  # a wake-up is on its way
        self._waiting: dict[asyncio.Future[None], float] = {}  # and when its heartbeat is due
        self._ticking = False
        tail.add_waker(self._wake)

    def close(self) -> None:
        self._tail.remove_waker(self._wake)
        self.ring()

    async def wait(self, subscription: Subscription) -> None:
        """Until the head has moved, or the subscription's heartbeat is due."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[future] = self._loop.time() + subscription.beat_s
        if subscription.behind:  # the head has moved since it looked
            self.ring()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    def ring(self) -> None:
        """Everybody who waits looks again."""
        self._rung = False
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _wake(self) -> None:
        """On whichever thread commits."""
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self.ring)
            except RuntimeError:  # the server has stopped
                self._tail.remove_waker(self._wake)

    def _tick(self) -> None:
        now = self._loop.time()
        for future, due in self._waiting.items():
            if due <= now and not future.done():
                future.set_result(None)
        self._ticking = bool(self._waiting)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)
