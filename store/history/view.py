"""View: the tables after the record at a seq, read from the version index and the log.

    get     one seek in `versions`, one record of the log, a slice of it
    items   of rows: for each key the newest version at or before the seq, in key order; the records of a
            few thousand rows are read in the order of the log, each once
            of an index: its entries are computed from all rows of the table and sorted, at the cost of a
            scan of the table, and memory for the entries in range

Everything above a view (sources, scans with limits and resumption, counts, hashes) works with it as with
the current tables.

`walk` iterates over the versions of many rows, and yields for each row the newest at or before a seq:

    JFK 812 · JFK 790 · JFK 2 · LAX 640 · LAX 2 · …       as of 800: JFK 790, LAX 640

Versions are read in chunks, in order. It does not step through the many versions of one row: it seeks to
the wanted version, or to the next row.

Invariants
  (1) every row is cut from a checked record, and belongs to the requested key;
  (2) a closed view holds nothing of RocksDB, even while an iteration over it is alive;
  (3) an iteration that ends has reached its end: a damaged block raises CorruptionError;
  (4) a column family's handle lives as long as the iterators that seek in it: the family may be dropped
      meanwhile, and RocksDB uses the handle (tests/store/rocks/test_engine_facts.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any
from weakref import WeakSet

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import ClosedError, SealedError
from everlog.store.history.schemas import PastSchemas
from everlog.store.history.version_index import INVERTED_SIZE, Place, Versions, change_at, inverted, place_of
from everlog.store.log import Log
from everlog.store.progress import interruption_point
from everlog.store.rocks.errors import translated, verify_end
from everlog.store.rocks.view import Item, View, in_use, take_over
from everlog.store.schema.schema import IndexInfo, KeyOf, TableInfo
from everlog.store.tx.source import WHOLE, Entry, LocalSource, Span

CHUNK_FIRST, CHUNK_MAX = 16, 1024
LEAP_FROM = 64  # versions of one row in a chunk

# Space and key of a row, and key and value of its version.
Found = tuple[bytes, bytes, bytes]
# RocksDB's objects that walks hold, in lists. Clearing the lists ends the walks.
Held = list[list[Any]]

_LAST = b"\xff" * INVERTED_SIZE


def walk(
    versions: Versions,
    family: tuple[Any, Any],
    start: bytes,
    end: bytes,
    *,
    seq: int,
    held: Held,
    reverse: bool,
) -> Iterator[Found]:
    """Yield the rows from `start` to `end` (exclusive) by space and key, in order or in reverse, deleted
    ones as well. Read-only.

    `family` is one of the column families of `versions`, with its handle.
    """
    chunks = _Chunks([*family], start, end, held, reverse=reverse)
    if reverse:
        return _backwards(chunks, versions, start, end, seq)
    return _forwards(chunks, start, end, inverted(seq))


def let_go(held: Held) -> None:
    """End walks, even those that are being iterated over."""
    for one in reversed(held):  # iterators before their column families
        one.clear()


class _Chunks:
    """Chunks of versions from one end of a range. `leap` continues elsewhere."""

    def __init__(self, family: list[Any], start: bytes, end: bytes, held: Held, *, reverse: bool) -> None:
        """`family`, a column family and its handle in a list, is released together with `held`."""
        self._start, self._end, self._reverse = start, end, reverse
        self._family, self._held = family, list[Any]()
        held += (self._family, self._held)
        self._size = CHUNK_FIRST
        self.leap(end if reverse else start)

    def leap(self, to: bytes) -> None:
        with translated("reading the versions of rows"):
            # The verifying iterator comes first: it must not see what is projected meanwhile.
            verifier = in_use(self._family).iter()
            self._held[:] = [in_use(self._family).items(backwards=self._reverse, from_key=to), verifier]
            del verifier
            if not self._family:  # closed meanwhile
                self._held.clear()
        if self._reverse:
            self._end = to
        else:
            self._start = to
        self._last: bytes | None = None

    def next(self) -> list[tuple[bytes, bytes]]:
        """Return the next versions; none at the end. Raises CorruptionError, ClosedError."""
        interruption_point()
        with translated("reading the versions of rows"):
            chunk: list[Any] = list(islice(in_use(self._held), self._size))
            if len(chunk) < self._size:
                last = chunk[-1][0] if chunk else self._last
                verify_end(in_use(self._held, 1), last, self._start, self._end, reverse=self._reverse)
        if chunk:
            self._last = chunk[-1][0]
        self._size = min(self._size * 4, CHUNK_MAX)
        return chunk


def _forwards(chunks: _Chunks, start: bytes, end: bytes, upto: bytes) -> Iterator[Found]:
    done = b""
    while chunk := chunks.next():
        for full, value in chunk:
            row = full[:-INVERTED_SIZE]
            if row == done:
                continue
            if row >= end:
                return
            if row < start or full[-INVERTED_SIZE:] < upto:
                continue  # newer than the requested seq
            done = row
            yield row, full, value
        row = chunk[-1][0][:-INVERTED_SIZE]
        if len(chunk) >= LEAP_FROM and chunk[-LEAP_FROM][0][:-INVERTED_SIZE] == row:
            chunks.leap(row + _LAST + b"\x00" if row == done or row < start else row + upto)


def _backwards(chunks: _Chunks, versions: Versions, start: bytes, end: bytes, seq: int) -> Iterator[Found]:
    """Walk in reverse, where the oldest version of a row comes first."""
    upto, at = inverted(seq), b""
    best: Found | None = None
    while chunk := chunks.next():
        for full, value in chunk:
            row = full[:-INVERTED_SIZE]
            if row != at:
                if best is not None:
                    yield best
                at, best = row, None
                if row < start:
                    return
            if row < end and full[-INVERTED_SIZE:] >= upto:
                best = row, full, value
        if len(chunk) >= LEAP_FROM and chunk[-LEAP_FROM][0][:-INVERTED_SIZE] == at:
            found = versions.raw(at, seq) if at < end else None
            best = None if found is None else (at, *found)
            chunks.leap(at)
    if best is not None:
        yield best


ROWS_FIRST, ROWS_MAX, BYTES_MAX = 8, 4096, 1 << 20  # rows and bytes that are read together
PREFIX_SIZE = keys.PREFIX.size
SPACE_SIZE = keys.SPACE.size


class Views:
    """Views of past moments of one open database. Safe to use from many threads."""

    def __init__(self, log: Log, versions: Versions, schemas: PastSchemas) -> None:
        self.log, self.versions, self.schemas = log, versions, schemas
        self.reading: WeakSet[PastView] = WeakSet()  # views with an iteration that is not closed

    def at(self, seq: int) -> PastView:
        """Return the tables as they were after the record at `seq`. Read-only."""
        return PastView(self, seq)

    def forked(self) -> None:
        """In a forked child: keep RocksDB's objects alive, and refuse their use."""
        for view in self.reading:
            view.forked()

    def close(self) -> None:
        """End all iterations: they raise ClosedError."""
        for view in list(self.reading):
            view.close()


