"""Feed: the Feed service: subscriptions over gRPC, whose messages are built once and sent as bytes.

    behind      ─▶ read in a thread ─▶ send, while the next one is read
    at the tail ─▶ wait in a group, and receive messages with all others there

    tail moves ─▶ group polls once ─▶ one write for each connection ─▶ all its members
                                         └─ too slow: leaves the group, continues alone

Most subscribers of a server are at the tail of its log. There a commit costs one read, one message and one
write for each connection, for any number of subscribers.

Invariants
  (1) each subscription has one message in flight, and one ready: the transport's flow control sets the pace,
      and the server keeps nothing more for slow subscribers;
  (2) members of a group are exactly at the position of its subscription: they receive what it polls, or leave
      with a copy of the subscription from before;
  (3) no two groups are equal: after each turn, equal groups are merged.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import defaultdict
from functools import partial

from everlog.feed.subscription import HEARTBEAT_S, Subscription
from everlog.feed.tail import Tail
from everlog.proto import access_pb2, feed_pb2
from everlog.rpc.http2.stream import Peer, Stream
from everlog.rpc.server.host import Following, Hosting
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.threads import Steps
from everlog.store.errors import ClosedError, Error
from everlog.store.program_log import about
from everlog.store.progress import Progress

logger = logging.getLogger("everlog")

TICK_S = 0.05
TURN_MAX = 8  # messages that a group receives before the loop runs other tasks

# The subscription to continue with alone; None: it is done.
Leave = asyncio.Future[Subscription | None]


class FanoutGroup:
    """The streams that wait at the position of `subscription`."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.members: defaultdict[Peer, dict[Stream, Leave]] = defaultdict(dict)

    def send(self) -> bool:
        """Send the pending messages to all members. Return False if more are left for another turn."""
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
        """Remove all members: the subscription is done, or failed with an error."""
        members, self.members = self.members, defaultdict(dict)
        for streams in members.values():
            for left in streams.values():
                if not left.done():
                    left.set_exception(outcome) if outcome else left.set_result(None)


class Fanout:
    """All groups at one tail, in one event loop."""

    def __init__(self, tail: Tail, loop: asyncio.AbstractEventLoop) -> None:
        self._tail = tail
        self._loop = loop
        self._groups: dict[object, FanoutGroup] = {}
        self._rung = False  # a turn is scheduled
        self._ticking = False
        tail.add_waker(self._wake)

    async def wait(self, subscription: Subscription, stream: Stream) -> Subscription | None:
        """Wait, and receive messages with others, as long as the stream keeps up. Return the subscription to
        continue with, or None if it is done."""
        group = self._groups.get(subscription.fanout_key)
        if group is None:
            group = self._groups[subscription.fanout_key] = FanoutGroup(subscription)
        left: Leave = self._loop.create_future()
        group.members[stream.connection][stream] = left
        if subscription.lag:  # the head has moved since its last poll
            self._wake()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)
        try:
            return await left
        finally:
            if not left.done() or left.cancelled():
                for one in self._groups.values():
                    if stream in one.members.get(stream.connection, ()):
                        one.leave(stream, None)
                        break

    def close(self, error: Error) -> None:
        """End all subscriptions with an error."""
        self._tail.remove_waker(self._wake)
        for group in self._groups.values():
            group.dissolve(error)
        self._groups.clear()

    def _wake(self) -> None:
        """Schedule a turn, from the committing thread: one turn serves all commits until it runs."""
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # the server has stopped
                self._tail.remove_waker(self._wake)

    def _turn(self) -> None:
        self._rung = False
        before, self._groups = self._groups, {}
        for group in before.values():
            try:
                if not group.send():
                    self._wake()
            except Exception as error:  # noqa: BLE001  reported to each member
                group.dissolve(error)
            if group.members:
                self._keep(group)

    def _keep(self, group: FanoutGroup) -> None:
        equal = self._groups.setdefault(group.subscription.fanout_key, group)
        if equal is not group:
            for connection, streams in group.members.items():
                equal.members[connection].update(streams)

    def _tick(self) -> None:
        """Poll the subscriptions whose heartbeat is due."""
        if any(group.subscription.beat_s <= 0 for group in self._groups.values()):
            self._turn()
        self._ticking = bool(self._groups)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)


PATH = "/everlog.v1.Feed/Subscribe"
BEHIND = 256  # a larger lag, in records, is read in a thread


class FeedService:
    """See proto/feed.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._fanouts: dict[Tail, Fanout] = {}
        self._draining = False

    async def subscribe(self, stream: Stream, request: feed_pb2.SubscribeRequest) -> None:
        """Send messages until the subscription is done, or the stream is closed."""
        subscription = await self._hosting.read(self._subscription, request, stream.call.scope)
        subscribers = self._hosting.subscribers
        subscribers[request.database] += 1
        whose = {"database": request.database, "identity": stream.who, "peer": stream.connection.peer}
        logger.info(
            "a follower begins after commit %d",
            subscription.position,
            extra=about("feed.began", same="", **whose),
        )
        following = Following(request.database, str(stream.who), stream.connection.peer, time.time_ns())
        self._hosting.following[id(following)] = following
        try:
            await self._send(subscription, stream, following)
        finally:
            del self._hosting.following[id(following)]
            subscribers[request.database] -= 1
            logger.info("a follower leaves", extra=about("feed.ended", same="", **whose))

    def drain(self) -> None:
        """End all subscriptions; their clients resume at their positions."""
        self._draining = True
        for fanout in self._fanouts.values():
            fanout.close(_stopping())

    async def _send(self, found: Subscription, stream: Stream, following: Following) -> None:
        subscription: Subscription | None = found
        call = stream.call
        while subscription is not None and not self._draining:
            if call.progress is None:
                call.progress = Steps(partial(_position, subscription))
            following.behind = subscription
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
                call.progress = None
                following.behind = None
                subscription = await self._fanout_at(subscription.tail).wait(subscription, stream)
        if self._draining:
            raise _stopping()

    def _fanout_at(self, tail: Tail) -> Fanout:
        fanout = self._fanouts.get(tail)
        if fanout is None:
            fanout = self._fanouts[tail] = Fanout(tail, asyncio.get_running_loop())
        return fanout

    def _subscription(self, request: feed_pb2.SubscribeRequest, scope: Scope) -> Subscription:
        db = self._hosting.database(request.database)
        subscription = Subscription(
            db,
            after=request.after if request.HasField("after") else 0,
            tables=request.tables,
            now=request.now,
            until=request.until or None,
            bounded=request.bounded,
            heartbeat_s=request.heartbeat_ms / 1e3 or HEARTBEAT_S,
        )
        for name in request.tables:
            ids = {one.info.proto.id for one in db.past.schemas.ever(name, db.tables.applied).generations}
            scope.check_renamed((access_pb2.FEED, access_pb2.BACKUP), name, ids, db.schema)
        return subscription


def _position(subscription: Subscription) -> Progress:
    """Return how much of the log a subscription has read."""
    position = subscription.position
    return Progress("read the log", position, position + subscription.lag, "records")


def _stopping() -> ClosedError:
    return ClosedError("the server is stopping; resume at another server, or later")
