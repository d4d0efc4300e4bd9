"""View: the column family of the tables as of one moment.

    get(key) -> value | None          items(start, end) -> (key, value) in key order, either direction

    LiveView      the newest state, of the live column family or of another; each call by itself
    SnapshotView  one moment, for as long as it is held
    Overlay       another view with some keys replaced: projected in memory, not written

rocksdict's `Snapshot` finds single keys as of its moment, but iterates over the newest state
(tests/store/rocks/test_engine_facts.py). Only an iterator created at that moment keeps it for ranges:

    chunks() ─▶ nothing was written since then?  ─▶ a new iterator, in chunks
                otherwise the old iterator       ─▶ in chunks, each after a seek

Invariants
  (1) an iteration that ends has reached its end: a damaged block raises CorruptionError;
  (2) a closed view holds nothing of RocksDB, even while an iteration over it is alive;
  (3) a column family's handle lives as long as the iterators that seek in it: RocksDB uses it in every seek;
  (4) a chunk ends with the value that brings it to CHUNK_BYTES, however many items were requested.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, cast

from everlog.store.errors import ClosedError
from everlog.store.process import keep_in_child
from everlog.store.progress import interruption_point
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.errors import FORKED, translate, translated, verify_end

Item = tuple[bytes, bytes]
CHUNK_FIRST, CHUNK_MAX = 8, 512  # items
CHUNK_BYTES = 1 << 20  # of keys and values


class View(Protocol):
    """The tables as of one moment. All methods are read-only."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""

    def get_some(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the value of each key. The caller limits the number and size of the values."""
        get = self.get
        return [get(key) for key in keys]

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        """Yield the keys and values from `start` (inclusive) to `end` (exclusive), in key order or in
        reverse."""

    def chunks(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[list[Item]]:
        """Yield `items` in lists, none of them empty."""
        items, most = self.items(start, end, reverse=reverse), CHUNK_FIRST
        while chunk := take(items, most):
            yield chunk
            most = min(most * 4, CHUNK_MAX)

    def first_items(self, start: bytes, end: bytes, most: int, *, reverse: bool = False) -> list[Item]:
        """Return the first `items`, limited in number only."""
        return list(islice(self.items(start, end, reverse=reverse), most))

    def close(self) -> None:
        """Release what the view holds."""

    def forked(self) -> None:
        """In a forked child: keep RocksDB's objects, and refuse every use of them."""
        keep_in_child(self)


class Family(NamedTuple):
    """A column family that is not the live one."""

    data: Any
    get: Callable[[Any], Any]


class LiveView(View):
    """The tables in their newest state: those of the engine, whichever family is live, or those of one
    family."""

    def __init__(self, source: Engine | Family) -> None:
        self._source = source

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._source.get(key)
        except Exception as error:
            raise translate(error, "reading a table") from error
        return value

    def get_some(self, keys: list[bytes]) -> list[bytes | None]:
        with translated("reading a table"):
            values: Any = self._source.get(cast("Any", keys))
        return cast("list[bytes | None]", values)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return chain.from_iterable(self.chunks(start, end, reverse=reverse))

    def chunks(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[list[Item]]:
        return chunks(self._source.data, start, end, reverse=reverse)

    def first_items(self, start: bytes, end: bytes, most: int, *, reverse: bool = False) -> list[Item]:
        family, wanted = self._source.data, most + reverse  # in reverse, `end` itself may come first
        try:
            found: list[Any] = list(
                islice(family.items(backwards=reverse, from_key=end if reverse else start), wanted)
            )
        except Exception as error:
            raise translate(error, "reading a table") from error
        inside = _within(found, start, end, reverse)
        if len(found) < wanted:  # the end, or a block that cannot be read
            last = inside[-1][0] if inside else None
            verify_end(family.iter(), last, start, end, reverse=reverse)
        return inside[:most]

    def close(self) -> None:
        pass


class SnapshotView(View):
    """The tables as of its creation. `close` releases that moment."""

    def __init__(self, engine: Engine) -> None:
        """Nothing may be written to the tables meanwhile."""
        family: Any = engine.data
        self._engine, self._written, self._family = engine, engine.live_write, family
        self._handle = engine.data_handle  # the cursor needs it, even if a rebuild drops the family
        self._snapshot = family.snapshot()
        self._cursor = family.iter()
        self._lock = threading.Lock()  # of the cursor
        self._held: list[list[Any]] = []

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes = self._snapshot[key]
        except Exception as error:
            if str(error) == "key not found":
                return None
            self._open()
            raise translate(error, "reading a snapshot") from error
        return value

    def get_some(self, keys: list[bytes]) -> list[bytes | None]:
        """Read many keys together if nothing was written since the snapshot; one by one otherwise."""
        values: list[bytes | None] | None = None
        with contextlib.suppress(Exception):  # dropped by a rebuild: the snapshot answers
            values = self._open().get(keys) if self._engine.live_write == self._written else None
        if values is None or self._engine.live_write != self._written:
            return super().get_some(keys)
        return values

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        return chain.from_iterable(self.chunks(start, end, reverse=reverse))

    def chunks(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[list[Item]]:
        family = self._open()
        try:
            held = [family.items(backwards=reverse, from_key=end if reverse else start)]
            moved = self._engine.live_write != self._written
        except Exception:  # noqa: BLE001  dropped by a rebuild: the cursor answers
            held, moved = [], True
        if moved:
            return self._from_cursor(start, end, reverse)
        self._held.append(held)
        return self._from_items(held, start, end, reverse)

    def _from_items(self, held: list[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[list[Item]]:
        def verify(last: bytes | None) -> None:
            with self._lock:
                self._open()
                verify_end(self._cursor, last, start, end, reverse=reverse)

        try:
            yield from _chunks(held, start, end, reverse, verify)
        finally:
            with contextlib.suppress(ValueError):  # closed meanwhile
                self._held.remove(held)

    def _from_cursor(self, start: bytes, end: bytes, reverse: bool) -> Iterator[list[Item]]:
        at, skip, size = (end, True, CHUNK_FIRST) if reverse else (start, False, CHUNK_FIRST)
        while True:
            interruption_point()
            with self._lock, translated("reading a snapshot"):
                self._open()
                chunk, more = _read(self._cursor, at, size, skip=skip, reverse=reverse)
            inside = _within(chunk, start, end, reverse)
            if inside:
                yield inside
            if not more or _is_past(chunk[-1][0], start, end, reverse):
                return
            at, skip, size = chunk[-1][0], True, min(size * 4, CHUNK_MAX)

    def _open(self) -> Any:
        if self._family is None:
            raise ClosedError("the database or the snapshot of this read is closed")
        return self._family

    def forked(self) -> None:
        super().forked()
        self._leaked = [self._family, self._snapshot, self._cursor, self._handle]
        if self._family is not None:  # not closed
            self._family = self._snapshot = self._cursor = self._handle = FORKED
        self._leaked += take_over(self._held)
        self._lock = threading.Lock()  # a thread of the parent may hold the old one

    def close(self) -> None:
        with self._lock:
            self._family = self._snapshot = self._cursor = self._handle = None
            for held in self._held:
                held.clear()
            self._held.clear()


def take_over(held: Iterable[list[Any]]) -> list[Any]:
    """In a forked child: return RocksDB's objects in some lists, and refuse every later use of them."""
    found: list[Any] = []
    for one in held:
        found += one
        one[:] = [FORKED] * len(one)
    return found


def take(items: Iterator[Any], most: int, bytes_max: int = CHUNK_BYTES) -> list[Any]:
    """Return the next items: limited in number, and up to the item that reaches `bytes_max`."""
    found: list[Any] = []
    add, size = found.append, 0
    for item in islice(items, most):
        add(item)
        size += len(item[0]) + len(item[1])
        if size >= bytes_max:
            break
    return found


def chunks(family: Any, start: bytes, end: bytes, *, reverse: bool) -> Iterator[list[Item]]:
    """Yield the current items of a column family from `start` (inclusive) to `end` (exclusive), in chunks."""
    held = [family.items(backwards=reverse, from_key=end if reverse else start)]
    return _chunks(
        held, start, end, reverse, lambda last: verify_end(family.iter(), last, start, end, reverse=reverse)
    )


def _chunks(
    held: list[Any], start: bytes, end: bytes, reverse: bool, verify: Callable[[bytes | None], None]
) -> Iterator[list[Item]]:
    """Yield the items of rocksdict's iterator in `held`. To release the iterator, clear the list."""
    last, most = None, CHUNK_FIRST
    try:
        while True:
            interruption_point()
            chunk: list[Item] = []
            add, size = chunk.append, 0
            with translated("reading a table"):  # `take`, inlined for speed
                for item in islice(in_use(held), most):
                    add(item)
                    size += len(item[0]) + len(item[1])
                    if size >= CHUNK_BYTES:
                        break
            inside = _within(chunk, start, end, reverse)
            if inside:
                yield inside
                last = inside[-1][0]
            if len(chunk) < most and size < CHUNK_BYTES:  # the end, or an unreadable block
                verify(last)
                return
            if _is_past(chunk[-1][0], start, end, reverse):
                return
            most = min(most * 4, CHUNK_MAX)
    finally:
        held.clear()  # otherwise a kept traceback would keep the database locked


def in_use(held: list[Any], number: int = 0) -> Any:
    """Return an object of RocksDB in `held`. Raises ClosedError if a close has cleared the list."""
    try:
        return held[number]
    except IndexError:
        raise ClosedError("the database or the snapshot of this read is closed") from None


def _is_past(key: bytes, start: bytes, end: bytes, reverse: bool) -> bool:
    return key < start if reverse else key >= end


def _within(chunk: list[Item], start: bytes, end: bytes, reverse: bool) -> list[Item]:
    """Return the items of a chunk from `start` to `end` (exclusive); the chunk begins at one of the two."""
    if not chunk:
        return chunk
    if not reverse:
        return chunk if chunk[-1][0] < end else chunk[: bisect_left(chunk, (end,))]
    first = 1 if chunk[0][0] >= end else 0
    if chunk[-1][0] >= start:
        return chunk[first:] if first else chunk
    return chunk[first : bisect_left(chunk, True, key=lambda item: item[0] < start)]


def _read(cursor: Any, at: bytes, most: int, *, skip: bool, reverse: bool) -> tuple[list[Item], bool]:
    """Return a chunk from `at` on (`skip`: after it), and whether more may follow."""
    if reverse:
        cursor.seek_for_prev(at)
    else:
        cursor.seek(at)
    step, key_of, value_of = cursor.prev if reverse else cursor.next, cursor.key, cursor.value
    try:
        if skip and key_of() == at:
            step()
        chunk: list[Item] = []
        size = 0
        while len(chunk) < most and size < CHUNK_BYTES:
            key = key_of()
            if key is None:
                cursor.status()
                return chunk, False
            chunk.append((key, value := value_of()))
            size += len(key) + len(value)
            step()
    finally:
        del cursor, step, key_of, value_of  # as above
    return chunk, True


class Overlay(View):
    """`base` with the keys in `over` replaced; None stands for a deleted key."""

    def __init__(self, base: View, over: Mapping[bytes, bytes | None]) -> None:
        self._base = base
        self._over = over

    def get(self, key: bytes) -> bytes | None:
        return self._over[key] if key in self._over else self._base.get(key)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        over = self._over
        below = (item for item in self._base.items(start, end, reverse=reverse) if item[0] not in over)
        inside = sorted((key for key in over if start <= key < end), reverse=reverse)
        above = ((key, value) for key in inside if (value := over[key]) is not None)
        return merge(below, above, key=lambda item: item[0], reverse=reverse)

    def close(self) -> None:
        self._base.close()

    def forked(self) -> None:
        super().forked()
        self._base.forked()
