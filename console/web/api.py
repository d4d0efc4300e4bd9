"""Api: every method of the server as a form, made from its descriptors.

    /api                       the services and methods that the identity may call
    /api/Store/Scan            a form of the fields of a request; ?table=flights fills it in
    POST /api/Store/Scan       makes the call, and shows the responses with the same call as lines for a shell
    /api/calls/ID/events       the responses of a stream as they come, for a browser with scripts

Without scripts, a POST shows the first responses of a stream, and a button asks for more. With them, a POST
keeps the request as a call that is to begin, and its events begin it once.

Invariants
  (1) a call is made only by a form with its CSRF token, and once;
  (2) a stream that nobody reads any more is cancelled: its page was left, its session or the console ended;
  (3) a response is shown whole or says that it was cut; a page holds a bounded part of a stream.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from everlog.console.web.fields import box
from everlog.console.web.format import href
from everlog.console.web.page import Page, Site, View, event_stream, fragment, missing, route, status_of
from everlog.console.web.session import refused
from everlog.migrations.values import dump
from everlog.rpc.client.api import Api, Running, command, grpcurl, table_of
from everlog.rpc.client.channel import deadline
from everlog.rpc.client.methods import Field, Method, Service
from everlog.rpc.client.requests import decoded, merged, tree
from everlog.store.errors import AccessError, Error, LimitError, RowError, SchemaError, UnavailableError

SHOWN_BYTES_MAX, STREAM_BYTES_MAX = 1 << 20, 16 << 20  # of a response, and of all of a stream on a page
FIRST, MORE, STREAM_MAX = 20, 10, 1000  # responses of a stream at first, times as many each time, and at most
FIRST_S, UNARY_S = 10.0, 120.0  # how long a page waits for them
CALLS_MAX, CALLS_BYTES_MAX, CALL_S = 100, 64 << 20, 60.0  # calls that are to begin, and for how long
STREAMS_MAX = 50
QUEUE_MAX = 16  # responses between the thread of a call and its page
ENDED = '<span class="badge">ended</span>'
OWN = frozenset({"csrf", "_json", "_lines", "_count"})  # fields of the form itself

# pages


def listing(view: View) -> Page:
    """Show the services with their methods."""
    database = _database(view)
    found = [
        {
            "name": service.name,
            "full_name": service.full_name,
            "help": service.help,
            "summary": service.summary,
            "methods": [_summary(service, method) for method in service.methods.values()],
        }
        for service in view.session.database(database).api.services
    ]
    return Page("api.html", {"services": found}, shown={"chosen": database})


def form(view: View) -> Page:
    """Show the form of a method, filled in by the query."""
    database, _, method = _method(view)
    given = {name: value for name in _names(method) if (value := view.query(name))}
    return _page(view, method, database, given)


def send(view: View) -> Page | Response:
    """Make the call of a form."""
    database, api, method = _method(view)
    given = {name: value for name in _names(method) if (value := view.field(name))}
    scripted = view.request.headers.get("hx-request") == "true"
    try:
        texts = _texts(method, given)
        requests, table = _requests(api, method, texts, given)
        lines = _lines(view, method, texts, given, requests)
        if scripted and method.server_streaming:
            visitor = view.console.visitor(view.request)
            id = _calls.add(Call(visitor, api, method, requests, table))
            events = href("api", "calls", id, "events")
            return _fragment(method=method, lines=lines, events=events)
        result = _result(view, api, method, requests, table)
        error, status = "", 200
    except Error as failure:
        if refused(failure):
            raise
        result, lines = Result([], more=0, ended=""), {}
        error, status = str(failure), status_of(failure)
    if scripted:
        return _fragment(method=method, result=result, lines=lines, error=error)
    return _page(view, method, database, given, status=status, result=result, lines=lines, error=error)


def _method(view: View) -> tuple[str, Api, Method]:
    """Return the database of a page, the methods of its server, and the one in the path. Raises
    HTTPException if the server does not have it."""
    database = _database(view)
    api = view.session.database(database).api
    try:
        return database, api, api.services.method(view.path("service"), view.path("method"))
    except SchemaError as error:
        raise missing(f"{error}.".replace("?.", "?")) from None


def _database(view: View) -> str:
    """Return the database that a page is about: that of its form or query, or the first one. Raises
    AccessError."""
    names = view.session.databases()
    if not names:
        raise AccessError("this identity has rights in no database of the server")
    found = view.field("database") or view.query("database")
    return found if found in names else names[0]


def _summary(service: Service, method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "url": href("api", service.name, method.name),
        "help": method.summary,
        "takes_stream": method.client_streaming,
        "returns_stream": method.server_streaming,
        "needs": [str(need) for need in method.needs],
        "needs_reason": method.needs_reason,
    }


def _page(
    view: View,
    method: Method,
    database: str,
    given: Mapping[str, str],
    *,
    status: int = 200,
    result: Result | None = None,
    lines: Mapping[str, str] | None = None,
    error: str = "",
) -> Page:
    may = method.service.may(method)
    names = view.session.databases()
    chosen = sorted(names, key=lambda name: name != database)
    fields = [_input(field, method, given, chosen) for field in method.fields.values()]
    values = {
        **_summary(method.service, method),
        "service": method.service.full_name,
        "text": method.help,
        "may": may,
        "fields": [
            {name: one[name] for name in ("name", "type", "repeated", "help", "choices", "oneof")}
            for one in fields
        ],
        "error": error,
        "responses": result.values if result else [],
        "more": bool(result and result.more),
        "lines": lines or {},
    }
    tables: list[str] = []
    with suppress(Error):
        tables = sorted(view.session.database(database).schema.tables)
    shown = {
        "method": method,
        "groups": _groups(fields),
        "chosen": database,
        "tables": tables,
        "given": given,
        "result": result,
        "error": error,
        "lines": lines or {},
        "events": "",
    }
    return Page("api_method.html", values, status if may or error else 403, shown)


def _fragment(**values: Any) -> Response:
    """Return the responses alone, for a page that shows them beside its form."""
    found = {"result": None, "lines": {}, "error": "", "events": "", "given": {}, **values}
    return HTMLResponse(fragment("_api_result.html", **found))


# requests


def _names(method: Method) -> Iterator[str]:
    yield from method.fields
    yield from OWN - {"csrf"}


def _input(
    field: Field, method: Method, given: Mapping[str, str], databases: Sequence[str]
) -> dict[str, Any]:
    """Return a field as its input shows it; `databases`: those to choose from, the chosen one first."""
    kind = field.descriptor.message_type
    is_message = kind is not None and field.type[:1].isupper()
    last = field.name.rpartition(".")[2]
    is_database, is_required = field.name == "database", last == "reason" and method.needs_reason
    needed = "Required: the call cannot be undone." if is_required else ""
    found = box(
        field.name,
        field.type,
        label=last,
        repeated=field.repeated or "=" in field.type,
        help=f"{field.help} {needed}".strip(),
        choices=sorted(databases) if is_database else list(field.choices),
        unset=not is_database,
        value=given.get(field.name, "") or (databases[0] if is_database else ""),
        is_long=field.repeated or is_message or field.type == "row" or "=" in field.type,
        is_required=is_required,
        list="tables" if last in {"table", "tables"} and not field.repeated else "",
        hint=_hint(field, is_message=is_message),
    )
    inner = any(name.startswith(f"{field.name}.") for name in method.fields)
    return {**found, "oneof": field.oneof, "is_heading": inner}


def _hint(field: Field, *, is_message: bool) -> str:
    each = {
        "time": "2026-01-05T09:30Z, 1h ago",
        "duration": "1h30m, 500ms, 90d",
        "row": "the row as JSON",
        "key": 'a value, or a JSON list: ["UA", 1545]',
        "bound": "a value, or a JSON list of the first values",
        "bytes": "base64, or hex:00ff",
        "string": "",
    }.get(field.type, "JSON" if is_message else "KEY=VALUE" if "=" in field.type else field.type)
    if field.choices and field.repeated:
        each = ", ".join(field.choices)
    return f"one a line{': ' if each else ''}{each}" if field.repeated else each


def _groups(fields: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the inputs in order; those of a message are in a group with its name, and so are those of which
    one can be set."""
    found: list[dict[str, Any]] = []
    for one in fields:
        if one["is_heading"]:
            found.append({"title": one["name"], "help": one["help"], "oneof": one["oneof"], "inputs": []})
            continue
        outer = one["name"].rpartition(".")[0]
        title, oneof = (outer, "") if outer else ("", one["oneof"])
        same = found and found[-1]["title"] == title and (title or found[-1]["oneof"] == oneof)
        if not same:
            found.append({"title": title, "help": "", "oneof": oneof, "inputs": []})
        found[-1]["inputs"].append(one)
    return [one for one in found if one["inputs"]]


