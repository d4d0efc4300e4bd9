"""Tables: the tables of a database, and the rows of one.

/db/{database}/tables                      all tables
/db/{database}/tables/{table}              its schema, and rows in the order of the key or an index
    ?q=origin = "JFK" and month = 1        conditions on fields (filter.py)
    &field=month &op=%3D &value=1          one more condition: leads to the filter with it
    &index=by_route &reverse=1             the order
    &at=963534                             as of a commit; with &count=1 also the number of its rows
    &resume=…                              the rows after those of another page
    &k=…&k=…                               a row to show beside the others, one value of its key each
/db/{database}/tables/{table}/export       the rows of the same filter and order, all of them, as a file
    ?format=csv                            csv, jsonl or parquet
    &null=NA                               CSV: the text of an unset field, and an error if it is ambiguous
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from everlog.console import output
from everlog.console.export import FORMATS, exported, has_parquet
from everlog.console.web import asof as asof_
from everlog.console.web import cells, plots
from everlog.console.web import filter as filters
from everlog.console.web.format import href, with_query
from everlog.console.web.page import NotFoundError, Page, View, redirect, route
from everlog.migrations.values import plain
from everlog.store.errors import CorruptionError, Error, RowError, SealedError, UnavailableError, quantity
from everlog.store.schema.codec import BYTES, MESSAGE, kind_of, size_of
from everlog.store.schema.descriptors import descriptor_of, dotted
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx.reader import Reader

ROWS, READ_MAX, READ_S, READ_BYTES_MAX = 50, 20_000, 0.15, 16 << 20
COLUMNS_MAX = 40
MEDIA = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
TITLES = {"csv": "CSV", "jsonl": "JSON Lines", "parquet": "Parquet"}
DAY_S, WIDTH, HEIGHT = 86_400, 720, 72  # of the plot of sizes
PAST_SORTED_MAX = 10_000  # rows of a table whose past is shown in the order of an index, which sorts all


def may(view: View, table: str, op: str) -> bool:
    """Return whether the identity may `put` or `delete` rows of a table. Raises nothing."""
    try:
        return view.db.access.explain("", op, table).allowed
    except Error:
        return False


class Rows(NamedTuple):
    """A page of rows: those that meet the filter, how many were read, where the next page begins (None: there
    are no more), and what went wrong."""

    found: list[tuple[Any, Message]]
    read: int
    resume: bytes | None
    errors: list[str]


def tables(view: View) -> Page:
    db = view.db
    schema, status = db.refresh_schema(), db.admin.status()
    counts = {one.name: one.rows for one in status.tables}
    found = [_told(info, counts.get(name)) for name, info in sorted(schema.tables.items())]
    return Page("tables.html", {"tables": found, "schema_version": schema.version, "head": status.head})


def _told(info: TableInfo, rows: int | None) -> dict[str, Any]:
    """Return a table's schema as JSON values."""
    return {
        "name": info.name,
        "rows": rows,
        "key": [dotted(path) for path in info.key_fields],
        "indexes": [
            {
                "name": index.name,
                "fields": [dotted(path) for path in index.fields],
                "unique": index.unique,
                "hashed": index.hashed,
                "building": index.building,
            }
            for index in info.indexes.values()
        ],
        "model": descriptor_of(info.model).full_name,
        "ttl_s": info.ttl_ns / 1e9 if info.ttl_ns else None,
        "sealed": info.sealed,
    }


