"""Bookmark: tells the source how far a follower is, under the durable name that it registered.

    sink.commit ─▶ the position is durable there ─▶ told, once a second at most, and at the end of a run

It is the sink that knows where to go on. What the source is told holds history for it, and shows people
how far it is.

Invariants
  (1) nothing is told that the sink does not have on disk;
  (2) a source that is away for a moment stops no follower: it is told later.
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
    """That of one run of a follower."""

    def __init__(self, consumers: Registry, consumer: Consumer) -> None:
        self._consumers = consumers
        self._consumer = consumer
        self._told = consumer.position.seq
        self._due = 0.0

    @classmethod
    def of(cls, source: Followable, name: str, position: log_pb2.Cursor | None, cap: Cap | None) -> Self:
        """Registers `name` at the source, with what the sink has: None, nothing. Raises CursorError if that
        is of another history, RowError for a name that is none, ReadOnlyError."""
        consumers: Registry | None = getattr(source, "consumers", None)
        if consumers is None:
            raise SinkError(f"{name!r} cannot register at a source that knows of no consumers; leave it out")
        return cls(consumers, consumers.register(name, after=position or 0, cap=cap))

    def at(self, position: log_pb2.Cursor, *, last: bool = False) -> None:
        """The sink has everything up to there, on disk; `last`: nothing comes after it in this run.

        Raises CursorError if another has the name by now, RowError if it was removed.
        """
        now = time.monotonic()
        if position.seq <= self._told or (now < self._due and not last):
            return
        self._due = now + EVERY_S
        try:
            self._consumers.bookmark(self._consumer, position)
        except UnavailableError:
            return
        self._told = position.seq
