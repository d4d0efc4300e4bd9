"""Subscription: one subscriber's position in the log, without thread and transport.

    start ─▶ opening message: schema, mark
               │ poll
               ▼
             CATCHING_UP ─▶ … ─▶ LIVE ─▶ …    a message, or None: wait until the head has moved
               │                                                  or `beat_s` has passed
               ▼
             done, at `until`

The driver sends what `poll` returns, and calls it again.

Invariants
  (1) every record after the start is sent once, in order, or dropped by the filter;
  (2) the last message of a bounded subscription has `until` as its position, or the start, if that is later;
  (3) at most `heartbeat_s` passes between messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from everlog.feed import cursor, message
from everlog.feed.filter import TableFilter
from everlog.feed.tail import Message, Origin, Tail, tail_of
from everlog.proto import feed_pb2, log_pb2
from everlog.store.errors import CursorError
from everlog.store.schema import arguments

HEARTBEAT_S = 5.0
HEARTBEAT_S_MIN = 0.05  # a shorter interval is raised to this


def check_bounds(until: int | None, heartbeat_s: float) -> None:
    """Raise CursorError for an invalid end, and for a heartbeat that is not a finite time."""
    if until is not None:
        cursor.check_seq(until, "to end at")
    arguments.seconds(heartbeat_s, "a heartbeat", error=CursorError)
    if heartbeat_s == float("inf"):
        raise CursorError(
            f"expected a heartbeat in finite seconds, found {heartbeat_s}",
            why="unclear",
            heartbeat_s=heartbeat_s,
        )


class Subscription:
    """One subscription. Raises CursorError for an invalid start or end, SchemaError for an unknown table."""

    def __init__(
        self,
        origin: Origin,
        *,
        after: int | log_pb2.Cursor = 0,
        tables: Iterable[str] = (),
        now: bool = False,
        until: int | None = None,
        bounded: bool = False,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        check_bounds(until, heartbeat_s)
        self.tail: Tail = tail_of(origin)
        log = self.tail.log
        head = log.head
        self.position = head if now else cursor.check(after, log, self.tail.uuid)
        self.until = until if not bounded else head if until is None else min(until, head)
        self.heartbeat_s = max(heartbeat_s, HEARTBEAT_S_MIN)
        self.done = False
        names = tuple(tables)
        schema = origin.schema_at(self.position)
        self._only: TableFilter | None = None
        if names:
            schemas = [record.migration.schema for record in origin.migration_records()]
            self._only = TableFilter.of(names, schema, schemas)
        self._opening: bytes | None = message.build(b"", self._mark(), schema)
        self._marked = -1  # position of the last mark sent
        self._marked_live = False
        self._sent_at = 0.0

    def poll(self) -> bytes | None:
        """Return the next message; None if there is nothing to send now, or if it is `done`."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return self._send(opening, live=self.position >= self.tail.log.head)
        while not self.done:
            found = self.tail.message(self.position, self._only, self.until)
            if found is None:
                return self._at_the_end()
            self.position, self._only = found.last, found.only
            if not found.empty or self._due(found):
                return self._send(found.raw, live=found.live)
        return None

    @property
    def fanout_key(self) -> object:
        """Equal for subscriptions whose next `poll` returns the same message."""
        return self.position, self._marked == self.position, self._only, self.until, self.heartbeat_s

    @property
    def filters(self) -> bool:
        """Whether records are decoded for this subscription, which takes time."""
        return self._only is not None

    @property
    def lag(self) -> int:
        """The number of durable records that were not polled yet."""
        return max(0, self.tail.log.head - self.position)

    @property
    def beat_s(self) -> float:
        """Seconds until a heartbeat is due."""
        return max(0.0, self._sent_at + self.heartbeat_s - time.monotonic())

    def _at_the_end(self) -> bytes | None:
        live = self.position >= self.tail.log.head
        self.done = self.until is not None and self.position >= self.until
        if self._marked < self.position if self.done else self.beat_s <= 0 or live > self._marked_live:
            return self._send(message.build(b"", self._mark()), live=live)
        return None

    def _due(self, found: Message) -> bool:
        return self.beat_s <= 0 or found.live > self._marked_live

    def _send(self, raw: bytes, *, live: bool) -> bytes:
        self._marked, self._marked_live, self._sent_at = self.position, live, time.monotonic()
        return raw

    def _mark(self) -> feed_pb2.Mark:
        log = self.tail.log
        return self.tail.mark(self.position, log.checksum_at(self.position), log.head)
