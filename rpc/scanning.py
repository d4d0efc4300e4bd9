"""Scanning: one scan for a client, in pages, all of one moment.

    page ─▶ taken ─▶ page ─▶ taken ─▶ … the last
              └─ not for STALL_S ─▶ the moment is let go of
                                      └─ taken after all ─▶ nothing of the rest has changed: goes on
                                                            else ConflictError

A moment that is held keeps what was written over it on disk, so it is not held for a client that
has stopped reading.

Invariants
  (1) all pages are of one moment, whether it was held or not;
  (2) with a `snapshot` nothing of a page is newer, or it is a ConflictError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from everlog.proto import store_pb2
from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import ConflictError
from everlog.store.index_info import IndexInfo
from everlog.store.past_view import source_of
from everlog.store.reader import resumed
from everlog.store.schema import Schema, TableInfo
from everlog.store.source import Entry
from everlog.store.span import Span
from everlog.store.view import View

FIRST_PAGE_ROWS, PAGE_ROWS, PAGE_BYTES = 64, 4096, 256 << 10
STALL_S = 60.0


class Scanning:
    """A scan that was asked for. Raises SchemaError, RowError for a resume token of another."""

    stall_s = STALL_S  # for so long its moment is held for a client that does not read

    def __init__(self, db: Database, request: store_pb2.ScanRequest) -> None:
        self._db = db
        self._snapshot = request.snapshot
        self._at_seq = request.at_seq
        self._info, self._index = what(schema_of(db, request.at_seq), request)
        self._prefix = self._info.row_prefix if self._index is None else self._index.prefix
        self._reverse = request.backwards
        self._rest = span_of(self._index, request.start, request.end)
        if request.resume:
            self._rest = resumed(self._rest, self._prefix, request.resume, reverse=self._reverse)
        self._left = request.limit or None
        self._rows = FIRST_PAGE_ROWS
        self._entries: Iterator[Entry] = iter(())
        self._view: View | None = None
        self._seq = 0  # of the moment; 0: not known yet
        self._again = False  # it was let go of, and there is another that equals it
        self.done = False

    def page(self) -> store_pb2.ScanResponse:
        """The next rows. Raises ConflictError. Read-only."""
        if self._view is None:
            self._hold()
        page = self._page(self._rows if self._left is None else min(self._rows, self._left))
        self._check(page)
        if page.resume:
            self._rest = resumed(self._rest, self._prefix, page.resume, reverse=self._reverse)
        if self._left is not None:
            self._left -= len(page.rows)
            self.done = self.done or not self._left
        self._rows = PAGE_ROWS
        return page

    def let_go(self) -> None:
        """Lets go of the moment; what is left of the scan is looked at anew if it is asked for."""
        view, self._view, self._entries = self._view, None, iter(())
        if view is not None:
            view.close()

    def _hold(self) -> None:
        _, self._view, seq = moment_of(self._db, self._at_seq)
        if self._seq and not self._at_seq:
            check_unchanged(self._db, self._seq, (), [self._rest.under(self._prefix)])
            self._again = True
        else:
            self._seq = seq
        self._entries = source_of(self._view).scan(
            self._info, self._index, self._rest, reverse=self._reverse, limit=self._left
        )

    def _page(self, most: int) -> store_pb2.ScanResponse:
        page = store_pb2.ScanResponse(seq=self._seq)
        add, size, last = page.rows.add, 0, b""
        for last, key, value in islice(self._entries, most):  # noqa: B007  used below
            row = keys.row_of(value)
            add(key=key, row=row, version=keys.version_of(value))
            size += len(row)
            if size > PAGE_BYTES:
                break
        else:
            if len(page.rows) < most:
                self.done = True
                return page
        page.resume = self._prefix + last
        return page

    def _check(self, page: store_pb2.ScanResponse) -> None:
        """Rows of an index are looked at, too: its entries do not change with the rest of a row."""
        rows = [] if self._index is None else [self._info.row_prefix + row.key for row in page.rows]
        if self._snapshot:
            check_unchanged(self._db, self._snapshot, rows, [self._rest.under(self._prefix)])
        if self._again and any(row.version > self._seq for row in page.rows):
            check_unchanged(self._db, self._seq, rows)


def schema_of(db: Database, at_seq: int) -> Schema:
    """The schema in force then; 0: now."""
    return db.past.schemas.at(at_seq) if at_seq else db.schema


def moment_of(db: Database, at_seq: int) -> tuple[Schema, View, int]:
    """The schema, the tables, and the seq that they are of: those of then; 0: of now."""
    if at_seq:
        moment = db.at(seq=at_seq)
        return moment.schema, moment.view, at_seq
    return db.schema, *db.tables.snapshot()


def what(
    schema: Schema, asked: store_pb2.ScanRequest | store_pb2.CountRequest | store_pb2.Read
) -> tuple[TableInfo, IndexInfo | None]:
    """The table that is asked for, and its index; an empty name is none."""
    info = schema.generation(asked.table, asked.space)
    return info, info.index(asked.index) if asked.index else None


def span_of(index: IndexInfo | None, start: bytes, end: bytes) -> Span:
    """What a client asks for. It has no keys: values of a hashed index are hashed here."""
    return Span(*index.hash_span(start, end)) if index is not None and index.hashes else Span(start, end)


def check_unchanged(
    db: Database, snapshot: int, read: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Raises ConflictError if any of this may have changed since `snapshot`."""
    found = db.tables.window.conflict(snapshot, read, ranges)
    if found is not None:
        raise ConflictError(
            f"what is read here was changed by commit {found[0]}, after the reading began at {snapshot};"
            " run it again",
            seq=found[0],
            snapshot=snapshot,
        )