def _sizes(view: View, name: str) -> dict[str, Any] | None:
    """Return the plot of the bytes of a table over time, of a day or since the server started."""
    now_ns = time.time_ns()
    taken = plots.samples_of(view.db, now_ns - DAY_S * plots.SECOND_NS, points=2 * plots.BUCKETS, table=name)
    taken = [one for one in taken if name in one.tables]
    if len(taken) < 2:
        return None
    seconds = min(DAY_S, max(60, (now_ns - taken[0].time_ns) // plots.SECOND_NS))
    times = plots.times_of(seconds, now_ns)
    named = [
        ("Rows", plots.series(taken, lambda one: one.tables[name][0], times)),
        ("Indexes", plots.series(taken, lambda one: one.tables[name][1], times)),
    ]
    found = plots.lines(named, times, width=WIDTH, height=HEIGHT)
    return found and {**found, "since_ns": taken[0].time_ns if seconds < DAY_S else 0}


def table(view: View) -> Page | Response:
    if (answer := asof_.redirected(view)) is not None:
        return answer
    name, where = view.path("table"), asof_.asof(view)
    at, reader = where.moment, where.moment or view.db
    schema = at.schema if at is not None else view.db.refresh_schema()
    shown: dict[str, Any] = {
        "asof": where.values,
        "at": where.values["at"] or None,
        "problem": "",
        "table": name,
    }
    if name not in schema.tables:
        if at is None:
            raise NotFoundError(
                f"there is no table {name!r}; its name may have been another at an earlier commit"
            )
        values = {"table": name, "at": at.seq, "rows": [], "problem": "it did not exist then"}
        return Page("table_gone.html", values, 404, shown)
    info = schema.tables[name]
    counted = at is None or view.query("count") == "1"  # a past state has no stored counts: it reads all
    told = _told(info, reader.count(table_of(info)) if counted else None)
    columns, hidden = cells.columns(descriptor_of(info.model), info.key_fields, COLUMNS_MAX)
    try:
        if view.query("field") or view.query("value") or view.query("op").endswith("unset"):
            return redirect(_with_condition(view, info))
        if "op" in view.request.query_params:  # the form was sent without a condition
            return redirect(view.href(field=None, op=None, value=None))
        rows = _rows(view, info, reader)
    except RowError as error:
        if not any(view.query(one) for one in ("q", "index", "resume", "op")):
            raise
        rows, shown["problem"] = Rows([], 0, None, []), str(error)
    keys = [plain_key(key) for key, _ in rows.found]
    values = {
        **told,
        "at": where.values["at"] or None,
        "rows_read": rows.read,
        "found": [output.row_dict(row) for _, row in rows.found] if view.wants_json else [],
        "next": _token(rows.resume),
        "problem": shown["problem"],
        "errors": rows.errors,
    }
    index_names = [index.name for index in info.indexes.values() if not index.building]
    shown |= {
        "grid": [
            {
                "key": key,
                "href": row_href(view, name, key),
                "drawer": view.href(k=key),
                "cells": [cells.cell(row, path) for path in columns],
                "current": key == view.queries("k"),
            }
            for key, (_, row) in zip(keys, rows.found, strict=True)
        ],
        "columns": [
            {
                "name": dotted(path),
                "type": "key" if path in info.key_fields else cells.type_of(path[-1]),
                "num": cells.is_number(path[-1]),
                **_sorting(view, info, path),
            }
            for path in columns
        ],
        "hidden": hidden,
        "sizes": _sizes(view, name) if at is None else None,
        "index_names": index_names,
        "operators": filters.CHOICES,
        "field_names": [one.name for one in descriptor_of(info.model).fields],
        "search_href": "" if rows.found else _search(view),
        "drawer": _drawer(view, info, reader),
        "next_href": view.href(resume=_token(rows.resume), k=None) if rows.resume else "",
        "first_href": view.href(resume=None, k=None) if view.query("resume") else "",
        "model_text": cells.model_text(descriptor_of(info.model)),
        "words": in_words(told),
        "exports": [] if shown["problem"] else _exports(view, name),
        "log_href": href("db", view.database, "log", table=name),
        "insert_href": f"{href('db', view.database, 'tables', name)}/new"
        if at is None and may(view, name, "put")
        else "",
    }
    return Page("table.html", values, 200, shown)


def _sorting(view: View, info: TableInfo, path: cells.Path) -> dict[str, str]:
    """Return the address that orders the rows by a column (empty: no order begins with it), and how they are
    ordered by it now. The key comes before indexes; the column of the current order turns it round."""
    orders = {"": info.key_fields} | {
        one.name: one.fields for one in info.indexes.values() if not (one.building or one.hashed)
    }
    chosen, reverse = view.query("index"), view.query("reverse") == "1"
    names = [name for name, fields in orders.items() if dotted(fields[0]) == dotted(path)]
    if chosen in names:
        turned = view.href(reverse=None if reverse else "1", resume=None, k=None)
        return {"sort_href": turned, "sorted": "descending" if reverse else "ascending"}
    url = view.href(index=names[0] or None, reverse=None, resume=None, k=None) if names else ""
    return {"sort_href": url, "sorted": ""}


class Wanted(NamedTuple):
    """What a page shows of a table: its filter and order. `what`: the table or index; `equals`: the values of
    its first fields; `left`: the conditions to check on each row."""

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


def _wanted(view: View, info: TableInfo, reader: Reader) -> Wanted:
    """Return the filter and order in the query. Raises RowError, SchemaError."""
    handle: Table[Message, Any] = table_of(info)
    index = info.index(view.query("index")) if view.query("index") else None
    fields = _order(view, info)
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
            f"index {index.name} stores hashes, which have no order: give the values of all of its fields,"
            f" such as {dotted(fields[0])} = …"
        )
    what = handle if index is None else handle.indexes[index.name]
    return Wanted(info, index, what, equals, left, view.query("reverse") == "1")


def _order(view: View, info: TableInfo) -> Sequence[cells.Path]:
    """Return the fields of the order. Raises SchemaError."""
    return info.index(view.query("index")).fields if view.query("index") else info.key_fields


def _with_condition(view: View, info: TableInfo, *condition: str) -> str:
    """Return the address of the rows that meet one more condition: field, operator and value, by default
    those of the query. Raises RowError, SchemaError."""
    name, op, word = condition or [view.query(one) for one in ("field", "op", "value")]
    text = filters.extended(view.query("q"), _order(view, info), name, op or "~", word)
    return view.href(q=text, field=None, op=None, value=None, resume=None, k=None)


def _rows(view: View, info: TableInfo, reader: Reader) -> Rows:
    """Return the rows of a page: as many as fit, or as were found in a limited time. Raises RowError."""
    wanted = _wanted(view, info, reader)
    left, index = wanted.left, wanted.index
    hashed = index is not None and index.hashed
    scan = wanted.scan(reader, limit=READ_MAX if left else ROWS, resume=_untoken(view.query("resume")))
    found, errors, read, until = list[tuple[Any, Message]](), list[str](), 0, time.monotonic() + READ_S
    complete, size = True, 0
    for row in _readable(scan, errors):
        read += 1
        if wanted.has(row):
            found.append((key_of(info, row), row))
        size += size_of(row)
        enough = left and (len(found) >= ROWS or time.monotonic() > until)
        if not hashed and (enough or size > READ_BYTES_MAX):
            complete = False
            break
    resume = scan.resume if complete else _after(info, index, row)
    scan.close()
    return Rows(found, read, resume, errors)


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


def _readable(scan: Any, errors: list[str]) -> Iterator[Message]:
    """Yield the rows of a scan; a row that cannot be parsed is an error, and the next row follows."""
    while True:
        try:
            yield next(scan)
        except StopIteration:
            return
        except CorruptionError as error:
            errors.append(str(error))
            if len(errors) > ROWS:
                return
        except SealedError as error:
            errors.append(str(error))
            return


def _after(info: TableInfo, index: Any, row: Message) -> bytes:
    """Return the position after a row, as a scan would return it."""
    own: Any = info.own
    values = key_of(info, row)
    key: bytes = info.encode_key(values[0] if len(values) == 1 else values)
    if index is None:
        return info.row_prefix + key
    at = list(info.indexes.values()).index(index)
    entry: bytes = own.values(row, row.SerializePartialToString())[at]
    return entry + key


def key_of(info: TableInfo, row: Message) -> tuple[Any, ...]:
    """Return the key of a row."""
    return tuple(_at(row, path) for path in info.key_fields)


def _at(row: Message, path: cells.Path) -> Any:
    found: Any = row
    for step in path:
        found = getattr(found, step.name)
    return found


def plain_key(key: Sequence[Any]) -> list[str]:
    """Return a key as words, as they are typed."""
    return [_word(part) for part in key]


def _word(part: Any) -> str:
    value = plain(part)
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def row_href(view: View, table: str, key: Sequence[str], at: int = 0, *, saved: int = 0) -> str:
    """Return the address of the page of a row. `saved`: the commit that has just written it."""
    return href(
        "db", view.database, "tables", table, "row", k=list(key), at=at or view.query("at"), saved=saved
    )


def encoded_key(info: TableInfo, words: Sequence[str]) -> Any:
    """Return a key from the words of an address. Raises RowError."""
    if len(words) != len(info.key_fields):
        names = ", ".join(map(dotted, info.key_fields))
        raise RowError(f"expected a key of {info.name} as {names}, one `k` each, found {len(words)} values")
    return output.values(info.key_fields, words, f"the key of {info.name}")


def _exports(view: View, table: str) -> list[tuple[str, str]]:
    """Return the formats in which the rows can be saved, with the address of each file."""
    path = f"{href('db', view.database, 'tables', table)}/export"
    query = {one: view.query(one) for one in ("q", "index", "reverse", "at")}
    return [
        (TITLES[form], with_query(path, {"format": form, **query}))
        for form in ("csv", "jsonl", "parquet")
        if form != "parquet" or has_parquet()
    ]


def _search(view: View) -> str:
    """Return the address that searches all fields for the value of a filter; empty: it is a condition."""
    word = view.query("q").strip()
    if not word or any(sign in word for sign in '=<>~!"'):
        return ""
    return view.href(q=f"~ {filters.quoted(word)}", index=None, resume=None, k=None)


def _drawer(view: View, info: TableInfo, reader: Reader) -> dict[str, Any] | None:
    words = view.queries("k")
    if not words:
        return None
    found: dict[str, Any] = {
        "key": words,
        "href": row_href(view, info.name, words),
        "close": view.href(k=None),
        "edit": href("db", view.database, "tables", info.name, "row", "edit", k=words),
    }
    try:
        row = reader.get(table_of(info), encoded_key(info, words))
        version = reader.version(table_of(info), encoded_key(info, words)) if row is not None else 0
    except Error as error:
        return {**found, "error": str(error), "lines": [], "version": 0}
    if row is None:
        return {**found, "error": "There is no row with this key.", "lines": [], "version": 0}
    lines = cells.unfold(row)
    return {
        **found,
        "error": "",
        "lines": lines,
        "version": version,
        "same": {one.name: _same(view, info, one) for one in lines if one.depth == 0},
    }


def _same(view: View, info: TableInfo, line: cells.Line) -> str:
    """Return the address of the rows with the value of a field; empty: a filter cannot compare it."""
    field = descriptor_of(info.model).fields_by_name.get(line.name)
    if field is None or field.is_repeated or kind_of(field) in {MESSAGE, BYTES} or line.cell.cut:
        return ""
    if line.cell.look == "null":
        condition = (line.name, "= unset", "")
    else:
        condition = (line.name, "=", "" if line.cell.text == '""' else line.cell.text)
    try:
        return _with_condition(view, info, *condition)
    except RowError:
        return ""


def in_words(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the schema of a table in words."""
    found = [("Each row is a", told["model"]), ("found by", ", ".join(told["key"]))]
    for index in told["indexes"]:
        kind = "unique index" if index["unique"] else "index"
        more = (
            " (hashes: equality only)" if index["hashed"] else " (being built)" if index["building"] else ""
        )
        found.append((f"{kind} {index['name']}", f"{', '.join(index['fields'])}{more}"))
    if told["ttl_s"]:
        found.append(("rows expire", f"{told['ttl_s']:,.0f} seconds after the commit that wrote them"))
    if told["sealed"]:
        found.append(("sealed", "rows are encrypted with the key of the person that they are about"))
    return found


def _token(resume: bytes | None) -> str:
    return base64.urlsafe_b64encode(resume).decode() if resume else ""


def _untoken(text: str) -> bytes | None:
    if not text:
        return None
    try:
        return base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        raise RowError("the address of this page of rows is damaged; begin at the first page") from None


def export(view: View) -> Response:
    """Send all rows that a page shows part of, as a file."""
    form, name = view.query("format"), view.path("table")
    if form not in FORMATS:
        raise RowError(f"expected a format of {', '.join(FORMATS)}, found {form[:40]!r}")
    moment = asof_.moment(view)
    schema = moment.schema if moment is not None else view.db.refresh_schema()
    if name not in schema.tables:
        raise NotFoundError(f"there is no table {name!r}")
    info, reader = schema.tables[name], moment or view.db
    wanted = _wanted(view, info, reader)
    rows = (row for row in wanted.scan(reader) if wanted.has(row))
    exact = "null" in view.request.query_params
    pieces = exported(rows, form, info.model, null=view.query("null"), exact=exact)
    first = next(pieces, None)  # now, so that an error is a page
    file = f"{name}-{moment.seq}.{form}" if moment is not None else f"{name}.{form}"
    return StreamingResponse(
        _sent(view, first, pieces),
        media_type=MEDIA[form],
        headers={"Content-Disposition": f'attachment; filename="{file}"'},
    )


async def _sent(
    view: View, first: bytes | None, pieces: Generator[bytes, None, None]
) -> AsyncIterator[bytes]:
    """Send the pieces of a file as its reader takes them. An error breaks the connection: the reader sees
    that the file is incomplete."""
    piece = first
    try:
        while piece is not None:
            yield piece
            if view.console.stopping:
                raise UnavailableError("the console stops")
            piece = await run_in_threadpool(next, pieces, None)
    finally:
        pieces.close()


ROUTES = [
    *route("/db/{database}/tables", tables),
    *route("/db/{database}/tables/{table}", table),
    *route("/db/{database}/tables/{table}/export", export, twin=False),
]
