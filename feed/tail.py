"""Tail: the end of one open database's log, shared by all who follow it.

    committer ─▶ log.on_advance ─┬─▶ threads that wait           (embedded iteration)
                                 └─▶ wakers, one a loop          (the server)

    message(after, filter)  ─▶ read once, built once, given to all at that position

A thousand subscribers at the tail cost one read and one message a commit, and the committer one
callback.

Invariants
  (1) nothing past the durable head is told;
  (2) a message is shared only by subscribers at the same position with the same filter, and made
      anew once the head has moved, so that those who were slow catch up in larger steps;
  (3) who asks to wait after a position that the head has passed does not wait.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from everlog.feed import cursor, message
from everlog.feed.filter import TableFilter
from everlog.proto import feed_pb2, log_pb2
from everlog.store import record
from everlog.store.online.apply import Recorded

MESSAGE_BYTES_MAX = 256 << 10
SHARED_MAX, SHARED_BYTES_MAX = 32, 16 << 20  # messages that are kept for who comes to the same place


class Log(cursor.Positions, Protocol):
    """The end of the store's log that the feed reads at."""

    def get(self, seq: int, /) -> bytes: ...

    def read(self, after: int, max_bytes: int, until: int | None) -> tuple[bytes, int]: ...

    def on_advance(self, listener: Callable[[], None], /) -> None: ...

    def off_advance(self, listener: Callable[[], None], /) -> None: ...


class Origin(Protocol):
    """A database that can be followed."""

    @property
    def uuid(self) -> bytes: ...

    @property
    def log(self) -> Log: ...

    def schema_at(self, seq: int, /) -> log_pb2.Schema: ...

    def migration_records(self) -> list[Recorded]: ...


class Message(NamedTuple):
    """A built message, and where a subscriber is after it."""

    raw: bytes
    last: int
    only: TableFilter | None
    empty: bool  # the filter left nothing: there is only a mark in it
    live: bool


class Tail:
    """Reads, builds and wakes for everybody who follows `origin`."""

    def __init__(self, origin: Origin) -> None:
        self.uuid = origin.uuid
        self.log = origin.log
        self._shared: OrderedDict[tuple[int, int, TableFilter | None, int | None], Message] = OrderedDict()
        self._shared_bytes = 0
        self._head_time = (0, 0)  # seq, time
        self._moved = threading.Condition()
        self._wakers: tuple[Callable[[], None], ...] = ()
        # The log must not keep a tail alive that nobody follows any more.
        self._listener = _weakly(self)
        self.log.on_advance(self._listener)

    def message(self, after: int, only: TableFilter | None, until: int | None) -> Message | None:
        """What comes after `after`, as one message; None at the end. Raises CursorError where the
        log was trimmed past `after`, CorruptionError where it cannot be read."""
        head = self.log.head
        if after >= (head if until is None else min(head, until)):
            return None
        key = (after, head, only, until)
        found = self._shared.get(key)
        if found is None:
            found = self._build(after, head, only, until)
            self._shared[key] = found
            self._shared_bytes += len(found.raw)
            while len(self._shared) > SHARED_MAX or self._shared_bytes > SHARED_BYTES_MAX:
                self._shared_bytes -= len(self._shared.popitem(last=False)[1].raw)
        return found

    def _build(self, after: int, head: int, only: TableFilter | None, until: int | None) -> Message:
        framed, last = self.log.read(after, MESSAGE_BYTES_MAX, head if until is None else min(head, until))
        checksum = int.from_bytes(framed[-4:], "little")
        if only is not None:
            framed, only = only.apply(framed)
        raw = message.build(framed, self.mark(last, checksum, head))
        return Message(raw, last, only, not framed, last >= head)

    def mark(self, seq: int, checksum: int, head: int) -> feed_pb2.Mark:
        """How far somebody is who has seen the log up to `seq`."""
        known, time_ns = self._head_time
        if known != head:
            time_ns = record.time_of(self.log.get(head)) if head else 0
            self._head_time = (head, time_ns)
        return feed_pb2.Mark(
            state=feed_pb2.Mark.LIVE if seq >= head else feed_pb2.Mark.CATCHING_UP,
            position=log_pb2.Cursor(database=self.uuid, seq=seq, checksum=checksum),
            head=head,
            head_time_ns=time_ns,
        )

    def wait(self, after: int, timeout_s: float, stopped: Callable[[], bool]) -> None:
        """Blocks this thread until there is something after `after`, or it is time or stopped."""
        with self._moved:
            self._moved.wait_for(lambda: self.log.head > after or stopped(), timeout_s)

    def add_waker(self, waker: Callable[[], None]) -> None:
        """`waker` is called, on whichever thread commits, whenever the head has moved."""
        self._wakers = (*self._wakers, waker)

    def remove_waker(self, waker: Callable[[], None]) -> None:
        self._wakers = tuple(known for known in self._wakers if known != waker)

    def advance(self) -> None:
        """The head has moved, or somebody who waits is to look again."""
        with self._moved:
            self._moved.notify_all()
        for waker in self._wakers:
            waker()


_tails: weakref.WeakKeyDictionary[Origin, Tail] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def tail_of(origin: Origin) -> Tail:
    """The one tail of this database in this process."""
    with _lock:
        tail = _tails.get(origin)
        if tail is None:
            tail = _tails[origin] = Tail(origin)
        return tail


def _weakly(tail: Tail) -> Callable[[], None]:
    reference = weakref.ref(tail)

    def listener() -> None:
        alive = reference()
        if alive is not None:
            alive.advance()

    return listener
