"""Tables: the tables of a database, and the rows of one.

/db/{database}/tables                      all tables
/db/{database}/tables/{table}              its schema, and rows in the order of the key or an index
    ?q=origin = "JFK" and month = 1        conditions on fields (filter.py)
    &field=month &op=%3D &value=1          one more condition: leads to the filter with it
    &facet=carrier                         the most frequent values of a field; &facet=1: of `field`
    &index=by_route &reverse=1             the order
    &at=963534                             as of a commit; with &count=1 also the number of its rows
    &resume=… or &before=…                 the rows after, or before, those of another page
    &limit=100                             rows per page
    &column=…&column=…                     the fields to show beside the key, and to export
    &k=…&k=…                               a row to show beside the others, one value of its key each
/db/{database}/tables/{table}/export       the rows of the same filter and order, all of them, as a file
    ?format=csv                            csv, jsonl or parquet
    &null=NA                               CSV: the text of an unset field, and an error if it is ambiguous
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

from google.protobuf.message import Message
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from everlog.console import output
from everlog.console.export import FORMATS, exported, fields_of, has_parquet
from everlog.console.web import asof as asof_
from everlog.console.web import cells, plots
from everlog.console.web import filter as filters
from everlog.console.web.format import href, with_query
from everlog.console.web.page import NotFoundError, Page, View, redirect, route
from everlog.console.web.rows import ROWS, Rows, Wanted, facet, order, page, token, untoken, wanted
from everlog.migrations.values import plain
from everlog.store.errors import Error, RowError, UnavailableError
from everlog.store.schema.codec import BYTES, MESSAGE, kind_of
from everlog.store.schema.descriptors import descriptor_of, dotted
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.tx.reader import Reader

LIMITS = (ROWS, 100, 200, 500)  # rows per page; the last one is the most
FACET_VALUES = 20
COLUMNS_MAX, CHOICES_MAX = 40, 200  # of a page, and of the form that chooses them
MEDIA = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
TITLES = {"csv": "CSV", "jsonl": "JSON Lines", "parquet": "Parquet"}
DAY_S, WIDTH, HEIGHT = 86_400, 720, 72  # of the plot of sizes


def may(view: View, table: str, op: str) -> bool:
    """Return whether the identity may `put` or `delete` rows of a table. Raises nothing."""
    try:
        return view.db.access.explain("", op, table).allowed
    except Error:
        return False


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
    fields, names = fields_of(info.model), [one.name for one in fields_of(info.model)]
    limit = view.whole("limit", ROWS, low=1, high=LIMITS[-1])
    try:
        if view.query("facet") == "1":  # of the form of a condition
            return redirect(_count_of(view))
        if view.query("field") or view.query("value") or view.query("op").endswith("unset"):
            return redirect(_with_condition(view, info))
        if "op" in view.request.query_params:  # the form was sent without a condition
            return redirect(view.href(field=None, op=None, value=None))
        fields = fields_of(info.model, view.queries("column"))
        after, before = (untoken(view.query(one)) for one in ("resume", "before"))
        of, began = wanted(view, info, reader), time.monotonic()
        rows = page(of, reader, limit, after=after, before=before)
        counted_values = _facet(view, of, reader, time.monotonic() - began)
    except RowError as error:
        if not any(view.query(one) for one in ("q", "index", "resume", "before", "op", "column", "facet")):
            raise
        rows, shown["problem"], counted_values = Rows([]), str(error), None
    columns, hidden = cells.columns(info.key_fields, fields, COLUMNS_MAX)
    keys = [plain_key(key) for key, _ in rows.found]
    values = {
        **told,
        "at": where.values["at"] or None,
        "rows_read": rows.read,
        "found": [_values(row, columns) for _, row in rows.found] if view.wants_json else [],
        "next": token(rows.after),
        "previous": token(rows.before),
        "problem": shown["problem"],
        "errors": rows.errors,
        "facet": counted_values,
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
        "field_names": names,
        "choices": [(one, one in {field.name for field in fields}) for one in names[:CHOICES_MAX]],
        "chosen": len(fields),
        "search_href": "" if rows.found else _search(view),
        "drawer": _drawer(view, info, reader),
        "next_href": _turned(view, resume=token(rows.after)) if rows.after else "",
        "previous_href": _turned(view, before=token(rows.before)) if rows.before else "",
        "first_href": _turned(view) if view.query("resume") or view.query("before") else "",
        "limit": limit,
        "limits": [(one, view.href(limit=one if one != ROWS else None, k=None)) for one in LIMITS],
        "model_text": cells.model_text(descriptor_of(info.model)),
        "words": in_words(told),
        "exports": [] if shown["problem"] else _exports(view, name),
        "log_href": href("db", view.database, "log", table=name),
        "insert_href": f"{href('db', view.database, 'tables', name)}/new"
        if at is None and may(view, name, "put")
        else "",
    }
    return Page("table.html", values, 200, shown)


def _count_of(view: View) -> str:
    """Return the address that counts the values of the field in the form of a condition. Raises RowError."""
    if not view.query("field"):
        raise RowError("choose the field whose values are counted")
    return view.href(facet=view.query("field"), field=None, op=None, value=None, k=None)


def _facet(view: View, of: Wanted, reader: Reader, used_s: float) -> dict[str, Any] | None:
    """Return the most frequent values of the field in the query, each with the address of its rows; None:
    the query has none. `used_s`: the time of the page so far. Raises RowError."""
    name = view.query("facet")
    if not name:
        return None
    (field,) = fields_of(of.info.model, [name])
    if not _is_comparable(field):
        raise RowError(f"expected a field with one value, found {name}, which is a list, message or bytes")
    found = facet(of, reader, field, FACET_VALUES, used_s)
    most = max((count for _, count in found.values), default=1)
    return {
        "field": name,
        "rows": found.rows,
        "read": found.read,
        "whole": found.whole,
        "distinct": found.distinct,
        "values": [
            {
                "value": None if one.look == "null" else one.text,
                "count": count,
                "share": round(count * 100 / most),
                "href": _same(view, of.info, name, one),
            }
            for one, count in found.values
        ],
    }


def _is_comparable(field: cells.FieldDescriptor) -> bool:
    """Return whether a filter can compare a field with a value that it shows."""
    return not field.is_repeated and kind_of(field) not in {MESSAGE, BYTES}


def _values(row: Message, columns: Sequence[cells.Path]) -> dict[str, Any]:
    """Return the fields of a row that are shown, as JSON values."""
    names = {path[0].name for path in columns}
    return {name: value for name, value in output.row_dict(row).items() if name in names}


def _turned(view: View, *, resume: str = "", before: str = "") -> str:
    """Return the address of another page of the same rows; by default of the first."""
    return view.href(resume=resume, before=before, k=None)


def _sorting(view: View, info: TableInfo, path: cells.Path) -> dict[str, str]:
    """Return the address that orders the rows by a column (empty: no order begins with it), and how they are
    ordered by it now. The key comes before indexes; the column of the current order turns it round."""
    orders = {"": info.key_fields} | {
        one.name: one.fields for one in info.indexes.values() if not (one.building or one.hashed)
    }
    chosen, reverse = view.query("index"), view.query("reverse") == "1"
    names = [name for name, fields in orders.items() if dotted(fields[0]) == dotted(path)]
    if chosen in names:
        turned = view.href(reverse=None if reverse else "1", resume=None, before=None, k=None)
        return {"sort_href": turned, "sorted": "descending" if reverse else "ascending"}
    url = view.href(index=names[0] or None, reverse=None, resume=None, before=None, k=None) if names else ""
    return {"sort_href": url, "sorted": ""}


def _with_condition(view: View, info: TableInfo, *condition: str) -> str:
    """Return the address of the rows that meet one more condition: field, operator and value, by default
    those of the query. Raises RowError, SchemaError."""
    name, op, word = condition or [view.query(one) for one in ("field", "op", "value")]
    text = filters.extended(view.query("q"), order(view, info), name, op or "~", word)
    return view.href(q=text, field=None, op=None, value=None, resume=None, before=None, k=None)


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


def _exports(view: View, table: str) -> list[tuple[str, str, str]]:
    """Return the formats in which the rows can be saved: title, format, and the address of the file."""
    path = f"{href('db', view.database, 'tables', table)}/export"
    query = {one: view.queries(one) for one in ("q", "index", "reverse", "at", "column")}
    return [
        (TITLES[form], form, with_query(path, {"format": form, **query}))
        for form in ("csv", "jsonl", "parquet")
        if form != "parquet" or has_parquet()
    ]


def _search(view: View) -> str:
    """Return the address that searches all fields for the value of a filter; empty: it is a condition."""
    word = view.query("q").strip()
    if not word or any(sign in word for sign in '=<>~!"'):
        return ""
    return view.href(q=f"~ {filters.quoted(word)}", index=None, resume=None, before=None, k=None)


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
        "same": {one.name: _same(view, info, one.name, one.cell) for one in lines if one.depth == 0},
    }


def _same(view: View, info: TableInfo, name: str, cell: cells.Cell) -> str:
    """Return the address of the rows with the value of a field; empty: a filter cannot compare it."""
    field = descriptor_of(info.model).fields_by_name.get(name)
    if field is None or not _is_comparable(field) or cell.cut:
        return ""
    if cell.look == "null":
        condition = (name, "= unset", "")
    else:
        condition = (name, "=", "" if cell == cells.EMPTY else cell.text)
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
    of = wanted(view, info, reader)
    rows = (row for row in of.scan(reader) if of.has(row))
    exact = "null" in view.request.query_params
    columns, null = view.queries("column"), view.query("null")
    pieces = exported(rows, form, info.model, columns=columns, null=null, exact=exact)
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
