"""Reader: the calls that read rows. A database, a snapshot and a transaction are readers, here and
over the network; they differ in their source alone.

    get(AIRPORTS, "JFK")                 Airport | None
    get_many(AIRPORTS, ["JFK", "LGA"])   [Airport | None, …]
    scan(AIRPORTS.by_city, "New York")   Scan of Airports
    count(AIRPORTS)                      int

Snapshot: a database at one moment, for reading more than once.
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
    """Rows in order. Iterate it once; afterwards `resume` says where the next page starts.

    A row that cannot be parsed is a CorruptionError that names it; a caller that catches it can go on
    iterating, with the row after it.
    """

    def __init__(self, entries: Iterator[Entry], binding: Binding, prefix: bytes, limit: int | None) -> None:
        # The generator holds no reference to the scan, so a dropped scan releases its moment at once.
        self._rows: Iterator[M] | None = _run(weakref.ref(self), entries, binding, prefix, limit)
        # Hand it to `scan(resume=…)` to go on after the last row; None: there are no more rows.
        self.resume: bytes | None = None

    def __iter__(self) -> Iterator[M]:
        return iter(()) if self._rows is None else self._rows

    def __next__(self) -> M:
        return next(iter(self))

    def close(self) -> None:
        """Lets go of the moment that the scan reads at."""
        self._rows = None


def _run(
    of: weakref.ref[Scan[M]], entries: Iterator[Entry], binding: Binding, prefix: bytes, limit: int | None
) -> Iterator[M]:
    parse: Any = binding.model.FromString
    last = key = b""
    left = -1 if limit is None else limit
    try:
        for order, key, value in entries:  # noqa: B007  the error says which row
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

    Every call raises SchemaError for a table or an index that there is not, and RowError for a
    key of the wrong type.
    """

    def _schema(self) -> Schema:
        raise NotImplementedError

    def _source(self) -> Source:
        """Where a call reads."""
        raise NotImplementedError

    def get(self, table: Table[M, K], key: K) -> M | None:
        """The row with this primary key, or None."""
        binding = self._bind(table)
        encoded = binding.info.encode_key(key)
        value = self._source().get(binding.info, encoded)
        return None if value is None else self._row(binding, encoded, value)

    def get_many(self, table: Table[M, K], keys: Iterable[K]) -> list[M | None]:
        """The rows with these primary keys, each or None, in the same order, at one moment."""
        binding = self._bind(table)
        info = binding.info
        encoded = [info.encode_key(key) for key in arguments.several(keys, "keys")]
        values = self._source().get_many(info, encoded)
        return [
            None if value is None else self._row(binding, key, value)
            for key, value in zip(encoded, values, strict=True)
        ]

    def version(self, table: Table[M, K], key: K) -> int:
        """Seq of the commit that last changed the row; 0 if there is no such row."""
        info = self._bind(table).info
        value = self._source().get(info, info.encode_key(key))
        return 0 if value is None else version_of(value)

    def expires_ns(self, table: Table[M, K], key: K) -> int:
        """When the row's life ends, in nanoseconds since the Unix epoch; 0 if never, or no such row."""
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
        """Rows in the order of the primary key, or of an index, at one moment.

        `equals` gives the first field or fields; `start` (inclusive) and `end` (exclusive) bound
        the range; `starts_with` is the beginning of a text field, after `equals`. `resume` is that
        of an earlier scan with the same arguments.
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
        """How many rows a scan with these arguments would give."""
        binding, index = self._what(what)
        limits = span(binding.info, index, equals, start=start, end=end, starts_with=starts_with)
        return self._source().count(binding.info, index, limits)

    def _bind(self, table: Table[M, Any]) -> Binding:
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
            return binding.model.FromString(row_of(value))
        except DecodeError as error:
            raise binding.info.unreadable(key, error) from None


def resumed(limits: Span, prefix: bytes, resume: bytes, *, reverse: bool) -> Span:
    """What is left of a span after a resume token. Raises RowError if it is of another scan."""
    arguments.binary(resume, "resume")
    order = resume[len(prefix) :]
    if not resume.startswith(prefix) or not limits.holds(order):
        raise RowError("the resume token is of another scan; use it with the same arguments")
    return limits.after(order, reverse=reverse)


class Snapshot(Reader):
    """A database at one moment. Use it in a `with`: as long as it is open, that moment is kept."""

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
        if self._pid != os.getpid():  # its files are not open here
            raise ClosedError(
                "the database of this snapshot was opened before this process was forked; open it in the"
                " child"
            )
        return self._held

    def close(self) -> None:
        self._held = None
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
