"""Source: where rows are read from: the tables of this process, a transaction, or a server.

    get(table, key)                   ─▶ value
    scan(table, index, span, …)       ─▶ Entry(order, key, value), ordered by key or index

    LocalSource      a view of the tables
    LiveSource       the tables as they are at each call
    WriteSetSource   another source, overlaid with a transaction's own writes
    (everlog.rpc has one over a server)

`order` is what a scan is ordered by: the encoded key, or the encoded index value followed by the key,
both without the prefix of their space. It is also the position at which a scan resumes.

A Span is a range of encoded keys or index values. The arguments of a scan map to spans:

    scan(T)                             all rows
    scan(T, "JFK")  scan(T, ("US", 1))  rows with these values in the first fields
    scan(T, start=…, end=…)             from start (inclusive) to end (exclusive); either may be partial
    scan(T, starts_with="New")          text with this prefix; with `equals`, in the field after it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from everlog.store.errors import CorruptionError, RowError
from everlog.store.keys import SEQ, row_of, rows_note
from everlog.store.rocks.view import CHUNK_BYTES, View
from everlog.store.schema import arguments, codec
from everlog.store.schema.codec import BYTES, STRING, kind_of
from everlog.store.schema.schema import IndexInfo, TableInfo
from everlog.store.tables.tables import Tables
from everlog.store.tx.write import Write

AT_ONCE = 4  # rows of a scan that are read in the call itself
# Rows that an index scan reads together: few enough that the largest rows fit into memory, because their
# sizes are not known in advance.
ROWS_TOGETHER = 16
SCANNED_PER_WRITE = 8  # rows that can be scanned in the time of one point lookup

# A row as a scan returns it: order, key, value (header and row, keys.py). A plain tuple, because there is one
# for every row.
Entry = tuple[bytes, bytes, bytes]


class Span(NamedTuple):
    """A range from `start` (inclusive) to `end` (exclusive), without prefix; an empty `end`: no upper
    bound."""

    start: bytes = b""
    end: bytes = b""

    def under(self, prefix: bytes) -> tuple[bytes, bytes]:
        """Return the same range as full keys that start with `prefix`."""
        return prefix + self.start, prefix + self.end if self.end else codec.after(prefix)

    def holds(self, order: bytes) -> bool:
        """Return whether `order` lies in the range."""
        return order >= self.start and (not self.end or order < self.end)

    def after(self, order: bytes, *, reverse: bool) -> Span:
        """Return the rest of the range for a scan that has read up to and including `order`."""
        if reverse:
            return Span(self.start, min(order, self.end) if self.end else order)
        return Span(max(self.start, order + b"\x00"), self.end)


def span(
    info: TableInfo,
    index: IndexInfo | None,
    equals: Any = None,
    *,
    start: Any = None,
    end: Any = None,
    starts_with: str | bytes | None = None,
) -> Span:
    """Return the span that the arguments of a scan select. Raises RowError."""
    if (equals is not None or starts_with is not None) and (start is not None or end is not None):
        raise RowError("a scan takes either first fields (and starts_with), or start and end; found both")

    if index is not None and index.hashed and (equals is None or starts_with is not None):
        raise RowError(
            f"index {info.name}.{index.name} is over sealed fields: it stores hashes, which support equality"
            " but no order; give the value of its first field, or scan the table",
            table=info.name,
            index=index.name,
        )

    def encode(value: Any) -> bytes:
        return info.encode_key(value, partial=True) if index is None else index.encode(value)

    prefix = b"" if equals is None else encode(equals)
    if starts_with is not None:
        prefix += _text_prefix(info, index, equals, starts_with)
    if prefix:
        return Span(prefix, codec.after(prefix))
    return Span(b"" if start is None else encode(start), b"" if end is None else encode(end))


def _text_prefix(info: TableInfo, index: IndexInfo | None, equals: Any, text: str | bytes) -> bytes:
    """Encode the prefix of a text or bytes field. Raises RowError if the field at that position has another
    type."""
    fields = info.key_fields if index is None else index.fields
    at = 0 if equals is None else len(equals) if isinstance(equals, tuple) else 1
    kind = kind_of(fields[at][-1]) if at < len(fields) else None
    if kind not in (STRING, BYTES) or not isinstance(text, kind.types):
        raise RowError(
            f"starts_with={text!r} requires a field of type {type(text).__name__} at position {at} of"
            f" {info.name if index is None else f'{info.name}.{index.name}'}"
        )
    raw = arguments.text(text, "starts_with").encode() if isinstance(text, str) else text
    return (b"" if index is None else b"\x01") + codec.encode_bytes(raw)[:-2]


WHOLE = Span()


class Source(Protocol):
    """Where rows are read from. All methods are read-only."""

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        """Return the value of the row with the encoded `key`, or None."""

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        """Return the value or None for each key, in order, all from one snapshot."""

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        """Yield the rows in `span` of the table, or of an index, in order."""

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        """Return the number of rows in `span`."""


class LocalSource:
    """Rows of the tables of this process, from one view."""

    def __init__(self, view: View) -> None:
        self._view = view

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        return _opened(info, key, self._view.get(info.row_prefix + key))

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        get, prefix = self._view.get, info.row_prefix
        if info.sealed:
            return [_opened(info, key, get(prefix + key)) for key in keys]
        return [get(prefix + key) for key in keys]

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        _check_keys(info)
        prefix = info.row_prefix if index is None else index.prefix
        skip = len(prefix)
        chunks = self._view.chunks(*span.under(prefix), reverse=reverse)
        if index is not None:
            return self._by_index(info, index, chunks)
        if info.sealed:
            return self._opening(info, chunks)

        def entries(chunk: list[tuple[bytes, bytes]]) -> list[Entry]:
            return [(key := full[skip:], key, value) for full, value in chunk]

        return chain.from_iterable(map(entries, chunks))  # a generator would be resumed for each row

    @staticmethod
    def _opening(info: TableInfo, chunks: Iterable[list[tuple[bytes, bytes]]]) -> Iterator[Entry]:
        """Open each row when it is its turn: one that does not open spares those before it."""
        skip = len(info.row_prefix)
        for chunk in chunks:
            for full, value in chunk:
                key = full[skip:]
                yield key, key, info.opened(key, value)

    def _by_index(
        self, info: TableInfo, index: IndexInfo, chunks: Iterable[list[tuple[bytes, bytes]]]
    ) -> Iterator[Entry]:
        get_some, rows, key_in, skip = self._view.get_some, info.row_prefix, index.key_in, len(index.prefix)
        most, sealed = ROWS_TOGETHER, info.sealed
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                orders = [full[skip:] for full, _ in chunk[at : at + most]]
                keys = [key_in(order) for order in orders]
                values = get_some([rows + key for key in keys])
                if sealed or None in values:
                    for entry in zip(orders, keys, values, strict=True):
                        yield _whole(info, index, entry)
                else:
                    yield from zip(orders, keys, values, strict=True)
                at += len(orders)
                size = 1 + sum(len(value) for value in values if value)
                most = max(1, min(ROWS_TOGETHER, CHUNK_BYTES * len(values) // size))

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        _check_keys(info)
        if has_row_count(info, index, span):
            return self.row_count(info)
        prefix = info.row_prefix if index is None else index.prefix
        return sum(map(len, self._view.chunks(*span.under(prefix))))

    def row_count(self, info: TableInfo) -> int:
        """Return the number of rows of a table, which is also the number of entries in each of its
        indexes."""
        note = self._view.get(rows_note(info.space))
        return 0 if note is None else int(SEQ.unpack(note)[0])


class LiveSource:
    """Rows of the tables as they are at each call.

    A scan reads its first rows at once; only a scan with more rows takes a snapshot.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._get = tables.get

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        value = self._get(info.row_prefix + key)
        return _opened(info, key, value) if info.sealed else value

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        get, prefix = self._get, info.row_prefix
        with self._tables.lock:
            values = [get(prefix + key) for key in keys]
        if info.sealed:
            return [_opened(info, key, value) for key, value in zip(keys, values, strict=True)]
        return values

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        _check_keys(info)
        tables = self._tables
        most = AT_ONCE if limit is None else min(limit, AT_ONCE)
        with tables.lock:
            if not tables.try_flush():
                kept = LocalSource(tables.moment())
                return kept.scan(info, index, span, reverse=reverse, limit=limit)
            prefix = info.row_prefix if index is None else index.prefix
            skip = len(prefix)
            found = tables.target.view.first_items(*span.under(prefix), most, reverse=reverse)
            if index is None:
                first = [(full[skip:], full[skip:], value) for full, value in found]
                if info.sealed:
                    first = [(order, key, info.opened(key, value)) for order, key, value in first]
            else:
                get, rows, key_in = self._get, info.row_prefix, index.key_in
                keyed = [(order := full[skip:], key := key_in(order), get(rows + key)) for full, _ in found]
                first = [_whole(info, index, entry) for entry in keyed]
            if len(first) < most or most == limit:
                return iter(first)
            kept = LocalSource(tables.moment())
        rest = kept.scan(info, index, span.after(first[-1][0], reverse=reverse), reverse=reverse, limit=limit)
        return chain(first, rest)

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        return LocalSource(self._tables.snapshot()[0]).count(info, index, span)