def _texts(method: Method, given: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the texts of the filled inputs by the names of fields."""
    found = {}
    for name, value in given.items():
        field = method.fields.get(name)
        if field is None:
            continue
        several = field.repeated or "=" in field.type
        words = [line.strip() for line in value.splitlines()] if several else [value]
        if words := [word for word in words if word]:
            found[name] = words
    return found


def _requests(
    api: Api, method: Method, texts: Mapping[str, Sequence[str]], given: Mapping[str, str]
) -> tuple[list[Message], str]:
    """Return the requests of a form, and the table that they name. Raises RowError."""
    values = decoded(given["_json"], "the JSON") if given.get("_json", "").strip() else {}
    if "database" in values:
        texts = {name: words for name, words in texts.items() if name != "database"}
    values = merged(values, tree(method, texts))
    more = [line for line in given.get("_lines", "").splitlines() if line.strip()]
    table, requests = table_of(values), list[Message]()
    if set(values) - {"database"} or not (method.client_streaming and more):
        requests.append(api.request(method, values))
    if not method.client_streaming:
        return requests, table
    for number, line in enumerate(more, 1):
        found = decoded(line, f"line {number}")
        table = table or table_of(found)
        try:
            requests.append(api.request(method, found, table=table, first=not requests))
        except RowError as error:
            raise RowError(f"line {number}: {error}") from None
    return requests, table


def _lines(
    view: View,
    method: Method,
    texts: Mapping[str, Sequence[str]],
    given: Mapping[str, str],
    requests: Sequence[Message],
) -> dict[str, str]:
    """Return the call as lines for a shell, without secrets."""
    server = view.session.server
    address = server._replace(
        host=server.name or server.host, database=_database(view), name="", ca="", cert="", key=""
    )
    fields = {name: words for name, words in texts.items() if name != "database"}
    ours = command(str(address), method, fields, json=" ".join(given.get("_json", "").split()))
    if lines := given.get("_lines", "").strip():
        ours = f"printf '%s\\n' {shlex.join(lines.splitlines())} | {ours}"
    try:
        theirs = grpcurl(address, method, requests)
    except RowError as error:
        theirs = f"# {error}"
    return {"everlog": ours, "grpcurl": theirs}


# responses


class Result(NamedTuple):
    """Responses as a page shows them. `more`: how many it would show next; 0: these are all."""

    values: list[Any]
    more: int
    ended: str

    @property
    def texts(self) -> list[tuple[str, str]]:
        return [told(one) for one in self.values]


def told(value: Any) -> tuple[str, str]:
    """Return a response on one line, and on several; both are cut where they are too long."""
    short, text = dump(value), json.dumps(value, ensure_ascii=False, indent=2)
    if len(text) > SHOWN_BYTES_MAX:
        text = f"{text[:SHOWN_BYTES_MAX]}\n… cut: {len(text):,} characters in all; `everlog api` prints them"
    return short[:400], text


def _result(view: View, api: Api, method: Method, requests: Sequence[Message], table: str) -> Result:
    """Make a call, and return its first responses."""
    count = FIRST
    if (word := view.field("_count")).isdecimal() and len(word) < 6:
        count = max(FIRST, min(int(word), STREAM_MAX))
    limit_s = FIRST_S if method.server_streaming else UNARY_S
    until = time.monotonic() + limit_s
    found, size = list[Any](), 0
    with deadline(limit_s), closing(api.call(method, requests)) as answers:
        try:
            for answer in islice(answers, count + 1):
                found.append(api.shown(answer, table=table))
                size += answer.ByteSize()
                if size > STREAM_BYTES_MAX and method.server_streaming:
                    return Result(found, 0, f"shown are the first {size >> 20} MiB; `everlog api` prints all")
        except UnavailableError:
            if not (method.server_streaming and time.monotonic() >= until):
                raise
            return Result(found, count, f"shown is what came within {limit_s:g} s")
    if len(found) <= count:
        return Result(found, 0, "")
    more = min(count * MORE, STREAM_MAX) if count < STREAM_MAX else 0
    return Result(found[:count], more, f"shown are the first {count:,}")


class Call(NamedTuple):
    """A call of a stream that is to begin when its page asks for the events."""

    visitor: str
    api: Api
    method: Method
    requests: Sequence[Message]
    table: str
    added: float = 0.0

    @property
    def size(self) -> int:
        """The size of the requests in bytes."""
        return sum(one.ByteSize() for one in self.requests)


class Calls:
    """The calls that are to begin, and the number of those that run. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[str, Call] = {}
        self._running = 0
        self._lock = threading.Lock()

    def add(self, call: Call) -> str:
        """Keep a call, and return its id."""
        id, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            kept = {key: one for key, one in self._waiting.items() if now - one.added < CALL_S}
            size = sum(one.size for one in (*kept.values(), call))
            if len(kept) >= CALLS_MAX or size > CALLS_BYTES_MAX or self._running >= STREAMS_MAX:
                raise LimitError(
                    f"expected at most {STREAMS_MAX} streams in this console, and {CALLS_MAX} that are about"
                    " to begin; close pages, or try again in a minute",
                    limit="console_streams",
                )
            self._waiting = {**kept, id: call._replace(added=now)}
        return id

    def take(self, id: str, visitor: str) -> Call | None:
        """Return a call that begins now, once; None if it began before, or is of another visitor."""
        with self._lock:
            found = self._waiting.get(id)
            if found is None or found.visitor != visitor or self._running >= STREAMS_MAX:
                return None
            del self._waiting[id]
            self._running += 1
            return found

    def ended(self) -> None:
        with self._lock:
            self._running -= 1


_calls = Calls()


async def events(request: Request) -> Response:
    """Begin a call, and stream its responses."""
    console: Site = request.app.state.console
    call = _calls.take(request.path_params["id"], console.visitor(request))
    if call is None:
        stream = _alone("The connection was interrupted. Send the call again.")
    else:
        stream = _stream(console, call)
    return event_stream(stream)


async def _alone(words: str) -> AsyncIterator[str]:
    yield _event("end", fragment("_api_end.html", error=words, count=0, cut=False))


async def _stream(console: Site, call: Call) -> AsyncIterator[str]:
    pump = Pump(call, asyncio.get_running_loop())
    try:
        quiet = 0
        while not console.stopping:
            try:
                kind, text = await asyncio.wait_for(pump.queue.get(), 1.0)
            except TimeoutError:
                quiet += 1
                if quiet % 15 == 0:
                    yield ": nothing new\n\n"
                continue
            if kind == "end":
                yield _event("ended", ENDED)
            yield _event(kind, text)
            if kind == "end":
                return
        yield _event("end", fragment("_api_end.html", error="The console stops.", count=0, cut=False))
    finally:
        pump.close()
        _calls.ended()


def _event(kind: str, html: str) -> str:
    lines = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: {kind}\n{lines}\n"


class Pump:
    """Runs a call in a thread, and hands its responses to the loop of the console, which takes them as its
    visitor does."""

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(QUEUE_MAX)
        self._call, self._loop = call, loop
        self._closed = threading.Event()
        self._running: Running | None = None
        threading.Thread(target=self._run, name="everlog-console-call", daemon=True).start()

    def close(self) -> None:
        """End the call. For the thread of the loop."""
        self._closed.set()
        if self._running is not None:
            self._running.cancel()

    def _run(self) -> None:
        call, count, size, error = self._call, 0, 0, ""
        try:
            self._running = call.api.start(call.method, call.requests)
            if self._closed.is_set():
                self._running.cancel()
            for answer in self._running:
                count += 1
                short, text = told(call.api.shown(answer, table=call.table))
                size += len(text)
                self._put("message", fragment("_api_message.html", number=count, short=short, text=text))
                if count >= STREAM_MAX or size > STREAM_BYTES_MAX or self._closed.is_set():
                    break
        except Error as failure:
            error = str(failure)
        finally:
            if self._running is not None:
                self._running.cancel()
        cut = count >= STREAM_MAX or size > STREAM_BYTES_MAX
        self._put("end", fragment("_api_end.html", error=error, count=count, cut=cut))

    def _put(self, kind: str, html: str) -> None:
        """Wait until there is room, unless the page is gone."""
        with suppress(RuntimeError):  # the loop has ended
            future = asyncio.run_coroutine_threadsafe(self.queue.put((kind, html)), self._loop)
            while not self._closed.is_set():
                with suppress(TimeoutError):
                    future.result(0.5)
                    return
            future.cancel()


ROUTES = [
    Route("/api/calls/{id}/events", events),
    *route("/api", listing),
    *route("/api/{service}/{method}", form, "GET"),
    *route("/api/{service}/{method}", send, "POST"),
]
