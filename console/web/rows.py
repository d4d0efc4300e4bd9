"""Rows: the rows of a table that a page shows: those that match its filter, in its order, from a position.

    filter, order ─▶ Wanted ─▶ page(after=P)      the rows after a position, or the first ones
                            ─▶ page(before=P)     the rows before it: read backwards, shown in the order
                            ─▶ facet(field)       the most frequent values of a field in the first rows

A position is the `resume` of a scan up to a row, as text in an address.

Invariants
  (1) a page holds at most READ_BYTES_MAX of rows and one more. With conditions to check on each row, it reads
      at most READ_MAX of them, for READ_S and until the next row; so does a facet;
  (2) the pages before and after a position share no row, and leave none out.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from everlog.console.web import cells
from everlog.console.web import filter as filters
from everlog.console.web.page import View
from everlog.store.errors import CorruptionError, RowError, SealedError, quantity
from everlog.store.schema.codec import size_of
from everlog.store.schema.descriptors import descriptor_of, dotted
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx.reader import Reader

ROWS, READ_MAX, READ_S, READ_BYTES_MAX = 50, 20_000, 0.15, 16 << 20
ERRORS_MAX, FACET_S = 50, 0.04
FACET_CHARS = 400  # of a value that is counted: longer ones are equal if their beginnings are
PAST_SORTED_MAX = 10_000  # rows of a table whose past is shown in the order of an index, which sorts all


class Rows(NamedTuple):
    """A page of rows: those that match, with their keys; how many were read; the positions before and after
    which the rows of other pages are (None: there are no more); and what went wrong."""

    found: list[tuple[tuple[Any, ...], Message]]
    read: int = 0
    before: bytes | None = None
    after: bytes | None = None
    errors: Sequence[str] = ()


class Wanted(NamedTuple):
    """A filter and an order. `what`: the table or index; `equals`: the values of its first fields; `left`:
    the conditions to check on each row."""

    info: TableInfo
    index: Any
    what: Any
    equals: Any
    left: list[filters.Condition]
    reverse: bool

    def scan(self, reader: Reader, **how: Any) -> Any:
        """Return the rows of the range in order, before the conditions that are left."""
        return reader.scan(self.what, self.equals, reverse=self.reverse, **how)

    def has(self, row: Message) -> bool:
        return all(one.holds(row) for one in self.left)

    @property
    def hashed(self) -> bool:
        """Whether the order is that of hashes, in which a client without keys knows no positions."""
        return self.index is not None and self.index.hashed

    def position(self, row: Message) -> bytes:
        """Return the position of a row, as the `resume` of a scan up to it."""
        info, own = self.info, self.info.own  # type: Any, Any
        values = key_of(info, row)
        key: bytes = info.encode_key(values[0] if len(values) == 1 else values)
        if self.index is None:
            return bytes(info.row_prefix) + key
        at = list(info.indexes.values()).index(self.index)
        entry: bytes = own.values(row, row.SerializePartialToString())[at]
        return entry + key


def wanted(view: View, info: TableInfo, reader: Reader) -> Wanted:
    """Return the filter and order in the query. Raises RowError, SchemaError."""
    handle: Table[Message, Any] = table_of(info)
    index = info.index(view.query("index")) if view.query("index") else None
    fields = order(view, info)
    text = view.query("q")
    conditions = filters.of_order(text, fields)
    if conditions is None:
        conditions = filters.parse(text, descriptor_of(info.model))
    equals, left = filters.selected(conditions, fields)
    if index is not None and reader is not view.db:
        _check_sortable(view, info, index.name)
    hashed = index is not None and index.hashed  # a client has no keys to compute a position in it
    if index is not None and hashed and (equals is None or len(conditions) - len(left) < len(fields)):
        raise RowError(
            f"index {info.name}.{index.name} stores hashes, which have no order: give the values of all of"
            f" its fields, such as {dotted(fields[0])} = …"
        )
    what = handle if index is None else handle.indexes[index.name]
    return Wanted(info, index, what, equals, left, view.query("reverse") == "1")


def order(view: View, info: TableInfo) -> Sequence[cells.Path]:
    """Return the fields of the order in the query. Raises SchemaError."""
    return info.index(view.query("index")).fields if view.query("index") else info.key_fields


def _check_sortable(view: View, info: TableInfo, index: str) -> None:
    """Raise RowError if the past of a table has too many rows to sort them for a page. Its current rows are
    the estimate."""
    now = view.db.schema.tables.get(info.name)
    rows = view.db.count(table_of(now)) if now is not None else 0
    if rows > PAST_SORTED_MAX:
        raise RowError(
            f"the past has no indexes: the order of {index} would sort all {quantity(rows, 'row')} of"
            f" {info.name}; choose the order of the key, or run `everlog scan` with --index and --at"
        )


def page(
    of: Wanted,
    reader: Reader,
    limit: int,
    *,
    after: bytes | None = None,
    before: bytes | None = None,
) -> Rows:
    """Return at most `limit` rows in the order: after a position, before one, or the first. Fewer if not as
    many are found in a limited time. Raises RowError for a position in another range."""
    if before is None:
        found = _read(of, reader, limit, after)
        return found if after is not None else found._replace(before=None)
    found = _read(of._replace(reverse=not of.reverse), reader, limit, before)
    if found.after is None and (not of.left or not found.read):  # the first page, which may be full
        return page(of, reader, limit)
    return Rows(found.found[::-1], found.read, found.after, found.before, found.errors)


def _read(of: Wanted, reader: Reader, limit: int, resume: bytes | None) -> Rows:
    """Return the rows from a position on. `before` is that of the first row that was read."""
    scan = of.scan(reader, limit=READ_MAX if of.left else limit, resume=resume)
    found, errors, read, until = list[tuple[Any, Message]](), list[str](), 0, time.monotonic() + READ_S
    size, enough, first, last, after = 0, False, None, None, None
    for row in readable(scan, errors):
        if enough and last is not None:  # there is at least one more
            after = of.position(last)
            break
        last, first = row, row if first is None else first
        read, size = read + 1, size + size_of(row)
        if of.has(row):
            found.append((key_of(of.info, row), row))
        slow = of.left and (len(found) >= limit or time.monotonic() > until)
        enough = not of.hashed and (bool(slow) or size > READ_BYTES_MAX)
    after = after or scan.resume
    scan.close()
    return Rows(found, read, None if first is None or of.hashed else of.position(first), after, errors)


class Facet(NamedTuple):
    """The most frequent values of a field, as cells, in a sample: the first rows in the order that match.
    `rows`: how many they are; `read`: how many were read for it; `whole`: whether these are all; `distinct`:
    the number of values in the sample."""

    values: list[tuple[cells.Cell, int]]
    rows: int
    read: int
    distinct: int
    whole: bool
    errors: Sequence[str]


def facet(of: Wanted, reader: Reader, field: cells.FieldDescriptor, most: int, used_s: float = 0.0) -> Facet:
    """Return at most `most` values of a field, each with the number of its rows. Reads rows for READ_S less
    `used_s`, which the rows of the page took, and at least FACET_S; at most READ_MAX of them and
    READ_BYTES_MAX."""
    scan = of.scan(reader, limit=READ_MAX)
    counts, errors, read, size = Counter[cells.Cell](), list[str](), 0, 0
    whole, until = True, time.monotonic() + max(READ_S - used_s, FACET_S)
    for row in readable(scan, errors):
        if read and (size > READ_BYTES_MAX or time.monotonic() > until):
            whole = False
            break
        read, size = read + 1, size + size_of(row)
        if of.has(row):
            counts[cells.cell(row, (field,), chars=FACET_CHARS)] += 1
    whole = whole and scan.resume is None and not errors
    scan.close()
    return Facet(counts.most_common(most), counts.total(), read, len(counts), whole, errors)


def readable(scan: Any, errors: list[str]) -> Iterator[Message]:
    """Yield the rows of a scan; a row that cannot be parsed is an error, and the next row follows."""
    while True:
        try:
            yield next(scan)
        except StopIteration:
            return
        except CorruptionError as error:
            errors.append(str(error))
            if len(errors) > ERRORS_MAX:
                return
        except SealedError as error:
            errors.append(str(error))
            return


def key_of(info: TableInfo, row: Message) -> tuple[Any, ...]:
    """Return the key of a row."""
    return tuple(_at(row, path) for path in info.key_fields)


def _at(row: Message, path: cells.Path) -> Any:
    found: Any = row
    for step in path:
        found = getattr(found, step.name)
    return found


def token(position: bytes | None) -> str:
    """Return a position as it stands in an address; empty: none."""
    return base64.urlsafe_b64encode(position).decode() if position else ""


def untoken(text: str) -> bytes | None:
    """Return the position in an address. Raises RowError."""
    if not text:
        return None
    try:
        return base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        raise RowError("the address of this page of rows is damaged; begin at the first page") from None
