"""Tail: the end of an open database's log, shared by all subscribers.

    committer ─▶ log.on_advance ─┬─▶ waiting threads              (embedded iteration)
                                 └─▶ wakers, one per event loop   (the server)

    message(after, filter)  ─▶ read once, built once, returned to all subscribers at that position

A thousand subscribers at the tail cost one read and one message a commit, and the committer one callback.

Invariants
  (1) nothing past the durable head is sent;
  (2) a message is shared only by subscribers at the same position with the same filter, and built again once
      the head has moved, so that slow subscribers catch up in larger steps;
  (3) waiting for a position that the head has already passed returns at once.
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
from everlog.store.process import Lock

MESSAGE_BYTES_MAX = 256 << 10
SHARED_MAX, SHARED_BYTES_MAX = 32, 16 << 20  # cached messages, for subscribers that reach the same position


class Log(cursor.Positions, Protocol):
    """The part of the store's log that the feed reads."""

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
    """A built message, and the state of a subscriber after it."""

    raw: bytes
    last: int
    only: TableFilter | None
    empty: bool  # the filter dropped every commit: only a mark is left
    live: bool


class Tail:
    """Reads, builds and wakes for all subscribers of `origin`. Thread-safe."""

    def __init__(self, origin: Origin) -> None:
        self.uuid = origin.uuid
        self.log = origin.log
        self._shared: OrderedDict[tuple[int, int, TableFilter | None, int | None], Message] = OrderedDict()
        self._shared_bytes = 0
        self._head_time = (0, 0)  # seq, time
        self._moved = threading.Condition()
        self._wakers: tuple[Callable[[], None], ...] = ()
        # The log must not keep alive a tail that has no subscribers.
        self._listener = _weakly(self)
        self.log.on_advance(self._listener)

    def message(self, after: int, only: TableFilter | None, until: int | None) -> Message | None:
        """Return the records after `after` as one message; None at the end. Raises CursorError if the log
        was trimmed past `after`, CorruptionError if it cannot be read."""
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
        """Return the mark of a subscriber that has received the log up to `seq`."""
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
        """Block this thread until there is a record after `after`, `timeout_s` has passed, or `stopped()`."""
        with self._moved:
            self._moved.wait_for(lambda: self.log.head > after or stopped(), timeout_s)

    def add_waker(self, waker: Callable[[], None]) -> None:
        """Call `waker`, on the committing thread, whenever the head moves."""
        self._wakers = (*self._wakers, waker)

    def remove_waker(self, waker: Callable[[], None]) -> None:
        self._wakers = tuple(known for known in self._wakers if known != waker)

    def advance(self) -> None:
        """Wake all waiters: the head has moved, or one of them has to look again."""
        with self._moved:
            self._moved.notify_all()
        for waker in self._wakers:
            waker()


_tails: weakref.WeakKeyDictionary[Origin, Tail] = weakref.WeakKeyDictionary()
_lock = Lock()


def tail_of(origin: Origin) -> Tail:
    """Return the tail of this database, the only one in this process."""
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