class WriteSetSource:
    """Another source, overlaid with the uncommitted writes of one transaction."""

    def __init__(self, base: Source, writes: dict[bytes, Write]) -> None:
        self._base = base
        self._writes = writes

    def _of(self, info: TableInfo) -> dict[bytes, Write]:
        return {write.key: write for write in self._writes.values() if write.info is info}

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        write = self._writes.get(info.row_prefix + key)
        return self._base.get(info, key) if write is None else write.value()

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        missing = [key for key in keys if info.row_prefix + key not in self._writes]
        found = dict(zip(missing, self._base.get_many(info, missing), strict=True))
        return [
            found[key] if (write := self._writes.get(info.row_prefix + key)) is None else write.value()
            for key in keys
        ]

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        writes = self._of(info)
        if not writes:
            return self._base.scan(info, index, span, reverse=reverse, limit=limit)
        # The transaction's writes may hide this many rows of the base.
        limit = None if limit is None else limit + len(writes)
        below = self._base.scan(info, index, span, reverse=reverse, limit=limit)
        mine = sorted(self._entries(index, span, writes.values()), reverse=reverse)
        return merge(
            (entry for entry in below if entry[1] not in writes),
            mine,
            key=itemgetter(0),
            reverse=reverse,
        )

    def _entries(self, index: IndexInfo | None, span: Span, writes: Iterable[Write]) -> Iterator[Entry]:
        for write in writes:
            value = write.value()
            if value is not None and span.holds(order := _order(write.info, index, write.key, value)):
                yield order, write.key, value

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        writes, count = self._of(info), self._base.count(info, index, span)
        if not writes:
            return count
        if count < SCANNED_PER_WRITE * len(writes):
            return sum(1 for _ in self.scan(info, index, span, reverse=False, limit=None))
        written = list(writes)
        for at in range(0, len(written), ROWS_TOGETHER):
            some = written[at : at + ROWS_TOGETHER]
            for key, old in zip(some, self._base.get_many(info, some), strict=True):
                count += _counts(info, index, span, key, writes[key].value())
                count -= _counts(info, index, span, key, old)
        return count


