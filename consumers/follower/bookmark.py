"""Bookmark: reports a follower's position to the source, under the name that it registered.

    sink.commit ─▶ the position is durable there ─▶ reported, at most once a second, and at the end of a run

The sink's own position decides where to continue. The reported position makes the source keep the history
that the follower needs, and appears in its status.

Invariants
  (1) only positions that are durable in the sink are reported;
  (2) a source that is unavailable for a while does not stop a follower: the position is reported later.
"""

from __future__ import annotations

import time
from typing import Self

from everlog.consumers.follower.followable import Followable, Registry
from everlog.proto import log_pb2
from everlog.store.errors import SinkError, UnavailableError
from everlog.store.upkeep.consumers import Cap, Consumer

EVERY_S = 1.0


class Bookmark:
    """The bookmark of one run of a follower."""

    def __init__(self, consumers: Registry, consumer: Consumer) -> None:
        self._consumers = consumers
        self._consumer = consumer
        self._reported = consumer.position.seq
        self._due = 0.0

    @classmethod
    def of(cls, source: Followable, name: str, position: log_pb2.Cursor | None, cap: Cap | None) -> Self:
        """Register `name` at the source, with the sink's position; None means an empty sink. Writes to the
        source. Raises CursorError for a position of another history, RowError for an invalid name,
        ReadOnlyError."""
        consumers: Registry | None = getattr(source, "consumers", None)
        if consumers is None:
            raise SinkError(f"{name!r} cannot register: the source has no consumers; leave the name out")
        return cls(consumers, consumers.register(name, after=position or 0, cap=cap))

    def at(self, position: log_pb2.Cursor, *, last: bool = False) -> None:
        """Report that everything up to `position` is durable in the sink; `last`: at the end of a run.

        Raises CursorError if another follower took the name, RowError if it was removed.
        """
        now = time.monotonic()
        if position.seq <= self._reported or (now < self._due and not last):
            return
        self._due = now + EVERY_S
        try:
            self._consumers.bookmark(self._consumer, position)
        except UnavailableError:
            return
        self._reported = position.seq
