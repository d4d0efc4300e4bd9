"""Cohort: subscribers who wait at the same place with the same filter, told together.

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

from everlog.feed.subscription import Subscription
from everlog.feed.tail import Tail
from everlog.rpc.connection import Connection
from everlog.rpc.stream import Stream
from everlog.store.errors import Error

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
        cohort = self._cohorts.get(subscription.place)
        if cohort is None:
            cohort = self._cohorts[subscription.place] = Cohort(subscription)
        left: Leave = self._loop.create_future()
        cohort.members[stream.connection][stream] = left
        if subscription.behind:  # the head has moved since it looked
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
        alike = self._cohorts.setdefault(cohort.subscription.place, cohort)
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
