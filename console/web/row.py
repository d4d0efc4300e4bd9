"""Row: one row: all of its fields, and its history as a time line, each version as a diff of fields.

/db/{database}/tables/{table}/row?k=2013&k=1&k=1&k=UA     one `k` for each field of the key
    &at=963534                                            as of a commit
    &versions=200                                         at most this many versions
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from starlette.responses import Response

from everlog.console import output
from everlog.console.web import asof as asof_
from everlog.console.web import cells
from everlog.console.web.format import href, with_query
from everlog.console.web.page import NotFoundError, Page, View, route
from everlog.console.web.tables import encoded_key, may, row_href
from everlog.store.errors import AccessError, Error, SchemaError
from everlog.store.history.row_history import Version
from everlog.store.schema.codec import size_of
from everlog.store.schema.reflect import table_of

VERSIONS, VERSIONS_MAX, READ_BYTES_MAX = 50, 1000, 16 << 20


def row(view: View) -> Page | Response:
    if (answer := asof_.redirected(view)) is not None:
        return answer
    name, words, where = view.path("table"), view.queries("k"), asof_.asof(view)
    reader = where.moment or view.db
    schema = where.moment.schema if where.moment else view.db.refresh_schema()
    if name not in schema.tables:
        raise NotFoundError(f"there is no table {name!r} {'at this commit' if where.moment else ''}".rstrip())
    info = schema.tables[name]
    key, handle = encoded_key(info, words), table_of(info)
    problem, found, version, expires_ns = "", None, 0, 0
    try:
        found = reader.get(handle, key)
        version, expires_ns = reader.version(handle, key), reader.expires_ns(handle, key)
    except AccessError:
        raise
    except Error as error:
        problem = str(error)
    limit = view.whole("versions", VERSIONS, low=1, high=VERSIONS_MAX)
    history, more, hidden = _history(view, handle, key, limit)
    if found is None and not history and not problem and not hidden:
        raise NotFoundError(f"there is no row {name}/{'/'.join(words)}, and there never was one")
    at = where.values["at"] or None
    values = {
        "table": name,
        "key": words,
        "at": at,
        "row": None if found is None else output.row_dict(found),
        "version": version,
        "expires_ns": expires_ns,
        "problem": problem,
        "history": [_told(one) for one in history] if view.wants_json else [],
        "more": more,
    }
    shown: dict[str, Any] = {
        "asof": where.values,
        "lines": [] if found is None else cells.unfold(found),
        "versions": _timeline(view, name, words, history, more=more),
        "hidden": hidden,
        "more_href": view.href(versions=min(limit * 4, VERSIONS_MAX))
        if more and limit < VERSIONS_MAX
        else "",
        "current": version,
        "saved": view.whole("saved"),
        **_buttons(view, name, words, exists=found is not None, now=where.moment is None),
    }
    for one in shown["versions"] if shown["put_href"] and found is not None else ():
        if one["version"].row is not None and one["version"].row != found:
            one["back_href"] = f"{shown['put_href']}&from={one['version'].seq}"
    return Page("row.html", values, 200, shown)


def _buttons(view: View, table: str, words: list[str], *, exists: bool, now: bool) -> dict[str, str]:
    """Return the addresses of the forms that the identity may use; empty: it may not, or there is nothing to
    change."""
    path = href("db", view.database, "tables", table)
    edit = "row/edit" if exists else "new"
    found = {"put": (f"{path}/{edit}", now), "delete": (f"{path}/row/delete", now and exists)}
    return {
        f"{op}_href": with_query(url, {"k": words}) if wanted and may(view, table, op) else ""
        for op, (url, wanted) in found.items()
    }


def _history(view: View, handle: Any, key: Any, limit: int) -> tuple[list[Version[Message]], bool, str]:
    """Return the versions of a row, whether there are more, and why they are not shown."""
    try:
        found, size = list[Version[Message]](), 0
        for one in view.db.history(handle, key, limit=limit + 1):
            found.append(one)
            size += size_of(one.row) if one.row is not None else 0
            if size > READ_BYTES_MAX and len(found) > 1:
                return found[:-1], True, ""
    except (AccessError, SchemaError) as error:
        return [], False, str(error)
    return found[:limit], len(found) > limit, ""


def _told(one: Version[Message]) -> dict[str, Any]:
    return {
        "seq": one.seq,
        "time_ns": one.time_ns,
        "actor": one.actor,
        "proof": one.proof,
        "reason": one.reason,
        "op": one.op,
        "fields": list(one.fields),
        "migration": one.migration,
        "row": None if one.row is None else output.row_dict(one.row),
        "erased": one.erased,
        "sealed": one.sealed,
    }


def _timeline(
    view: View, table: str, words: list[str], history: list[Version[Message]], *, more: bool
) -> list[dict[str, Any]]:
    found, budget = [], cells.Budget()
    for number, one in enumerate(history):
        older = history[number + 1] if number + 1 < len(history) else None
        before = older.row if older is not None else None
        first = older is None and not more
        created = first or (older is not None and older.op == "delete")
        if one.op == "delete":
            said, fields = "deleted it", []
        elif created:
            said, fields = "created it", cells.changes(None, one.row, budget=budget)
        else:
            fields = cells.changes(before, one.row, one.fields, budget) if one.row is not None else []
            count = len(one.fields)
            said = f"changed {count:,} field{'' if count == 1 else 's'}" if count else "wrote it again"
        found.append(
            {
                "version": one,
                "said": said,
                "changes": fields,
                "at_href": row_href(view, table, words, one.seq),
                "back_href": "",
                "commit_href": href("db", view.database, "log", one.seq),
            }
        )
    return found


ROUTES = [*route("/db/{database}/tables/{table}/row", row)]