def _order(info: TableInfo, index: IndexInfo | None, key: bytes, value: bytes) -> bytes:
    """Return the order of a row in a scan."""
    if index is None:
        return key
    row, at = row_of(value), list(info.indexes.values()).index(index)
    return info.own.values(info.salvage(row), row)[at][len(index.prefix) :] + key


def _counts(info: TableInfo, index: IndexInfo | None, span: Span, key: bytes, value: bytes | None) -> bool:
    """Return whether the row exists and lies in the span."""
    return value is not None and span.holds(_order(info, index, key, value))


def has_row_count(info: TableInfo, index: IndexInfo | None, span: Span) -> bool:
    """Return whether a count covers all rows, so that the stored count answers it.

    It does not for an index of sealed rows, which may lack unreadable rows, nor for an index that is being
    built.
    """
    return span == WHOLE and (index is None or not (info.sealed or index.building))


def _whole(info: TableInfo, index: IndexInfo, entry: tuple[bytes, bytes, bytes | None]) -> Entry:
    """Return an index entry with its row. Raises CorruptionError if the row does not exist."""
    order, key, value = entry
    if value is None:
        raise CorruptionError(
            f"index {info.name}.{index.name} has an entry for {info.show_key(key)}, but that row does not"
            " exist; run `everlog check` for details and `everlog repair` to rebuild the index",
            place=(index.prefix + order).hex(),
        )
    return order, key, info.opened(key, value) if info.sealed else value


def _check_keys(info: TableInfo) -> None:
    """Raise SealedError without the keys of a sealed table: its indexes may lack entries, so an empty
    result would be meaningless."""
    if info.sealing is not None:
        info.sealing.check()


def _opened(info: TableInfo, key: bytes, value: bytes | None) -> bytes | None:
    return None if value is None else info.opened(key, value)
