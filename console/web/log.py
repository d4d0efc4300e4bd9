"""Log: the commits of a database, newest first, one of them, and those that are made while the page is open.

    /db/{database}/log               newest first
        ?until=963534                from this commit backwards
        ?after=963534                the commits after this one, the oldest that match
        &limit=100                   commits per page
        &actor= &table= &key= &kind= &correlation= &since= &before=
        &follow=1                    new commits appear as they are made
    /db/{database}/log/events        the stream of new commits: server-sent events, one `commit` each

The server reads a log forwards. The newest commits are found by windows that double, backwards from the end,
until enough commits match or the time of a page is used up; the page then names
the last commit that it searched. The commits after one are searched forwards, in the same windows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from everlog.console import output
from everlog.console.web import plots
from everlog.console.web.format import with_query
from everlog.console.web.page import Page, Site, View, fragment, live, route
from everlog.console.web.tables import encoded_key, plain_key, row_href
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, CursorError, Error, RowError, SchemaError, quantity
from everlog.store.history.query import KINDS, Entry, RowChange
from everlog.store.schema.arguments import nanoseconds

COMMITS, LIVE_MAX = 50, 200
LIMITS = (COMMITS, 100, 200, 500)  # commits per page; the last one is the most
WINDOW, WINDOW_MAX, SEARCH_S = 8, 4096, 0.15
LOOKED_MIN, READ_BYTES_MAX = 64, 16 << 20  # commits that are searched in any time, but not if they are large
CHANGES = 200
POLL_S, SHARED_S, PING_S = 1.0, 0.9, 15.0
PLOT_S, WIDTH, HEIGHT = 900, 720, 44


FIELDS = ("actor", "table", "key", "kind", "correlation", "since", "before")


class Query(NamedTuple):
    """What a page of the log shows."""

    actor: str
    table: str
    key: str
    kind: str
    correlation: str
    since: str
    before: str

    @property
    def filters(self) -> dict[str, Any]:
        """The arguments of `Past.log`, without `key`. Raises RowError for an invalid time."""
        found: dict[str, Any] = {
            "actor": self.actor or None,
            "table": self.table or None,
            "kind": self.kind or None,
            "correlation_id": self.correlation or None,
            "since": nanoseconds(self.since) if self.since else None,
            "before": nanoseconds(self.before) if self.before else None,
        }
        return {name: value for name, value in found.items() if value is not None}


class Found(NamedTuple):
    """Commits, newest first. `looked`: the seq down to which the log was searched; `until`: the seq from
    which."""

    entries: list[Entry]
    looked: int
    until: int


def query_of(view: View) -> Query:
    """Return the filters in the query. A key may be typed with its table, as airports/JFK."""
    words = [view.query(name).strip() for name in FIELDS]
    found = Query(*words)
    if found.key and not found.table:
        table, slash, key = found.key.partition("/")
        if not slash:
            raise RowError(f"expected a row as TABLE/KEY, such as airports/JFK, found {found.key!r}")
        found = found._replace(table=table, key=key)
    if found.kind and found.kind not in KINDS:
        raise RowError(f"expected a kind of {', '.join(KINDS)}, found {found.kind!r}")
    return found


def _light(entry: Entry) -> Entry:
    """Return a commit without the rows that it wrote, which may be large."""
    return entry._replace(changes=[one._replace(row=None) for one in entry.changes])


def newest(
    db: RemoteDatabase, wanted: Query, until: int, limit: int, *, oldest: int = 1, search_s: float = SEARCH_S
) -> Found:
    """Return the newest commits up to a seq that match, as far as they are found in `search_s` seconds.
    Read-only. Raises RowError, SchemaError."""
    filters = _filters(db, wanted)
    if wanted.key:
        last = deque(map(_light, db.past.log(until=until, **filters)), limit + 1)
        kept = list(last)[-limit:]
        return Found(kept[::-1], kept[0].seq if len(last) > limit else 0, until)
    found, high, window, stop, read = list[Entry](), until, WINDOW, time.monotonic() + search_s, 0
    while high >= oldest and len(found) < limit:
        low = max(high - window, oldest - 1)
        some = list(map(_light, db.past.log(after=low, until=high, **filters)))
        found += some[::-1]
        read += sum(one.size for one in some)
        high, window = low, min(window * 2, WINDOW_MAX)
        if read > READ_BYTES_MAX or (time.monotonic() > stop and until - high >= LOOKED_MIN):
            break
    if len(found) > limit:
        found, high = found[:limit], found[limit - 1].seq - 1
    return Found(found, high + 1, until)


def _filters(db: RemoteDatabase, wanted: Query) -> dict[str, Any]:
    """Return the arguments of `Past.log`. Raises RowError, SchemaError."""
    filters = wanted.filters
    if wanted.key:
        info = db.refresh_schema().table(wanted.table)
        filters["key"] = encoded_key(info, wanted.key.split("/"))
    return filters


def following(db: RemoteDatabase, wanted: Query, after: int, head: int, limit: int) -> Found:
    """Return the oldest commits after a seq that match, newest first, as far as they are found in SEARCH_S.
    Read-only. Raises RowError, SchemaError."""
    filters = _filters(db, wanted)
    found, low, window, stop, read = list[Entry](), after, WINDOW, time.monotonic() + SEARCH_S, 0
    while low < head and len(found) < limit:
        high = head if wanted.key else min(low + window, head)  # the history of a row has no windows
        some = list(map(_light, db.past.log(after=low, until=high, limit=limit - len(found), **filters)))
        found += some
        read += sum(one.size for one in some)
        low, window = high, min(window * 2, WINDOW_MAX)
        if read > READ_BYTES_MAX or (time.monotonic() > stop and low - after >= LOOKED_MIN):
            break
    if len(found) == limit:
        low = found[-1].seq
    return Found(found[::-1], after + 1, low)


def log(view: View) -> Page:
    db, wanted = view.db, query_of(view)
    head = db.head
    until, after = min(view.whole("until", head, low=1), head), view.whole("after")
    limit = view.whole("limit", COMMITS, low=1, high=LIMITS[-1])
    problem, found = "", Found([], until + 1, until)
    try:
        if after:
            found = following(db, wanted, after, head, limit)
        if not after or found.until >= head:  # the newest, a whole page of them
            found = newest(db, wanted, until, limit)
    except (RowError, SchemaError, CursorError) as error:
        problem = str(error)
    until = found.until
    follow = view.query("follow") == "1" and until == head
    values = {
        "head": head,
        "until": until,
        "commits": [told(one, view) for one in found.entries],
        "looked": found.looked,
        "problem": problem,
    }
    older = found.looked - 1
    filters = {name: value for name, value in zip(FIELDS, wanted, strict=True) if value}
    shown = {
        "wanted": wanted,
        "kinds": KINDS,
        "follow": follow,
        "older_href": _turned(view, until=older) if older >= 1 and not problem else "",
        "newer_href": _turned(view, after=until) if until < head and not problem else "",
        "newest_href": _turned(view) if until < head else "",
        "follow_href": view.href(until=None, after=None, follow=None if follow else "1"),
        "limit": limit,
        "limits": [(one, view.href(limit=one if one != COMMITS else None)) for one in LIMITS],
        "events_href": with_query(f"/db/{view.database}/log/events", {**filters, "after": head}),
        "filtered": bool(filters),
        "live_max": LIVE_MAX,
        "plot": _plot(view.console.known, db),
        "tables_known": sorted(db.schema.tables),
    }
    return Page("log.html", values, 200, shown)


def _turned(view: View, *, until: int = 0, after: int = 0) -> str:
    """Return the address of other commits that match; by default of the newest."""
    return view.href(until=until or None, after=after or None, follow=None)


def _plot(known: plots.Known, db: RemoteDatabase) -> dict[str, Any] | None:
    try:
        found = known.recent(db, PLOT_S)
    except AccessError:
        return None
    top = plots.top_of(found.rates)
    return {
        "line": plots.line(found.rates[:-1], WIDTH, HEIGHT, top),
        "area": plots.area(found.rates[:-1], WIDTH, HEIGHT, top),
        "top": top,
        "now": found.rates[-2] if len(found.rates) > 1 else 0.0,
        "start_ns": found.start_ns,
        "end_ns": found.end_ns,
        "width": WIDTH,
        "height": HEIGHT,
    }


def told(entry: Entry, view: View | None = None, *, rows: bool = False) -> dict[str, Any]:
    """Return a commit as JSON values."""
    changes = entry.changes[:CHANGES]
    found: dict[str, Any] = {
        "seq": entry.seq,
        "time_ns": entry.time_ns,
        "schema": entry.schema,
        "actor": entry.actor,
        "proof": entry.proof,
        "reason": entry.reason,
        "correlation_id": entry.correlation_id,
        "causation_id": entry.causation_id,
        "client": entry.client,
        "commit_id": entry.commit_id.hex(),
        "kind": entry.kind,
        "what": summary(entry),
        "checksum": f"{entry.checksum:08x}",
        "reading_ns": entry.reading_ns,
        "size": entry.size,
        "changes_count": len(entry.changes),
        "changes": [_change(one, view, rows=rows) for one in changes],
    }
    return found


def _change(change: RowChange, view: View | None, *, rows: bool) -> dict[str, Any]:
    key = plain_key(change.key)
    found: dict[str, Any] = {
        "op": change.op,
        "table": change.table,
        "key": key,
        "prior": change.prior,
        "erased": change.erased,
        "sealed": change.sealed,
        "href": row_href(view, change.table, key) if view is not None and change.table else "",
    }
    if rows:
        found["row"] = None if change.row is None else output.row_dict(change.row)
    return found


def summary(entry: Entry) -> str:
    """Return what a commit did, in a line."""
    if entry.kind != "commit":
        return _about(entry)
    if len(entry.changes) == 1:
        (one,) = entry.changes
        return f"{one.op} {one.table}/{'/'.join(plain_key(one.key))}"
    counts: dict[tuple[str, str], int] = {}
    for one in entry.changes:
        counts[one.op, one.table] = counts.get((one.op, one.table), 0) + 1
    parts = [f"{op} {quantity(count, 'row')} of {name}" for (op, name), count in counts.items()]
    more = f", and {len(parts) - 4} more" if len(parts) > 4 else ""
    return ", ".join(parts[:4]) + more if parts else "no rows that you may see"


def _about(entry: Entry) -> str:
    about: Any = entry.about
    match entry.kind:
        case "created":
            words = f"created by {about.software}"
        case "migration":
            of = f"{about.version}_{about.name} " if about.version else ""
            decision = f", decision {UUID(bytes=about.decision_id)}" if about.decision_id else ""
            words = f"{of}{_step(log_pb2.Migration, about)}{decision}"
        case "load":
            words = f"{about.table}, {quantity(about.rows, 'row')} so far, {_step(log_pb2.Load, about)}"
        case "notice":
            words = f"{about.kind} {about.subject}".rstrip()
        case _:
            words = "base of a trimmed log"
    return words


def _step(kind: Any, about: Any) -> str:
    return str(kind.Step.Name(about.step)).lower()


async def events(request: Request) -> Response:
    """Stream the commits that match, as they are made."""
    console: Site = request.app.state.console
    view = View(request, console)
    wanted = await run_in_threadpool(query_of, view)
    db = await run_in_threadpool(lambda: view.db)
    after = view.whole("after") or await run_in_threadpool(lambda: db.head)
    if last := request.headers.get("last-event-id", ""):
        after = int(last) if last.isascii() and last.isdecimal() and len(last) < 20 else after

    def more(seq: int) -> tuple[list[Entry], int]:
        """Return the commits after a seq, at most LIVE_MAX, oldest first, and where to continue. The pages of
        a session share what they read."""
        head = view.session.polled((view.database, "head"), lambda: db.head, SHARED_S)
        start = max(seq, head - 5 * LIVE_MAX)
        if head <= start:
            return [], max(seq, head)
        key = view.database, wanted, start, head
        found = view.session.polled(key, lambda: between(start, head), SHARED_S)
        return found, found[-1].seq if len(found) == LIVE_MAX else head

    def between(start: int, head: int) -> list[Entry]:
        if wanted.key:
            return [one for one in newest(db, wanted, head, LIVE_MAX).entries if one.seq > start][::-1]
        found = db.past.log(after=start, until=head, limit=LIVE_MAX, **wanted.filters)
        return list(map(_light, found))

    async def stream() -> AsyncIterator[str]:
        seq, quiet = after, 0.0
        yield "retry: 1000\n\n"
        while not console.stopping:
            try:
                found, seq = await run_in_threadpool(more, seq)
            except Error:
                return  # the page connects again, and learns why if it cannot
            for one in found:
                html = fragment("_commit.html", one=told(one, view), database=view.database)
                lines = "".join(f"data: {line}\n" for line in html.splitlines())
                yield f"id: {one.seq}\nevent: commit\n{lines}\n"
            quiet = 0.0 if found else quiet + POLL_S
            if quiet >= PING_S:
                quiet = 0.0
                yield ": nothing new\n\n"
            await asyncio.sleep(POLL_S)

    return live(view.console, view.session, stream())


ROUTES = [
    Route("/db/{database}/log/events", events),
    *route("/db/{database}/log", log),
]
