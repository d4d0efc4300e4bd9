"""Reader: the calls that read rows.

Databases, snapshots and transactions are readers, embedded and remote. They differ only in their source.

    get(AIRPORTS, "JFK")                 Airport | None
    get_many(AIRPORTS, ["JFK", "LGA"])   [Airport | None, …]
    scan(AIRPORTS.by_city, "New York")   Scan of Airports
    count(AIRPORTS)                      int

A Snapshot is a reader at one seq.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from everlog.store.errors import ClosedError, RowError
from everlog.store.keys import HEADER_SIZE, expires_of, row_of, version_of
from everlog.store.schema import arguments
from everlog.store.schema.schema import Binding, IndexInfo, Schema
from everlog.store.schema.table import Index, Table
from everlog.store.tx.source import Entry, Source, Span, span

M = TypeVar("M", bound=Message)
K = TypeVar("K")

What = Table[M, Any] | Index[M]


class Scan(Generic[M]):
    """Rows in order. Iterate over it once; afterwards `resume` holds the position of the next page.

    A row that cannot be parsed raises a CorruptionError that names it. A caller that catches the error can
    continue iterating; the next row follows.
    """

    def __init__(self, entries: Iterator[Entry], binding: Binding, prefix: bytes, limit: int | None) -> None:
        # The generator holds no reference to the scan, so a dropped scan releases its snapshot at once.
        self._rows: Iterator[M] | None = _run(weakref.ref(self), entries, binding, prefix, limit)
        # Pass it to `scan(resume=…)` to continue after the last row; None: there are no more rows.
        self.resume: bytes | None = None

    def __iter__(self) -> Iterator[M]:
        return iter(()) if self._rows is None else self._rows

    def __next__(self) -> M:
        return next(iter(self))

    def close(self) -> None:
        """Release the snapshot that the scan reads from."""
        self._rows = None


def _run(
    of: weakref.ref[Scan[M]], entries: Iterator[Entry], binding: Binding, prefix: bytes, limit: int | None
) -> Iterator[M]:
    parse: Any = binding.model.FromString
    last = key = b""
    left = -1 if limit is None else limit
    try:
        for order, key, value in entries:  # noqa: B007  the error names the row
            if not left:
                if (scan := of()) is not None:
                    scan.resume = prefix + last
                return
            left -= 1
            last = order
            yield parse(row_of(value) if value[0] else value[HEADER_SIZE:])
    except DecodeError as error:
        if (scan := of()) is not None:
            scan._rows = _run(of, entries, binding, prefix, None if limit is None else left)  # noqa: SLF001
        raise binding.info.unreadable(key, error) from None


class Reader:
    """Reads rows. Read-only.

    Every method raises SchemaError for an unknown table or index, and RowError for a key of the wrong type.
    """

    def _schema(self) -> Schema:
        raise NotImplementedError

    def _source(self) -> Source:
        """Return the source of one call."""
        raise NotImplementedError

    def get(self, table: Table[M, K], key: K) -> M | None:
        """Return the row with this primary key, or None. Read-only."""
        binding = self._bind(table)
        encoded = binding.info.encode_key(key)
        value = self._source().get(binding.info, encoded)
        return None if value is None else self._row(binding, encoded, value)

    def get_many(self, table: Table[M, K], keys: Iterable[K]) -> list[M | None]:
        """Return the row or None for each primary key, in the order given, all from one snapshot.
        Read-only."""
        binding = self._bind(table)
        info = binding.info
        encoded = [info.encode_key(key) for key in arguments.several(keys, "keys")]
        values = self._source().get_many(info, encoded)
        return [
            None if value is None else self._row(binding, key, value)
            for key, value in zip(encoded, values, strict=True)
        ]

    def version(self, table: Table[M, K], key: K) -> int:
        """Return the seq of the commit that last changed the row; 0 if the row does not exist. Read-only."""
        info = self._bind(table).info
        value = self._source().get(info, info.encode_key(key))
        return 0 if value is None else version_of(value)

    def expires_ns(self, table: Table[M, K], key: K) -> int:
        """Return when the row expires, in nanoseconds since the Unix epoch. Read-only.

        0: the row does not expire, or does not exist.
        """
        info = self._bind(table).info
        value = self._source().get(info, info.encode_key(key))
        return 0 if value is None else expires_of(value)

    def scan(
        self,
        what: What[M],
        equals: Any = None,
        *,
        start: Any = None,
        end: Any = None,
        starts_with: str | bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        resume: bytes | None = None,
    ) -> Scan[M]:
        """Return rows in the order of the primary key, or of an index, from one snapshot. Read-only.

        `what` is a table or an index. `equals` gives the value of the first field, or a tuple of the first
        fields. `start` (inclusive) and `end` (exclusive) bound the range. `starts_with` is a prefix of a
        text or bytes field, the one after `equals`. `reverse` returns the last row first. `limit` is the
        maximum number of rows. `resume` is the `resume` of an earlier scan with the same arguments.

            page = db.scan(AIRPORTS.by_city, "New York", limit=50)
            rows = list(page)
            more = db.scan(AIRPORTS.by_city, "New York", limit=50, resume=page.resume)

        Raises RowError for arguments that do not fit together or to the fields, SchemaError for an unknown
        table.
        """
        binding, index = self._what(what)
        limit = arguments.limit(limit, "rows")
        limits = span(binding.info, index, equals, start=start, end=end, starts_with=starts_with)
        prefix = binding.info.row_prefix if index is None else index.prefix
        if resume is not None:
            limits = resumed(limits, prefix, resume, reverse=reverse)
        peek = None if limit is None else limit + 1
        entries = self._source().scan(binding.info, index, limits, reverse=reverse, limit=peek)
        scan: Scan[M] = Scan(entries, binding, prefix, limit)
        return scan

    def count(
        self,
        what: What[M],
        equals: Any = None,
        *,
        start: Any = None,
        end: Any = None,
        starts_with: str | bytes | None = None,
    ) -> int:
        """Return how many rows a scan with these arguments would return. Read-only."""
        binding, index = self._what(what)
        limits = span(binding.info, index, equals, start=start, end=end, starts_with=starts_with)
        return self._source().count(binding.info, index, limits)

    def _bind(self, table: Any) -> Binding:
        if not isinstance(table, Table):  # checked here, as each read passes it
            arguments.table(table)
        schema = self._schema()
        return schema.bound.get(table) or schema.bind(table)

    def _what(self, what: What[M]) -> tuple[Binding, IndexInfo | None]:
        if isinstance(what, Index):
            binding = self._bind(what.table)
            return binding, binding.info.index(what.name)
        return self._bind(what), None

    def _row(self, binding: Binding, key: bytes, value: bytes) -> Any:
        try:
            return binding.model.FromString(row_of(value) if value[0] else value[HEADER_SIZE:])
        except DecodeError as error:
            raise binding.info.unreadable(key, error) from None


def resumed(limits: Span, prefix: bytes, resume: bytes, *, reverse: bool) -> Span:
    """Return the rest of a span after a resume token. Raises RowError if the token belongs to another
    scan."""
    arguments.binary(resume, "resume")
    order = resume[len(prefix) :]
    if not resume.startswith(prefix) or not limits.holds(order):
        raise RowError("the resume token belongs to another scan; pass it with the same arguments")
    return limits.after(order, reverse=reverse)


class Snapshot(Reader):
    """A database at one seq. Use it in a `with` block: while it is open, its data is retained."""

    def __init__(self, source: Source, seq: int, schema: Schema, close: Callable[[], None]) -> None:
        self.seq = seq
        self._held: Source | None = source
        self._of = schema
        self._on_close = close
        self._pid = os.getpid()

    def _schema(self) -> Schema:
        return self._of

    def _source(self) -> Source:
        if self._held is None:
            raise ClosedError("this snapshot is closed")
        if self._pid != os.getpid():  # its files are not open in this process
            raise ClosedError(
                "the database of this snapshot was opened before this process was forked; open the database"
                " in the child"
            )
        return self._held

    def close(self) -> None:
        """Release the snapshot. Later reads raise ClosedError."""
        self._held = None
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