class PastView(View):
    """The tables after the record at `seq`, up to which `versions` is complete. Read-only."""

    def __init__(self, views: Views, seq: int) -> None:
        self._versions, self._log, self._views = views.versions, views.log, views
        self.schema = views.schemas.at(seq)
        self.seq = seq
        self._held: dict[int, Held] = {}
        self._open = True
        self._record: tuple[int, bytes] = (0, b"")  # the last checked record

    def get(self, key: bytes) -> bytes | None:
        space, index = keys.PREFIX.unpack_from(key)
        if index or not space:
            return next((value for full, value in self.items(key, key + b"\x00") if full == key), None)
        self._check_open()
        row = key[:SPACE_SIZE] + key[PREFIX_SIZE:]
        place = self._versions.find(row, self.seq)
        return None if place is None or place.op == log_pb2.DELETE else self._value(row, place)

    def items(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Item]:
        space, index = keys.PREFIX.unpack_from(start)
        if index:
            return self._entries(self.schema.spaces[space], index, start, end, reverse)
        return self._rows(space, *bounds(start, end), reverse) if space else iter(())

    def places(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[Found]:
        """Yield space and key of each row in a range, and key and value of its version, without reading
        rows.

        If the versions are discarded meanwhile, it continues in the new ones.
        """
        while True:
            discarded = self._versions.discarded
            try:
                for one in self._places(start, end, reverse):
                    yield one
                    start, end = (start, one[0]) if reverse else (one[0] + b"\x00", end)
            except ClosedError:
                if not self._open or discarded == self._versions.discarded:
                    raise
            else:
                return

    def _places(self, start: bytes, end: bytes, reverse: bool) -> Iterator[Found]:
        self._check_open()
        held: Held = []
        self._held[id(held)] = held
        self._views.reading.add(self)  # so that it ends with the database
        upto = self.seq
        try:
            layers: list[Iterator[Found]] = [
                walk(self._versions, family, start, end, seq=upto, held=held, reverse=reverse)
                for family in self._versions.families(upto)
            ]
            found: Iterable[Found] = layers[0] if len(layers) == 1 else _newest(layers, reverse)
            for one in found:
                if one[2][0] != log_pb2.DELETE:
                    yield one
        finally:
            let_go(held)
            self._held.pop(id(held), None)

    def count(self, start: bytes, end: bytes) -> int:
        """Return the number of rows in a range of full keys."""
        return sum(1 for _ in self.places(*bounds(start, end)))

    def _rows(self, space: int, start: bytes, end: bytes, reverse: bool) -> Iterator[Item]:
        prefix, found, most = keys.prefix(space), self.places(start, end, reverse=reverse), ROWS_FIRST
        while True:
            chunk, size = list[tuple[bytes, Place]](), 0
            for row, full, value in islice(found, most):
                place = place_of(full, value)
                chunk.append((row, place))
                size += place.size
                if size > BYTES_MAX:
                    break
            if not chunk:
                return
            values: dict[bytes, bytes] = {}
            wanted = sorted({place.seq for _, place in chunk})
            by_seq = groupby(sorted(chunk, key=_seq_of), key=lambda one: one[1].seq)
            for framed, (seq, ones) in zip(self._log.get_each(wanted), by_seq, strict=True):
                record.unframe(framed, seq)
                self._record = seq, framed
                values.update((row, self._value(row, place)) for row, place in ones)
            for row, _ in chunk:
                yield prefix + row[SPACE_SIZE:], values[row]
            most = min(most * 8, ROWS_MAX)

    def _entries(self, info: TableInfo, id: int, start: bytes, end: bytes, reverse: bool) -> Iterator[Item]:
        entry_of, parse = _entry_of(info, id), info.salvage
        rows = self._rows(info.space, *bounds(info.row_prefix, b""), False)
        if info.sealed:
            rows = (
                (full, known) for full, value in rows if (known := _known(info, full[PREFIX_SIZE:], value))
            )
        entries = (entry_of(parse(keys.row_of(value))) + full[PREFIX_SIZE:] for full, value in rows)
        found = sorted((one for one in entries if start <= one < end), reverse=reverse)
        return ((entry, b"") for entry in found)

    def _value(self, row: bytes, place: Place) -> bytes:
        """Return the table value of a row: its header, and the row."""
        change = change_at(self._checked(place.seq), row, place)
        return keys.pack_value(
            place.seq,
            change.row,
            version=change.version,
            expires_ns=change.expires_ns,
            key_id=change.key_id,
        )

    def _checked(self, seq: int) -> bytes:
        known, framed = self._record
        if known != seq:
            framed = self._log.get(seq)
            record.unframe(framed, seq)
            self._record = seq, framed
        return framed

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("the database or the snapshot of this read is closed")

    def forked(self) -> None:
        super().forked()
        self._leaked = take_over(part for held in self._held.values() for part in held)

    def close(self) -> None:
        self._open = False
        for held in list(self._held.values()):
            let_go(held)
        self._held.clear()
        self._record = 0, b""


def _known(info: TableInfo, key: bytes, value: bytes | None) -> bytes | None:
    """Return a value with its row unsealed; None if the row was erased."""
    try:
        return None if value is None else info.opened(key, value)
    except SealedError as error:
        if not error.erased:
            raise
        return None


def source_of(view: View) -> LocalSource:
    """Return a source of the rows in a view, current or past."""
    return PastSource(view) if isinstance(view, PastView) else LocalSource(view)


class PastSource(LocalSource):
    """Rows of a past view, without rows that were erased since. Counting reads no rows, except by an
    index."""

    def __init__(self, view: PastView) -> None:
        super().__init__(view)
        self._past = view

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        return _known(info, key, self._past.get(info.row_prefix + key))

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        return [self.get(info, key) for key in keys] if info.sealed else super().get_many(info, keys)

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        if not info.sealed or index is not None:
            yield from super().scan(info, index, span, reverse=reverse, limit=limit)
            return
        skip = len(info.row_prefix)
        for full, sealed in self._past.items(*span.under(info.row_prefix), reverse=reverse):
            value = _known(info, full[skip:], sealed)
            if value is not None:
                yield full[skip:], full[skip:], value

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        if index is not None:
            return super().count(info, index, span)
        return self._past.count(*span.under(info.row_prefix))

    def row_count(self, info: TableInfo) -> int:
        """Count the rows: past states have no stored counts."""
        return self._past.count(*WHOLE.under(info.row_prefix))


def bounds(start: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Return a range of full row keys as a range of spaces and keys."""
    space = start[:SPACE_SIZE]
    if end[:PREFIX_SIZE] == start[:PREFIX_SIZE]:
        return space + start[PREFIX_SIZE:], space + end[PREFIX_SIZE:]
    return space + start[PREFIX_SIZE:], keys.SPACE.pack(keys.SPACE.unpack(space)[0] + 1)


def _newest(layers: list[Iterator[Found]], reverse: bool) -> Iterator[Found]:
    """Yield for each row the newest version in any layer: the one with the least key."""
    for _, same in groupby(merge(*layers, key=itemgetter(0), reverse=reverse), key=itemgetter(0)):
        yield min(same, key=itemgetter(1))


def _entry_of(info: TableInfo, id: int) -> KeyOf:
    at = [index.id for index in info.indexes.values()].index(id)
    return info.own.entry_ofs[at]


def _seq_of(one: tuple[bytes, Place]) -> tuple[int, int]:
    return one[1].seq, one[1].offset
